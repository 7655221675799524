"""What SGLang makes of its flags, as far as memory depends on it.

Defaults and what follows from what are those of SGLang 0.5.17: server_args.py (the dataclass,
`_handle_gpu_memory_settings`, `reserve_for_graph_mb`, `_generate_*_cuda_graph_batch_sizes`),
arg_groups/speculative_hook.py (`_handle_eagle_family`), arg_groups/overrides.py
(`_mamba_radix_cache_resolution`), configs/mamba_utils.py (`mamba2_state_dtype`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import parse_json
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.environment import is_on
from sglang_qwen3next_eagle3.serving.flags import Parsed

Strategy = Literal["no_buffer", "extra_buffer", "extra_buffer_lazy"]
SPECULATIVE_REQUESTS = 48
"""SGLang's `--max-running-requests` where something drafts and nobody says otherwise."""
DTYPE_BYTES = {
    "float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2, "bf16": 2, "fp16": 2,
    "fp8_e4m3": 1, "fp8_e5m2": 1,
}  # fmt: skip
# Other ways to lay out the pools, or to share them, than the plan knows.
_UNPLANNED = (
    "--enable-dp-attention", "--enable-unified-memory", "--enable-page-major-kv-layout",
    "--enable-hierarchical-cache", "--enable-int8-mamba-checkpoint", "--enable-linear-replayssm",
    "--enable-linear-replayssm-spec", "--enable-symm-mem", "--enable-memory-saver",
    "--speculative-adaptive", "--cpu-offload-gb", "--dcp-size", "--pp-size", "--ep-size",
    "--disaggregation-mode", "--decrypted-config-file", "--json-model-override-args",
    "--torchao-config", "--modelopt-quant", "--enable-lora", "--lora-paths",
    "--ep-num-redundant-experts", "--offload-group-size",
)  # fmt: skip
_ONE = frozenset({"1", "0", "null"})
"""Values with which these flags change nothing."""
_KIB = 1024
_NOT = "not calculated"


class Unplanned(UserError):
    """Flags under which the plan would not be SGLang's."""


@dataclass(frozen=True)
class Graphs:
    """CUDA graphs. decode_max: requests of the largest decode graph, None without any;
    prefills: how many prefill graphs."""

    decode_max: int | None
    prefills: int


@dataclass(frozen=True)
class ServerSettings:
    """Of one server, resolved.

    algorithm: "none", "eagle3" or "nextn". draft_tokens, topk, steps: 0 without speculation.
    max_running_requests: None leaves it to the pools; asks_requests: whether somebody asked for so
    many. dtype_bytes, kv_bytes, conv_bytes, ssm_bytes:
    of one element of weights, KV cache, and the two parts of a GDN state. overlap: whether the
    scheduler overlaps steps. fraction: `--mem-fraction-static`, given or by default.
    """

    on_gpu: bool
    tp: int
    algorithm: str
    steps: int
    topk: int
    draft_tokens: int
    max_running_requests: int | None
    asks_requests: bool
    context_length: int
    dtype_bytes: int
    kv_bytes: int
    conv_bytes: int
    ssm_bytes: int
    page_size: int
    radix_cache: bool
    overlap: bool
    strategy: Strategy
    skips_decode_lock: bool
    max_mamba_cache_size: int | None
    mamba_full_memory_ratio: float
    max_total_tokens: int | None
    fraction: float
    graphs: Graphs

    @property
    def speculative(self) -> bool:
        return self.algorithm != "none"


