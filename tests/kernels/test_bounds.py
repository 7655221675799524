"""The interpreter's launches are watched: what lies behind a tensor is no kernel's."""

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _copied(source, target, count, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(target + at, tl.load(source + at, at < count, 0.0), at < count)


@pytest.mark.parametrize(("read", "written"), [(15, 16), (16, 15)])
def test_an_address_behind_a_tensor_is_found(read: int, written: int) -> None:
    source, target = torch.ones(read), torch.zeros(written)
    with pytest.raises(Exception, match="outside of what was given: 0 bytes behind"):
        _copied[(1,)](source, target, 16, BLOCK=16)
    _copied[(1,)](source, target, 15, BLOCK=16)
    assert target[:15].eq(1).all()
