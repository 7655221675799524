"""What `torch.cuda.CUDAGraph` does, on a CPU: operations of torch, done again on the same tensors.

They are also done while they are captured, but what they write into is put back.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_MAKES_NOTHING = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


class OpGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._done: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._chance = torch.empty(0)

    def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
        self._chance = torch.get_rng_state()
        self.__enter__()

    def capture_end(self) -> None:
        self.__exit__(None, None, None)
        # What is captured draws nothing.
        torch.set_rng_state(self._chance)
        for tensor, values in reversed(self._before):
            tensor.copy_(values)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written = args[place] if place < len(args) else (kwargs or {})[argument.name]
                for tensor in written if isinstance(written, list) else [written]:
                    self._before.append((tensor, tensor.clone()))
        out = func(*args, **(kwargs or {}))
        self._done.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self._done:
            if func.overloadpacket.__name__ in _MAKES_NOTHING:
                continue
            again = func(*args, **kwargs)
            for value, ret, place in zip(
                again if isinstance(again, tuple) else (again,),
                func._schema.returns,
                out if isinstance(out, tuple) else (out,),
                strict=False,
            ):
                if isinstance(value, torch.Tensor) and ret.alias_info is None:
                    place.copy_(value)
