"""Around the broadcast of requests to the ranks: it is left out where there are none."""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.seams.agreement import Agreement, size

logger = logging.getLogger(__name__)

_SHARED = Path("/dev/shm")


class Broadcasts:
    """What stands around the broadcast of requests: it is left out where there are none."""

    def __init__(self) -> None:
        self._receiver: Any = None
        self._agreement: Agreement | None = None

    def around(
        self,
        original: Callable[..., list[Any]],
        receiver: Any,
        recv_reqs: list[Any] | None,
        *decided: list[Any] | None,
    ) -> list[Any]:
        """decided: of a newer SGLang, aborts that the rank has decided on itself."""
        if receiver is not self._receiver:
            # In the first turn of all ranks alike.
            self._receiver, self._agreement = receiver, _agree(receiver)
        agreement = self._agreement
        if agreement is None:
            return original(receiver, recv_reqs, *decided)
        if agreement.rank == 0:
            some = bool(recv_reqs) or any(decided)
            agreement.tell(some)
            if not some:
                return [] if recv_reqs is None else recv_reqs
            found = original(receiver, recv_reqs, *decided)
            agreement.received_by_all()
            return found
        if not agreement.ask():
            return []
        found = original(receiver, recv_reqs, *decided)
        agreement.received()
        return found


def _agree(receiver: Any) -> Agreement | None:
    """The ranks' agreement, or None on all of them where one of them cannot have it."""
    host = variants.host()
    ps = host.ranks(receiver)
    if ps.tp_size == 1 or host.has_dp_attention():
        return None
    if ps.pp_size > 1 or receiver.server_args.nnodes > 1:
        logger.warning(
            "sglang-qwen3next-eagle3: requests are broadcast in every turn: that is left out on "
            "one node without pipeline stages only"
        )
        return None
    import torch
    from torch import distributed

    group, first = host.requests_group(receiver)
    path = _shared_file(ps.tp_size) if ps.tp_rank == 0 else None
    told = [None if path is None else str(path)]
    distributed.broadcast_object_list(told, src=first, group=group)
    agreement = None
    if told[0] is not None:
        with suppress(OSError, ValueError):
            agreement = Agreement(Path(told[0]), ps.tp_rank, ps.tp_size)
    all_have = torch.tensor([agreement is not None], dtype=torch.int64)
    distributed.all_reduce(all_have, op=distributed.ReduceOp.MIN, group=group)
    if path is not None:
        # All have mapped it, or none needs it: nothing is left behind, whatever ends the server
        # from here on.
        path.unlink(missing_ok=True)
    if not all_have.item():
        if ps.tp_rank == 0:
            logger.warning(
                "sglang-qwen3next-eagle3: requests are broadcast in every turn: the ranks share "
                "no memory"
            )
        return None
    if ps.tp_rank == 0:
        logger.info("sglang-qwen3next-eagle3: requests are broadcast only where there are some")
    return agreement


def _shared_file(ranks: int) -> Path | None:
    folder = _SHARED if os.access(_SHARED, os.W_OK) else None
    name = None
    try:
        handle, name = tempfile.mkstemp(prefix="qwen3next-eagle3-", dir=folder)
        with os.fdopen(handle, "wb") as stream:
            stream.write(bytes(size(ranks)))
    except OSError:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        return None
    return Path(name)
