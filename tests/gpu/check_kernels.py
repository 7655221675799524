"""What can only be shown of the kernels on a GPU: they do not race, and they compute what they say.

    python tests/gpu/check_kernels.py --seconds 55 --json OUT.json
    compute-sanitizer --tool memcheck python tests/gpu/check_kernels.py --what small

Needs one Hopper GPU, torch and triton, and this package on PYTHONPATH; only `router` wants SGLang,
whose kernel it compares with.

replays: a pass of four layers (three of them Gated DeltaNet), logits and commit in one CUDA graph;
all that it writes is poisoned before every replay, and every replay has the bits of the first. The
same without dependent launch has the same bits.
router: the experts of a million rows, ties among them, are those that stock's kernel chooses.
numerics: each kernel beside its reference, products there in float64 and everything rounded where
stock rounds: shares of results that differ, and by how many units in the last place of bf16.
small: every kernel a few times, for compute-sanitizer; nothing is compared.

Each result is printed as soon as it is known. Without a GPU the last two run under Triton's
interpreter (TRITON_INTERPRET=1 and `--what small,numerics`), with fewer experts and tokens; the
widths stay, so a product takes minutes there.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from measure_kernels import (
    INNER,
    TOP_K,
    VALUES,
    Counted,
    D,
    awaited,
    codes,
    count_launches,
    device,
    normal,
    numbers,
    scales,
    without_dependent_launch,
    workers,
)

from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    attention,
    expert_choice,
    expert_list,
    experts,
    gdn_commit,
    gdn_decode,
    gdn_trees,
    gdn_verify,
    lm_head,
    norm_quantize,
    quantize,
    router,
    skinny_gemm,
    tree,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_list import choose_many

EPS, HEADS, KV_HEADS, DIM, CHANNELS = 1e-6, 16, 2, 256, 8192
began = time.monotonic()


class Layer:
    """One layer of the published shapes with random weights; `full` has attention."""

    def __init__(self, full: bool, choices: int, requests: int) -> None:
        self.full = full
        width = (2 * HEADS + 2 * KV_HEADS) * DIM if full else 12288
        self.entry = codes(width, D), scales(width, D)
        self.exit = codes(D, VALUES), scales(D, VALUES)
        self.norms = normal(D) * 0.1, normal(D) * 0.1
        self.ba = normal(64, D) * 0.02
        self.router, self.gate = normal(choices, D) * 0.05, normal(1, D) * 0.05
        count = choices + 1
        self.up = codes(count, 2 * INNER, D), self._scales(count, 2 * INNER, D)
        self.down = codes(count, D, INNER), self._scales(count, D, INNER)
        self.conv_weight, self.head_norm = normal(CHANNELS, 4), normal(DIM if full else 128)
        self.a_log, self.dt_bias = torch.zeros(32, device=device), normal(32)
        self.cache = [normal(4096, KV_HEADS, DIM) for _ in range(2)]

    @staticmethod
    def _scales(count: int, n: int, k: int) -> torch.Tensor:
        return torch.rand(count, n // 128, k // 128, device=device) * 0.01


class Model:
    """Layers, GDN states, and passes through them with our kernels as layers.py calls them."""

    def __init__(self, layers: int, choices: int, vocabulary: int, requests: int) -> None:
        self.layers = [Layer(i % 4 == 3, choices, requests) for i in range(layers)]
        count = sum(not layer.full for layer in self.layers)
        self.conv = normal(count, requests + 1, CHANNELS, 3)
        self.states = torch.randn(count, requests + 1, 32, 128, 128, device=device) * 0.1
        self.vocabulary = normal(vocabulary, D) * 0.02
        self.cos_sin = torch.randn(8192, 64, device=device)
        self.workspace = attention.attention_workspace(128, HEADS, DIM, 8192, device)
        self.arrivals = gdn_decode.gdn_arrivals(32, 16, device)
        self.context = 300

    def inputs(self, requests: int, nodes: int, tree_of_two: bool = False) -> dict[str, Any]:
        """tree_of_two: every node may have two children, instead of a chain."""
        rows, node = requests * nodes, torch.arange(nodes)
        child, sibling = node + 1, torch.full((nodes,), -1)
        depth = node.clone()
        if tree_of_two:
            child, sibling = 2 * node + 1, torch.where(node % 2 == 1, node + 1, -1)
            depth = torch.floor(torch.log2(node + 1.0)).long()
        links = [
            torch.where(link < nodes, link, -1).expand(requests, -1).contiguous().to(device)
            for link in (child, sibling)
        ]
        place = 1 + torch.arange(requests * (self.context + 1), device=device)
        own = 4096 - 1 - torch.arange(rows, device=device)
        per = place.view(requests, -1)
        if nodes == 1:
            per[:, -1] = own
        else:
            per = per[:, :-1]
        return {
            "hidden": normal(rows, D),
            "slots": torch.arange(1, requests + 1, dtype=torch.int32, device=device),
            "paths": tree.tree_paths(next_token=links[0], next_sibling=links[1]),
            "positions": self.context + depth.repeat(requests).to(device),
            "own": own,
            "indptr": torch.arange(requests + 1, device=device).mul(per.shape[1]).int(),
            "indices": per.flatten().contiguous(),
            "kept": gdn_verify.GdnKept.empty(len(self.states), rows, 16, 32, 128, 128, device),
            "last": torch.full((requests,), nodes // 2, dtype=torch.int64, device=device),
            "nodes": nodes,
            "verify": gdn_trees.gdn_trees if tree_of_two else gdn_verify.gdn_verify,
        }  # fmt: skip

    def run(self, given: dict[str, Any]) -> list[torch.Tensor]:
        """Everything that a pass leaves behind."""
        hidden, residual, at, decode = given["hidden"], None, 0, given["nodes"] == 1
        for layer in self.layers:
            first = norm_quantize.add_norm_quantize(hidden, residual, layer.norms[0], EPS, True)
            x = first.codes, first.scales
            if layer.full:
                mixed = attention.attention(
                    skinny_gemm.skinny_gemm(x, *layer.entry)[0], layer.head_norm, layer.head_norm,
                    EPS, given["positions"], self.cos_sin, *layer.cache, given["own"],
                    given["indptr"], given["indices"], None if decode else given["paths"], True,
                    self.workspace,
                )  # fmt: skip
            else:
                projected, gates = skinny_gemm.skinny_gemm(
                    x, *layer.entry, (first.normed, layer.ba)
                )
                common: dict[str, Any] = {
                    "qkvz": projected, "ba": gates, "conv_state": self.conv[at],
                    "conv_weight": layer.conv_weight, "conv_bias": None, "A_log": layer.a_log,
                    "dt_bias": layer.dt_bias, "ssm_state": self.states[at],
                    "slots": given["slots"], "norm_weight": layer.head_norm, "eps": EPS,
                    "quantize": True, "early_state": True,
                }  # fmt: skip
                if decode:
                    mixed = gdn_decode.gdn_decode(**common, arrivals=self.arrivals)
                else:
                    mixed = given["verify"](
                        **common, paths=given["paths"], kept=given["kept"], layer=at
                    )
                at += 1
            hidden = skinny_gemm.skinny_gemm((mixed[0], mixed[1]), *layer.exit)[0]
            routed = router.route(
                hidden, first.residual, layer.norms[1], EPS, layer.router, layer.gate, TOP_K,
                True, True,
            )  # fmt: skip
            hidden = experts.experts(routed, *layer.up, *layer.down)
            residual = routed.residual
        last = norm_quantize.add_norm_quantize(hidden, residual, layer.norms[0], EPS, False)
        logits = lm_head.lm_head(last.normed, self.vocabulary)
        tokens = lm_head.argmax_rows(logits)
        if not decode:
            gdn_commit.gdn_commit(
                self.conv, self.states, given["slots"], given["paths"], given["last"],
                given["kept"],
            )  # fmt: skip
        return [hidden, residual, logits, tokens]


class Memory:
    """Bytes of the device by their address: what a graph writes and nobody holds."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,), "typestr": "|u1", "data": (address, False), "version": 2,
        }  # fmt: skip


