"""Graphs of SGLang's as parts of a larger one, so that a launch runs all of them without a gap.

CUDA puts a copy of a graph into another one as a child, if it is still there as it was captured:
torch drops it once it can be launched, unless it is told to keep it. A copy uses the same memory.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import torch

_DRAWS: Final = "_qwen3next_eagle3_draws"
_OF_MORE: Final = (2, 901)
"""No memory, and a capture that something before has broken off: no matter of parts."""


class NotJoinable(RuntimeError):
    """A graph cannot become a part of another one."""


class Joins:
    """What a capture takes in, on CUDA's streams."""

    def child(self, graph: Any) -> None:
        """All of a `torch.cuda.CUDAGraph` that was kept, at this place of what is captured.

        Raises:
            NotJoinable: it was not kept, it draws numbers, or CUDA refuses.
        """
        if getattr(graph, _DRAWS, False):
            # torch tells a graph where the generator stands when it replays it, no part of one.
            raise NotJoinable("a graph draws numbers")
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise NotJoinable(f"cuda-bindings is not there: {error}") from None
        try:
            raw = runtime.cudaGraph_t(graph.raw_cuda_graph())
        except (RuntimeError, AttributeError) as error:
            raise NotJoinable(f"a graph was not kept: {str(error).partition(chr(10))[0]}") from None
        try:
            _add(runtime, raw)
        except (TypeError, AttributeError) as error:
            raise NotJoinable(f"cuda-bindings is not of CUDA 13: {error}") from None

    def mark(self) -> Any:
        """An event that each launch of what is captured records at this place."""
        event = torch.cuda.Event(external=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _add(runtime: Any, raw: Any) -> None:
    """A graph behind what the current stream has captured. `runtime` is that of cuda-bindings."""
    stream = runtime.cudaStream_t(torch.cuda.current_stream().cuda_stream)
    _, _, whole, before, *_ = _done(runtime.cudaStreamGetCaptureInfo(stream))
    # What comes before is over when a child begins, however it was launched.
    (node,) = _done(
        runtime.cudaGraphAddChildGraphNode(whole, before or None, len(before or ()), raw)
    )
    replaces = runtime.cudaStreamUpdateCaptureDependenciesFlags
    _done(
        runtime.cudaStreamUpdateCaptureDependencies(
            stream, [node], None, 1, int(replaces.cudaStreamSetCaptureDependencies)
        )
    )


def _done(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    error, *rest = answer
    if int(error) != 0:
        said = f"CUDA refuses: {getattr(error, 'name', error)}"
        raise RuntimeError(said) if int(error) in _OF_MORE else NotJoinable(said)
    return tuple(rest)


def keep(original: Callable[..., Any], backend: Any, shape_key: Any, *args: Any, **of: Any) -> Any:
    """Around the capture of one of SGLang's graphs: it can be a part of others afterwards."""
    plain = torch.cuda.CUDAGraph

    class Kept(plain):  # type: ignore[misc, valid-type]
        def __new__(cls, *_: Any, **__: Any) -> Any:
            return plain.__new__(cls, True)

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(True)

    torch.cuda.CUDAGraph = Kept  # type: ignore[misc]
    before = _drawn_so_far()
    try:
        out = original(backend, shape_key, *args, **of)
    finally:
        torch.cuda.CUDAGraph = plain  # type: ignore[misc]
    graph = backend._graphs.get(shape_key)
    if isinstance(graph, Kept):
        # What torch would have done at the capture's end: not in the first replay.
        graph.instantiate()
        # What is captured was run before, to be warm.
        setattr(graph, _DRAWS, _drawn_so_far() != before)
    return out


def _drawn_so_far() -> list[int]:
    """Where the generators of all GPUs stand; nothing where they do not say."""
    with suppress(RuntimeError, AttributeError):
        return [generator.get_offset() for generator in torch.cuda.default_generators]
    return []
