"""SGLang's own CUDA kernels that a start meets, or its first request, compiled side by side.

SGLang 0.5.17 has nvcc compile them where they are first called, one after the other, some 10 s
each. Here its own functions that do so are called at once, in threads; nothing is launched. What a
release calls otherwise is compiled where it is called, as without this.
"""

import importlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch

from sglang_qwen3next_eagle3.overlay import served_head

logger = logging.getLogger(__name__)
_OPS: Final = "sglang.kernels.ops"
_ARCH: Final = "TVM_FFI_CUDA_ARCH_LIST"
"""SGLang sets it while it compiles and puts it back, which several threads would do in between one
another: so it is there meanwhile."""
Build = tuple[str, str, tuple[Any, ...]]


def compile_side_by_side(model: torch.nn.Module) -> None:
    """SGLang's kernels of a target, all at once; they are there behind it. Nothing else calls them
    meanwhile: who finds a half-written library would load it."""
    if not torch.cuda.is_available():
        return
    given, started = os.environ.get(_ARCH), time.monotonic()
    try:
        utils = importlib.import_module("sglang.kernels.jit.utils")
        os.environ[_ARCH] = utils.get_jit_cuda_arch().target_name
        wanted = builds(model)
        with ThreadPoolExecutor(len(wanted), thread_name_prefix="build") as pool:
            built = sum(pool.map(_build, wanted))
        logger.info(
            "sglang-qwen3next-eagle3: fast path: %d of %d CUDA kernels of SGLang's made ready in "
            "%.1f s",
            built,
            len(wanted),
            time.monotonic() - started,
        )
    except Exception as error:
        logger.debug("nothing of SGLang's is compiled ahead", exc_info=error)
    finally:
        os.environ.pop(_ARCH, None)
        if given is not None:
            os.environ[_ARCH] = given


def build_sampling_meanwhile(server_args: Any) -> threading.Thread | None:
    """Begin to build FlashInfer's sampling, which else the first sampled request has nvcc compile
    and waits for. Nobody waits here: a file's lock, FlashInfer's own, makes who calls it earlier
    wait until it is there. None where it is there, or another backend samples."""
    if getattr(server_args, "sampling_backend", None) != "flashinfer":
        return None
    try:
        spec = importlib.import_module("flashinfer.jit.sampling").gen_sampling_module()
        if spec.is_aot or spec.is_compiled:
            return None
    except Exception as error:
        logger.debug("FlashInfer's sampling is not built ahead", exc_info=error)
        return None
    thread = threading.Thread(target=_build_sampling, args=(spec,), name="sampling", daemon=True)
    thread.start()
    return thread


def _build_sampling(spec: Any) -> None:
    started = time.monotonic()
    try:
        spec.build(False)
    except Exception as error:
        logger.debug("FlashInfer's sampling is built at its first request", exc_info=error)
        return
    logger.info(
        "sglang-qwen3next-eagle3: fast path: FlashInfer's sampling made ready in %.1f s",
        time.monotonic() - started,
    )


def builds(model: Any) -> list[Build]:
    """(module, function, arguments) of SGLang's that compile what a target launches, and its head's
    check behind it."""
    bf16, fp8 = torch.bfloat16, torch.float8_e4m3fn
    full = next(layer for layer in model.model.layers if not hasattr(layer, "linear_attn"))
    rotary = bool(full.rotary_emb.is_neox_style), int(full.rotary_emb.rotary_dim)
    rotaries, rows = [rotary], [2 * full.kv_size]
    if full.num_kv_heads == full.total_num_kv_heads and (beside := _of_served_head()):
        more, row = beside
        rotaries += [more] * (more not in rotaries)
        rows += [row] * (row not in rows)
    found: list[Build] = [
        (f"{_OPS}.activation.activation", "activation_module", (bf16,)),
        (f"{_OPS}.attention.clamp_position", "_jit_clamp_position_module", (torch.int64,)),
        *((f"{_OPS}.kvcache.kvcache", "_jit_kvcache_module", (row, row)) for row in rows),
        *(
            (f"{_OPS}.attention.rope", "_jit_fused_rope_module", (*rotary, bf16, bf16))
            for rotary in rotaries
        ),
    ]
    if any(parameter.dtype == fp8 for parameter in model.parameters()):
        on = bool(importlib.import_module("sglang.kernels.jit.utils").is_arch_support_pdl())
        for rows_first in (True, False):
            layout = bf16, fp8, 128, False, rows_first, True, False, False, on
            found.append((f"{_OPS}.quantization.per_token_group_quant", "_jit_module", layout))
    return found


def _of_served_head() -> tuple[tuple[bool, int], int] | None:
    try:
        config = served_head.config()
        return None if config is None else of_head(config)
    except Exception as error:
        logger.debug("nothing is compiled ahead for the head", exc_info=error)
        return None


def of_head(config: Mapping[str, Any]) -> tuple[tuple[bool, int], int]:
    """Of an EAGLE3 head's config, as SGLang's `LlamaAttention` reads it: whether pairs of its
    rotary embedding are halves apart, and of how many dimensions; the bytes of a key in bfloat16.

    Raises:
        KeyError: its number of heads is not there.
    """
    heads = config["num_attention_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    rotary = int(config.get("partial_rotary_factor", 1) * size)
    kv_heads = config.get("num_key_value_heads") or heads
    return (bool(config.get("rope_is_neox_style", True)), rotary), 2 * kv_heads * size


def _build(one: Build) -> bool:
    module, function, arguments = one
    try:
        getattr(importlib.import_module(module), function)(*arguments)
    except Exception as error:
        logger.debug("%s.%s is not compiled ahead", module, function, exc_info=error)
        return False
    return True
