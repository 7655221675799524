"""The draft head's kernels in the interpreter: against float64, and a row's bits in company."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import attention as module
from sglang_qwen3next_eagle3.overlay.fast.kernels.attention import (
    attention,
    attention_workspace,
    reference_attention,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_codes import Codes, head_codes
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_linear import (
    HeadTiling,
    Largest,
    head_codes_tiling,
    head_gated,
    head_largest,
    head_linear,
    head_logits,
    head_tiling,
    reference_head_gated,
    reference_head_linear,
    reference_head_logits,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_steps import (
    head_choose,
    head_enter,
    head_norm,
    reference_head_enter,
    reference_head_norm,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.tree import chain_paths


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bf16(*shape: int, seed: int = 0) -> torch.Tensor:
    return random(*shape, seed=seed).bfloat16()


def one_ulp(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Sums in fp32 against float64's: near a rounding point they round to neighbours."""
    size = wanted.float().square().mean().sqrt().item()
    torch.testing.assert_close(got.float(), wanted.float(), rtol=2**-7, atol=size * 2e-3)


SIZES = [(64, 512, None), (48, 192, None), (40, 80, None), (16, 640, None), (16, 512, (4, 4))]


@pytest.mark.parametrize(("n", "k", "divided"), SIZES)
@pytest.mark.parametrize("rows", [1, 11])
def test_products_agree_with_float64(
    rows: int, n: int, k: int, divided: tuple[int, int] | None
) -> None:
    """Whole tiles, the demonstration pair's widths, widths that end within a tile, passes."""
    tiling = None if divided is None else HeadTiling(*divided)
    x, weight, gates = bf16(rows, k), bf16(n, k, seed=1), bf16(2 * n, k, seed=2) / 4
    one_ulp(head_linear(x, weight, tiling), reference_head_linear(x, weight))
    one_ulp(head_gated(x, gates, tiling), reference_head_gated(x, gates))


def test_the_published_widths_are_taken_in_passes() -> None:
    assert [head_tiling(k) for k in (2048, 4096, 6144, 8192)] == [
        HeadTiling(8, passes) for passes in (1, 2, 3, 4)
    ]
    x, weight = bf16(2, 6144), bf16(16, 6144, seed=1)
    one_ulp(head_linear(x, weight), reference_head_linear(x, weight))


def test_a_row_does_not_know_how_many_run_beside_it() -> None:
    x, weight = bf16(32, 512), bf16(64, 512, seed=1)
    ahead = HeadTiling(8, 2, ahead=True)
    assert torch.equal(head_linear(x, weight, ahead), head_linear(x, weight))
    alone = [one(x[5:6].contiguous(), weight) for one in (head_linear, head_gated)]
    for rows in (8, 16, 32):
        among = [one(x[:rows].contiguous(), weight)[5:6] for one in (head_linear, head_gated)]
        assert all(torch.equal(a, b) for a, b in zip(alone, among, strict=True))


def test_codes_stand_for_the_nearest_of_their_values() -> None:
    codes = Codes(torch.arange(256, dtype=torch.uint8)[None], torch.ones(1))
    bits = (torch.arange(256) + 0x4300).to(torch.int16).view(torch.bfloat16).float() - 320
    assert torch.equal(codes.values()[0], bits)
    weight = random(3000, 512, seed=3).bfloat16()
    weight[7] = 0
    rounded = head_codes(weight)
    nearest = (weight[:40, :, None].float() / rounded.scales[:40, None, None] - bits).abs().amin(-1)
    own = (rounded.values() - weight.float())[:40] / rounded.scales[:40, None]
    torch.testing.assert_close(own.abs(), nearest, rtol=0, atol=1e-3)
    assert not rounded.values()[7].any()
    off = (rounded.values() - weight.float()).norm() / weight.float().norm()
    assert 0.004 < off < 0.012
    assert torch.equal(rounded.bf16(), rounded.values().bfloat16())


@pytest.mark.parametrize(("n", "k", "divided"), SIZES)
@pytest.mark.parametrize("rows", [1, 11])
def test_products_of_codes_agree_with_float64(
    rows: int, n: int, k: int, divided: tuple[int, int] | None
) -> None:
    tiling = None if divided is None else HeadTiling(4, 2)
    x = bf16(rows, k)
    weight, gates = head_codes(bf16(n, k, seed=1)), head_codes(bf16(2 * n, k, seed=2) / 4)
    one_ulp(head_linear(x, weight, tiling), reference_head_linear(x, weight))
    one_ulp(head_gated(x, gates, tiling), reference_head_gated(x, gates))


