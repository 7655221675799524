"""Our kernels run in Triton's interpreter here, which is chosen when triton is first imported: by
`make test`, and by this file where nothing else has imported it."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"
# On tensors this small more threads only wait for one another. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def interpreted() -> None:
    from sglang_qwen3next_eagle3.overlay.fast import device

    assert device.INTERPRETED, "another test imported triton first: set TRITON_INTERPRET=1"


ADDRESSED: list[Any] = []


@pytest.fixture
def addressed() -> Iterator[Callable[[Any], None]]:
    """Called with a tensor that kernels of this test reach by an address in another one."""
    yield ADDRESSED.append
    ADDRESSED.clear()


@pytest.fixture(autouse=True, scope="session")
def bounds(interpreted: None) -> Iterator[None]:
    """Every address that an interpreted kernel reads or writes lies within a tensor that its launch
    was given, or whose address it was given (`addressed`).

    On a GPU what lies behind a tensor is another one's, or nobody's: an illegal memory access, at
    some addresses only. The interpreter would read it silently.
    """
    from triton.runtime import interpreter

    within: list[tuple[int, int]] = []

    def check(what: str, pointers: Any, mask: Any = None) -> None:
        addresses = np.asarray(pointers.data).astype(np.uint64).reshape(-1)
        if mask is not None:
            addresses = addresses[np.broadcast_to(mask.data, pointers.data.shape).reshape(-1)]
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        right = np.zeros(addresses.shape, bool)
        for begin, end in within:
            right |= (addresses >= begin) & (addresses + np.uint64(size) <= end)
        if not right.all():
            wrong = int(addresses[~right][0])
            begin, end = min(within, key=lambda one: min(abs(wrong - one[0]), abs(wrong - one[1])))
            raise AssertionError(
                f"{what} of {(~right).sum()} of {right.size} addresses outside of what was given: "
                f"{wrong - end} bytes behind, or {begin - wrong} before, a tensor of {end - begin}"
            )

    def storages(values: Iterable[Any]) -> Iterator[tuple[int, int]]:
        for value in values:
            if isinstance(value, tuple):
                yield from storages(value)
            elif hasattr(value, "untyped_storage"):
                storage = value.untyped_storage()
                yield storage.data_ptr(), storage.data_ptr() + storage.nbytes()

    class Bounded(interpreter.GridExecutor):
        def _init_args_hst(self, args_dev: Any, kwargs: Any) -> Any:
            args, named = super()._init_args_hst(args_dev, kwargs)
            within[:] = [*storages(args), *storages(named.values()), *storages(ADDRESSED)]
            return args, named

    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    rmw, cas = builder.create_atomic_rmw, builder.create_atomic_cas

    def checked_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        check("a load", ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def checked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        check("a store", ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    def checked_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        check("an atomic", ptr, mask)
        return rmw(self, op, ptr, val, mask, *rest)

    def checked_cas(self: Any, ptr: Any, *rest: Any) -> Any:
        check("an atomic", ptr)
        return cas(self, ptr, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "GridExecutor", Bounded)
        patch.setattr(builder, "create_masked_load", checked_load)
        patch.setattr(builder, "create_masked_store", checked_store)
        patch.setattr(builder, "create_atomic_rmw", checked_rmw)
        patch.setattr(builder, "create_atomic_cas", checked_cas)
        yield
