"""Prefill by transformers instead of SGLang: for small models, and to check SGLang's states by."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.overlay.prefill import Prefill, every_stream


class TransformersRunner:
    """A loaded Qwen3-Next; the interface of `overlay.prefill.PrefillRunner`, prompt by prompt.

    dtype: a torch dtype's name; by default float32 on a CPU and the checkpoint's on a GPU.

    Raises:
        UserError: the checkpoint does not load.
    """

    def __init__(
        self,
        target: Path,
        selection: AuxSelection | None = None,
        *,
        device: str = "cpu",
        dtype: str | None = None,
    ) -> None:
        from transformers import Qwen3NextForCausalLM

        chosen = dtype or ("float32" if device == "cpu" else "auto")
        try:
            model: Any = Qwen3NextForCausalLM.from_pretrained(target, dtype=chosen)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"the target {target} does not load: {reason}") from None
        if device == "cpu":
            # Two to ten times faster there than the grouped products.
            model.set_experts_implementation("eager")
        self._decoder = model.model.eval().to(device)
        self._device = device
        layers = self._decoder.layers
        self.selection = selection or every_stream(len(layers))
        # By depth. transformers' own `hidden_states` end with the normed one, so the streams are
        # taken from the modules that put them out.
        self._streams: dict[int, Tensor] = {}
        for depth, module in enumerate((self._decoder.embed_tokens, *layers)):
            if depth in self.selection.depths:
                module.register_forward_hook(self._keeper(depth))

    def _keeper(self, depth: int) -> Any:
        def keep(_module: Any, _arguments: Any, output: Any) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            self._streams[depth] = stream.reshape(-1, stream.shape[-1])

        return keep

    def plan(self, lengths: Sequence[int]) -> list[range]:
        """Every prompt alone."""
        return [range(index, index + 1) for index in range(len(lengths))]

    @torch.no_grad()
    def prefill_batches(
        self, batches: Iterable[Sequence[Sequence[int]]], dtype: torch.dtype = torch.bfloat16
    ) -> Iterator[list[Prefill]]:
        """States batch by batch, as `PrefillRunner.prefill_batches`."""
        for batch in batches:
            yield [self._prefill(prompt, dtype) for prompt in batch]

    def _prefill(self, prompt: Sequence[int], dtype: torch.dtype) -> Prefill:
        ids = torch.tensor([prompt], device=self._device)
        last_hidden = self._decoder(input_ids=ids, use_cache=False).last_hidden_state[0]
        streams = torch.stack([self._streams[depth] for depth in self.selection.depths])
        return Prefill(streams.to("cpu", dtype), last_hidden.to("cpu", dtype))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing outlives the object."""
