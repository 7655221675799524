"""Compile every kernel of the fast path for sm_90 as its launcher launches it for the published
target's shapes. Needs no GPU: what a launcher would run is compiled only. Prints their names.

With `--every` for every number of rows and shape of drafts that tests/gpu measures, for the shards
of two and four ranks in FP8 and bf16, and for the demo target's widths: minutes.
"""

import json
import sys
from collections import Counter
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    attention,
    expert_list,
    experts,
    gdn_commit,
    gdn_decode,
    gdn_trees,
    gdn_verify,
    head_codes,
    head_linear,
    head_steps,
    lm_head,
    norm_quantize,
    peer_sum,
    router,
    skinny_gemm,
    tree,
    wide_gemm,
)

WIDTH, VOCABULARY, EXPERTS, TOP_K, INNER = 2048, 151936, 512, 10, 512
KEY_HEADS, VALUE_HEADS, HEADS, KV_HEADS, HEAD_DIM, ROTARY = 16, 32, 16, 2, 256, 64
CHANNELS, VALUES = 8192, 4096
SHARED = 232448
"""Bytes of shared memory that a block of threads may have on an H100 or H200."""
FP8, FP32, INT32, INT64 = torch.float8_e4m3fn, torch.float32, torch.int32, torch.int64
compiled: Counter[str] = Counter()


