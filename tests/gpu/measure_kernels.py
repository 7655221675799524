"""Every kernel of a layer, alone and in its place, and other ways of dividing its work.

    python tests/gpu/measure_kernels.py --rows 1,4,8,32 --seconds 50 --json OUT.json

Needs one Hopper GPU, torch and triton, and this package on PYTHONPATH; no SGLang. Weights are of
the published FP8 architecture, random, in so many sets that the second-level cache serves none of
them. A CUDA graph holds a launch (or a chain of launches) for every set, with programmatic
dependent launch, and its time divided by the sets is what is printed, beside the bytes that must
be read and their share of the memory's 4.3 TB/s.

`chain`: what every launch of a Gated DeltaNet layer adds, where it stands: graphs that end behind
the first, the second ... launch of a layer. `alone`: the same kernel again and again.
"""

import argparse
import ast
import json
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import torch

from sglang_qwen3next_eagle3.overlay.fast.device import PDL_ENVIRONMENT
from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    expert_choice,
    experts,
    gdn_decode,
    gdn_verify,
    norm_quantize,
    quantize,
    router,
    skinny_gemm,
    tree,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.expert_choice import RouterTiling, Routing
from sglang_qwen3next_eagle3.overlay.fast.kernels.experts import ExpertTiling
from sglang_qwen3next_eagle3.overlay.fast.kernels.skinny_gemm import GemmTiling

D, INNER, EXPERTS, TOP_K, QKVZ, QKV, VALUES = 2048, 512, 512, 10, 12288, 9216, 4096
VOCABULARY = 151936
BANDWIDTH = 4.3e12
SWEPT = 4, 8
"""Rows for which every variant is measured; for others compiling them all would take too long."""
NODES = {1: 1, 4: 4, 8: 4, 16: 4, 32: 4, 64: 8}
"""Draft tokens of a request, for so many rows."""
MODULES = (
    expert_choice, experts, gdn_decode, gdn_verify, norm_quantize, quantize, router,
    skinny_gemm, tree,
)  # fmt: skip
began = time.monotonic()
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Launch = Callable[[int], Any]


class Counted:
    """A kernel of which launches behind the first `most` of a layer do not happen.

    warm: the i-th of n processes that compile what is launched, and launch nothing.
    """

    most: int | None = None
    done: ClassVar[list[str]] = []
    warm: tuple[int, int] | None = None
    compiled: ClassVar[set[str]] = set()

    def __init__(self, kernel: Any, name: str) -> None:
        self.kernel, self.name = kernel, name

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            if Counted.most is not None and len(Counted.done) >= Counted.most:
                return
            Counted.done.append(self.name)
            if Counted.warm is None:
                self.kernel[grid](*arguments, **options)
            else:
                self._compile(grid, arguments, options)

        return launch

    def _compile(self, grid: Any, arguments: Any, options: dict[str, Any]) -> None:
        numbers = [
            (value == 1, value % 16 == 0)
            for value, parameter in zip(arguments, self.kernel.params, strict=False)
            if isinstance(value, int) and not parameter.do_not_specialize
        ]
        key = f"{self.name} {numbers} {sorted(options.items(), key=str)}"
        i, n = Counted.warm or (0, 1)
        if zlib.crc32(key.encode()) % n == i and key not in Counted.compiled:
            Counted.compiled.add(key)
            self.kernel.warmup(*arguments, grid=grid, **options)


def count_launches(*more: Any) -> None:
    """Every kernel that a launcher launches; not those that kernels call. more: other modules."""
    for module in (*MODULES, *more):
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Subscript(value=ast.Name(id=name))):
                    kernel = getattr(module, name, None)
                    if hasattr(kernel, "warmup"):
                        setattr(module, name, Counted(kernel, name))


def codes(*shape: int) -> torch.Tensor:
    """Random e4m3, none of them a NaN."""
    if Counted.warm:
        return nothing(torch.float8_e4m3fn, shape)
    bits = torch.randint(0, 256, shape, dtype=torch.uint8, device=device) & 0xBE
    return bits.view(torch.float8_e4m3fn)


