"""The check at start and the captures behind it, gone through once without a launch, so that what
they launch is compiled side by side (`ahead`) and is there when it is launched.

No step takes what another one left, which is undefined here: a kernel that is not Triton's is
launched, and must not find a garbage for an index.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast import ahead, kernel_table, prefill_rehearsal
from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath, most_rows
from sglang_qwen3next_eagle3.overlay.fast.layers import FastLayer, SmallPass
from sglang_qwen3next_eagle3.overlay.fast.made_up import (
    REQUESTS,
    States,
    captured,
    captured_batches,
    draft_tokens,
    lengths_of,
    made_up,
    random_rows,
)
from sglang_qwen3next_eagle3.overlay.fast.prefill_rehearsal import Step, router, stock_block
from sglang_qwen3next_eagle3.overlay.fast.stages import COMPILERS, Stage

logger = logging.getLogger(__name__)


def rehearse(path: FastPath, runner: Any) -> None:
    """Compile what a target's passes launch. For one rank: sums over ranks are not rehearsed."""
    with ahead.compiling(runner.__dict__.get(COMPILERS)) as compiler:
        if compiler is None:
            return
        for passes in (go_through, prefill_rehearsal.go_through):
            with compiler.surviving():
                passes(path, runner, compiler.run)
        logger.info("sglang-qwen3next-eagle3: fast path: %s", compiler.finish())


@torch.no_grad()
def go_through(path: FastPath, runner: Any, run: Callable[[Step], Any]) -> None:
    """Passes of as many requests as are checked or captured, step by step, each handed to `run`;
    one layer of each kind stands for all."""
    first: dict[Stage, int] = {}
    for number, layer in path.layers.items():
        first.setdefault(layer.mixer, number)
    tokens, most = draft_tokens(runner) or 1, most_rows()
    checked = {n for n in REQUESTS if n <= captured(runner)[1]}
    for requests in sorted({2, *checked, *captured_batches(runner)}):
        rows = requests * tokens
        if rows > most or len(lengths_of(runner, most, requests)) < requests:
            continue
        layers = [_serving(path, path.layers[number], rows) for number in first.values()]
        with made_up(path, runner, most, requests, tuple(first.values())) as (at, states):
            for step in _steps(path, layers, at, states):
                run(step)


def _serving(path: FastPath, layer: FastLayer, rows: int) -> FastLayer:
    stages = frozenset(stage for stage in layer.stages if rows <= path.most(stage))
    return layer.with_stages(stages)


def _steps(
    path: FastPath, layers: list[FastLayer], at: SmallPass, states: States
) -> Iterator[Step]:
    for layer in layers:
        if "moe" in path.stages:
            yield partial(stock_block, layer.layer.mlp, random_rows(at, layer, 1))
            yield partial(router, layer.layer.mlp, random_rows(at, layer, 1))
        yield from _of_layer(layer, at)
    if layers and any("gdn" in layer.stages for layer in layers) and at.verify:
        yield lambda: _commit(path, at)
        yield lambda: states.stock_commit(at.backend, _first_nodes(at))
    if path.lm_head is not None and at.requests * at.nodes <= path.most("lm_head"):
        weight = path.lm_head.weight.data
        yield lambda: path.kernels.lm_head(random_rows(at, layers[0], 4), weight)


def _of_layer(layer: FastLayer, at: SmallPass) -> Iterator[Step]:
    between, stages, alone = layer.boundaries, layer.stages, frozenset({layer.mixer})

    def rows(seed: int) -> torch.Tensor:
        return random_rows(at, layer, seed)

    def enter() -> Any:
        return layer.enter(at, *between.left(at.batch, rows(1), rows(2)), None)

    def mix(of: frozenset[Stage]) -> Step:
        return lambda: layer.with_stages(of).mix(at, enter()[0])

    def captured_mix() -> None:
        with kernel_table.as_captured():
            mix(stages)()

    # The longest to compile first.
    if "moe" in stages:
        yield lambda: layer.leave(at, rows(1), rows(2))
    if stages & {"dense", *alone}:
        yield captured_mix
        yield mix(stages)
        yield lambda: layer.stock_mix(at, rows(1))
    if alone < stages:
        yield mix(alone)
    if "dense" in stages:
        yield mix(frozenset({"dense"}))


def _commit(path: FastPath, at: SmallPass) -> None:
    linear = at.backend.linear_attn_backend
    pool = linear.req_to_token_pool.mamba_pool.mamba_cache
    slots = linear.forward_metadata.mamba_cache_indices
    path.kernels.gdn_commit(at, pool, slots, _first_nodes(at), None, None)


def _first_nodes(at: SmallPass) -> torch.Tensor:
    """int64 [B]: every request accepts the first node."""
    return torch.zeros(at.requests, dtype=torch.int64, device=at.paths.device)
