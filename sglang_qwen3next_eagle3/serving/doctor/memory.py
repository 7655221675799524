"""What SGLang will allocate on each rank, and how many requests and tokens that allows.

The arithmetic is SGLang 0.5.17's, in its order: mem_cache/kv_cache_configurator.py
(`_profile_available_bytes`, `_handle_max_mamba_cache`, `_calculate_mamba_ratio`,
`resolve_max_num_reqs`), model_executor/pool_configurator.py (`DefaultPoolConfigurator`),
mem_cache/memory_pool.py (`MambaPool`, `ReqToTokenPool`, `MHATokenToKVPool`) and
mem_cache/allocation_sizing.py. tests/contract/test_memory_plan.py holds it to SGLang's own code.
Sizes are bytes of one rank.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.fast import sizes
from sglang_qwen3next_eagle3.overlay.seams import sizes as of_cycles
from sglang_qwen3next_eagle3.serving.doctor.settings import ServerSettings, Strategy

GIB, MIB = 2**30, 2**20
RELEASE = "0.5.17"
"""Whose arithmetic this is; no other release was compared."""
CapReason = Literal["", "states", "tokens"]
_LARGEST_GUESS, _SMALLEST_GUESS = 4096, 2048
"""Bounds of what SGLang takes for `--max-running-requests` where nothing drafts."""


@dataclass(frozen=True)
class Weights:
    """target: of the target; draft: of what drafts and stays; loading: what the draft loads beside
    that and gives back once it shares the target's embedding, after the pools have been sized."""

    target: int
    draft: int = 0
    loading: int = 0


@dataclass(frozen=True)
class StateSizes:
    """A GDN state of one request. conv: the convolution's window; ssm: the recurrent state;
    column: one further column of the window, in all layers."""

    conv: int
    ssm: int
    column: int

    @property
    def both(self) -> int:
        return self.conv + self.ssm


@dataclass(frozen=True)
class CellSizes:
    """KV of one token. target: in the target's attention layers; draft: in what drafts;
    charged: what SGLang sizes the pool by, which takes the draft's layers for the target's."""

    target: int
    draft: int
    charged: int


@dataclass(frozen=True)
class Pools:
    """What the pools hold. slots: GDN states; slots_each: how many of them a running request
    takes; requests: that run at once; capped_by: what keeps them below what was asked for."""

    slots: int
    slots_each: int
    requests: int
    tokens: int
    capped_by: CapReason = ""


@dataclass(frozen=True)
class DoesNotFit:
    """Why there are no pools. missing: bytes that are too few, at least."""

    reason: str
    missing: int


@dataclass(frozen=True)
class Plan:
    """Of one rank. before: free before weights are loaded, of which SGLang keeps `reserve` for
    graphs and activations. states, verification, kv, draft_kv, table: the pools; a request's
    verification keeps one state for each draft token. fast, recorded: what is ours, out of what
    SGLang keeps: buffers of the fast path, and recorded cycles at most. rest: what nothing above
    takes."""

    settings: ServerSettings
    weights: Weights
    before: int
    reserve: int
    state: StateSizes
    cell: CellSizes
    pools: Pools | DoesNotFit
    states: int = 0
    verification: int = 0
    kv: int = 0
    draft_kv: int = 0
    table: int = 0
    fast: int = 0
    recorded: int = 0

    @property
    def rest(self) -> int:
        taken = self.weights.target + self.weights.draft + self.states + self.verification
        taken += self.fast + self.recorded
        return self.before - taken - self.kv - self.draft_kv - self.table

    @property
    def longest(self) -> int:
        """Tokens of the longest request, prompt and answer."""
        if isinstance(self.pools, DoesNotFit):
            return 0
        return max(0, min(self.settings.context_length, self.pools.tokens - _headroom(self)))


@dataclass(frozen=True)
class Inputs:
    """What a plan is made of; `plan` of another one tells what a flag buys. ours: the stages of the
    fast path and the seams that will be on."""

    settings: ServerSettings
    target: Target
    weights: Weights
    before: int
    draft_config: Mapping[str, Any] | None = None
    ours: frozenset[str] = frozenset()