class H100:
    """Triton's driver of a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def only_compile() -> None:
    triton.runtime.driver.set_active(H100())
    run = JITFunction.run

    def compile_it(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        compiled[kernel.fn.__name__] += 1
        made = run(kernel, *args, grid=grid, warmup=True, **options)
        # Only a launch would say so.
        assert made.metadata.shared <= SHARED, f"{kernel.fn.__name__}: {made.metadata.shared} bytes"
        return made

    JITFunction.run = compile_it
    experts._multiprocessors = lambda device: 132


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype)


def fp8(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and the scales of its blocks."""
    blocks = [-(-size // 128) for size in shape[-2:]]
    return empty(*shape, dtype=FP8), empty(*shape[:-2], *blocks, dtype=FP32)


def bf16(*shape: int) -> tuple[torch.Tensor, None]:
    return empty(*shape), None


def rows(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    return empty(count, width, dtype=FP8), empty(count, width // 128, dtype=FP32)


def dense_and_experts(count: int, ranks: int = 1, quantized: bool = True) -> None:
    """ranks: over which heads, experts and vocabulary are divided."""
    hidden, gain = empty(count, WIDTH), empty(WIDTH)
    norm_quantize.add_norm_quantize(hidden, None, gain, 1e-6, False)
    norm_quantize.add_norm_quantize(hidden, None, gain, 1e-6, True)
    norm_quantize.add_norm_quantize(hidden, hidden, gain, 1e-6, False)
    normed = norm_quantize.add_norm_quantize(hidden, hidden, gain, 1e-6, True)
    x = (normed.codes, normed.scales) if quantized else hidden
    values = rows(count, VALUES // ranks) if quantized else empty(count, VALUES // ranks)
    weight = fp8 if quantized else bf16
    beside = normed.normed, empty(64 // ranks, WIDTH)
    skinny_gemm.skinny_gemm(x, *weight(12288 // ranks, WIDTH), beside)
    skinny_gemm.skinny_gemm(x, *weight(attention_width(ranks), WIDTH))
    skinny_gemm.skinny_gemm(values, *weight(WIDTH, VALUES // ranks))
    skinny_gemm.skinny_gemm(hidden, empty(12288 // ranks, WIDTH))
    if count <= 32:
        lm_head.argmax_rows(lm_head.lm_head(hidden, empty(VOCABULARY // ranks, WIDTH)))
    gate = empty(EXPERTS, WIDTH), empty(1, WIDTH)
    routed = router.route(hidden, hidden, gain, 1e-6, *gate, TOP_K, True, quantized)
    inner = INNER // ranks
    up, down = weight(EXPERTS + 1, 2 * inner, WIDTH), weight(EXPERTS + 1, WIDTH, inner)
    experts.experts(routed, *up, *down)


def many_rows(count: int) -> None:
    """What more rows than 8 have kernels of their own for."""
    expert_list.choose_many(empty(count, EXPERTS), empty(count), TOP_K, True)
    beside = empty(count, WIDTH), empty(64, WIDTH)
    wide_gemm.wide_gemm(rows(count, WIDTH), *fp8(12288, WIDTH), beside)
    wide_gemm.wide_gemm(rows(count, VALUES), *fp8(WIDTH, VALUES))
    if count <= 32:
        lm_head.lm_head(empty(count, WIDTH), empty(VOCABULARY, WIDTH))


def sums(count: int, ranks: int) -> None:
    """What opens a block behind a sum over ranks."""
    hidden, gain = empty(count, WIDTH), empty(WIDTH)
    peers = peer_sum.Peers(
        torch.zeros(ranks, dtype=INT64), torch.zeros(32, dtype=INT32), ranks - 1, WIDTH
    )
    for quantize in (True, False):
        peer_sum.sum_norm_quantize(peers, hidden, hidden, gain, 1e-6, quantize)
        gate = empty(1, WIDTH), empty(count)
        peer_sum.sum_norm_quantize(peers, hidden, hidden, gain, 1e-6, quantize, *gate)


def attention_width(ranks: int) -> int:
    """Columns of a rank's queries, gates, keys and values: more ranks have heads of KV twice."""
    return (2 * HEADS // ranks + 2 * max(1, KV_HEADS // ranks)) * HEAD_DIM


def gdn_and_attention(requests: int, nodes: int, quantize: bool = True, ranks: int = 1) -> None:
    count, channels = requests * nodes, CHANNELS // ranks
    key_heads, value_heads = KEY_HEADS // ranks, VALUE_HEADS // ranks
    conv, state = empty(4, channels, 3), empty(4, value_heads, 128, 128, dtype=FP32)
    slots = torch.zeros(requests, dtype=INT32)
    common: dict[str, Any] = {
        "qkvz": empty(count, 12288 // ranks), "ba": empty(count, 64 // ranks), "conv_state": conv,
        "conv_weight": empty(channels, 4), "conv_bias": None,
        "A_log": empty(value_heads, dtype=FP32), "dt_bias": empty(value_heads),
        "ssm_state": state, "slots": slots, "norm_weight": empty(128), "eps": 1e-6,
        "quantize": quantize, "early_state": True,
    }  # fmt: skip
    paths = None
    if nodes == 1:
        arrivals = gdn_decode.gdn_arrivals(count, key_heads, "cpu")
        gdn_decode.gdn_decode(**common, arrivals=arrivals)
    else:
        links = torch.zeros(requests, nodes, dtype=INT32)
        paths = tree.tree_paths(next_token=links, next_sibling=links)
        kept = gdn_verify.GdnKept.empty(1, count, key_heads, value_heads, 128, 128, "cpu")
        gdn_verify.gdn_verify(**common, paths=paths, kept=kept, layer=0)
        gdn_trees.gdn_trees(**common, paths=paths, kept=kept, layer=0)
        last = torch.zeros(requests, dtype=INT64)
        gdn_commit.gdn_commit(conv[None], state[None], slots, paths, last, kept)
        gdn_commit.gdn_commit(conv[None], state[None], slots, paths, last, kept, last, last)
    kv_heads = max(1, KV_HEADS // ranks)
    cache, positions = empty(1024, kv_heads, HEAD_DIM), torch.zeros(count, dtype=INT64)
    attention.attention(
        empty(count, attention_width(ranks)), empty(HEAD_DIM), empty(HEAD_DIM), 1e-6, positions,
        empty(8192, ROTARY, dtype=FP32), cache, cache, positions,
        torch.zeros(requests + 1, dtype=INT32), torch.zeros(64, dtype=INT64), paths, quantize,
        attention.attention_workspace(count, HEADS // ranks, HEAD_DIM, 8192, "cpu"),
    )  # fmt: skip


def codes(n: int, k: int) -> head_codes.Codes:
    return head_codes.Codes(empty(n, k, dtype=torch.uint8), empty(n, dtype=FP32))


def draft_head(requests: int, nodes: int, ranks: int = 1) -> None:
    """A draft step, and a draft extend of `nodes` rows a request."""
    heads, kv_heads, inner = 16 // ranks, 4 // ranks, 8192 // ranks
    table, accepted = torch.zeros(32000, dtype=INT64), torch.ones(requests, dtype=INT32)
    tokens, hidden, gain = torch.zeros(requests, dtype=INT64), empty(requests, WIDTH), empty(WIDTH)
    embedding, lm_weight = empty(VOCABULARY, WIDTH), empty(32000 // ranks, WIDTH)
    both = head_steps.head_enter(tokens, embedding, gain, hidden, gain, 1e-6)
    head_steps.head_enter(tokens, embedding, gain, hidden, gain, 1e-6, table, tokens)
    head_linear.head_linear(empty(requests, 3 * WIDTH), empty(WIDTH, 3 * WIDTH))
    width = (heads + 2 * kv_heads) * 128
    qkv = head_linear.head_linear(both, empty(width, 2 * WIDTH))
    workspace = attention.attention_workspace(requests * nodes, heads, 128, 8192, "cpu")
    cache = empty(1024, kv_heads, 128)
    for rows, paths in (
        (requests, None), (requests * nodes, tree.chain_paths(requests, nodes, "cpu")),
    ):  # fmt: skip
        positions = torch.zeros(rows, dtype=INT64)
        mixed = attention.attention(
            qkv if paths is None else empty(rows, width), None, None, 0.0, positions,
            empty(8192, 128, dtype=FP32), cache, cache, positions,
            torch.zeros(requests + 1, dtype=INT32), torch.zeros(64, dtype=INT64), paths, False,
            workspace, accepted=None if paths is None else accepted,
        )  # fmt: skip
    mixed = head_linear.head_linear(mixed.out, empty(WIDTH, 16 // ranks * 128))
    head_steps.head_norm(mixed, empty(requests * nodes, WIDTH), gain, 1e-6, accepted, nodes, 0)
    head_steps.head_norm(mixed, hidden, gain, 1e-6, accepted, 0, nodes)
    _, normed = head_steps.head_norm(mixed, hidden, gain, 1e-6)
    gated = head_linear.head_gated(normed, empty(2 * inner, WIDTH))
    head_linear.head_linear(gated, empty(WIDTH, inner))
    logits = empty(requests * nodes, 32000 // ranks, dtype=FP32)
    head_linear.head_logits(normed, lm_weight, logits, accepted)
    largest = head_linear.head_largest(normed, lm_weight)
    for k, n in ((3 * WIDTH, WIDTH), (2 * WIDTH, width), (inner, WIDTH)):
        head_linear.head_linear(empty(requests, k), codes(n, k))
    head_linear.head_gated(normed, codes(2 * inner, WIDTH))
    head_linear.head_logits(normed, codes(32000 // ranks, WIDTH), logits, accepted)
    head_linear.head_largest(normed, codes(32000 // ranks, WIDTH))
    head_steps.head_choose(largest, table, tokens, tokens)


def demo_widths(requests: int, nodes: int) -> None:
    """A layer of the demo target with its experts widened, and its logits, in bf16."""
    width, inner, state, count = 192, 96, 32, requests * nodes
    hidden, gain = empty(count, width), empty(width)
    norm_quantize.add_norm_quantize(hidden, hidden, gain, 1e-6, False)
    skinny_gemm.skinny_gemm(hidden, empty(384, width), None, (hidden, empty(8, width)))
    skinny_gemm.skinny_gemm(hidden, empty(768, width))
    skinny_gemm.skinny_gemm(empty(count, 128), empty(width, 128))
    skinny_gemm.skinny_gemm(empty(count, 256), empty(width, 256))
    lm_head.argmax_rows(lm_head.lm_head(hidden, empty(4096, width)))
    gate = empty(8, width), empty(1, width)
    routed = router.route(hidden, hidden, gain, 1e-6, *gate, 2, True, False)
    experts.experts(routed, empty(9, 2 * inner, width), None, empty(9, width, inner), None)
    conv, states = empty(4, 256, 3), empty(4, 4, state, state, dtype=FP32)
    slots = torch.zeros(requests, dtype=INT32)
    common: dict[str, Any] = {
        "qkvz": empty(count, 384), "ba": empty(count, 8), "conv_state": conv,
        "conv_weight": empty(256, 4), "conv_bias": None, "A_log": empty(4, dtype=FP32),
        "dt_bias": empty(4), "ssm_state": states, "slots": slots, "norm_weight": empty(state),
        "eps": 1e-6, "quantize": False, "early_state": True,
    }  # fmt: skip
    paths = None
    if nodes == 1:
        gdn_decode.gdn_decode(**common, arrivals=gdn_decode.gdn_arrivals(count, 2, "cpu"))
    else:
        links = torch.zeros(requests, nodes, dtype=INT32)
        paths = tree.tree_paths(next_token=links, next_sibling=links)
        kept = gdn_verify.GdnKept.empty(1, count, 2, 4, state, state, "cpu")
        gdn_verify.gdn_verify(**common, paths=paths, kept=kept, layer=0)
        gdn_trees.gdn_trees(**common, paths=paths, kept=kept, layer=0)
        last = torch.zeros(requests, dtype=INT64)
        gdn_commit.gdn_commit(conv[None], states[None], slots, paths, last, kept)
    cache, positions = empty(1024, 2, 64), torch.zeros(count, dtype=INT64)
    attention.attention(
        empty(count, 768), empty(64), empty(64), 1e-6, positions, empty(4096, 16, dtype=FP32),
        cache, cache, positions, torch.zeros(requests + 1, dtype=INT32),
        torch.zeros(64, dtype=INT64), paths, False,
        attention.attention_workspace(count, 4, 64, 4096, "cpu"),
    )  # fmt: skip


def every() -> None:
    for shape in ((1, 1), (8, 1), (1, 4), (1, 6), (1, 8)):
        demo_widths(*shape)
    for shape in ((1, 4), (8, 4), (1, 8), (4, 8)):
        for ranks in (1, 2, 4):
            draft_head(*shape, ranks)
    for count in (2, 4, 16, 32, 64):
        dense_and_experts(count)
        many_rows(count)
        print(count, sum(compiled.values()), flush=True)
    shapes = [(count, 1) for count in (2, 4, 8, 16, 32)]
    shapes += [(1, 4), (4, 4), (8, 4), (1, 8), (2, 8), (4, 8), (2, 16)]
    for shape in [(1, 1), *shapes]:
        for quantize in (True, False):
            gdn_and_attention(*shape, quantize)
        print(shape, sum(compiled.values()), flush=True)
    for shape in ((64, 1), (128, 1), (16, 4), (32, 4), (8, 8), (16, 8)):
        gdn_and_attention(*shape, False)
    for ranks in (2, 4):
        sums(32, ranks)
        for quantized in (True, False):
            for count in (1, 8, 32):
                dense_and_experts(count, ranks, quantized)
            for shape in ((1, 1), (8, 1), (1, 4), (8, 4), (2, 8)):
                gdn_and_attention(*shape, quantized, ranks)
        print(ranks, "ranks", sum(compiled.values()), flush=True)


def main() -> None:
    only_compile()
    for count in (1, 8):
        dense_and_experts(count)
    gdn_and_attention(1, 1)
    gdn_and_attention(2, 4)
    draft_head(2, 4)
    sums(4, 2)
    many_rows(16)
    if "--every" in sys.argv:
        every()
    print(json.dumps(compiled))


if __name__ == "__main__":
    main()