def test_a_row_on_codes_does_not_know_how_many_run_beside_it() -> None:
    x, weight = bf16(32, 512), head_codes(bf16(64, 512, seed=1))
    alone = [one(x[5:6].contiguous(), weight) for one in (head_linear, head_gated)]
    for rows in (8, 16, 32):
        among = [one(x[:rows].contiguous(), weight)[5:6] for one in (head_linear, head_gated)]
        assert all(torch.equal(a, b) for a, b in zip(alone, among, strict=True))


def test_the_published_widths_of_codes_are_taken_in_passes() -> None:
    shapes = (2048, 6144), (3072, 4096), (2048, 2048), (16384, 2048), (2048, 8192), (32000, 2048)
    assert [head_codes_tiling(*shape)[:2] for shape in shapes] == [
        (8, 2), (4, 2), (4, 1), (2, 2), (8, 2), (2, 2),
    ]  # fmt: skip
    x, weight = bf16(2, 4096), head_codes(bf16(16, 4096, seed=1))
    one_ulp(head_linear(x, weight), reference_head_linear(x, weight))


def test_logits_of_codes_and_the_largest_of_them() -> None:
    x, weight = bf16(3, 192), head_codes(bf16(40, 192, seed=1))
    accepted = torch.tensor([2, 4, 1], dtype=torch.int32)
    chosen, expected = torch.full((12, 40), -7.0), torch.full((12, 40), -7.0)
    head_logits(x, weight, chosen, accepted)
    reference_head_logits(x, weight, expected, accepted)
    one_ulp(chosen, expected)
    found = head_largest(x, weight)
    tokens, positions = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    head_choose(found, None, tokens, positions)
    assert torch.equal(tokens, chosen[[1, 7, 8]].argmax(-1))


def test_logits_are_those_of_the_accepted_rows() -> None:
    x, weight = bf16(3, 192), bf16(40, 192, seed=1)
    accepted = torch.tensor([2, 4, 1], dtype=torch.int32)
    whole, chosen = torch.full((3, 40), -7.0), torch.full((12, 40), -7.0)
    head_logits(x, weight, whole)
    head_logits(x, weight, chosen, accepted)
    expected = torch.full((12, 40), -7.0)
    reference_head_logits(x, weight, expected, accepted)
    one_ulp(chosen, expected)
    rows = [1, 7, 8]
    assert torch.equal(chosen[rows], whole)
    left = [row for row in range(12) if row not in rows]
    assert (chosen[left] == -7).all()
    assert torch.equal(whole, head_linear(x, weight).float())


def test_the_choice_is_the_first_of_the_largest() -> None:
    """Ties across programs and within one, the end of a vocabulary, and what is no number."""
    x, weight = bf16(9, 64), bf16(40, 64, seed=1)
    weight[33], weight[17], weight[18] = weight[3], weight[5], weight[5]
    weight[39], weight[21] = 4 * weight[2], float("nan")
    logits = torch.empty(9, 40)
    head_logits(x, weight, logits)
    expected = torch.where(logits == logits, logits, -1e30).argmax(-1)
    assert {39} < set(expected.tolist())
    found = head_largest(x, weight)
    tokens, positions = torch.zeros(9, 3, dtype=torch.int64), torch.arange(9)
    head_choose(found, None, tokens[:, 1], positions)
    assert torch.equal(tokens[:, 1], expected)
    assert not tokens[:, [0, 2]].any()
    assert torch.equal(positions, torch.arange(1, 10))
    table = torch.randperm(100)[:40]
    head_choose(found, table, tokens[:, 2], positions)
    assert torch.equal(tokens[:, 2], table[expected])


def test_a_tie_goes_to_the_lowest() -> None:
    values = torch.tensor([[1.0, 3.0, 3.0], [2.0, -1.0, 2.0]])
    places = torch.tensor([[4, 20, 40], [9, 17, 33]], dtype=torch.int32)
    tokens = torch.zeros(2, dtype=torch.int64)
    head_choose(Largest(values, places), None, tokens, torch.zeros(2, dtype=torch.int64))
    assert tokens.tolist() == [20, 9]


