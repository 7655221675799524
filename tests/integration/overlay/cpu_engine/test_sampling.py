"""Verification by sampling gives the target's own distribution, whatever was drafted."""

import math

import pytest
import torch
from torch import Tensor

from sglang_qwen3next_eagle3.overlay.cpu_engine import sampling

TREES = {
    # links of N = 4: a chain; a root with three children; two branches.
    "chain": ([1, 2, 3, -1], [-1, -1, -1, -1], 4),
    "wide": ([1, -1, -1, -1], [-1, 2, 3, -1], 2),
    "tree": ([1, 3, -1, -1], [-1, 2, -1, -1], 3),
}
DRAWS = 6000


def chi_square(counts: Tensor, expected: Tensor) -> float:
    """Of counts against expected counts, over the classes that can occur."""
    possible = expected > 0
    assert counts[~possible].sum() == 0
    return float(((counts - expected)[possible] ** 2 / expected[possible]).sum())


def bound(classes: int) -> float:
    """Beyond which a right distribution falls once in about 10,000 times (Wilson and Hilferty)."""
    freedom = classes - 1
    return freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


def verify(shape: str, probs: Tensor, tokens: list[int], coins: Tensor, final: Tensor) -> Tensor:
    """The first token said behind the root and the number accepted, for every row of coins."""
    children, siblings, depth = TREES[shape]
    rows, count = coins.shape
    predicts = torch.zeros(rows * count, dtype=torch.int32)
    index = torch.full((rows, depth), -1, dtype=torch.int32)
    accepted = torch.zeros(rows, dtype=torch.int32)
    sampling.verify_by_sampling(
        predicts=predicts,
        accept_index=index,
        accept_token_num=accepted,
        candidates=torch.tensor(tokens).repeat(rows, 1),
        retrive_index=torch.arange(rows * count).view(rows, count),
        retrive_next_token=torch.tensor(children).repeat(rows, 1),
        retrive_next_sibling=torch.tensor(siblings).repeat(rows, 1),
        uniform_samples=coins,
        uniform_samples_for_final_sampling=final,
        target_probs=probs.repeat(rows, 1, 1),
        draft_probs=torch.zeros(rows, count, probs.shape[-1]),
    )
    first = predicts.view(rows, count)[:, 0]
    second = predicts[index[:, 1].clamp(min=0).long()]
    return torch.stack([first, accepted, second])


@pytest.mark.parametrize("shape", TREES)
@pytest.mark.parametrize("sharp", [1.0, 4.0])
def test_the_first_and_the_second_token_are_distributed_as_the_target_s(
    shape: str, sharp: float
) -> None:
    generator = torch.Generator().manual_seed(7)
    vocabulary = 8
    probs = (torch.randn(4, vocabulary, generator=generator) * sharp).softmax(-1)
    tokens = [0, 2, 5, 6]
    coins = torch.rand(DRAWS, 4, generator=generator)
    final = torch.rand(DRAWS, generator=generator)
    first, accepted, second = verify(shape, probs, tokens, coins, final)
    counts = torch.bincount(first.long(), minlength=vocabulary).float()
    assert chi_square(counts, probs[0] * DRAWS) < bound(vocabulary)
    if TREES[shape][0][1] != -1:
        # Node 1 was accepted exactly where its token was said first, and has a child.
        through = (first == tokens[1]) & (accepted > 0)
        assert int(through.sum()) == int((first == tokens[1]).sum())
        behind = torch.bincount(second[through].long(), minlength=vocabulary).float()
        share = probs[1] * float(through.sum())
        keep = share >= 5  # chi-square wants five of each class; the others are one class.
        counts = torch.cat([behind[keep], behind[~keep].sum()[None]])
        expected = torch.cat([share[keep], share[~keep].sum()[None]])
        assert chi_square(counts, expected) < bound(len(counts))


def test_a_coin_of_zero_accepts_nothing_that_the_target_excludes() -> None:
    probs = torch.zeros(4, 5)
    probs[:, 3] = 1.0
    zero = torch.zeros(1, 4)
    first, accepted, _ = verify("wide", probs, [0, 1, 2, 4], zero, torch.zeros(1))
    assert (int(first), int(accepted)) == (3, 0)


def test_top_k_and_top_p_keep_the_likeliest_and_renormalize() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    kept = sampling.top_k_renorm_prob(probs, torch.tensor([2]))
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0.4, 0.0, 0.3]]) / 0.7)
    whole = sampling.top_k_renorm_prob(probs, torch.tensor([1 << 30]))
    torch.testing.assert_close(whole, probs)
    kept = sampling.top_p_renorm_prob(probs, torch.tensor([0.65]))
    torch.testing.assert_close(kept, torch.tensor([[0.0, 0.4, 0.0, 0.3]]) / 0.7)
    single = sampling.top_p_renorm_prob(probs, torch.tensor([1e-9]))
    assert single.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def murmur3(data: bytes) -> int:
    """MurmurHash3 x86 32 with seed 0, of whole words, in plain integers."""
    mask, h = 0xFFFFFFFF, 0
    for at in range(0, len(data), 4):
        k = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & mask
        k = ((k << 15) | (k >> 17)) & mask
        h ^= k * 0x1B873593 & mask
        h = (((h << 13) | (h >> 19)) * 5 + 0xE6546B64) & mask
    h ^= len(data)
    h = (h ^ (h >> 16)) * 0x85EBCA6B & mask
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & mask
    return h ^ (h >> 16)


def test_the_plain_hash_has_the_published_value() -> None:
    """smhasher: MurmurHash3_x86_32 of the four bytes "test" with seed 0."""
    assert murmur3(b"test") == 0xBA6BD213


@pytest.mark.parametrize("kind", [torch.int64, torch.uint64])
def test_seeded_numbers_are_the_hash_of_seed_position_and_column(kind: torch.dtype) -> None:
    seeds = [3, 2**62 + 12345, -1, 0]
    places = [0, 17, 2**31, 262143]
    seed = torch.tensor(seeds, dtype=torch.int64)
    found = sampling.murmur_hash32(
        seed.view(torch.uint64) if kind is torch.uint64 else seed,
        torch.tensor(places).to(kind),
        torch.arange(5),
    )
    assert found.dtype == torch.uint32
    for row, (one, place) in enumerate(zip(seeds, places, strict=True)):
        for column in range(5):
            data = (one % 2**64).to_bytes(8, "little") + place.to_bytes(4, "little")
            assert int(found[row, column]) == murmur3(data + column.to_bytes(4, "little"))
