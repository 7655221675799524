"""What the draft head's kernels cost on one Hopper GPU. Needs torch and triton, no SGLang.

    python tests/gpu/measure_fast_head.py OUT.json --seconds 60

Checks every kernel of the published head's widths against its reference, times the linear layers
beside torch's, with weights in rotation so that none is in the cache, and then whole draft steps
and draft extends, each in one CUDA graph with random weights. Stock's own graphs on an H200, from
the trace of a 3,1,4 server at B=1: two draft steps 292 us, a draft extend 168 us.
"""

import argparse
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from sglang_qwen3next_eagle3.overlay.fast.kernels import attention, head_linear, head_steps, tree
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_codes import Codes, head_codes
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_linear import HeadTiling

WIDTH, HEADS, KV_HEADS, DIM, INNER, DRAFTS, VOCABULARY = 2048, 16, 4, 128, 8192, 32000, 151936
QKV = (HEADS + 2 * KV_HEADS) * DIM
EPS = 1e-6
DEVICE = "cuda"
CACHE = 400 << 20
"""Bytes of weights in rotation: several times what the second-level cache holds."""
COMPILES = threading.Event()
"""Set where nothing is timed: several processes fill Triton's cache side by side."""
began = time.monotonic()


def bf16(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=torch.bfloat16) * scale


def replayed(work: Callable[[], Any], repeats: int = 20) -> float:
    """Microseconds of one replay of the work, captured as a graph: the median of 9 times."""
    work()
    torch.cuda.synchronize()
    if COMPILES.is_set():
        return 0.0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1000 / repeats)
    return sorted(times)[4]


LAYERS: dict[str, tuple[int, int]] = {
    "fc": (WIDTH, 3 * WIDTH),
    "qkv": (QKV, 2 * WIDTH),
    "o": (WIDTH, HEADS * DIM),
    "gate_up": (2 * INNER, WIDTH),
    "down": (WIDTH, INNER),
    "lm_head": (DRAFTS, WIDTH),
}
OTHERS: dict[str, tuple[HeadTiling, ...]] = {
    "fc": (HeadTiling(16, 2), HeadTiling(8, 6, ahead=True), HeadTiling(16, 3, ahead=True)),
    "qkv": (HeadTiling(16, 1), HeadTiling(8, 4, ahead=True), HeadTiling(16, 2, ahead=True)),
    "o": (HeadTiling(16, 1), HeadTiling(8, 2, ahead=True)),
    "gate_up": (HeadTiling(4, 2), HeadTiling(8, 2, ahead=True), HeadTiling(4, 4, ahead=True)),
    "down": (HeadTiling(16, 2), HeadTiling(8, 8, ahead=True), HeadTiling(16, 4, ahead=True)),
    "lm_head": (HeadTiling(4, 2), HeadTiling(8, 2, ahead=True), HeadTiling(4, 4, ahead=True)),
}


def ours(name: str) -> Callable[..., Any]:
    if name == "lm_head":
        return head_linear.head_largest
    return head_linear.head_gated if name == "gate_up" else head_linear.head_linear


OTHERS_OF_CODES: dict[str, tuple[HeadTiling, ...]] = {
    "fc": (HeadTiling(8, 1, registers=224), HeadTiling(4, 3, registers=224)),
    "qkv": (HeadTiling(8, 1), HeadTiling(4, 1, registers=224)),
    "o": (HeadTiling(8, 1), HeadTiling(2, 2), HeadTiling(2, 1, registers=224)),
    "gate_up": (HeadTiling(4, 2, registers=80), HeadTiling(2, 4, registers=80), HeadTiling(1, 4)),
    "down": (HeadTiling(8, 1, registers=240), HeadTiling(4, 4), HeadTiling(4, 2, registers=240)),
    "lm_head": (HeadTiling(4, 2, registers=80), HeadTiling(2, 4, registers=80), HeadTiling(1, 4)),
}
"""Of weights of 8 bits."""


