"""The fast path's buffers are as large as the passes that are captured, and no larger than there is
memory for."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import room, sizes
from sglang_qwen3next_eagle3.overlay.fast.head import HeadKernels
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels

LONGEST = 262_144


def runner(
    monkeypatch: pytest.MonkeyPatch,
    context: int = LONGEST,
    batches: tuple[int, ...] | None = (1, 2, 4, 8),
    requests: int = 48,
    adaptive: bool = False,
) -> Any:
    """A target of the published widths, of two layers."""
    config = SimpleNamespace(decode=SimpleNamespace(bs=batches and list(batches)))
    arguments = SimpleNamespace(cuda_graph_config=config, speculative_adaptive=adaptive)
    monkeypatch.setattr(variants, "arguments_of", lambda _: arguments)
    gdn = SimpleNamespace(
        attn=SimpleNamespace(num_k_heads=16, num_v_heads=32), head_k_dim=128, head_v_dim=128
    )
    full = SimpleNamespace(num_heads=16, head_dim=256, attn_tp_size=1)
    states = SimpleNamespace(temporal=torch.empty(36, 1, 1))
    pool = SimpleNamespace(
        mamba_pool=SimpleNamespace(mamba_cache=states),
        req_to_token=torch.empty(1, context, device="meta"), size=requests,
    )  # fmt: skip
    layers = [SimpleNamespace(linear_attn=gdn), full]
    return SimpleNamespace(
        model=SimpleNamespace(model=SimpleNamespace(layers=layers)),
        attn_backend=SimpleNamespace(linear_attn_backend=SimpleNamespace(req_to_token_pool=pool)),
        req_to_token_pool=pool,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "nodes", "rows"),
    [
        ({}, 4, 32),
        ({}, 1, 8),
        ({"batches": (1,)}, 4, 8),  # the check at start has two requests
        ({"batches": (1, 64)}, 4, 128),
        ({"batches": (1, 64), "requests": 3}, 8, 24),
        ({"batches": None}, 4, 128),
        ({"adaptive": True}, 2, 128),
    ],
)
def test_buffers_are_for_the_passes_that_are_captured(
    monkeypatch: pytest.MonkeyPatch, made: dict[str, Any], nodes: int, rows: int
) -> None:
    assert room.captured_rows(runner(monkeypatch, **made), nodes, 128) == rows


@pytest.mark.parametrize(
    ("context", "rows", "nodes", "served"),
    [
        (LONGEST, 128, 4, 32),
        (LONGEST, 8, 4, 8),
        (32_768, 128, 4, 128),
        (131_072, 128, 4, 57),
        (4 * LONGEST, 128, 4, 8),
        (4 * LONGEST, 128, 16, 32),  # two requests are checked at start
        (4 * LONGEST, 128, 33, 33),
    ],
)
def test_attention_has_fewer_rows_where_they_are_long(
    monkeypatch: pytest.MonkeyPatch, context: int, rows: int, nodes: int, served: int
) -> None:
    there = runner(monkeypatch, context)
    kernels = Kernels(there.model.model, there.attn_backend, rows, "meta", nodes)
    # Its weights are not e4m3, of which alone more than 32 rows were measured.
    few = {"dense": 32, "moe": 32}
    assert kernels.room == {"gdn": rows, "attention": served, **few}
    assert kernels.workspace.sums.shape[0] == served
    assert kernels.workspace.sums.nbytes + kernels.workspace.stats.nbytes < 3e8 or served > 8
    assert kernels.kept.raw.shape[:2] == (36, rows)


@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("context", [1, 8_192, 32_768, 131_072, LONGEST, 4 * LONGEST])
@pytest.mark.parametrize(("rows", "nodes"), [(8, 4), (2, 1), (128, 4), (96, 16), (128, 33)])
def test_what_they_take_is_known_beforehand(
    monkeypatch: pytest.MonkeyPatch, tp: int, context: int, rows: int, nodes: int
) -> None:
    """By the shapes alone, as doctor plans it; with a head, which works in the same space."""
    there = runner(monkeypatch, context)
    gdn, full = there.model.model.layers[0].linear_attn, there.model.model.layers[1]
    gdn.attn = SimpleNamespace(num_k_heads=16 // tp, num_v_heads=32 // tp)
    full.num_heads = 16 // tp
    kernels = Kernels(there.model.model, there.attn_backend, rows, "meta", nodes)
    shapes = sizes.Shapes(16 // tp, 256, 36, 16 // tp, 32 // tp, 128, 128, context)
    assert sizes.of_target(shapes, rows, nodes) == kernels.nbytes
    assert sizes.attention_rows(rows, nodes, 16 // tp, 256, context) == kernels.room["attention"]
    for heads, width in ((32, 64), (16, 128), (64, 256)):
        attn = SimpleNamespace(num_heads=heads // tp, head_dim=width)
        space = HeadKernels(attn, context, "meta", kernels.workspace).workspace
        # A part of the target's is no memory of its own.
        size = (heads // tp) * sizes.MAX_ROWS * sizes.chunk_count(context)
        fits = kernels.workspace.stats.numel() >= 2 * size
        fits = fits and kernels.workspace.sums.numel() >= size * width
        own = 0 if fits else sum(part.nbytes for part in space)
        assert sizes.of_head(shapes, rows, nodes, heads // tp, width) == own


def test_without_memory_for_them_nothing_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    there = runner(monkeypatch)
    assert room.too_little(there, 128, 4) is None, "a CPU says nothing of its memory"
    free = [2**40]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free[0], 2**40))
    assert room.too_little(there, 128, 4) is None
    free[0] = sizes.LEFT + 400_000_000
    reason = room.too_little(there, 128, 4)
    assert reason is not None
    assert "its buffers take 4" in reason
    assert "2,547 MB are" in reason
    assert room.too_little(there, 8, 4) is None
