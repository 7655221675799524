"""Every layer by our kernels against stock's, on fixed inputs with the weights that are served.

Before graphs are captured, while the caches are empty: a few requests are made up in them, and
each step of each layer is computed twice. Rounding differs in the last bits; a fault in a layout or
an index gives something else altogether. What is off goes back to stock.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.layers import FastGdnLayer, FastLayer, Rows, SmallPass
from sglang_qwen3next_eagle3.overlay.fast.stages import STAGES, Stage

Tensors = tuple[torch.Tensor, ...]

LENGTHS = (133, 64)
"""Tokens in the cache of the requests that are made up: odd, and a boundary of blocks."""
TYPICAL = 0.08
"""How far the median row may be off, as a share of its length: one bit of a bf16 that goes the
other way before a quantization moves an e4m3 by a sixteenth."""
WORST: Mapping[Stage, float] = {
    "dense": 0.3, "gdn": 0.3, "attention": 0.3, "lm_head": 0.3, "moe": 0.9,
}  # fmt: skip
"""How far any row may be. Where two experts are equally good, the other one may be chosen, which
moves a row by far more than rounding does."""


@dataclass(frozen=True)
class Deviation:
    """One step of one layer compared. typical: the median row's difference; worst: the largest.

    layer: -1 is the head. error: what was raised instead of a result.
    """

    layer: int
    stage: Stage
    what: str
    typical: float = math.inf
    worst: float = math.inf
    error: str = ""

    @property
    def off(self) -> bool:
        # Written so that a NaN is off.
        return not (self.typical <= TYPICAL and self.worst <= WORST[self.stage])

    def __str__(self) -> str:
        where = "" if self.layer < 0 else f" of layer {self.layer}"
        if self.error:
            return f"{self.what}{where}, where it raised {self.error}"
        what = self.what.replace("_", " ")
        return f"{what}{where} by {self.typical:.1%}, {self.worst:.1%} in the worst row"


def check(path: FastPath, runner: Any) -> list[str]:
    """Compare all, take out of `path` what is off, and say so, a line for each stage."""
    found = [finding for finding in compare(path, runner) if finding.off]
    for finding in found:
        drop(path, finding)
    return [_describe(stage, found) for stage in STAGES if any(f.stage == stage for f in found)]


def _describe(stage: Stage, found: list[Deviation]) -> str:
    off = [finding for finding in found if finding.stage == stage]
    layers = sorted({finding.layer for finding in off})
    where = "" if stage in ("gdn", "lm_head") else f" in layers {', '.join(map(str, layers))}"
    return f"{stage} stays with stock{where}: it differs from stock in {off[0]}"


def drop(path: FastPath, finding: Deviation) -> None:
    """Give a stage of a layer back to stock; `gdn` in all layers, which share their commit."""
    if finding.stage == "lm_head":
        path.lm_head = None
        return
    ids = list(path.layers) if finding.stage == "gdn" else [finding.layer]
    for layer_id in ids:
        layer = path.layers[layer_id]
        path.layers[layer_id] = layer.with_stages(layer.stages - {finding.stage})


@torch.no_grad()
def compare(path: FastPath, runner: Any) -> list[Deviation]:
    """Every step of every layer, and the states after it."""
    with made_up(path, runner) as (at, states):
        found: list[Deviation] = []
        for layer in path.layers.values():
            found += _layer(layer, at, states)
        if any("gdn" in layer.stages for layer in path.layers.values()):
            found += _states(path, at, states)
        if path.lm_head is not None:
            found += _head(path, at)
        return found


def _layer(layer: FastLayer, at: SmallPass, states: "States") -> list[Deviation]:
    """Each step on stock's input for it; what enters and leaves a step is stock's."""
    stages, stock = layer.stages, layer.with_stages(frozenset())
    found: list[Deviation] = []

    def probe(stage: Stage, ours: Callable[[], Tensors], **wanted: torch.Tensor) -> Tensors | None:
        return _probe(found, layer.layer.layer_id, stage, ours, wanted)

    hidden, residual = _random(at, layer, 1), _random(at, layer, 2)
    normed, stream = stock.enter(at, hidden.clone(), residual.clone(), None)
    assert normed.plain is not None
    plain, rows = normed.plain, normed

    def enter() -> Tensors:
        nonlocal rows
        rows, entered = layer.enter(at, hidden, residual, None)
        assert rows.plain is not None
        return entered, rows.plain

    if "dense" in stages:
        probe("dense", enter, stream=stream, normed_rows=plain)
    expected = states.of(layer, lambda: layer.stock_mix(at, plain.clone()))

    def mix(of: frozenset[Stage], given: Rows) -> Callable[[], Tensors]:
        return lambda: (states.of(layer, lambda: layer.with_stages(of).mix(at, given)),)

    if "dense" in stages:
        probe("dense", mix(frozenset({"dense"}), rows), mixed=expected)
    right = not any(finding.off for finding in found)
    if layer.mixer in stages:
        alone = frozenset({layer.mixer})
        probe(layer.mixer, mix(alone, Rows(plain.clone())), mixed=expected)
    if {"dense", layer.mixer} <= stages and right:
        probe(layer.mixer, mix(stages, rows), mixed_by_both=expected)
    if "moe" in stages:
        output, after = stock.leave(at, expected.clone(), stream.clone())
        leave = lambda: layer.leave(at, expected.clone(), stream.clone())  # noqa: E731
        probe("moe", leave, experts=output, stream_behind=after)
    return found


def _states(path: FastPath, at: SmallPass, states: "States") -> list[Deviation]:
    """The GDN states after a pass and its commit, all layers at once."""
    layers = [layer for layer in path.layers.values() if isinstance(layer, FastGdnLayer)]
    last = torch.tensor(states.accepted, device=at.paths.device)

    def run(ours: bool) -> Tensors:
        states.restore()
        for layer in layers:
            plain = _random(at, layer, 3)
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
    ours = _probe(found, layers[0].layer.layer_id, "gdn", lambda: run(True), {})
    if ours is not None:
        for name, got, wanted in zip(("window", "state"), ours, run(False), strict=True):
            for place, layer in enumerate(layers):
                rows = got[place].flatten(1), wanted[place].flatten(1)
                found.append(_finding(layer.layer.layer_id, "gdn", name, *rows))
    states.restore()
    return found


def _head(path: FastPath, at: SmallPass) -> list[Deviation]:
    hidden = _random(at, next(iter(path.layers.values())), 4)
    weight, found = path.lm_head.weight.data, list[Deviation]()
    stock = torch.matmul(hidden, weight.T)
    _probe(found, -1, "lm_head", lambda: (path.kernels.lm_head(hidden, weight),), {"logits": stock})
    return found


def _probe(
    found: list[Deviation],
    layer: int,
    stage: Stage,
    ours: Callable[[], Tensors],
    wanted: Mapping[str, torch.Tensor],
) -> Tensors | None:
    """Ours compared with what is wanted, one by one; None if it raises."""
    try:
        got = ours()
    except Exception as error:
        # What a kernel cannot do is stock's to do.
        found.append(Deviation(layer, stage, "all", error=f"{type(error).__name__}: {error}"))
        return None
    for (what, stock), own in zip(wanted.items(), got, strict=bool(wanted)):
        found.append(_finding(layer, stage, what, own, stock))
    return got


def _finding(
    layer: int, stage: Stage, what: str, ours: torch.Tensor, stock: torch.Tensor
) -> Deviation:
    a, b = ours.double(), stock.double()
    off = ((a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=1e-30)).flatten()
    return Deviation(layer, stage, what, float(off.median()), float(off.max()))


def _random(at: SmallPass, layer: FastLayer, seed: int) -> torch.Tensor:
    """bf16 [T, D], the same at every call."""
    weight = layer.norm.weight
    generator = torch.Generator().manual_seed(1000 * layer.layer.layer_id + seed)
    rows = torch.randn(at.requests * at.nodes, weight.shape[0], generator=generator)
    return rows.to(weight.device, torch.bfloat16)


class States:
    """The GDN states of the requests that are made up, as they were drawn.

    accepted: the last node that each request accepts.
    """

    def __init__(self, pool: Any, slots: list[int], accepted: list[int]) -> None:
        cache = pool.mamba_pool.mamba_cache
        self._pool, self._slots, self.accepted = pool, slots, accepted
        self._live = (cache.conv[0], cache.temporal)
        self._before = [live[:, slots].clone() for live in self._live]
        generator = torch.Generator().manual_seed(7)
        self._drawn = [
            torch.randn(part.shape[1:], generator=generator).to(part).mul_(0.5)
            for part in self._before
        ]

    def restore(self) -> None:
        """The drawn states into every layer."""
        for live, drawn in zip(self._live, self._drawn, strict=True):
            live[:, self._slots] = drawn

    def empty(self) -> None:
        """What was in the pool before."""
        for live, before in zip(self._live, self._before, strict=True):
            live[:, self._slots] = before

    def of(self, layer: FastLayer, compute: Any) -> torch.Tensor:
        """A computation on the drawn states of a layer."""
        if isinstance(layer, FastGdnLayer):
            for live, drawn in zip(self._live, self._drawn, strict=True):
                live[layer.index, self._slots] = drawn
        out: torch.Tensor = compute()
        return out

    def now(self) -> tuple[torch.Tensor, ...]:
        return tuple(live[:, self._slots].clone() for live in self._live)

    def stock_commit(self, backend: Any, last: torch.Tensor) -> None:
        backend.update_mamba_state_after_mtp_verify(
            last_correct_step_indices=last,
            mamba_track_indices=None,
            mamba_steps_to_track=None,
            model=None,
        )


@contextmanager
def made_up(path: FastPath, runner: Any) -> Iterator[tuple[SmallPass, States]]:
    """A pass of requests that nobody sent, in caches that nobody uses yet; afterwards as before."""
    from sglang.srt.model_executor.forward_context import ForwardContext, forward_context

    backend = runner.attn_backend
    arguments = runner.server_args
    nodes = arguments.speculative_num_draft_tokens if _speculates(runner) else None
    tree = bool(nodes) and (arguments.speculative_eagle_topk or 1) > 1
    lengths = list(LENGTHS[: min(len(LENGTHS), runner.req_to_token_pool.size)])
    pool = backend.linear_attn_backend.req_to_token_pool
    kv = [
        cache
        for layer in path.layers.values()
        if not isinstance(layer, FastGdnLayer)
        for cache in runner.token_to_kv_pool.get_kv_buffer(layer.layer.layer_id)
    ]
    batch, used = _batch(runner, lengths, nodes, tree)
    slots = [1 + request for request in range(len(lengths))]
    accepted = [min(1, (nodes or 1) - 1), (nodes or 1) - 1][: len(lengths)]
    states = States(pool, slots, accepted)
    mapping = pool.req_index_to_mamba_index_mapping
    table = pool.req_to_token
    kept = mapping[: len(lengths)].clone(), table[: len(lengths), : used.shape[1]].clone()
    locations = used.flatten()
    before = [cache[locations].clone() for cache in kv]
    generator = torch.Generator().manual_seed(11)
    try:
        mapping[: len(lengths)] = torch.tensor(slots, dtype=mapping.dtype, device=mapping.device)
        table[: len(lengths), : used.shape[1]] = used.to(table.dtype)
        states.restore()
        for cache in kv:
            drawn = torch.randn(cache[locations].shape, generator=generator)
            cache[locations] = drawn.to(cache.device, cache.dtype)
        with forward_context(ForwardContext(attn_backend=backend)):
            backend.init_forward_metadata(batch)
            at = path.prepare(batch, backend)
            if at is None:
                raise RuntimeError("a made-up batch is not one that the fast path takes")
            path.current = at
            path.end()
            yield at, states
    finally:
        states.empty()
        mapping[: len(lengths)], table[: len(lengths), : used.shape[1]] = kept
        for cache, old in zip(kv, before, strict=True):
            cache[locations] = old


def _speculates(runner: Any) -> bool:
    return bool(runner.spec_algorithm.is_eagle())


def _batch(
    runner: Any, lengths: list[int], nodes: int | None, tree: bool
) -> tuple[Any, torch.Tensor]:
    """A batch of decoding (nodes: None) or of verifying trees or chains of `nodes` tokens, and the
    places in the KV cache of every request, [B, most]."""
    from sglang.srt.model_executor.forward_batch_info import (
        CaptureHiddenMode,
        ForwardBatch,
        ForwardMode,
    )

    device, requests, new = runner.device, len(lengths), nodes or 1
    # A decode step counts its own token among the lengths, a verify does not.
    width = max(lengths) + new
    used = torch.arange(1, 1 + requests * width, device=device).view(requests, width)
    depth = [0] * new
    parents = [node - 1 for node in range(new)]
    if tree:
        parents = [(node - 1) // 2 if node else -1 for node in range(new)]
    for node in range(1, new):
        depth[node] = depth[parents[node]] + 1
    locations = [int(used[r, length + i]) for r, length in enumerate(lengths) for i in range(new)]
    positions = [length + d for length in lengths for d in depth]
    whole = lengths if nodes else [length + 1 for length in lengths]

    def longs(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    batch = ForwardBatch(
        forward_mode=ForwardMode.TARGET_VERIFY if nodes else ForwardMode.DECODE,
        batch_size=requests,
        input_ids=longs([0] * (requests * new)),
        req_pool_indices=longs(list(range(requests))),
        seq_lens=longs(whole),
        seq_lens_cpu=torch.tensor(whole),
        orig_seq_lens=longs(whole),
        out_cache_loc=longs(locations),
        seq_lens_sum=sum(whole),
        positions=longs(positions),
        return_logprob=False,
        spec_algorithm=runner.spec_algorithm,
        capture_hidden_mode=CaptureHiddenMode.FULL if nodes else CaptureHiddenMode.NULL,
    )
    if nodes:
        batch.spec_info = _verify(runner, lengths, parents, tree)
    return batch, used


def _verify(runner: Any, lengths: list[int], parents: list[int], tree: bool) -> Any:
    from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode
    from sglang.srt.speculative.eagle_info import EagleVerifyInput
    from sglang.srt.speculative.eagle_utils import TreeMaskMode, default_tree_mask_mode

    device, nodes, requests = runner.device, len(parents), len(lengths)
    child, sibling, seen = [-1] * nodes, [-1] * nodes, dict[int, int]()
    sees = torch.eye(nodes, dtype=torch.bool)
    for node in range(1, nodes):
        parent = parents[node]
        sees[node] |= sees[parent]
        if parent in seen:
            sibling[seen[parent]] = node
        else:
            child[parent] = node
        seen[parent] = node
    # Stock's GPU kernels read what a node sees of the context too.
    whole = default_tree_mask_mode() == TreeMaskMode.FULL_MASK
    mask = [
        torch.cat([torch.ones(nodes, length if whole else 0, dtype=torch.bool), sees], 1).flatten()
        for length in lengths
    ]
    arguments = runner.server_args

    def links(values: list[int]) -> torch.Tensor:
        return torch.tensor([values] * requests, dtype=torch.int64, device=device)

    return EagleVerifyInput(
        draft_token=None,
        custom_mask=torch.cat(mask).to(device),
        positions=None,
        retrieve_index=None,
        retrieve_next_token=links(child) if tree else None,
        retrieve_next_sibling=links(sibling) if tree else None,
        retrieve_cum_len=None,
        spec_steps=arguments.speculative_num_steps,
        topk=arguments.speculative_eagle_topk,
        draft_token_num=nodes,
        capture_hidden_mode=CaptureHiddenMode.FULL,
        seq_lens_sum=sum(lengths),
        seq_lens_cpu=torch.tensor(lengths),
    )
