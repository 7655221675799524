"""The SGLang symbols that the CPU engine replaces, and the switch that turns it on."""

import copy
import os
import signal
from collections.abc import Callable, Collection
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.cpu_engine import (
    ENVIRONMENT,
    SHIM_DIR,
    conv,
    grammar,
    norms,
    sampling,
    states,
)
from sglang_qwen3next_eagle3.overlay.hooks import Hook, apply


def activate(targets: Collection[str]) -> None:
    """Turn the CPU engine on in this process.

    targets: of the hooks below, those of the installed release.

    Raises:
        SystemExit: the environment is not the one that SGLang's modules had to be imported under,
            or sgl_kernel loaded another operator library than ours.
    """
    for name, value in ENVIRONMENT.items():
        if os.environ.get(name) != value:
            raise SystemExit(f"the CPU engine needs {name}={value} in the environment")
    import sgl_kernel  # noqa: F401  loads the operator library

    operators = variants.cpu_operators().items()
    if any(getattr(torch.ops.sgl_kernel, name, None) is not op for name, op in operators):
        raise SystemExit(
            f"the CPU engine's operators are not loaded: put {SHIM_DIR} on PYTHONPATH; "
            "on a machine with a CUDA driver the CPU engine does not run"
        )
    apply(hook for hook in HOOKS if hook.target in targets)


def _yes() -> bool:
    return True


class _PlatformWithAmx:
    """SGLang's facts about this machine, but for one."""

    has_amx = True

    def __init__(self, platform: Any) -> None:
        self._platform = platform

    def __getattr__(self, name: str) -> Any:
        return getattr(self._platform, name)


def _with_amx(original: Callable[[], Any]) -> _PlatformWithAmx:
    return _PlatformWithAmx(original())


def _nothing(*_: Any) -> None:
    return None