def resolve(
    given: Parsed,
    environment: Mapping[str, str],
    target: Target,
    algorithm: str,
    device_mib: float | None,
) -> ServerSettings:
    """device_mib: memory of the smallest GPU as nvidia-smi gives it (of a CPU: of the machine).

    environment: the caller's and what the launch sets beyond it.

    Raises:
        Unplanned: a flag is used that changes how SGLang lays out its memory.
    """
    for name in _UNPLANNED:
        if given.of(name) and (given.value(name) or "on") not in _ONE:
            raise Unplanned(f"with {name} SGLang lays out its memory otherwise: {_NOT}")
    quantization = given.value("--quantization")
    if quantization is not None and (quantization != "fp8" or target.fp8_block is None):
        raise Unplanned(f"with --quantization {quantization} weights are not as stored: {_NOT}")
    on_gpu = (given.value("--device") or "cuda").startswith("cuda")
    speculative = algorithm != "none"
    steps, topk, drafts = _tree(given) if speculative else (0, 0, 0)
    overlap = not given.of("--disable-overlap-schedule")
    if speculative and not on_gpu:
        # _disable_overlap_schedule_for_cpu
        overlap = False
    page_size = given.number("--page-size") or 1
    radix = not given.of("--disable-radix-cache")
    strategy = _strategy(given, overlap, page_size)
    if radix and strategy == "no_buffer" and _asked_strategy(given) == "auto":
        overlap = False
    asked = requests = given.number("--max-running-requests")
    if requests is None and speculative:
        requests = SPECULATIVE_REQUESTS
    dtype = _dtype(given, target)
    chunk = given.number("--chunked-prefill-size") or _default_chunk(device_mib)
    unchunked = (given.value("--chunked-prefill-size") or "").startswith("-")
    tp = given.number("--tp-size") or 1
    # Prefill graphs reach as far as a chunk does; without chunks there are none.
    graphs = _graphs(given, on_gpu, tp, 0 if unchunked else chunk, device_mib)
    if unchunked:
        chunk = given.number("--max-prefill-tokens") or 16384
    fraction = default_fraction(device_mib, tp, chunk, graphs)
    return ServerSettings(
        on_gpu=on_gpu,
        tp=tp,
        algorithm=algorithm,
        steps=steps,
        topk=topk,
        draft_tokens=drafts,
        max_running_requests=requests,
        asks_requests=asked is not None,
        context_length=given.number("--context-length") or target.context_length,
        dtype_bytes=DTYPE_BYTES[dtype],
        kv_bytes=_kv_bytes(given, dtype),
        conv_bytes=DTYPE_BYTES.get(environment.get("SGLANG_MAMBA_CONV_DTYPE", ""), 2),
        ssm_bytes=_ssm_bytes(given, environment, target),
        page_size=page_size,
        radix_cache=radix,
        overlap=overlap,
        strategy=strategy,
        skips_decode_lock=is_on(environment.get("SGLANG_OPT_MAMBA_SKIP_DECODE_LOCK")),
        max_mamba_cache_size=given.number("--max-mamba-cache-size"),
        mamba_full_memory_ratio=_share(given, "--mamba-full-memory-ratio", 0.9, float("inf")),
        max_total_tokens=given.number("--max-total-tokens"),
        fraction=_share(given, "--mem-fraction-static", fraction, 1.0),
        graphs=graphs,
    )


def default_fraction(device_mib: float | None, tp: int, chunk: int, graphs: Graphs) -> float:
    """SGLang's own `--mem-fraction-static`: what it leaves out is for activations (1.5 MiB a token
    of a prefill chunk), graphs and what grows with the ranks; on large GPUs at least 10 GiB."""
    if device_mib is None:
        return 0.88
    reserved = 512 + max(chunk, 2048) * 1.5 + tp / 8 * 1024
    reserved += 2 * (graphs.decode_max or 0) + 8 * graphs.prefills
    if device_mib > 60 * _KIB:
        reserved = max(reserved, 10 * _KIB)
    return round((device_mib - reserved) / device_mib, 3)


def _tree(given: Parsed) -> tuple[int, int, int]:
    steps = given.number("--speculative-num-steps")
    if steps is None:
        # _auto_choose_speculative_params: what any but a few other architectures get.
        return 3, 1, 4
    topk = given.number("--speculative-eagle-topk") or 1
    drafts = given.number("--speculative-num-draft-tokens") or steps + 1
    return steps, topk, steps + 1 if topk == 1 else drafts


def _asked_strategy(given: Parsed) -> str:
    return given.value("--mamba-radix-cache-strategy") or "auto"


def _strategy(given: Parsed, overlap: bool, page_size: int) -> Strategy:
    asked = _asked_strategy(given)
    if asked == "extra_buffer":
        return "extra_buffer"
    if asked == "extra_buffer_lazy":
        return "extra_buffer_lazy"
    if asked == "no_buffer":
        return "no_buffer"
    # The backend of the GDN layers that can keep extra states is the default one.
    own = (given.value("--linear-attn-backend") or "triton") == "triton"
    return "extra_buffer" if own and (overlap or page_size > 1) else "no_buffer"


def _dtype(given: Parsed, target: Target) -> str:
    asked = given.value("--dtype") or "auto"
    if asked != "auto":
        return asked if asked in DTYPE_BYTES else "bfloat16"
    own = str(target.config.get("dtype") or target.config.get("torch_dtype") or "bfloat16")
    # A float32 checkpoint is served in half precision unless it is asked for.
    return own if own in ("bfloat16", "float16") else "float16"


