"""Every layer by our kernels against stock's, on fixed inputs with the weights that are served.

Before graphs are captured, while the caches are empty: a few requests are made up in them, and
each step of each layer is computed twice. Rounding differs in the last bits; a fault in a layout or
an index gives something else altogether. What is off goes back to stock.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast import kernel_table, ranks, rehearsal
from sglang_qwen3next_eagle3.overlay.fast.conditions import BLOCK
from sglang_qwen3next_eagle3.overlay.fast.cuda_modules import (
    build_sampling_meanwhile,
    compile_side_by_side,
)
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath, most_rows
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import reference_add_norm_quantize
from sglang_qwen3next_eagle3.overlay.fast.layers import FastGdnLayer, FastLayer, Rows, SmallPass
from sglang_qwen3next_eagle3.overlay.fast.made_up import (
    REQUESTS,
    States,
    captured,
    draft_tokens,
    lengths_of,
    made_up,
    random_rows,
)
from sglang_qwen3next_eagle3.overlay.fast.reference import products_of_torch
from sglang_qwen3next_eagle3.overlay.fast.stages import STAGES, Stage

Tensors = tuple[torch.Tensor, ...]

TYPICAL = 0.08
"""How far the median row may be off, as a share of its length: one bit of a bf16 that goes the
other way before a quantization moves an e4m3 by a sixteenth."""
ROUNDED = 0.03
"""The same of the rows of weights in 8 bits against the loaded ones, of which 0.01 is usual."""
WORST: Mapping[Stage, float] = {
    "dense": 0.3, "gdn": 0.3, "attention": 0.3, "lm_head": 0.3, "moe": 0.9,
    "head": 0.3, "head_w8": 0.3, "allreduce": 0.3,
}  # fmt: skip
"""How far any row may be. Where two experts are equally good, the other one may be chosen, which
moves a row by far more than rounding does."""


@dataclass(frozen=True)
class Deviation:
    """One step of one layer compared. typical: the median row's difference; worst: the largest.

    layer: -1 is the head. error: what was raised instead of a result. requests: not 0 where one
    layer was compared with so many, for all of its kind.
    """

    layer: int
    stage: Stage
    what: str
    typical: float = math.inf
    worst: float = math.inf
    error: str = ""
    requests: int = 0

    @property
    def off(self) -> bool:
        typical = ROUNDED if self.stage == "head_w8" else TYPICAL
        # Written so that a NaN is off.
        return not (self.typical <= typical and self.worst <= WORST[self.stage])

    def __str__(self) -> str:
        where = "" if self.layer < 0 else f" of layer {self.layer}"
        where += f" with requests: {self.requests}" if self.requests else ""
        if self.error:
            return f"{self.what}{where}, where it raised {self.error}"
        what = self.what.replace("_", " ")
        return f"{what}{where} by {self.typical:.1%}, {self.worst:.1%} in the worst row"


def check(path: FastPath, runner: Any) -> list[str]:
    """Compare all, take out of `path` what is off on any rank, and say so, a line for a stage."""
    return settle(path, differing(path, runner))


def differing(path: FastPath, runner: Any) -> list[Deviation]:
    """What is off on this rank. Stock's products of FP8 are torch's (`reference`)."""
    build_sampling_meanwhile(runner.server_args)
    with products_of_torch(runner.model):
        compile_side_by_side(runner.model)
        if not ranks.several():
            rehearsal.rehearse(path, runner)
        return [finding for finding in compare(path, runner) if finding.off]


def settle(path: FastPath, off: list[Deviation]) -> list[str]:
    """Give back what is off here or on another rank: all have to serve the same stages, or one
    would add up what another has not begun."""
    found = [finding for said in ranks.of_all(off) for finding in said]
    for finding in found:
        drop(path, finding)
    return [_describe(stage, found) for stage in STAGES if any(f.stage == stage for f in found)]


def _describe(stage: Stage, found: list[Deviation]) -> str:
    off = [finding for finding in found if finding.stage == stage]
    layers = sorted({finding.layer for finding in off})
    where = f" in layers {', '.join(map(str, layers))}"
    if stage in ("gdn", "lm_head") or any(finding.requests for finding in off):
        where = ""
    return f"{stage} stays with stock{where}: it differs from stock in {off[0]}"


def drop(path: FastPath, finding: Deviation) -> None:
    """Give a stage of a layer back to stock; in all layers `gdn`, which share their commit, and
    what one layer stood for."""
    if finding.stage == "lm_head":
        path.lm_head = None
        return
    everywhere = finding.stage == "gdn" or finding.requests
    ids = list(path.layers) if everywhere else [finding.layer]
    for layer_id in ids:
        layer = path.layers[layer_id]
        path.layers[layer_id] = layer.with_stages(layer.stages - {finding.stage})


@torch.no_grad()
def compare(path: FastPath, runner: Any) -> list[Deviation]:
    """Every step of every layer, and the states after it.

    What serves a pass depends on its rows. So one layer of each kind is compared with other numbers
    of requests, too: what cannot be compiled or launched shows here and not in the capture.
    """
    rows = min([path.most(stage) for stage in path.stages - {"lm_head"}], default=MAX_ROWS)
    with made_up(path, runner, rows) as (at, states):
        found: list[Deviation] = []
        for layer in path.layers.values():
            found += _layer(layer, at, states)
        if any("gdn" in layer.stages for layer in path.layers.values()):
            found += _states(path, at, states)
        if path.lm_head is not None and at.requests * at.nodes <= path.most("lm_head"):
            found += _head(path, at)
    for requests in REQUESTS:
        if requests != at.requests and requests * at.nodes <= most_rows():
            own = {(finding.layer, finding.stage) for finding in found if finding.off}
            # The same on all ranks, which are in sums together.
            off = {one for said in ranks.of_all(own) for one in said}
            found += _of_requests(path, runner, requests, off)
    return found


def _of_requests(
    path: FastPath, runner: Any, requests: int, off: set[tuple[int, Stage]]
) -> list[Deviation]:
    """One layer of each kind, and the head, with so many requests; nothing where they do not fit
    into the pools or beyond what is captured. off: what goes back to stock already."""
    first: dict[Stage, int] = {}
    wrong = {number for number, _ in off}
    for number, layer in sorted(path.layers.items(), key=lambda one: one[0] in wrong):
        first.setdefault(layer.mixer, number)
    tokens = draft_tokens(runner) or 1
    kinds: dict[int, FastLayer] = {}
    for number in first.values():
        layer = path.layers[number]
        right = [stage for stage in layer.stages if (number, stage) not in off]
        served = {stage for stage in right if requests * tokens <= path.most(stage)}
        if served:
            kinds[number] = layer.with_stages(frozenset(served))
    served_head = requests * tokens <= path.most("lm_head") and (-1, "lm_head") not in off
    head = path.lm_head if served_head else None
    fitting = len(lengths_of(runner, most_rows(), requests))
    if fitting < requests or requests > captured(runner)[1] or not (kinds or head is not None):
        return []
    found: list[Deviation] = []
    with made_up(path, runner, most_rows(), requests, tuple(first.values())) as (at, states):
        for layer in kinds.values():
            found += _layer(layer, at, states)
        if head is not None:
            found += _head(path, at)
    return [replace(finding, requests=requests) for finding in found]


def _layer(layer: FastLayer, at: SmallPass, states: States) -> list[Deviation]:
    """Each step on stock's input for it; what enters and leaves a step is stock's."""
    stages, stock = layer.stages, layer.with_stages(frozenset())
    found: list[Deviation] = []

    def probe(stage: Stage, ours: Callable[[], Tensors], **wanted: torch.Tensor) -> Tensors | None:
        return probe_step(found, layer.layer.layer_id, stage, ours, wanted)

    hidden, residual = random_rows(at, layer, 1), random_rows(at, layer, 2)
    between = layer.boundaries
    given = between.left(at.batch, hidden.clone(), residual.clone())
    normed, stream = stock.enter(at, *given, None)
    assert normed.plain is not None
    plain, rows = normed.plain, normed

    def enter() -> Tensors:
        nonlocal rows
        rows, entered = layer.enter(at, *between.left(at.batch, hidden, residual), None)
        assert rows.plain is not None
        return entered, rows.plain

    if "dense" in stages:
        probe("dense", enter, stream=stream, normed_rows=plain)
    expected = states.of(layer, lambda: layer.stock_mix(at, plain.clone()))

    def mix(of: frozenset[Stage], given: Rows) -> Callable[[], Tensors]:
        return lambda: (states.of(layer, lambda: layer.with_stages(of).mix(at, given)),)

    def captured(of: frozenset[Stage], given: Rows) -> Callable[[], Tensors]:
        """By the kernels of a capture, which read early what earlier passes have left: here the
        copies before, which are waited for."""

        def compute() -> torch.Tensor:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            with kernel_table.as_captured():
                return layer.with_stages(of).mix(at, given)

        return lambda: (states.of(layer, compute),)

    if "dense" in stages:
        probe("dense", mix(frozenset({"dense"}), rows), mixed=expected)
    right = not any(finding.off for finding in found)
    if layer.mixer in stages:
        of, taken = frozenset({layer.mixer}), Rows(plain.clone())
        probe(layer.mixer, mix(of, taken), mixed=expected)
        if "dense" in stages and right:
            of, taken = stages, rows
            probe(layer.mixer, mix(of, taken), mixed_by_both=expected)
        # What serves is captured, and its mixers are compiled otherwise.
        probe(layer.mixer, captured(of, taken), mixed_as_captured=expected)
    if "moe" in stages:
        left, after = stock.leave(at, expected.clone(), stream.clone())
        output, _ = between.whole(at.batch, left, after)

        def leave() -> Tensors:
            left, after = layer.leave(at, expected.clone(), stream.clone())
            return ranks.whole(left), after

        probe("moe", leave, experts=output, stream_behind=after)
    return found


def _states(path: FastPath, at: SmallPass, states: States) -> list[Deviation]:
    """The GDN states after a pass and its commit, all layers at once."""
    layers = [layer for layer in path.layers.values() if isinstance(layer, FastGdnLayer)]
    last = torch.tensor(states.accepted, device=at.paths.device)

    def run(ours: bool) -> Tensors:
        states.restore()
        for layer in layers:
            plain = random_rows(at, layer, 3)
            if ours:
                layer.with_stages(frozenset({"gdn"})).mix(at, Rows(plain))
            else:
                layer.stock_mix(at, plain)
        if at.verify and ours:
            linear = at.backend.linear_attn_backend
            slots = linear.forward_metadata.mamba_cache_indices
            pool = linear.req_to_token_pool.mamba_pool.mamba_cache
            path.kernels.gdn_commit(at, pool, slots, last, None, None)
        elif at.verify:
            states.stock_commit(at.backend, last)
        return states.now()

    found: list[Deviation] = []
    ours = probe_step(found, layers[0].layer.layer_id, "gdn", lambda: run(True), {})
    if ours is not None:
        for name, got, wanted in zip(("window", "state"), ours, run(False), strict=True):
            for place, layer in enumerate(layers):
                rows = got[place].flatten(1), wanted[place].flatten(1)
                found.append(compared(layer.layer.layer_id, "gdn", name, *rows))
    states.restore()
    return found


def _head(path: FastPath, at: SmallPass) -> list[Deviation]:
    hidden = random_rows(at, next(iter(path.layers.values())), 4)
    weight, found = path.lm_head.weight.data, list[Deviation]()
    stock = torch.matmul(hidden, weight.T)
    probe_step(
        found, -1, "lm_head", lambda: (path.kernels.lm_head(hidden, weight),), {"logits": stock}
    )
    return found


@torch.no_grad()
def wrong_sums(kernels: Kernels, device: torch.device | str) -> str | None:
    """How sums over ranks by our kernel differ from SGLang's, or None. Every rank has to ask.

    Eight of ours back to back, of as many rows as there is room for and each of other parts, so
    that one read too soon is seen. A rank that finds one off goes on nevertheless: the others are
    in the same launches, and would wait for those that it left out.
    """
    assert kernels.peers is not None
    width, eps = kernels.peers.width, 1e-6
    quantize = width % BLOCK == 0 and (width & (width - 1)) == 0
    generator = torch.Generator().manual_seed(5)
    gain = torch.randn(width, generator=generator).to(device, torch.bfloat16)
    parts = []
    for turn in range(8):
        generator = torch.Generator().manual_seed(100 * turn + kernels.peers.rank)
        part = torch.randn(MAX_ROWS, width, generator=generator)
        parts.append(part.to(device, torch.bfloat16))
    streams = [torch.full_like(part, turn) for turn, part in enumerate(parts)]
    ours = [
        kernels.sum_norm(part, stream, gain, eps, quantize)
        for part, stream in zip(parts, streams, strict=True)
    ]
    sums = [ranks.summed(part.clone()) for part in parts]
    found: list[Deviation] = []
    for got, total, stream in zip(ours, sums, streams, strict=True):
        stock = reference_add_norm_quantize(total, stream, gain, eps, False)
        pairs = {"sums": (got.residual, stock.residual), "norms": (got.normed, stock.normed)}
        if got.codes is not None and got.scales is not None:
            codes = got.codes.float().view(MAX_ROWS, -1, BLOCK) * got.scales.unsqueeze(-1)
            pairs["codes"] = codes.flatten(-2), stock.normed
        found += [compared(-1, "allreduce", what, *pair) for what, pair in pairs.items()]
    return next((f"it differs from stock in {one}" for one in found if one.off), None)


def probe_step(
    found: list[Deviation],
    layer: int,
    stage: Stage,
    ours: Callable[[], Tensors],
    wanted: Mapping[str, torch.Tensor],
) -> Tensors | None:
    """Ours compared with what is wanted, one by one; None if it raises.

    Raises:
        RuntimeError: it raises, and there are several ranks. The others may be in a sum that this
            one would leave out: a failed start is better than ranks that wait for ever.
    """
    try:
        got = ours()
    except Exception as error:
        if ranks.several():
            raise RuntimeError(
                f"the fast path's check at start failed in {stage} of layer {layer}, and with "
                "several ranks the server cannot go on from there: start it with --no-fast"
            ) from error
        # What a kernel cannot do is stock's to do.
        found.append(Deviation(layer, stage, "all", error=ranks.told(error)))
        return None
    for (what, stock), own in zip(wanted.items(), got, strict=bool(wanted)):
        found.append(compared(layer, stage, what, own, stock))
    return got


def compared(
    layer: int, stage: Stage, what: str, ours: torch.Tensor, stock: torch.Tensor
) -> Deviation:
    # Piece by piece: weights of a whole vocabulary in float64 are too large to be made in passing.
    pairs = zip(torch.split(ours, 4096), torch.split(stock, 4096), strict=True)
    off = torch.cat([_off(a.double(), b.double()) for a, b in pairs])
    return Deviation(layer, stage, what, float(off.median()), float(off.max()))


def _off(ours: torch.Tensor, stock: torch.Tensor) -> torch.Tensor:
    """By row, as a share of stock's length."""
    shares: torch.Tensor = (ours - stock).norm(dim=-1) / stock.norm(dim=-1).clamp(min=1e-30)
    return shares.flatten()