def _extend_with_metadata_lengths(
    original: Callable[..., Any], backend: Any, q: Any, k: Any, v: Any, layer: Any,
    forward_batch: Any, *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    seq_lens = backend.extend_metadata[0]
    batch = _with_lengths(forward_batch, seq_lens)
    return original(backend, q, k, v, layer, batch, *args, **kwargs)


def _decode_with_metadata_lengths(
    original: Callable[..., Any], backend: Any, q: Any, k: Any, v: Any, layer: Any,
    forward_batch: Any, *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    if backend.draft_decode_metadata is not None:
        _, seq_lens, _ = backend.draft_decode_metadata
        forward_batch = _with_lengths(forward_batch, seq_lens)
    return original(backend, q, k, v, layer, forward_batch, *args, **kwargs)


def _with_lengths(forward_batch: Any, seq_lens: torch.Tensor) -> Any:
    # A copy, because later layers and the scheduler read the batch's own lengths.
    changed = copy.copy(forward_batch)
    changed.seq_lens = seq_lens
    return changed


class _CudaMeansCpu(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")) == "cuda":
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def _allocate_on_cpu(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with _CudaMeansCpu():
        return original(*args, **kwargs)


def _build_on_cpu(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with patch.object(torch, "get_device_module", lambda *_: torch.cpu):
        return original(*args, **kwargs)


def _fork(original: Callable[..., None], server_args: Any) -> None:
    original(server_args)
    torch.multiprocessing.set_start_method("fork", force=True)
    # A child that was spawned would have none of this process's handlers either.
    os.register_at_fork(after_in_child=_forget_handlers)


def _forget_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


_AMX_BACKEND = "sglang.srt.layers.attention.intel_amx_backend:IntelAMXAttnBackend"
_STATE_SCATTER = "sglang.kernels.ops.mamba.mamba_state_scatter_triton"
_MEMORY_POOL = "sglang.srt.mem_cache.memory_pool"
_EAGLE = "sglang.srt.speculative.eagle_utils"
_XGRAMMAR = "sglang.srt.constrained.xgrammar_backend"

HOOKS: tuple[Hook, ...] = (
    Hook(
        "sglang.srt.entrypoints.engine:_set_envs_and_config",
        _fork,
        "It has the scheduler and the detokenizer start from nothing, since CUDA has to; each then "
        "imports for ten seconds what this process has imported.",
    ),
    Hook(
        "sglang.srt.arg_groups.overrides:cpu_has_amx_support",
        _yes,
        "Without AMX the server drops the intel_amx backend, the only one on CPU that verifies "
        "drafts; elsewhere the answer stays no, since yes turns on weight packing.",
        "replace",
    ),
    Hook(
        "sglang.srt.arg_groups.overrides:get_platform",
        _with_amx,
        "The same question, as 0.5.23 asks it.",
    ),
    Hook(
        "sglang.srt.speculative.draft_utils:cpu_has_amx_support",
        _yes,
        "Without AMX the draft of a hybrid model would get FlashAttention 3.",
        "replace",
    ),
    Hook(
        f"{_AMX_BACKEND}.forward_extend",
        _extend_with_metadata_lengths,
        "It computes the lengths that count the draft tokens, and then reads the batch's without.",
    ),
    Hook(
        f"{_AMX_BACKEND}.forward_decode",
        _decode_with_metadata_lengths,
        "It computes the lengths of each branch of the draft, and then reads the batch's.",
    ),
    Hook(
        "sglang.srt.layers.attention.linear.gdn_backend:causal_conv1d_update",
        conv.decode_or_verify,
        "The CPU wrapper in sgl_kernel takes no arguments for verification.",
        "replace",
    ),
    Hook(
        "sglang.srt.models.qwen3_next:Qwen3GatedDeltaNet.__init__",
        _build_on_cpu,
        "It asks torch for the machine's device, which from torch 2.12 on is CUDA without a GPU.",
    ),
    Hook(
        "sglang.kernels.ops.attention.fla.fused_norm_gate:FusedRMSNormGated.forward",
        norms.gated_rms_norm,
        "It is a Triton kernel unless the CPU has AMX.",
        "replace",
    ),
    Hook(
        "sglang.srt.models.qwen2_moe:fused_gate_sigmoid_mul_add",
        norms.add_gated_shared_expert,
        "It is a Triton kernel; Qwen3-Next shares this block with Qwen2-MoE.",
        "replace",
    ),
    Hook(
        f"{_STATE_SCATTER}:fused_mamba_state_scatter_with_mask",
        states.commit_accepted,
        "It is a Triton kernel and refuses CPU tensors.",
        "replace",
    ),
    Hook(
        f"{_STATE_SCATTER}:fused_conv_window_scatter_with_mask",
        states.commit_accepted,
        "It is a Triton kernel and refuses CPU tensors.",
        "replace",
    ),
    Hook(
        f"{_MEMORY_POOL}:MambaPool.__init__",
        _allocate_on_cpu,
        'It allocates the buffers of verification with device="cuda", whatever its own device is.',
    ),
    Hook(
        f"{_MEMORY_POOL}:MHATokenToKVPool._init_kv_copy_and_warmup",
        _nothing,
        "It warms up a Triton kernel that SGLANG_NATIVE_MOVE_KV_CACHE leaves unused.",
        "replace",
    ),
    Hook(
        f"{_XGRAMMAR}:_allocate_token_bitmask",
        grammar.allocate,
        "It pins memory, which needs CUDA.",
        "replace",
    ),
    Hook(
        f"{_XGRAMMAR}:XGrammarGrammar.apply_vocab_mask",
        grammar.apply_mask,
        "It knows no CPU tensors.",
        "replace",
    ),
    Hook(
        f"{_XGRAMMAR}:XGrammarGrammarBackend.apply_vocab_mask",
        grammar.mask_logits,
        "It knows no CPU tensors.",
        "replace",
    ),
    Hook(
        "sglang.srt.speculative.eagle_worker_common:eagle_sample",
        sampling.sample_or_verify,
        "On a CPU it verifies greedily, whatever temperature is asked for.",
    ),
    Hook(
        "sgl_kernel:top_k_renorm_prob",
        sampling.top_k_renorm_prob,
        "It is a CUDA operator.",
        "replace",
    ),
    Hook(
        "sgl_kernel:top_p_renorm_prob",
        sampling.top_p_renorm_prob,
        "It is a CUDA operator.",
        "replace",
    ),
    Hook(
        "sgl_kernel:tree_speculative_sampling_target_only",
        sampling.verify_by_sampling,
        "It is a CUDA operator.",
        "replace",
    ),
    Hook(
        f"{_EAGLE}:top_k_renorm_prob",
        sampling.top_k_renorm_prob,
        "It is a CUDA operator, no longer in sgl_kernel (0.5.23).",
        "replace",
    ),
    Hook(
        f"{_EAGLE}:top_p_renorm_prob",
        sampling.top_p_renorm_prob,
        "It is a CUDA operator, no longer in sgl_kernel (0.5.23).",
        "replace",
    ),
    Hook(
        f"{_EAGLE}:tree_speculative_sampling_target_only",
        sampling.verify_by_sampling,
        "It is a CUDA operator, no longer in sgl_kernel (0.5.23).",
        "replace",
    ),
    Hook(
        "sglang.kernels.ops.sampling.murmur_hash:murmur_hash32",
        sampling.murmur_hash32,
        "It is a Triton kernel; verification takes its seeded numbers from it.",
        "replace",
    ),
    Hook(
        "sglang.srt.layers.sampler:murmur_hash32",
        sampling.murmur_hash32,
        "It is a Triton kernel; sampling without drafts takes its seeded numbers from it.",
        "replace",
    ),
    Hook(
        "sglang.srt.layers.sampler:top_k_top_p_min_p_sampling_from_probs_torch",
        sampling.sample_with_min_p,
        "It refuses min_p together with seeds.",
    ),
    Hook(
        "sglang.srt.sampling.sampling_batch_info:SamplingBatchInfo.from_schedule_batch",
        sampling.seeded,
        "It takes a request's seed only with deterministic inference.",
    ),
)
