"""Where the fast path can run: the device, the server's arguments, and how the weights lie.

Every rule gives its reason in words that fit behind "fast path off: ".
"""

import os
from dataclasses import replace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import contract, environment, proofs, variants
from sglang_qwen3next_eagle3.overlay.fast.exclusions import NEWER, SINGLE, SWITCHES, flag
from sglang_qwen3next_eagle3.overlay.fast.proved import PROVED, code
from sglang_qwen3next_eagle3.overlay.fast.stages import RANKS, Stage, Wanted

CAPABILITY = (9, 0)
BLOCK = 128
"""Side of a block of the weights that shares one scale, and the group of an activation's scale."""


class Unsupported(Exception):
    """Why a stage stays with stock."""

    def __init__(self, stage: Stage, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage


def of_device(device: str) -> str | None:
    """Why this device is not the kernels', or None."""
    if not device.startswith("cuda"):
        return f"it runs on NVIDIA GPUs only, this server runs on {device}"
    capability = torch.cuda.get_device_capability()
    if capability != CAPABILITY:
        have, want = (".".join(map(str, version)) for version in (capability, CAPABILITY))
        return f"its kernels are for compute capability {want} (H100, H200), this GPU has {have}"
    return None


def of_server(arguments: Any) -> str | None:
    """Why a server with these arguments (SGLang's `ServerArgs`) cannot have it, or None."""
    if arguments.tp_size not in RANKS:
        wanted = ", ".join(map(str, RANKS))
        return f"it serves with a --tp-size of {wanted}, this one is {arguments.tp_size}"
    for name in SINGLE:
        if getattr(arguments, name) > 1:
            return f"it knows tensor parallelism only, {flag(name)} is {getattr(arguments, name)}"
    for name in SWITCHES:
        if getattr(arguments, name):
            return f"it does not go with {flag(name)}"
    for name in NEWER:
        if getattr(arguments, name, False):
            return f"it does not go with {flag(name)}"
    if getattr(arguments, "startup_weight_load_mode", "serial") != "serial":
        mode = arguments.startup_weight_load_mode
        return f"it is checked with weights that --startup-weight-load-mode {mode} loads later"
    if arguments.moe_a2a_backend != "none":
        return f"it does not go with --moe-a2a-backend {arguments.moe_a2a_backend}"
    return None


def of_proofs(wanted: Wanted, arguments: Any, config: Any) -> tuple[Wanted, str | None]:
    """What is left of `auto` on this GPU, and why nothing is; what was asked for is all wanted.

    arguments: of the server; config: of its target.
    """
    if not wanted.auto:
        return wanted, None
    installed = contract.installed_sglang()
    where = (
        "unknown" if installed is None else installed.release,
        torch.cuda.get_device_capability(),
        arguments.tp_size,
        torch.cuda.get_device_name,
    )
    of: dict[str, Any] = {
        "config": lambda name: getattr(config, name, None),
        "given": proofs.switch_of(arguments),
        "code": code(),
    }
    stages = wanted.stages & proofs.proved(PROVED, *where, **of)
    reason = proofs.why_not(PROVED, *where, **of)
    return replace(wanted, stages=stages), reason


def of_runner(runner: Any) -> str | None:
    """Why this `ModelRunner` of a target cannot have it, or None: model, backends and caches."""
    from sglang.srt.layers.attention.hybrid_linear_attn_backend import HybridLinearAttnBackend
    from sglang.srt.layers.attention.linear.gdn_backend import GDNAttnBackend
    from sglang.srt.layers.attention.triton_backend import TritonAttnBackend
    from sglang.srt.model_executor.cuda_graph_config import Backend, Phase, check_cuda_graph_backend
    from sglang.srt.models.qwen3_next import Qwen3NextForCausalLM

    if type(runner.model) is not Qwen3NextForCausalLM:
        return f"it is for Qwen3-Next, this model is {type(runner.model).__name__}"
    if runner.dtype != torch.bfloat16:
        return f"it computes in bfloat16, --dtype is {str(runner.dtype).removeprefix('torch.')}"
    if not check_cuda_graph_backend(Phase.DECODE, Backend.FULL):
        return "it lives in CUDA graphs of decoding, which are off"
    backend = runner.attn_backend
    if not isinstance(backend, HybridLinearAttnBackend):
        return f"it stands in for one attention backend, this server has {type(backend).__name__}"
    full, linear = backend.full_attn_backend, backend.linear_attn_backend
    if type(full) is not TritonAttnBackend or type(linear) is not GDNAttnBackend:
        return (
            "it stands in for --attention-backend triton, this server has "
            f"{type(full).__name__} and {type(linear).__name__}"
        )
    states = linear.req_to_token_pool.mamba_pool.mamba_cache
    if states.temporal.dtype != torch.float32 or states.conv[0].dtype != torch.bfloat16:
        return "it keeps GDN states in float32 and their convolution's window in bfloat16"
    if full.token_to_kv_pool.dtype != torch.bfloat16:
        return "its attention reads a bfloat16 KV cache"
    return None


def of_drafts(worker: Any) -> str | None:
    """Why this `EagleDraftWorker`'s head cannot have it, or None: backends, caches and choices."""
    from sglang.srt.environ import envs

    arguments, runner = variants.arguments_of(worker), worker.draft_runner
    if arguments.speculative_use_rejection_sampling:
        return f"it does not go with {flag('speculative_use_rejection_sampling')}"
    if arguments.speculative_adaptive and os.environ.get(environment.ADAPTIVE) != "1":
        return f"it does not go with {flag('speculative_adaptive')} by SGLang's own rule"
    if envs.SGLANG_ENABLE_ASYNC_ASSERT.get():
        return "SGLANG_ENABLE_ASYNC_ASSERT looks at rows that it leaves out"
    # What takes its place by and by, a level: 0 is off.
    if envs.SGLANG_INVARIANT_CHECK.get() > 0:
        return "SGLANG_INVARIANT_CHECK looks at rows that it leaves out"
    if runner.canary_manager is not None:
        return "it does not go with a canary of the KV cache"
    return _of_draft_backends(worker)


def _of_draft_backends(worker: Any) -> str | None:
    from sglang.srt.layers.attention.triton_backend import (
        TritonAttnBackend,
        TritonMultiStepDraftBackend,
    )
    from sglang.srt.model_executor.cuda_graph_config import Backend, Phase, check_cuda_graph_backend

    runner = worker.draft_runner
    if not check_cuda_graph_backend(Phase.DECODE, Backend.FULL):
        return "it lives in CUDA graphs of decoding, which are off"
    extend, steps = worker.draft_extend_attn_backend, worker.draft_attn_backend
    if type(extend) is not TritonAttnBackend or (
        worker.speculative_num_steps > 1 and type(steps) is not TritonMultiStepDraftBackend
    ):
        return (
            "it stands in for --attention-backend triton, the head has "
            f"{type(extend).__name__} and {type(steps).__name__}"
        )
    if runner.dtype != torch.bfloat16 or runner.token_to_kv_pool.dtype != torch.bfloat16:
        return "the head computes and keeps its keys and values in bfloat16"
    return None


def weight_of(module: Any, stage: Stage) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`block_scaled` of a linear layer. Raises Unsupported, also if it has a bias."""
    if getattr(module, "bias", None) is not None:
        raise Unsupported(stage, "a projection has a bias")
    weight = getattr(module, "weight", None)
    return block_scaled(weight, getattr(module, "weight_scale_inv", None), stage)


def block_scaled(
    weight: torch.Tensor | None, scale: torch.Tensor | None, stage: Stage
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A weight [..., N, K] in e4m3 with its fp32 scales [..., N / 128, K / 128], or in bf16 and
    None, checked. Raises Unsupported, also where there is none, as with other quantizations.
    """
    if not isinstance(weight, torch.Tensor):
        raise Unsupported(stage, "a layer has no weights in bfloat16 or FP8")
    weight = weight.data
    if weight.dtype == torch.bfloat16 and weight.is_contiguous():
        return weight, None
    if weight.dtype != torch.float8_e4m3fn or scale is None or scale.dtype != torch.float32:
        raise Unsupported(stage, "weights are neither bfloat16 nor FP8 with float32 scales")
    rows, columns = weight.shape[-2:]
    blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
    if tuple(scale.shape[-2:]) != blocks or not weight.is_contiguous():
        raise Unsupported(stage, f"FP8 weights are not in blocks of {BLOCK} x {BLOCK}")
    return weight, scale.data


def full_precision(processor: Any) -> bool:
    """Whether a `LogitsProcessor` makes logits otherwise than as a product in bfloat16."""
    names = ("use_fp32_lm_head", "use_fp32_lm_head_output")
    wider = any(getattr(processor, name, False) for name in names)
    return wider or processor.rl_on_policy_target is not None