def plan(inputs: Inputs) -> Plan:
    """Pure: the same inputs give the same plan.

    inputs.before: bytes that are free on a rank once SGLang's processes have started.
    """
    settings, weights = inputs.settings, inputs.weights
    state = state_sizes(inputs.target, settings)
    cell = cell_sizes(inputs.target, settings, inputs.draft_config)
    reserve = int(inputs.before * (1 - settings.fraction))
    after = inputs.before - weights.target - weights.draft - weights.loading
    pools = _pools(settings, state, cell, after - reserve)
    found = Plan(settings, weights, inputs.before, reserve, state, cell, pools)
    if isinstance(pools, DoesNotFit):
        return found
    verified = settings.draft_tokens * (pools.requests + 1)
    windows = state.conv * verified
    if settings.on_gpu and settings.topk <= 1:
        # Windows of a chain's consecutive tokens overlap, and are kept once.
        columns = settings.draft_tokens + _kernel(inputs.target) - 2
        windows = state.column * columns * (pools.requests + 1) if verified else 0
    rows = pools.tokens + settings.page_size
    return replace(
        found,
        states=(pools.slots + 1) * state.both,
        verification=verified * state.ssm + windows,
        kv=rows * cell.target,
        draft_kv=rows * cell.draft,
        table=(pools.requests + 1) * (settings.context_length + _extra_context(settings)) * 4,
        fast=_fast(inputs, pools),
        recorded=_recorded(inputs, pools),
    )


def _captured(settings: ServerSettings, pools: Pools) -> int:
    """Requests of the largest decode graph; 0 without graphs."""
    return min(settings.graphs.decode_max or 0, pools.requests)


