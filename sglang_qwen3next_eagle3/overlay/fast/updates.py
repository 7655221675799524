"""What our kernels derived from weights, when SGLang loads others into a server that runs.

It loads them in place (/update_weights_from_disk, _tensor, _distributed and _ipc, the end of an
update that others wrote), and its graphs go on with the same memory. So do ours, which read weights
where they lie. Derived from what was loaded at the start are the codes of `head_w8`, which are made
anew here, and what the checks of layers and head found out: types, layouts, scales of the KV cache.
What is no longer so is an error in the log, since the graphs that serve cannot be taken back.

LoRA and releasing the memory of weights are refused at the start (conditions.py).
"""

import logging
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast import head as heads
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.head import FastHead
from sglang_qwen3next_eagle3.overlay.fast.ranks import told

logger = logging.getLogger(__name__)
PREFIX = "sglang-qwen3next-eagle3: fast path"


class Updates:
    """What stands around SGLang's updates of weights in one scheduler process.

    path, head: what serves there, once it does.
    """

    def __init__(self) -> None:
        self.path: FastPath | None = None
        self.head: FastHead | None = None
        self._said: set[str] = set()

    def loaded(self, original: Any, manager: Any, *args: Any, **kwargs: Any) -> Any:
        """Around what follows when some weights, or all, have been loaded."""
        self.renew()
        return original(manager, *args, **kwargs)

    def ended(self, original: Any, manager: Any, *args: Any, **kwargs: Any) -> Any:
        """Around the end of a session of updates, in which weights may be loaded once more."""
        out = original(manager, *args, **kwargs)
        self.renew()
        return out

    def renew(self) -> None:
        """What is derived is that of the weights that are there now."""
        if self.head is not None and self.head.weights.codes:
            try:
                self.head.weights.renew()
                if torch.cuda.is_available():
                    # Passes run on another stream.
                    torch.cuda.synchronize()
                self._say(logging.INFO, "head_w8: its codes are made anew of updated weights")
            except Exception as error:
                # Drafts are only proposed: the text is right.
                self._say(
                    logging.ERROR,
                    f"head_w8 has codes of the weights before the update, so that fewer drafts may "
                    f"be accepted; start the server anew: {told(error)}",
                )
        for unfit in (_unfit_target(self.path), _unfit_head(self.head)):
            if unfit is not None:
                self._say(
                    logging.ERROR,
                    f"the updated weights are not what it was made for, and answers may be wrong; "
                    f"start the server anew: {unfit}",
                )

    def _say(self, level: int, what: str) -> None:
        """Once: an update may come in many pieces."""
        if what not in self._said:
            self._said.add(what)
            logger.log(level, "%s: %s", PREFIX, what)


def _unfit_target(path: FastPath | None) -> str | None:
    """What a layer would not have been made of."""
    try:
        for layer in path.layers.values() if path is not None else ():
            layer.with_stages(layer.stages)
    except Unsupported as error:
        return f"{error.stage}: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _unfit_head(head: FastHead | None) -> str | None:
    try:
        if head is not None:
            heads.check(head.model)
    except Exception as error:
        return f"head: {error if isinstance(error, Unsupported) else repr(error)}"
    return None
