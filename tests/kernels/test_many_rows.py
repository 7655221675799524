"""What 9 to 64 rows have kernels of their own for, in Triton's interpreter."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    expert_choice,
    expert_list,
    wide_gemm,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import (
    reference_skinny_gemm,
    skinny_gemm,
)
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY

Quantized = tuple[torch.Tensor, torch.Tensor]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lists(routing: expert_choice.Routing) -> list[tuple[int, list[int]]]:
    """Every expert that is in use with its pairs, in the order of the work list."""
    entries = [(w & 0xFFFF, w >> 16) for w in routing.work[1 : 1 + int(routing.work[0])].tolist()]
    return [(e, routing.pairs[i, :n].tolist()) for i, (e, n) in enumerate(entries)]


@pytest.mark.parametrize(
    ("rows", "experts", "shared"), [(9, 40, True), (16, 24, False), (32, 512, True), (32, 4, True)]
)
def test_the_choice_is_that_of_few_rows(rows: int, experts: int, shared: bool) -> None:
    """Bit for bit, with equal logits, a row that is not a number, and experts of all rows."""
    logits = random(rows, experts, seed=rows)
    logits = ((logits * 2).round() if experts == 40 else logits).bfloat16()
    logits[1] = float("nan")
    logits[:, 3] = 9.0
    gates = random(rows, seed=1).bfloat16() if shared else None
    top_k = min(10, experts // 2)
    got = expert_list.choose_many(logits, gates, top_k, True)
    want = expert_choice.choose(logits, gates, top_k, True)
    assert torch.equal(got.ids, want.ids)
    assert torch.equal(got.weights.nan_to_num(-1), want.weights.nan_to_num(-1))
    assert lists(got) == lists(want)
    assert (3, [row * got.ids.shape[1] for row in range(rows) if row != 1]) in [
        (expert, [pair for pair in pairs if pair // got.ids.shape[1] != 1])
        for expert, pairs in lists(got)
    ]


@pytest.mark.parametrize("rows", [33, 50, 64])
def test_the_list_of_more_rows_than_a_word_has_bits(rows: int) -> None:
    logits, gates = random(rows, 64, seed=rows).bfloat16(), random(rows, seed=1).bfloat16()
    logits[:, 3] = 9.0
    got = expert_list.choose_many(logits, gates, 4, True)
    want = expert_choice.reference_routing(logits, gates, 4, True)
    assert torch.equal(got.ids, want.ids)
    assert lists(got) == lists(want)


def test_more_rows_than_a_program_takes_have_the_bits_of_a_row_alone() -> None:
    x, weight, scale = fp8_layer(40, 32, 256)
    plain, extra = random(40, 256, seed=4).bfloat16(), random(16, 256, seed=5).bfloat16()
    whole, beside = skinny_gemm(x, weight, scale, (plain, extra))
    assert beside is not None
    for row in (31, 32, 39):
        one = slice(row, row + 1)
        got, more = skinny_gemm(some(x, one), weight, scale, (plain[one], extra))
        assert more is not None
        assert torch.equal(got, whole[one])
        assert torch.equal(more, beside[one])


def fp8_layer(rows: int, n: int, k: int) -> tuple[Quantized, torch.Tensor, torch.Tensor]:
    x = reference_quantize(random(rows, k, seed=1).bfloat16())
    weight = (random(n, k, seed=2) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    return x, weight, random(-(-n // 128), k // 128, seed=3).abs() * 1e-3 + 1e-4


def some(x: Quantized, rows: slice) -> Quantized:
    return x[0].view(torch.uint8)[rows].contiguous().view(x[0].dtype), x[1][rows].contiguous()


def close(got: torch.Tensor, exact: torch.Tensor) -> None:
    size = exact.square().mean().sqrt().item()
    torch.testing.assert_close(got.double(), exact, rtol=2**-8, atol=size * 1e-4)


@pytest.mark.parametrize("n", [192, 48], ids=["whole tiles", "a part of a tile"])
def test_a_product_in_fp8_with_an_extra_one(n: int) -> None:
    x, weight, scale = fp8_layer(32, n, 256)
    plain, extra = random(32, 256, seed=4).bfloat16(), random(64, 256, seed=5).bfloat16()
    whole, beside = wide_gemm.wide_gemm(x, weight, scale, (plain, extra))
    assert beside is not None
    close(whole, reference_skinny_gemm(x, weight, scale))
    close(beside, reference_skinny_gemm(plain, extra))
    for rows in (slice(0, 9), slice(7, 23)):
        got, more = wide_gemm.wide_gemm(some(x, rows), weight, scale, (plain[rows], extra))
        assert more is not None
        assert torch.equal(got, whole[rows])
        assert torch.equal(more, beside[rows])


def test_a_product_in_bf16() -> None:
    x, weight = random(17, 256).bfloat16(), random(80, 256, seed=1).bfloat16()
    got, nothing = wide_gemm.wide_gemm(x, weight)
    assert nothing is None
    close(got, reference_skinny_gemm(x, weight))


def test_a_small_extra_weight_is_a_launch_of_its_own() -> None:
    x, weight = random(9, 256).bfloat16(), random(64, 256, seed=1).bfloat16()
    gates = random(8, 256, seed=2).bfloat16()
    _, beside = wide_gemm.wide_gemm(x, weight, None, (x, gates))
    want, _ = skinny_gemm(x, gates)
    assert beside is not None
    assert torch.equal(beside, want)


def test_what_does_not_fit_is_refused() -> None:
    x, weight, scale = fp8_layer(65, 64, 256)
    with pytest.raises(ValueError, match="65 rows"):
        wide_gemm.wide_gemm(x, weight, scale)
    with pytest.raises(ValueError, match="8 x 256"):
        wide_gemm.wide_gemm(some(x, slice(0, 9)), weight[:8], scale)


def test_large_weights_go_through_it_on_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seen(x: Quantized, *others: torch.Tensor | None) -> tuple[torch.Tensor, None]:
        asked.append(x[0].shape[0])
        return x[0], None

    monkeypatch.setattr(wide_gemm, "wide_gemm", seen)
    monkeypatch.setattr(wide_gemm, "skinny_gemm", lambda x, *others: (x[0], None))
    weight, scale = torch.empty(8192, 256), torch.empty(64, 2)
    for trials in ("", "wide"):
        monkeypatch.setenv(TRY, trials)
        for rows in (16, 17):
            wide_gemm.linear((torch.empty(rows, 256), torch.empty(rows, 2)), weight, scale)
            wide_gemm.linear((torch.empty(rows, 256), torch.empty(rows, 2)), weight[:64], scale)
            wide_gemm.linear(torch.empty(rows, 256), weight)
    assert asked == [17]
