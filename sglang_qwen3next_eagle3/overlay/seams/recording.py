"""What a function launches, recorded as graphs and handed to the GPU again without the function.

CUDA captures launches on a stream instead of running them, but nothing that the host does, and a
graph that is launched only where it is put in by hand (joining.py). So a recording is a row of
steps: graphs of what was launched, and between them what `step` was given. Run in order, they do
what the function would do again, on the same tensors, if the host tells it the same things. That
they are the same is for the caller to know; what would hand a graph other memory of the host is
refused while it is recorded.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sglang_qwen3next_eagle3.overlay.cycle.phases import GRAPH_OF, JOINED
from sglang_qwen3next_eagle3.overlay.seams.joining import NotJoinable

Step = Callable[[], object]
Graph = Callable[[], Any]
_NUMBERS: Final = 4


class NotRecordable(RuntimeError):
    """A function does what a graph cannot hold."""


class OnlyOnDevice(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises NotRecordable at operations between the host and the device; `device` is its type.

    A captured copy from the host would read the same memory ever after, whatever is there then.
    """

    def __init__(self, device: str = "cuda") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._device = device

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        name = func.overloadpacket.__name__
        if len(kinds) > 1 or (self._device in kinds and name == "_local_scalar_dense"):
            raise NotRecordable(f"{name} needs the host")
        out = func(*args, **kwargs)
        if tensors:
            made = {leaf.device.type for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)}
            if made - kinds:
                raise NotRecordable(f"{name} copies between the host and the device")
        return out


class GraphRecording:
    """The steps of one function. It is current between `begin` and `end` or `abandon`."""

    def __init__(
        self, graph: Graph, pool: Any = None, device: str = "cuda", joins: Any = None
    ) -> None:
        """graph: makes an empty `torch.cuda.CUDAGraph`; pool: of the memory of all its graphs.
        joins: a `Joins`, where graphs that are replayed become parts of its own."""
        self.steps: list[Step] = []
        self._make, self._pool = graph, pool
        self._guard: Any = OnlyOnDevice(device)
        self._open: Any = None
        # Apart from what graphs write: a number is set before the first of them.
        self._numbers = torch.empty(_NUMBERS, dtype=torch.int32, device=device)
        self._taken = 0
        self._feeds: list[tuple[torch.Tensor, Callable[[], int]]] = []
        self.joins = joins
        self.passed: Callable[[], None] = _nothing
        """To be called where a part that is replayed otherwise is left out."""
        self._parts: list[Any] = []
        """Whose memory is used: they live as long."""

    def begin(self) -> None:
        """From here on what is launched is recorded."""
        if _current:
            raise NotRecordable("two recordings at once")
        _current.append(self)
        self._guard.__enter__()
        self._begin_graph()

    def end(self) -> None:
        """The recording is whole; where that fails, it is to be abandoned."""
        self._end_graph()
        self._leave()

    def abandon(self) -> None:
        """Something went wrong: back to where what is launched runs."""
        try:
            if self._open is not None:
                self._end_graph()
        except RuntimeError:
            # CUDA had broken the capture off; torch may believe that it goes on, and then frees
            # nothing that another stream has used.
            self._leave_pool()
            # The generator, too, believes that it is captured, and would refuse to draw: an empty
            # capture tells it otherwise.
            with suppress(RuntimeError):
                again = self._make()
                again.capture_begin(pool=self._pool, capture_error_mode="relaxed")
                again.capture_end()
        finally:
            # Again: a capture leads memory into its pool before it begins, which may fail.
            self._leave_pool()
            self._open = None
            self.steps.clear()
            self._parts.clear()
            self._leave()

    def drop(self) -> None:
        """It is not run any more: what it holds is let go."""
        self.steps.clear()
        self._parts.clear()
        self._feeds.clear()

    def _leave_pool(self) -> None:
        """Memory is allocated where it was before; where it is already, nothing happens."""
        with suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self._pool)

    def step(self, *steps: Step) -> None:
        """These stand at this place, and are not done now."""
        self._end_graph()
        self.steps += steps
        self._begin_graph()

    def replay(self, graph: Any, *before: Step) -> None:
        """These steps and then this graph stand at this place.

        Raises:
            NotJoinable: it should have become a part of what is captured.
        """
        if self.joins is None:
            self.step(*before, graph.replay)
            return
        if before:
            self.step(*before)
        self.joins.child(graph)
        self._parts.append(graph)
        setattr(self._open, GRAPH_OF, JOINED)

    def number(self, ask: Callable[[], int]) -> torch.Tensor:
        """A tensor [1] int32 that holds what `ask` says at the beginning of each run."""
        if self._taken == _NUMBERS:
            raise NotRecordable("too many numbers of the host")
        place = self._numbers[self._taken : self._taken + 1]
        self._taken += 1
        self._feeds.append((place, ask))
        return place

    def run(self) -> None:
        """Do all of it."""
        for place, ask in self._feeds:
            place.fill_(ask())
        for step in self.steps:
            step()

    def _begin_graph(self) -> None:
        # Open from here on: one whose beginning fails has to be left, too.
        self._open = graph = self._make()
        setattr(graph, GRAPH_OF, "")
        # Kernels may be loaded meanwhile, and other threads do what they like; what must not be
        # captured is told by the guard.
        graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")

    def _end_graph(self) -> None:
        try:
            self._open.capture_end()
        except RuntimeError as error:
            if getattr(self._open, GRAPH_OF, "") != JOINED or _is_of_more(error):
                raise
            raise NotJoinable(str(error)) from error
        self.steps.append(self._open.replay)
        self._open = None

    def _leave(self) -> None:
        # Not where something failed before it began.
        if self in _current:
            _current.remove(self)
            self._guard.__exit__(None, None, None)


def _nothing() -> None:
    pass


def _is_of_more(error: RuntimeError) -> bool:
    """Whether a capture with parts would have failed without them as well."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in said for words in ("out of memory", "previous error during capture")
    )


_current: list[GraphRecording] = []


def current() -> GraphRecording | None:
    """The recording in which this is called, if it is. A process has one thread that launches."""
    return _current[0] if _current else None