def _fast(inputs: Inputs, pools: Pools) -> int:
    """Buffers of the fast path (overlay/fast/sizes.py); of `head_w8` the codes, half of what the
    head's weights take."""
    settings, c = inputs.settings, inputs.target.config
    captured = _captured(settings, pools)
    if "gdn" not in inputs.ours or not captured or settings.kv_bytes != 2 or settings.ssm_bytes < 4:
        return 0
    tp, nodes = settings.tp, settings.draft_tokens or 1
    shapes = sizes.Shapes(
        heads=int(c["num_attention_heads"]) // tp,
        head_dim=int(c["head_dim"]),
        layers=len(inputs.target.gdn_layers),
        key_heads=int(c["linear_num_key_heads"]) // tp,
        value_heads=int(c["linear_num_value_heads"]) // tp,
        key_dim=int(c["linear_key_head_dim"]),
        value_dim=int(c["linear_value_head_dim"]),
        context=settings.context_length + _extra_context(settings),
    )
    # The check at start has two requests.
    rows = min(sizes.ALL_ROWS, max(2, captured) * nodes)
    found = sizes.of_target(shapes, rows, nodes)
    draft = inputs.draft_config
    if draft is None or not inputs.ours & {"head", "head_w8"}:
        return found
    heads = int(draft["num_attention_heads"])
    width = int(draft.get("head_dim") or int(draft["hidden_size"]) // heads)
    found += sizes.of_head(shapes, rows, nodes, heads // tp, width)
    return found + (inputs.weights.draft // 2 if "head_w8" in inputs.ours else 0)


def _recorded(inputs: Inputs, pools: Pools) -> int:
    """Of recorded cycles at most, each as large as what was measured with one request."""
    if "cycle" not in inputs.ours or not inputs.settings.speculative:
        return 0
    captured, sampled = _captured(inputs.settings, pools), "sampled" in inputs.ours
    count = of_cycles.recorded(captured, sampled=sampled and inputs.settings.tp == 1)
    return count * of_cycles.RECORDED_BYTES


def state_sizes(target: Target, settings: ServerSettings) -> StateSizes:
    """configs/mamba_utils.py, Mamba2StateShape.create; heads are split over the ranks."""
    c, tp, layers = target.config, settings.tp, len(target.gdn_layers)
    key = int(c["linear_num_key_heads"]) * int(c["linear_key_head_dim"])
    value_heads, value_width = int(c["linear_num_value_heads"]), int(c["linear_value_head_dim"])
    channels = (2 * key + value_heads * value_width) // tp
    column = channels * settings.conv_bytes * layers
    elements = value_heads // tp * value_width * int(c["linear_key_head_dim"])
    return StateSizes(
        conv=column * (_kernel(target) - 1),
        ssm=elements * settings.ssm_bytes * layers,
        column=column,
    )


def cell_sizes(
    target: Target, settings: ServerSettings, draft_config: Mapping[str, Any] | None
) -> CellSizes:
    """draft_config: of an EAGLE3 head; the MTP layer is one of the target's."""
    c, layers = target.config, len(target.attention_layers)
    layer = _cell(int(c["num_key_value_heads"]), int(c["head_dim"]), settings)
    own = layer * layers
    if settings.algorithm == "nextn":
        # No draft path is given, so that SGLang does not count its layer when it sizes the pool.
        return CellSizes(own, layer, own)
    if settings.algorithm == "none" or draft_config is None:
        return CellSizes(own, 0, own)
    heads = int(draft_config.get("num_key_value_heads") or draft_config["num_attention_heads"])
    width = draft_config.get("head_dim")
    width = width or int(draft_config["hidden_size"]) // int(draft_config["num_attention_heads"])
    drafts = int(draft_config.get("num_hidden_layers") or 1)
    return CellSizes(
        target=own,
        draft=_cell(heads, int(width), settings) * drafts,
        charged=int(own * (1 + drafts / layers)),
    )


def _cell(kv_heads: int, width: int, settings: ServerSettings) -> int:
    """Keys and values of a token in one layer: every rank has at least one head."""
    return max(1, kv_heads // settings.tp) * 2 * width * settings.kv_bytes


def slots_each(settings: ServerSettings) -> int:
    """States that a running request may hold: its own, and those on their way into the prefix
    cache (`_calculate_mamba_ratio`)."""
    if not settings.radix_cache:
        return 1
    base = 2 if settings.skips_decode_lock else 3
    if settings.strategy == "no_buffer":
        return 3
    if settings.strategy == "extra_buffer" and settings.overlap:
        return base + 2
    return base + 1


def _pools(
    settings: ServerSettings, state: StateSizes, cell: CellSizes, free: int
) -> Pools | DoesNotFit:
    """free: what is left for states and KV once weights are loaded."""
    if free <= 0:
        return DoesNotFit("the weights leave no room for states and KV", -free)
    each, asked, per_slot = slots_each(settings), settings.max_running_requests, state.both
    drafts = settings.draft_tokens
    slots: int
    if settings.max_mamba_cache_size is not None:
        slots = settings.max_mamba_cache_size
        verified = min(asked or 0, slots // each) + 1
    elif not settings.radix_cache and asked is not None:
        slots = asked
        verified = slots + 1
    else:
        ratio = settings.mamba_full_memory_ratio
        budget = free * ratio / (1 + ratio)
        if drafts:
            slots = int((budget - per_slot * (1 + drafts)) // (per_slot * (1 + drafts / each)))
            verified = min(asked or 0, slots // each) + 1
        else:
            slots = int((budget - per_slot) // per_slot)
            verified = 0
    if slots <= 0:
        return DoesNotFit("there is no room for a single GDN state", int(per_slot * (2 + drafts)))
    left = free - per_slot * verified * drafts - (slots + 1) * per_slot
    if left <= 0:
        return DoesNotFit("the GDN states leave no room for KV", -left)
    tokens = left // cell.charged // settings.page_size * settings.page_size
    if settings.max_total_tokens is not None:
        capped = min(tokens, settings.max_total_tokens)
        tokens = capped // settings.page_size * settings.page_size
    if tokens <= 0:
        return DoesNotFit("there is no room for the KV of a single token", cell.charged)
    return _with_requests(settings, Pools(slots, each, 0, tokens))


def _with_requests(settings: ServerSettings, pools: Pools) -> Pools | DoesNotFit:
    """`resolve_max_num_reqs`."""
    guess = int(pools.tokens / settings.context_length * 512)
    guess = max(min(guess, _LARGEST_GUESS), _SMALLEST_GUESS)
    asked = settings.max_running_requests
    wanted = guess if asked is None else asked
    by_tokens, by_states = pools.tokens // 2, pools.slots // pools.slots_each
    requests = min(wanted, by_tokens, by_states)
    if requests <= 0:
        return DoesNotFit(
            f"{pools.slots} GDN states are too few for one request, which takes {pools.slots_each}",
            0,
        )
    capped: CapReason = ""
    if asked is not None and requests < asked:
        capped = "states" if by_states <= by_tokens else "tokens"
    return replace(pools, requests=requests, capped_by=capped)


def _extra_context(settings: ServerSettings) -> int:
    """allocation_sizing.py, get_req_to_token_extra_context_len."""
    extra = 4 + settings.draft_tokens
    if settings.speculative and settings.page_size > 1:
        extra = max(extra, 2 * _step_length(settings) + settings.page_size - 1)
    return extra


def _step_length(settings: ServerSettings) -> int:
    """KV slots of one step of a request (get_alloc_len_per_decode)."""
    if not settings.speculative:
        return 1
    if settings.page_size == 1 or settings.topk == 1:
        return max(settings.steps * settings.topk, settings.draft_tokens)
    pages = (2 * (settings.page_size - 1) + settings.steps) // settings.page_size
    return max(pages * settings.page_size * settings.topk, settings.draft_tokens)


def _headroom(found: Plan) -> int:
    """Slots that a step keeps free of a request's own tokens (get_alloc_reserve_per_decode)."""
    return 2 * _step_length(found.settings)


def _kernel(target: Target) -> int:
    return int(target.config["linear_conv_kernel_dim"])


@dataclass(frozen=True)
class Choice:
    """One flag changed. costs: what is given for it, in words."""

    flag: str
    plan: Plan
    costs: str = ""

    @property
    def spelled(self) -> str:
        """As `launch` takes it."""
        return self.flag if self.flag.startswith("--tree") else f"-- {self.flag}"

    @property
    def requests(self) -> int:
        return 0 if isinstance(self.plan.pools, DoesNotFit) else self.plan.pools.requests


def choices(inputs: Inputs) -> Iterator[Choice]:
    """What single flags would buy, as far as they change something."""
    now = inputs.settings
    own = plan(inputs).pools
    running = 0 if isinstance(own, DoesNotFit) else own.requests
    fast = ", no --fast" if now.tp == 1 else ""

    def changed(flag: str, costs: str, **values: Any) -> Iterator[Choice]:
        other = replace(now, **values)
        if other != now:
            yield Choice(flag, plan(replace(inputs, settings=other)), costs)

    more = round(min(0.95, now.fraction + 0.02), 3)
    if now.on_gpu and more > now.fraction:
        yield from changed(
            f"--mem-fraction-static {more:g}", "less room for graphs and activations", fraction=more
        )
    if now.on_gpu and now.kv_bytes > 1:
        yield from changed("--kv-cache-dtype fp8_e4m3", f"KV rounded to 8 bits{fast}", kv_bytes=1)
    if now.ssm_bytes > 2:
        yield from changed(
            "--mamba-ssm-dtype bfloat16", f"states rounded to 16 bits{fast}", ssm_bytes=2
        )
    if running > 1:
        fewer = running // 2
        yield from changed(
            f"--max-running-requests {fewer}", "more requests wait", max_running_requests=fewer
        )
    if now.radix_cache:
        yield from changed(
            "--disable-radix-cache", "every prompt is computed anew", radix_cache=False
        )
        lazy: Strategy = "extra_buffer_lazy"
        if now.strategy == "extra_buffer" and now.overlap:
            yield from changed(
                f"--mamba-radix-cache-strategy {lazy}", "states are kept later", strategy=lazy
            )
        if now.max_mamba_cache_size is None:
            ratio = 0.5 if now.mamba_full_memory_ratio > 0.5 else 0.9
            yield from changed(
                f"--mamba-full-memory-ratio {ratio:g}",
                "fewer states, so fewer requests" if ratio < 0.9 else "less KV",
                mamba_full_memory_ratio=ratio,
            )
    if now.draft_tokens > 4:
        yield from changed("--tree 3,1,4", "fewer drafts accepted", steps=3, topk=1, draft_tokens=4)