@pytest.mark.parametrize("width", [96, 256])
def test_it_enters_with_both_norms(width: int) -> None:
    embedding, weights = bf16(30, width), bf16(2, width, seed=1)
    hidden = bf16(5, width, seed=2)
    tokens = torch.tensor([[29, 1], [0, 2], [7, 3], [7, 4], [12, 0]])
    table, first = torch.randperm(30)[:5], torch.zeros(5, 2, dtype=torch.int64)
    for ids, given in ((tokens[:, 0], None), (tokens[:, 1], table)):
        arguments = ids, embedding, weights[0], hidden, weights[1], 1e-6
        left = first[:, 1] if given is not None else None
        got = head_enter(*arguments, given, left)
        one_ulp(got, reference_head_enter(*arguments, given, torch.zeros(5, dtype=torch.int64)))
    assert torch.equal(first[:, 1], table[tokens[:, 1]])
    assert not first[:, 0].any()


def test_norms_of_the_accepted_rows() -> None:
    hidden, weight = bf16(3, 96), bf16(96, seed=1)
    accepted = torch.tensor([1, 4, 2], dtype=torch.int32)
    rows = [0, 7, 9]
    wide, narrow = bf16(12, 96, seed=2), bf16(3, 96, seed=3)
    for residual, how in ((wide, {"read": 4}), (narrow, {"write": 4}), (narrow, {})):
        arguments = hidden, residual, weight, 1e-6, accepted if how else None
        total, normed = head_norm(*arguments, **how)
        wanted_total, wanted = reference_head_norm(*arguments, **how)
        kept = rows if "write" in how else slice(None)
        assert torch.equal(total[kept], wanted_total[kept])
        one_ulp(normed, wanted)


def test_its_attention_works_in_the_space_of_the_target_s() -> None:
    target = attention_workspace(4, 4, 64, 512, "cpu")
    shared = attention_workspace(4, 4, 32, 512, "cpu", target)
    assert shared.sums.data_ptr() == target.sums.data_ptr()
    assert shared.sums.shape == (*target.sums.shape[:3], 32)
    assert shared.stats.shape == target.stats.shape
    for own in (attention_workspace(4, 8, 32, 512, "cpu", target),
                attention_workspace(4, 4, 128, 512, "cpu", target)):  # fmt: skip
        assert own.sums.data_ptr() != target.sums.data_ptr()


@pytest.mark.parametrize(
    ("prefixes", "nodes", "heads", "kv_heads", "dim"),
    [
        ([5, 130], 1, 4, 2, 64),
        ([126, 3], 4, 4, 2, 64),
        ([70], 4, 4, 1, 128),
        ([0, 63], 8, 2, 2, 32),
    ],
)
def test_attention_without_norms_and_gates(
    prefixes: list[int],
    nodes: int,
    heads: int,
    kv_heads: int,
    dim: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Draft steps and draft extends; in these the accepted node alone is put out, with the bits
    that it has among the others, and all keys are kept."""
    monkeypatch.setattr(module, "CHUNKS", ((0, 64), (128, 128), (256, 192)))
    batch, rows = len(prefixes), len(prefixes) * nodes
    slots = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    places = slots.split([*prefixes, rows, 400 - rows - sum(prefixes)])
    own = places[-2].view(batch, nodes)
    indices = [torch.cat([places[r], own[r]]) if nodes == 1 else places[r] for r in range(batch)]
    paths = None if nodes == 1 else chain_paths(batch, nodes, "cpu")
    positions = torch.tensor(prefixes).repeat_interleave(nodes) + torch.arange(nodes).repeat(batch)
    k_cache, v_cache = bf16(400, kv_heads, dim, seed=2), bf16(400, kv_heads, dim, seed=3)
    operands = (
        bf16(rows, (heads + 2 * kv_heads) * dim), None, None, 1e-6, positions,
        random(512, dim, seed=4), k_cache, v_cache, own.flatten(),
        torch.tensor([0, *map(len, indices)]).cumsum(0).int(), torch.cat(indices),
    )  # fmt: skip
    expected_caches = k_cache.clone(), v_cache.clone()
    wanted = reference_attention(*operands[:6], *expected_caches, *operands[8:], paths)
    workspace = attention_workspace(rows, heads, dim, 512, "cpu")
    out = attention(*operands, paths, False, workspace).out
    torch.testing.assert_close(out.float(), wanted.float(), rtol=2**-6, atol=4e-3)
    assert torch.equal(k_cache, expected_caches[0])
    assert torch.equal(v_cache, expected_caches[1])
    if nodes > 1:
        accepted = torch.arange(batch, dtype=torch.int32) % nodes + 2
        chosen = attention(*operands, paths, False, workspace, accepted=accepted).out
        rows_of = torch.arange(batch) * nodes + accepted - 1
        assert torch.equal(chosen, out[rows_of])