def _kv_bytes(given: Parsed, dtype: str) -> int:
    asked = given.value("--kv-cache-dtype") or "auto"
    if asked == "auto":
        return DTYPE_BYTES[dtype]
    if asked not in DTYPE_BYTES:
        raise Unplanned(f"--kv-cache-dtype {asked} keeps scales beside the cache: {_NOT}")
    return DTYPE_BYTES[asked]


def _ssm_bytes(given: Parsed, environment: Mapping[str, str], target: Target) -> int:
    """By the flag (SGLang hands it on as the variable), the variable, the config, or float32."""
    flag = given.value("--mamba-ssm-dtype")
    asked = (
        flag or environment.get("SGLANG_MAMBA_SSM_DTYPE") or target.config.get("mamba_ssm_dtype")
    )
    return DTYPE_BYTES.get(str(asked), 4)


def _default_chunk(device_mib: float | None) -> int:
    if device_mib is None:
        return 4096
    for below, chunk in ((35, 2048), (60, 4096), (160, 8192)):
        if device_mib < below * _KIB:
            return chunk
    return 16384


def _default_decode_max(device_mib: float | None, tp: int) -> int:
    if device_mib is None:
        return 160
    few, many = next(
        sizes
        for below, sizes in (
            (20, (8, 8)),
            (35, (24, 80)),
            (60, (32, 160)),
            (160, (256, 512)),
            (float("inf"), (512, 512)),
        )
        if device_mib < below * _KIB
    )
    return few if tp < 4 else many


def _graphs(given: Parsed, on_gpu: bool, tp: int, chunk: int, device_mib: float | None) -> Graphs:
    if not on_gpu:
        return Graphs(None, 0)
    everything_off = bool(given.of("--disable-cuda-graph"))
    spelled = _graph_config(given)
    phases = {}
    for phase in ("decode", "prefill"):
        off = everything_off or bool(given.of(f"--disable-{phase}-cuda-graph"))
        # An older name, which sets the backend.
        off |= phase == "prefill" and bool(given.of("--disable-piecewise-cuda-graph"))
        backend = given.value(f"--cuda-graph-backend-{phase}")
        own = spelled.get(phase) or {}
        backend = own.get("backend") or backend or ("disabled" if off else "on")
        sizes = own.get("bs") or [int(n) for n in _numbers(given, f"--cuda-graph-bs-{phase}")]
        most = own.get("max_bs") or given.number(f"--cuda-graph-max-bs-{phase}")
        phases[phase] = backend != "disabled", sizes, most
    decodes, sizes, most = phases["decode"]
    decode_max = max(sizes) if sizes else most or _default_decode_max(device_mib, tp)
    prefills, tokens, longest = phases["prefill"]
    longest = longest or min(chunk, given.number("--max-total-tokens") or chunk)
    count = len(tokens) if tokens else len(_prefill_sizes(longest))
    return Graphs(decode_max if decodes else None, count if prefills else 0)


def _prefill_sizes(most: int) -> list[int]:
    sizes = [
        *range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64),
        *range(1280, 4097, 256), *range(4608, most + 1, 512),
    ]  # fmt: skip
    return [size for size in sizes if size <= most]


def _numbers(given: Parsed, name: str) -> tuple[str, ...]:
    entries = given.of(name)
    return tuple(n for n in entries[-1].values if n.isdecimal()) if entries else ()


def _graph_config(given: Parsed) -> dict[str, Any]:
    """`--cuda-graph-config`. Raises Unplanned: it is none."""
    text = given.value("--cuda-graph-config")
    try:
        found = parse_json(text) if text else {}
        sizes = [n for phase in found.values() if phase for n in phase.get("bs") or []]
        sizes += [phase.get("max_bs") or 0 for phase in found.values() if phase]
    except (ValueError, AttributeError, TypeError):
        found, sizes = None, []
    if not isinstance(found, dict) or not all(type(size) is int for size in sizes):
        raise Unplanned(f"--cuda-graph-config {text!r} is no mapping of phases: no plan")
    return found


def _share(given: Parsed, name: str, default: float, most: float) -> float:
    """A number above 0 and up to `most`. Raises Unplanned: it is none."""
    text = given.value(name)
    try:
        found = float(text) if text is not None else default
    except ValueError:
        found = float("nan")
    if not (0 < found <= most and isfinite(found)):
        raise Unplanned(f"{name} {text!r} is no share of memory: no plan")
    return found