def copied(first: torch.Tensor | None, *shape: int) -> torch.Tensor:
    """Weights at another address: of values one set is as good as another."""
    if first is None:
        return codes(*shape)
    return torch.empty_like(first).copy_(first)


class Layer:
    """The weights of one layer, and its GDN states for `requests`."""

    def __init__(self, first: "Layer | None", requests: int) -> None:
        self.w13 = copied(first and first.w13, EXPERTS + 1, 2 * INNER, D)
        self.w2 = copied(first and first.w2, EXPERTS + 1, D, INNER)
        self.s13 = torch.rand(EXPERTS + 1, 2 * INNER // 128, D // 128, device=device) * 0.01
        self.s2 = torch.rand(EXPERTS + 1, D // 128, INNER // 128, device=device) * 0.01
        self.qkvz, self.qkvz_scale = copied(first and first.qkvz, QKVZ, D), scales(QKVZ, D)
        self.qkv, self.qkv_scale = self.qkvz[:QKV], self.qkvz_scale[: QKV // 128]
        self.out, self.out_scale = copied(first and first.out, D, VALUES), scales(D, VALUES)
        self.ba, self.router, self.gate = (normal(n, D) * 0.02 for n in (64, EXPERTS, 1))
        self.norm = torch.zeros(D, dtype=torch.bfloat16, device=device)
        self.conv_weight, self.conv = normal(8192, 4), normal(requests + 1, 8192, 3)
        self.state = torch.randn(requests + 1, 32, 128, 128, device=device) * 0.1
        self.a_log = torch.zeros(32, device=device)
        self.dt_bias, self.head_norm = normal(32), normal(128)


def nothing(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Where nothing is launched, nothing is read."""
    return torch.empty(1, dtype=dtype, device=device).expand(shape)


def normal(*shape: int) -> torch.Tensor:
    if Counted.warm:
        return nothing(torch.bfloat16, shape)
    return torch.randn(*shape, dtype=torch.bfloat16, device=device)


def scales(n: int, k: int) -> torch.Tensor:
    return torch.rand(n // 128, k // 128, device=device) * 0.01


class Rows:
    """The inputs of a pass of so many rows; routings, one a set."""

    def __init__(self, rows: int, sets: int, requests: int, text: bool) -> None:
        self.rows, self.nodes = rows, NODES[rows]
        self.requests = rows // self.nodes
        self.hidden = normal(rows, D)
        self.residual = normal(rows, D)
        self.x = codes(rows, D), torch.rand(rows, D // 128, device=device)
        self.values = codes(rows, VALUES), torch.rand(rows, VALUES // 128, device=device)
        self.act = codes(rows * 11, INNER), torch.rand(rows * 11, INNER // 128, device=device)
        self.projected, self.gates = normal(rows, QKVZ), normal(rows, 64)
        self.slots = torch.arange(1, self.requests + 1, dtype=torch.int32, device=device)
        links = torch.full((self.requests, self.nodes), -1, dtype=torch.int64)
        links[:, :-1] = torch.arange(1, self.nodes)
        links = links.to(device)
        self.paths = tree.tree_paths(next_token=links, next_sibling=torch.full_like(links, -1))
        self.kept = gdn_verify.GdnKept.empty(1, rows, 16, 32, 128, 128, device)
        self.arrivals = gdn_decode.gdn_arrivals(rows, 16, device)
        generator = torch.Generator().manual_seed(rows)
        self.routings = [self._routing(generator, text) for _ in range(min(sets, 8))]

    def _routing(self, generator: torch.Generator, text: bool) -> Routing:
        logits = torch.randn(self.rows, EXPERTS, generator=generator)
        if text:
            # Some experts are liked, and tokens beside each other like the same.
            logits += torch.randn(1, EXPERTS, generator=generator) * 1.0
            for row in range(1, self.rows):
                logits[row] = 0.5 * logits[row - 1] + 0.87 * logits[row]
        shared = torch.zeros(self.rows).bfloat16()
        listed = expert_choice.reference_routing(logits.bfloat16(), shared, TOP_K, True)
        return Routing(*(part.to(device) for part in listed[:4]), True)

    def routed(self, i: int) -> router.Routed:
        routing = self.routings[i % len(self.routings)]
        return router.Routed(self.residual, self.hidden, *self.x, routing)

    def distinct(self) -> float:
        return sum(int(r.work[0]) for r in self.routings) / len(self.routings)


class Bench:
    """Jobs in the order of their worth. warm: only compile the i-th of n."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.warm = bool(arguments.warm)
        self.sets = 1 if self.warm else arguments.sets
        requests = max(rows // NODES[rows] for rows in arguments.rows)
        first = Layer(None, requests)
        self.layers = [first] + [Layer(first, requests) for _ in range(self.sets - 1)]
        self.vocabulary = torch.empty(VOCABULARY, D, dtype=torch.bfloat16, device=device)
        text = arguments.routing == "text"
        self.inputs = {rows: Rows(rows, self.sets, requests, text) for rows in arguments.rows}
        self.found: list[dict[str, Any]] = []
        self.jobs: list[tuple[str, str, int, float, Launch]] = []

    def add(self, kernel: str, variant: str, rows: int, read: float, launch: Launch) -> None:
        """read: bytes that a launch cannot do without."""
        if not self.arguments.kernels or kernel in self.arguments.kernels:
            self.jobs.append((kernel, variant, rows, read, launch))

    def run(self) -> None:
        for number, (kernel, variant, rows, read, launch) in enumerate(self.jobs):
            if time.monotonic() - began > self.arguments.seconds:
                print(f"# no time for {len(self.jobs) - number} more")
                break
            try:
                us = timed(launch, self.sets) if not self.warm else launch(0)
            except Exception as error:
                print(f"# {kernel} {variant} {rows}: {type(error).__name__} {str(error)[:150]}")
                if "CUDA" in str(error):
                    raise
                continue
            if self.warm:
                continue
            self.found.append(
                {"kernel": kernel, "variant": variant, "rows": rows, "us": round(us, 2),
                 "bytes": round(read)}
            )  # fmt: skip


def timed(launch: Launch, sets: int) -> float:
    """Microseconds a set, the median of some replays."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [launch(i) for i in range(sets)]
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(15):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    del kept, graph
    return median(times) * 1000 / sets


def expert_bytes(rows: Rows) -> float:
    return rows.distinct() * D * INNER


def gate_up(b: Bench, r: Rows, tiling: ExpertTiling | None, i: int) -> Any:
    layer = b.layers[i]
    Counted.most, Counted.done = 1, []
    try:
        return experts.experts(r.routed(i), layer.w13, layer.s13, layer.w2, layer.s2, tiling)
    finally:
        Counted.most = None


def moe(
    b: Bench, r: Rows, up: ExpertTiling | None, down: ExpertTiling | None, add: bool, i: int
) -> Any:
    layer = b.layers[i]
    return experts.experts(r.routed(i), layer.w13, layer.s13, layer.w2, layer.s2, up, down, add=add)


def gemm(
    b: Bench, x: Any, which: str, extra: torch.Tensor | None, tiling: GemmTiling | None, i: int
) -> Any:
    layer = b.layers[i]
    weight, scale = getattr(layer, which), getattr(layer, which + "_scale")
    beside = None if extra is None else (extra, layer.ba)
    return skinny_gemm.skinny_gemm(x, weight, scale, beside, tiling)


def gdn(b: Bench, r: Rows, projected: torch.Tensor, gates: torch.Tensor, i: int) -> Any:
    layer = b.layers[i]
    common: dict[str, Any] = {
        "qkvz": projected, "ba": gates, "conv_state": layer.conv,
        "conv_weight": layer.conv_weight, "conv_bias": None, "A_log": layer.a_log,
        "dt_bias": layer.dt_bias, "ssm_state": layer.state, "slots": r.slots,
        "norm_weight": layer.head_norm, "eps": 1e-6, "quantize": True, "early_state": True,
    }  # fmt: skip
    if r.nodes == 1:
        return gdn_decode.gdn_decode(**common, arrivals=r.arrivals)
    return gdn_verify.gdn_verify(**common, paths=r.paths, kept=r.kept, layer=0)


def choice(logits: torch.Tensor, shared: torch.Tensor, tiling: RouterTiling, i: int) -> Any:
    return expert_choice.choose(logits, shared, TOP_K, True, tiling)


def route(b: Bench, r: Rows, i: int) -> Any:
    layer = b.layers[i]
    return router.route(
        r.hidden, r.residual, layer.norm, 1e-6, layer.router, layer.gate, TOP_K, True, True
    )


def layer_chain(b: Bench, r: Rows, most: int | None, names: list[str], i: int) -> Any:
    """A whole layer, or its first launches. What a launch that does not happen would have written
    is not read by one that does."""
    layer = b.layers[i]
    Counted.most, Counted.done = most, names
    names.clear()
    try:
        normed = norm_quantize.add_norm_quantize(r.hidden, r.residual, layer.norm, 1e-6, True)
        x = normed.codes, normed.scales
        qkvz, ba = gemm(b, x, "qkvz", normed.normed, None, i)
        mixed = gdn(b, r, qkvz, ba, i)
        hidden = gemm(b, (mixed[0], mixed[1]), "out", None, None, i)[0]
        routed = router.route(
            hidden, r.residual, layer.norm, 1e-6, layer.router, layer.gate, TOP_K, True, True
        )
        experts.experts(routed, layer.w13, layer.s13, layer.w2, layer.s2)
        return normed, routed
    finally:
        Counted.most = None


def chain_bytes(name: str, seen: list[str], rows: Rows) -> float:
    if name == "_skinny_gemm":
        return (QKVZ * D, D * VALUES, EXPERTS * D * 2)[seen.count(name)]
    moe = expert_bytes(rows)
    state = rows.requests * 32 * 128 * 128 * 4
    read = {"_gate_up": 2 * moe, "_down": moe, "_gdn_decode": 2 * state, "_gdn_verify": state}
    return read.get(name, 0)


def chain_jobs(b: Bench, rows: int) -> None:
    r, names = b.inputs[rows], []
    layer_chain(b, r, None, names, 0)
    whole = list(names)
    for most in range(1, len(whole) + 1):
        name = whole[most - 1].replace("gdn_verify", "gdn").replace("gdn_decode", "gdn")
        read = chain_bytes(whole[most - 1], whole[: most - 1], r)
        b.add("chain", f"{most:2} {name}", rows, read, partial(layer_chain, b, r, most, []))


def without_dependent_launch(launch: Launch, i: int) -> Any:
    os.environ[PDL_ENVIRONMENT] = "0"
    try:
        return launch(i)
    finally:
        del os.environ[PDL_ENVIRONMENT]


def independent_jobs(b: Bench, rows: int) -> None:
    """Whole layers without dependent launch."""
    chain = partial(layer_chain, b, b.inputs[rows], None, [])
    b.add("layer", "no PDL", rows, 0, partial(without_dependent_launch, chain))


def expert_jobs(b: Bench, rows: int) -> None:
    r, read = b.inputs[rows], expert_bytes(b.inputs[rows])
    b.add("moe", "", rows, 3 * read, partial(moe, b, r, None, None, True))
    b.add("moe", "slots not added", rows, 3 * read, partial(moe, b, r, None, None, False))
    b.add("gate_up", "", rows, 2 * read, partial(gate_up, b, r, None))
    found = copy(r)
    if rows <= expert_choice.FEW:
        found.routings = [routing._replace(listed=False) for routing in r.routings]
        b.add("moe", "no list", rows, 3 * read, partial(moe, b, found, None, None, True))
        b.add("gate_up", "no list", rows, 2 * read, partial(gate_up, b, found, None))
    if rows not in SWEPT:
        return
    for tiling in (
        ExpertTiling(32, 16, 6, 4, 3), ExpertTiling(32, 16, 4, 4, 5), ExpertTiling(32, 16, 3, 4, 5),
        ExpertTiling(32, 16, 3, 4, 6), ExpertTiling(64, 16, 4, 4, 2),
    ):  # fmt: skip
        b.add("gate_up", spelled(tiling), rows, 2 * read, partial(gate_up, b, found, tiling))
    for tiling in (
        ExpertTiling(64, 16, 5, 4, 4), ExpertTiling(64, 16, 4, 4, 5),
        ExpertTiling(128, 16, 3, 4, 4), ExpertTiling(128, 16, 4, 4, 3),
        ExpertTiling(128, 16, 4, 4, 3, late=False),
    ):  # fmt: skip
        variant = f"down {spelled(tiling)}"
        b.add("moe", variant, rows, 3 * read, partial(moe, b, found, None, tiling, False))


def spelled(tiling: Any) -> str:
    fields = tiling._asdict() if isinstance(tiling, tuple) else vars(tiling)
    return " ".join(f"{name[:2]}{value}" for name, value in fields.items() if value is not None)


def dense_jobs(b: Bench, rows: int) -> None:
    r = b.inputs[rows]
    few = {
        "qkvz": ((16, 2, 1, 168), (16, 2, 1, 255), (32, 4, 1, 168)),
        "out": ((16, 8), (16, 4, 1, 255), (16, 8, 1, 168)),
    }
    many = {
        "qkvz": ((32, 4, 1, 255), (16, 4, 1, 128)),
        "out": ((16, 8, 1, 255), (32, 8, 1, 255)),
    }
    for which, x in (("qkvz", r.x), ("out", r.values)):
        read = getattr(b.layers[0], which).numel()
        b.add(which, "", rows, read, partial(gemm, b, x, which, None, None))
        for variant in () if rows == 1 else (few if rows <= 8 else many)[which]:
            tiling = GemmTiling(*variant)
            b.add(which, spelled(tiling), rows, read, partial(gemm, b, x, which, None, tiling))
    if rows > 8:
        weight, x = b.vocabulary, normal(rows, D)
        b.add("lm_head", "", rows, weight.numel() * 2, partial(product, x, weight, None))
    b.add("qkvz", "with ba", rows, QKVZ * D, partial(gemm, b, r.x, "qkvz", r.hidden, None))
    b.add("gdn", "", rows, 0, partial(gdn, b, r, r.projected, r.gates))


def product(x: torch.Tensor, weight: torch.Tensor, tiling: GemmTiling | None, i: int) -> Any:
    return skinny_gemm.skinny_gemm(x, weight, divided=tiling)[0]


def router_jobs(b: Bench, rows: int) -> None:
    r, read = b.inputs[rows], EXPERTS * D * 2
    logits, shared = normal(rows, EXPERTS), normal(rows)
    b.add("route", "", rows, read, partial(route, b, r))
    for warps in (16, 8, 4):
        if warps == 16 or warps < rows:
            made = partial(choice, logits, shared, RouterTiling(warps=warps))
            b.add("choice", f"{warps} warps", rows, 0, made)
    made = partial(choice, logits, shared, RouterTiling(listed=False))
    b.add("choice", "no list", rows, 0, made)


def timeline(b: Bench, rows: int) -> str:
    """When each launch of a layer begins and ends, us behind the end of the layer before."""
    from torch.profiler import ProfilerActivity, profile

    r, names = b.inputs[rows], []
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [layer_chain(b, r, None, names, i) for i in range(b.sets)]
    graph.replay()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        graph.replay()
        torch.cuda.synchronize()
    del kept
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events()
        if "CUDA" in str(event.device_type)
    ]
    spans.sort()
    count = len(names)
    parts = []
    for k, name in enumerate(names):
        begins, ends = [], []
        for i in range(4, b.sets - 1):
            if (i + 1) * count <= len(spans):
                zero = spans[i * count - 1][1]
                begins.append(spans[i * count + k][0] - zero)
                ends.append(spans[i * count + k][1] - zero)
        if begins:
            parts.append(f"{name[1:14]} {median(begins):.1f}-{median(ends):.1f}")
    return f"# {rows} rows: " + ", ".join(parts)


def table(found: list[dict[str, Any]]) -> None:
    """A line for a kernel and variant, a column for the rows."""
    rows = sorted({one["rows"] for one in found})
    print(f"{'us (share of the memory)':40}" + "".join(f"{row:>14}" for row in rows))
    cells = {(one["kernel"], one["variant"], one["rows"]): one for one in found}
    before: dict[int, float] = {}
    for kernel, variant in dict.fromkeys((one["kernel"], one["variant"]) for one in found):
        line = f"{kernel} {variant:32}"[:40].ljust(40)
        for row in rows:
            one = cells.get((kernel, variant, row))
            us = one["us"] if one else 0.0
            if one and kernel == "chain":
                # What this launch adds to those before it.
                so_far = before.get(row, 0.0)
                before[row] = us
                one["adds"] = round(us - so_far, 2)
                us = us - so_far
            share = one["bytes"] / BANDWIDTH * 1e6 / us if one and us > 0 else 0
            text = f"{us:.1f} {f'{share:.0%}' if share else '':>4}" if one else ""
            line += f"{text:>14}"
        print(line)
    for row, us in before.items():
        print(f"# a layer of {row} rows: {us:.1f} us")


def workers(count: int) -> list[subprocess.Popen[bytes]]:
    """Processes of this script that compile what it is going to launch, each its share."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    more = [[*sys.argv, "--warm", f"{i},{count}", "--json", os.devnull] for i in range(count)]
    return [subprocess.Popen([sys.executable, *one], **quiet) for one in more]


def awaited(started: list[subprocess.Popen[bytes]], until: float) -> None:
    for worker in started:
        try:
            worker.wait(timeout=max(1.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.terminate()


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=numbers, default=[1, 4, 8, 32])
    parser.add_argument("--sets", type=int, default=24, help="sets of weights in rotation")
    parser.add_argument("--seconds", type=float, default=50, help="begin nothing new after these")
    parser.add_argument("--kernels", type=lambda text: text.split(","), help="only these")
    parser.add_argument("--routing", choices=("uniform", "text"), default="uniform")
    parser.add_argument("--workers", type=int, default=15, help="processes that compile first")
    parser.add_argument("--warm", type=numbers, help="what a worker compiles: this of so many")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    arguments = parsed()
    started = [] if arguments.warm else workers(arguments.workers)
    Counted.warm = arguments.warm and tuple(arguments.warm)
    count_launches()
    torch.manual_seed(0)
    b = Bench(arguments)
    for rows in arguments.rows:
        chain_jobs(b, rows)
    for jobs in (router_jobs, dense_jobs, expert_jobs):
        for rows in arguments.rows:
            jobs(b, rows)
    for rows in [row for row in arguments.rows if row in (4, 8)]:
        independent_jobs(b, rows)
    awaited(started, began + 0.6 * arguments.seconds)
    print(f"# {torch.cuda.get_device_name()}, {b.sets} sets, {arguments.routing} routing, "
          f"distinct experts {[round(r.distinct()) for r in b.inputs.values()]}, "
          f"compiled after {time.monotonic() - began:.0f} s")  # fmt: skip
    b.run()
    if arguments.warm:
        return
    table(b.found)
    for rows in [row for row in arguments.rows if row in (4, 8)]:
        if time.monotonic() - began < arguments.seconds + 5:
            print(timeline(b, rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": torch.cuda.get_device_name(),
            "routing": arguments.routing, "sets": b.sets, "found": b.found}) + "\n")  # fmt: skip
    print(f"# {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
