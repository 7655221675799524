"""Paged attention against a softmax written out in float64, one head at a time."""

import pytest
import torch
import torch.nn.functional as F

from sglang_qwen3next_eagle3.overlay.cpu_engine import attention

HEADS, KV_HEADS, SIZE, VALUE_SIZE = 4, 2, 16, 8
SCALE = 0.3
NEUTRAL = (0.0, False, 0, None, None)


class Pools:
    """Key and value pools in which requests own scattered slots."""

    def __init__(self, lengths, slots=64, rows=6):
        draw = torch.Generator().manual_seed(0)
        self.k = torch.randn(slots, KV_HEADS, SIZE, generator=draw)
        self.v = torch.randn(slots, KV_HEADS, VALUE_SIZE, generator=draw)
        order = torch.randperm(slots, generator=draw).int()
        self.req_to_token = order[: rows * (slots // rows)].view(rows, -1)
        self.rows = torch.tensor([4, 1, 3, 0, 2][: len(lengths)])
        self.lengths = torch.tensor(lengths)

    def of(self, request):
        slots = self.req_to_token[self.rows[request], : self.lengths[request]].long()
        return self.k[slots], self.v[slots]


def written_out(query, keys, values, visible):
    """query [E, H, D], visible: for each query token the positions it sees."""
    out = torch.empty(query.shape[0], HEADS, values.shape[-1])
    for token, seen in enumerate(visible):
        for head in range(HEADS):
            kv_head = head // (HEADS // KV_HEADS)
            scores = keys[seen, kv_head].double() @ query[token, head].double() * SCALE
            out[token, head] = scores.softmax(0) @ values[seen, kv_head].double()
    return out


def run_decode(pools, query, key=None, value=None, loc=None, variants=NEUTRAL):
    out = torch.empty(query.shape[0], HEADS, VALUE_SIZE)
    attention.decode(
        query, pools.k, pools.v, out, key, value, loc, torch.empty(0),
        pools.req_to_token, pools.rows, pools.lengths, SCALE, *variants,
    )  # fmt: skip
    return out


def run_extend(pools, query, new, tree_mask=None, variants=NEUTRAL):
    new = torch.tensor(new, dtype=torch.int32)
    out = torch.empty(query.shape[0], HEADS, VALUE_SIZE)
    attention.extend(
        query, None, None, out, pools.k, pools.v, pools.req_to_token, pools.rows, pools.lengths,
        new, (new.cumsum(0) - new).int(), int(new.max()), SCALE, *variants, tree_mask,
    )  # fmt: skip
    return out


def test_decoding_stores_the_new_token_and_attends_to_the_whole_request():
    pools = Pools([1, 7, 4])
    query = torch.randn(3, HEADS, SIZE)
    key, value = torch.randn(3, KV_HEADS, SIZE), torch.randn(3, KV_HEADS, VALUE_SIZE)
    loc = pools.req_to_token[pools.rows, pools.lengths - 1].long()
    before = pools.k.clone()

    out = run_decode(pools, query, key, value.flatten(1), loc)

    assert torch.equal(pools.k[loc], key)
    assert torch.equal(pools.v[loc], value)
    others = torch.ones(len(before), dtype=torch.bool).index_fill(0, loc, False)
    assert torch.equal(pools.k[others], before[others])
    for request in range(3):
        keys, values = pools.of(request)
        everything = [list(range(len(keys)))]
        expected = written_out(query[request : request + 1], keys, values, everything)
        torch.testing.assert_close(out[request : request + 1], expected)


def test_decoding_without_a_new_key_only_reads():
    pools = Pools([5])
    before = pools.k.clone()
    query = torch.randn(1, HEADS, SIZE)
    expected = written_out(query, *pools.of(0), [list(range(5))])
    torch.testing.assert_close(run_decode(pools, query), expected)
    assert torch.equal(pools.k, before)


def test_decoding_an_empty_batch_does_nothing():
    assert run_decode(Pools([]), torch.empty(0, HEADS, SIZE)).shape == (0, HEADS, VALUE_SIZE)


def test_extending_is_causal_after_the_prefix():
    pools, new = Pools([6, 3, 9, 1]), [6, 2, 1, 1]
    query = torch.randn(sum(new), HEADS, SIZE)

    out = run_extend(pools, query, new)

    start = 0
    for request, count in enumerate(new):
        prefix = int(pools.lengths[request]) - count
        visible = [list(range(prefix + token + 1)) for token in range(count)]
        tokens = slice(start, start + count)
        torch.testing.assert_close(
            out[tokens], written_out(query[tokens], *pools.of(request), visible)
        )
        start += count


def test_extending_without_a_prefix_equals_torchs_causal_attention():
    pools = Pools([8])
    query = torch.randn(8, HEADS, SIZE)
    keys, values = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in pools.of(0))
    expected = F.scaled_dot_product_attention(
        *(x.transpose(0, 1) for x in (query, keys, values)), is_causal=True, scale=SCALE
    )
    torch.testing.assert_close(run_extend(pools, query, [8]), expected.transpose(0, 1))


def test_a_tree_mask_replaces_causality_among_the_new_tokens():
    # Rows of ancestors, themselves included; the second request has another tree.
    ancestors = [[[0], [0, 1], [0, 2], [0, 1, 3]], [[0], [0, 1], [0, 1, 2], [0, 3]]]
    pools, width = Pools([9, 4]), 4
    mask = torch.zeros(2, width, width, dtype=torch.bool)
    for request, tree in enumerate(ancestors):
        for token, seen in enumerate(tree):
            mask[request, token, seen] = True
    query = torch.randn(2 * width, HEADS, SIZE)

    out = run_extend(pools, query, [width, width], mask.flatten())

    for request, tree in enumerate(ancestors):
        prefix = int(pools.lengths[request]) - width
        visible = [[*range(prefix), *(prefix + node for node in seen)] for seen in tree]
        tokens = slice(request * width, (request + 1) * width)
        torch.testing.assert_close(
            out[tokens], written_out(query[tokens], *pools.of(request), visible)
        )


@pytest.mark.parametrize(
    ("variants", "name"),
    [
        ((30.0, False, 0, None, None), "logit cap"),
        ((0.0, True, 0, None, None), "cross attention"),
        ((0.0, False, 128, None, None), "sliding window"),
        ((0.0, False, 0, torch.ones(1), None), "cross attention"),
        ((0.0, False, 0, None, torch.ones(HEADS)), "sinks"),
    ],
)
def test_variants_of_attention_are_refused_rather_than_ignored(variants, name):
    pools, query = Pools([3]), torch.randn(1, HEADS, SIZE)
    with pytest.raises(NotImplementedError, match=name):
        run_decode(pools, query, variants=variants)
    with pytest.raises(NotImplementedError, match=name):
        run_extend(pools, query, [1], variants=variants)


def scaled_decode(pools, query, scales):
    out = torch.empty(query.shape[0], HEADS, VALUE_SIZE)
    attention.decode_scaled(
        query, pools.k, pools.v, *scales, out, None, None, None, torch.empty(0),
        pools.req_to_token, pools.rows, pools.lengths, SCALE, *NEUTRAL,
    )  # fmt: skip
    return out


def scaled_extend(pools, query, scales, tree_mask=None, is_causal=True):
    new = torch.tensor([2, 2], dtype=torch.int32)
    out = torch.empty(query.shape[0], HEADS, VALUE_SIZE)
    attention.extend_scaled(
        query, None, None, out, pools.k, pools.v, *scales, pools.req_to_token, pools.rows,
        pools.lengths, new, (new.cumsum(0) - new).int(), 2, SCALE, *NEUTRAL, tree_mask, is_causal,
    )  # fmt: skip
    return out


def test_with_scales_of_one_it_is_the_same():
    pools = Pools([3, 5])
    query = torch.randn(2, HEADS, SIZE)
    assert torch.equal(scaled_decode(pools, query, (1.0, 1.0)), run_decode(pools, query))
    query = torch.randn(4, HEADS, SIZE)
    tree = torch.tensor([1, 0, 0, 1] * 2, dtype=torch.bool)
    for mask in (None, tree):
        expected = run_extend(pools, query, [2, 2], mask)
        assert torch.equal(scaled_extend(pools, query, (1.0, 1.0), mask), expected)


@pytest.mark.parametrize("scales", [(0.5, 1.0), (1.0, 2.0)])
def test_scales_of_an_fp8_cache_are_refused(scales):
    pools = Pools([3, 5])
    with pytest.raises(NotImplementedError, match="scales"):
        scaled_decode(pools, torch.randn(2, HEADS, SIZE), scales)
    with pytest.raises(NotImplementedError, match="scales"):
        scaled_extend(pools, torch.randn(4, HEADS, SIZE), scales)


def test_attention_that_is_not_causal_is_refused():
    with pytest.raises(NotImplementedError, match="causal"):
        scaled_extend(Pools([3, 5]), torch.randn(4, HEADS, SIZE), (1.0, 1.0), is_causal=False)