@contextmanager
def recorded(written: dict[int, int]) -> Iterator[None]:
    """Address and bytes of every tensor that is made meanwhile, without keeping the tensor."""
    kept = torch.empty, torch.empty_like

    def noted(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*arguments: Any, **options: Any) -> torch.Tensor:
            made = make(*arguments, **options)
            if made.is_cuda and made.numel():
                size = made.numel() * made.element_size()
                written[made.data_ptr()] = max(size, written.get(made.data_ptr(), 0))
            return made

        return call

    torch.empty, torch.empty_like = noted(kept[0]), noted(kept[1])
    try:
        yield
    finally:
        torch.empty, torch.empty_like = kept


def graph_of(work: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()
    return graph, made


def bits(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.contiguous().view(torch.uint8).flatten() for tensor in tensors])


def replays(
    model: Model, shape: tuple[int, int, bool], count: int, seconds: float
) -> dict[str, Any]:
    """Replays over poisoned memory, each compared with the first; at least a hundred."""
    until = time.monotonic() + seconds
    requests, nodes, tree_of_two = shape
    given = model.inputs(*shape)
    before = model.conv.clone(), model.states.clone()

    def restore() -> None:
        model.conv.copy_(before[0])
        model.states.copy_(before[1])

    model.run(given)
    restore()
    wrong = torch.zeros((), dtype=torch.int64, device=device)

    def repeated(times: int) -> tuple[torch.Tensor, dict[str, int]]:
        """What the first replay left behind, and how many followed."""
        written: dict[int, int] = {}

        def work() -> list[torch.Tensor]:
            with recorded(written):
                return model.run(given)

        graph, made = graph_of(work)
        left = [*made, model.conv, model.states]
        if nodes > 1:
            left += [given["kept"].raw, given["kept"].value]

        memories = [torch.as_tensor(Memory(*place), device=device) for place in written.items()]

        def poison() -> None:
            restore()
            for memory in memories:
                memory.fill_(0xFF)
            given["kept"].raw.fill_(float("nan"))
            given["kept"].value.fill_(float("nan"))

        poisoning, _ = graph_of(poison)
        poisoning.replay()
        graph.replay()
        torch.cuda.synchronize()
        first = bits(left).clone()
        comparing, _ = graph_of(lambda: wrong.add_((bits(left) != first).any()))
        done = 0
        while done < times and (done == 0 or time.monotonic() < until):
            for _ in range(100):
                poisoning.replay()
                graph.replay()
                comparing.replay()
            done += 100
            torch.cuda.synchronize()
        finite = bool(torch.isfinite(made[2]).all())
        return first, {"replays": done, "poisoned": len(written), "finite": finite}

    first, found = repeated(count)
    other, _ = without_dependent_launch(lambda _: repeated(500), 0)
    restore()
    return {
        "requests": requests, "nodes": nodes, "tree": tree_of_two, **found, "different": int(wrong),
        "equal without dependent launch": bool(torch.equal(first, other)),
    }  # fmt: skip