def weight_of(kind: str, n: int, k: int) -> torch.Tensor | Codes:
    weight = bf16(n, k, scale=k**-0.5)
    return weight if kind == "bf16" else head_codes(weight)


def layer_times(
    report: dict[str, Any], late: Callable[[], bool], others: bool, kind: str, names: Sequence[str]
) -> None:
    size = 2 if kind == "bf16" else 1
    for name in names or LAYERS:
        n, k = LAYERS[name]
        sets = max(2, CACHE // (n * k * size))
        weights = [weight_of(kind, n, k) for _ in range(sets)]
        floor = n * k * size / 4.3e6
        for rows in (1, 4, 8):
            x = bf16(rows, k)
            row = {"layer": name, "rows": rows, "weights": kind, "floor": round(floor, 1)}

            def torchs(x: torch.Tensor = x, weights: list[Any] = weights) -> None:
                for weight in weights:
                    F.linear(x, weight)

            if kind == "bf16":
                row["torch"] = round(replayed(torchs) / sets, 2)
            tilings: tuple[HeadTiling | None, ...] = (None,)
            if others and rows == 1:
                tilings += (OTHERS if kind == "bf16" else OTHERS_OF_CODES)[name]
            for tiling in tilings:
                if late():
                    return

                def own(
                    x: torch.Tensor = x,
                    weights: list[Any] = weights,
                    tiling: HeadTiling | None = tiling,
                    name: str = name,
                ) -> None:
                    for weight in weights:
                        ours(name)(x, weight, divided=tiling)

                divide = head_linear.head_codes_tiling
                chosen = tiling or (head_linear.head_tiling(k) if kind == "bf16" else divide(n, k))
                label = f"{chosen.shares}x{chosen.passes}{'+' * chosen.ahead}"
                label += f"/{chosen.registers}" if chosen.registers != 128 else ""
                row[label] = round(replayed(own) / sets, 2)
            report["layers"].append(row)
            print(row, flush=True)
        del weights


class Head:
    """Random weights of the published widths, and a cache of its one layer."""

    def __init__(self, context: int, requests: int, nodes: int, kind: str = "bf16") -> None:
        self.weights = {name: weight_of(kind, n, k) for name, (n, k) in LAYERS.items()}
        self.large = {} if kind == "bf16" else {name: weight_of("bf16", *LAYERS[name])
                                                for name in ("fc", "qkv")}  # fmt: skip
        self.gains = [1 + bf16(WIDTH, scale=0.1) for _ in range(4)]
        self.embedding = bf16(VOCABULARY, WIDTH)
        self.table = torch.randperm(VOCABULARY, device=DEVICE)[:DRAFTS].contiguous()
        self.context, self.requests, self.nodes = context, requests, nodes
        slots = requests * (context + nodes + 8)
        self.k_cache, self.v_cache = bf16(slots, KV_HEADS, DIM), bf16(slots, KV_HEADS, DIM)
        self.places = torch.randperm(slots, device=DEVICE).view(requests, -1)
        self.cos_sin = torch.randn(context + 64, DIM, device=DEVICE)
        self.workspace = attention.attention_workspace(
            requests * nodes, HEADS, DIM, context + 64, DEVICE
        )
        self.paths = tree.chain_paths(requests, nodes, DEVICE)
        self.hidden = bf16(requests, WIDTH)
        self.target = bf16(requests * nodes, 3 * WIDTH)
        self.tokens = torch.randint(0, DRAFTS, (requests,), device=DEVICE)
        self.drafts = torch.zeros(requests, 3, dtype=torch.int64, device=DEVICE)
        self.accepted = torch.randint(
            1, nodes + 1, (requests,), device=DEVICE, dtype=torch.int32
        )  # fmt: skip
        self.logits = torch.zeros(requests * nodes, DRAFTS, device=DEVICE)

    def _slots(self, nodes: int, first: int) -> list[Any]:
        """Positions, cos_sin, caches, own slots, indptr and indices of `nodes` tokens a request."""
        length = self.context + (first if nodes == 1 else 0)
        own = self.places[:, length : length + nodes].contiguous().flatten()
        seen = length + (1 if nodes == 1 else 0)
        starts = torch.arange(self.requests + 1, device=DEVICE, dtype=torch.int32) * seen
        positions = (length + torch.arange(nodes, device=DEVICE)).repeat(self.requests)
        indices = self.places[:, :seen].contiguous().flatten()
        return [positions, self.cos_sin, self.k_cache, self.v_cache, own, starts, indices]

    def prepare(self) -> None:
        self.steps = [self._slots(1, step) for step in range(2)]
        # As in a server, where every step moves the positions on.
        self.steps[1][0] = self.steps[0][0]
        self.extend_slots = self._slots(self.nodes, 0)

    def mlp(self, mixed: torch.Tensor, residual: torch.Tensor, **how: Any) -> Any:
        rows, weights = head_linear.head_linear(mixed, self.weights["o"]), self.weights
        kept, normed = head_steps.head_norm(rows, residual, self.gains[2], EPS, **how)
        gated = head_linear.head_gated(normed, weights["gate_up"])
        return head_linear.head_linear(gated, weights["down"]), kept

    def chain(self) -> None:
        hidden, tokens, table = self.hidden, self.tokens, self.table
        first: torch.Tensor | None = self.drafts[:, 0]
        given: torch.Tensor | None = table
        for step, slots in enumerate(self.steps):
            both = head_steps.head_enter(
                tokens, self.embedding, self.gains[0], hidden, self.gains[1], EPS, given, first
            )
            qkv = head_linear.head_linear(both, self.weights["qkv"])
            mixed = attention.attention(
                qkv, None, None, 0.0, *slots, None, False, self.workspace
            ).out
            down, residual = self.mlp(mixed, hidden)
            hidden, normed = head_steps.head_norm(down, residual, self.gains[3], EPS)
            largest = head_linear.head_largest(normed, self.weights["lm_head"])
            tokens, given, first = self.drafts[:, step + 1], None, None
            head_steps.head_choose(largest, table, tokens, slots[0])
        self.steps[0][0].sub_(len(self.steps))

    def cycle(self) -> None:
        self.chain()
        self.extend()

    def extend(self) -> None:
        rows = self.requests * self.nodes
        product, weights = head_linear.head_linear, self.weights
        if rows > 8:
            product, weights = F.linear, self.large or weights
        hidden = product(self.target, weights["fc"])
        tokens = self.table[: self.requests * self.nodes]
        both = head_steps.head_enter(
            tokens, self.embedding, self.gains[0], hidden, self.gains[1], EPS
        )
        qkv = product(both, weights["qkv"])
        mixed = attention.attention(
            qkv, None, None, 0.0, *self.extend_slots, self.paths, False, self.workspace,
            accepted=self.accepted,
        ).out  # fmt: skip
        down, residual = self.mlp(mixed, hidden, accepted=self.accepted, read=self.nodes)
        _, normed = head_steps.head_norm(
            down, residual, self.gains[3], EPS, self.accepted, 0, self.nodes
        )
        head_linear.head_logits(normed, self.weights["lm_head"], self.logits, self.accepted)


def graph_times(
    report: dict[str, Any], late: Callable[[], bool], kind: str, contexts: tuple[int, ...]
) -> None:
    for context in contexts:
        for requests, nodes in ((1, 4), (8, 4), (1, 8)):
            if late():
                return
            head = Head(context, requests, nodes, kind)
            head.prepare()
            row = {"context": context, "requests": requests, "nodes": nodes, "weights": kind}
            row["two_steps"] = round(replayed(head.chain), 1)
            row["extend"] = round(replayed(head.extend), 1)
            row["both"] = round(replayed(head.cycle), 1)
            report["graphs"].append(row)
            print(row, flush=True)


def checks(report: dict[str, Any], kind: str) -> None:
    """Against references on the same device, and a row's bits alone and among others."""
    for name, (n, k) in LAYERS.items():
        x, weight, found = bf16(8, k), weight_of(kind, n, k), report["checks"].setdefault(kind, {})
        if name == "lm_head":
            logits = torch.empty(8, n, device=DEVICE)
            head_linear.head_logits(x, weight, logits)
            wanted = head_linear.reference_head_linear(x, weight).float()
            drafts, positions = torch.zeros(2, 8, dtype=torch.int64, device=DEVICE).unbind()
            head_steps.head_choose(head_linear.head_largest(x, weight), None, drafts, positions)
            found["choice"] = bool(torch.equal(drafts, logits.argmax(-1)))
            got = logits
        else:
            reference = (
                head_linear.reference_head_gated
                if name == "gate_up"
                else head_linear.reference_head_linear
            )
            got, wanted = ours(name)(x, weight).float(), reference(x, weight).float()
            alone = ours(name)(x[3:4].contiguous(), weight).float()
            among = ours(name)(x.repeat(4, 1).contiguous(), weight).float()
            found[f"{name} bits"] = bool(
                torch.equal(alone[0], got[3]) and torch.equal(among[11], got[3])
            )
        off = (got - wanted).norm(dim=-1) / wanted.norm(dim=-1)
        found[name] = round(off.max().item(), 6)
    if kind != "bf16":
        print(kind, found, flush=True)
        return
    head = Head(300, 2, 4)
    head.prepare()
    qkv = bf16(8, QKV)
    own, extend = head.extend_slots[2:4], head.extend_slots
    out = attention.attention(qkv, None, None, 0.0, *extend, head.paths, False, head.workspace).out
    chosen = attention.attention(
        qkv, None, None, 0.0, *extend, head.paths, False, head.workspace, accepted=head.accepted
    ).out
    rows = torch.arange(2, device=DEVICE) * 4 + head.accepted.long() - 1
    caches = [cache.clone() for cache in own]
    wanted = attention.reference_attention(
        qkv, None, None, 0.0, *extend[:2], *caches, *extend[4:], head.paths
    )
    off = (out.float() - wanted.float()).norm(dim=-1) / wanted.float().norm(dim=-1)
    found["attention"] = round(off.max().item(), 6)
    found["attention chosen"] = bool(torch.equal(chosen, out[rows]))
    found["caches"] = all(map(torch.equal, caches, own))
    print(kind, found, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="begin nothing after this")
    parser.add_argument("--parts", default="checks,graphs,layers", help="in this order")
    parser.add_argument("--weights", default="bf16", help="bf16 or codes, or both: bf16,codes")
    parser.add_argument("--contexts", default="256,4096", help="tokens before a draft")
    parser.add_argument("--tilings", action="store_true", help="other divisions of K, too")
    parser.add_argument("--layer", action="append", default=[], choices=LAYERS, help="only these")
    parser.add_argument("--compile", action="store_true", help="run all once and time nothing")
    arguments = parser.parse_args()
    if arguments.compile:
        COMPILES.set()
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "checks": {}, "layers": [],
                              "graphs": [], "failures": []}  # fmt: skip

    def late() -> bool:
        return time.monotonic() - began > arguments.seconds

    contexts = tuple(int(context) for context in arguments.contexts.split(","))
    parts: dict[str, Callable[[str], None]] = {
        "checks": lambda kind: checks(report, kind),
        "graphs": lambda kind: graph_times(report, late, kind, contexts),
        "layers": lambda kind: layer_times(report, late, arguments.tilings, kind, arguments.layer),
    }
    kinds = arguments.weights.split(",")
    for name, kind in [(part, kind) for part in arguments.parts.split(",") for kind in kinds]:
        try:
            with torch.no_grad():
                parts[name](kind)
        except Exception:
            report["failures"].append(f"{name} {kind}: {traceback.format_exc()[-1500:]}")
            print(f"FAILED {name}: {traceback.format_exc()[-2500:]}", flush=True)
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(bool(report["failures"]))


if __name__ == "__main__":
    main()