def router_ids(rows: int, until: float) -> dict[str, Any]:
    """Rows whose experts, or whose order, differ from stock's kernel's."""
    try:
        from sglang.kernels.ops.moe.moe_fused_gate import moe_fused_gate

        beside = "SGLang's _router_triton_kernel"
    except ImportError as error:
        moe_fused_gate = None
        beside = f"torch.sort (SGLang is not here: {error})"
    generator = torch.Generator(device="cuda").manual_seed(0)
    bias = torch.zeros(512, device=device)
    done, ids_off, weights_off, tied = 0, 0, 0.0, 0
    while done < rows and time.monotonic() < until:
        block = torch.randn(8192, 512, generator=generator, device=device)
        # From rows without ties to rows of a few values.
        steps = torch.tensor([1e6, 64.0, 8.0, 2.0], device=device).repeat(2048)[:, None]
        logits = ((block * steps).round() / steps).bfloat16()
        if done % 3 == 2:
            logits[::7, ::5] = logits[::7, :1]
        if moe_fused_gate is not None:
            weights, ids = moe_fused_gate(logits, bias, TOP_K, "softmax", renormalize=False)
        else:
            ids = torch.sort(logits.float(), -1, descending=True, stable=True).indices[:, :TOP_K]
            weights = logits.float().softmax(-1).gather(1, ids)
        # Both forms in turns, of so many rows as each is launched for.
        many = bool(done // len(logits) % 2)
        choose, rows_each = (choose_many, 32) if many else (expert_choice.choose, expert_choice.FEW)
        own = [choose(part, None, TOP_K, False) for part in logits.split(rows_each)]
        mine = torch.cat([routing.ids for routing in own])
        ids_off += int((mine != ids).any(1).sum())
        shares = torch.cat([routing.weights for routing in own])
        weights_off = max(weights_off, float((shares / weights - 1).abs().max()))
        top = logits.float().topk(TOP_K + 1).values
        tied += int((top[:, 1:] == top[:, :-1]).any(1).sum())
        done += len(logits)
    return {
        "rows": done, "beside": beside, "rows with ties": tied, "rows that differ": ids_off,
        "largest relative difference of a weight": weights_off,
    }  # fmt: skip


def units(got: torch.Tensor, want: torch.Tensor) -> dict[str, float]:
    """How far apart bf16 results are: in units of the last place of the larger, and all in all.

    Where sums cancel, a unit of the result is smaller than what one of a summand is; hence a result
    counts as one unit apart, too, if it is within 2**-9 of the row's root mean square.
    """
    got, want = got.float(), want.float()
    largest = torch.maximum(got.abs(), want.abs()).clamp(min=1e-30)
    unit = torch.exp2(torch.floor(torch.log2(largest)) - 7)
    size = want.square().mean(-1, keepdim=True).sqrt()
    apart = (got - want).abs()
    # fp32 sums of many terms in another order: not to be told from rounding.
    far = apart / torch.maximum(unit, size * 2**-9)
    return {
        "equal": float((apart == 0).double().mean()),
        "within a unit": float((apart <= unit).double().mean()),
        "within a unit or 2^-9 of the row": float((far <= 1.0).double().mean()),
        "worst": float(far.max()),
        "relative": float((got - want).norm() / want.norm()),
    }


def numerics(model: Model, rows: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Every kernel on the same inputs as its reference; each is given as soon as it is known."""
    requests, nodes = (rows // 4, 4) if rows > 1 else (1, 1)
    given = model.inputs(requests, nodes)
    layer, full = model.layers[0], model.layers[3]
    hidden, residual = given["hidden"], normal(rows, D)
    normed = norm_quantize.add_norm_quantize(hidden, residual, layer.norms[0], EPS, True)
    want = norm_quantize.reference_add_norm_quantize(hidden, residual, layer.norms[0], EPS, True)
    yield "norm", units(normed.normed, want.normed)
    both = normed.codes.float(), want.codes.float()
    yield "norm, codes", {"equal": float((both[0] == both[1]).double().mean())}
    x = normed.codes, normed.scales
    for name, pair, values in (
        ("qkvz", layer.entry, x),
        ("out", layer.exit, quantize.reference_quantize(normal(rows, VALUES))),
        ("lm_head", (model.vocabulary, None), normed.normed),
        ("b and a", (layer.ba, None), normed.normed),
    ):
        got = skinny_gemm.skinny_gemm(values, *pair)[0]
        yield name, units(got, skinny_gemm.reference_skinny_gemm(values, *pair).bfloat16())
    routed = router.route(
        hidden, residual, layer.norms[1], EPS, layer.router, layer.gate, TOP_K, True, True
    )
    want_experts = experts.reference_experts(routed, *layer.up, *layer.down)
    yield "experts", units(experts.experts(routed, *layer.up, *layer.down), want_experts)
    projected, gates = skinny_gemm.skinny_gemm(x, *layer.entry, (normed.normed, layer.ba))
    common: dict[str, Any] = {
        "qkvz": projected * 0.05, "ba": gates, "conv_state": model.conv[0].clone(),
        "conv_weight": layer.conv_weight, "conv_bias": None, "A_log": layer.a_log,
        "dt_bias": layer.dt_bias, "ssm_state": model.states[0].clone(), "slots": given["slots"],
        "norm_weight": layer.head_norm, "eps": EPS,
    }  # fmt: skip
    copied = {k: v.clone() if k in ("conv_state", "ssm_state") else v for k, v in common.items()}
    if nodes == 1:
        got = gdn_decode.gdn_decode(**common, quantize=False, arrivals=model.arrivals)[0]
        yield "gdn decode", units(got, gdn_decode.reference_gdn_decode(**copied))
        error = (common["ssm_state"] - copied["ssm_state"]).norm() / copied["ssm_state"].norm()
        yield "gdn decode, state", {"relative": float(error)}
    else:
        paths = given["paths"]
        got = gdn_verify.gdn_verify(
            **common, quantize=False, paths=paths, kept=given["kept"], layer=0
        )[0]
        yield "gdn verify", units(got, gdn_verify.reference_gdn_verify(**copied, paths=paths))
    qkv = skinny_gemm.skinny_gemm(x, *full.entry)[0] * 0.05
    caches = [[part.clone() for part in full.cache] for _ in range(2)]
    got, want = (
        of(
            qkv, full.head_norm, full.head_norm, EPS, given["positions"], model.cos_sin, *cache,
            given["own"], given["indptr"], given["indices"],
            None if nodes == 1 else given["paths"], *more,
        )
        for of, cache, more in (
            (attention.attention, caches[0], (False, model.workspace)),
            (attention.reference_attention, caches[1], ()),
        )
    )  # fmt: skip
    yield "attention", units(got[0], want)


def small(model: Model) -> dict[str, Any]:
    for shape in ((1, 1), (1, 4), (3, 4), (2, 8, True)):
        given = model.inputs(*shape)
        model.run(given)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return {"ran": True}


SHAPES = (1, 4, False), (1, 1, False), (2, 4, False), (8, 4, False), (4, 8, True)
"""Requests and draft tokens of the passes that are replayed, and whether these are trees."""


def compile_share(i: int, count: int) -> None:
    Counted.warm = i, count
    count_launches(attention, expert_list, gdn_commit, gdn_trees, lm_head)
    model = Model(4, 512, 151936, 8)
    for shape in SHAPES:
        model.run(model.inputs(*shape))
        without_dependent_launch(lambda _, shape=shape: model.run(model.inputs(*shape)), 0)


def say(name: str, found: dict[str, Any]) -> None:
    def short(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    text = ", ".join(f"{key} {short(value)}" for key, value in found.items())
    print(f"{time.monotonic() - began:5.0f} s  {name}: {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--what", default="replays,router,numerics", help="joined by commas")
    parser.add_argument("--replays", type=int, default=10_000)
    parser.add_argument("--router-rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=55)
    parser.add_argument("--workers", type=int, default=8, help="processes that compile first")
    parser.add_argument("--warm", type=numbers, help="what a worker compiles: this of so many")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    what = set(arguments.what.split(","))
    if arguments.warm:
        compile_share(*arguments.warm)
        return
    started = workers(arguments.workers if "replays" in what and device.type == "cuda" else 0)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    )
    gpu = device.type == "cuda"
    name = torch.cuda.get_device_name() if gpu else "no GPU"
    print(f"# {name}; compute-sanitizer: {sanitizer or 'not here'}", flush=True)
    if not gpu and what - {"small", "numerics"}:
        parser.error("without a GPU only --what small,numerics, with TRITON_INTERPRET=1")
    # Cold caches and few cores: what is compiled takes longer than what is checked.
    torch.manual_seed(0)
    result: dict[str, Any] = {
        "device": name, "code": of_fast.code().told, "shapes": len(SHAPES),
    }  # fmt: skip
    end = began + arguments.seconds
    try:
        if "small" in what:
            say("small", small(Model(4, 32, 4096, 3)))
        if what & {"numerics", "replays"}:
            model = Model(4, 512, 151936, 8) if gpu else Model(4, 16, 256, 2)
        if "replays" in what:
            awaited(started, began + 0.6 * arguments.seconds)
            print(f"{time.monotonic() - began:5.0f} s  compiled", flush=True)
            all_shapes = began + arguments.seconds * (0.75 if len(what) > 1 else 1)
            for number, shape in enumerate(SHAPES):
                if time.monotonic() < end - 4:
                    # An equal share of what is left for each: the first would take all of it.
                    share = (all_shapes - time.monotonic()) / (len(SHAPES) - number)
                    found = replays(model, shape, arguments.replays, share)
                    result.setdefault("replays", []).append(found)
                    say("replays", found)
        if "router" in what:
            result["router"] = router_ids(arguments.router_rows, end)
            say("router", result["router"])
        if "numerics" in what:
            for rows in (4, 1, 32) if gpu else (4, 1):
                if time.monotonic() < end:
                    found = result.setdefault("numerics", {}).setdefault(f"{rows} rows", {})
                    for kernel, figures in numerics(model, rows):
                        found[kernel] = figures
                        say(f"{rows} rows, {kernel}", figures)
    finally:
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    bad = [
        one
        for one in result.get("replays", [])
        if one["different"] or not one["equal without dependent launch"]
    ]
    if bad or result.get("router", {}).get("rows that differ"):
        print("# FAILED")
        sys.exit(1)


if __name__ == "__main__":
    main()
