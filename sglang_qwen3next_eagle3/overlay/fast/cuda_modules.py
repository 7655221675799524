"""SGLang's own CUDA kernels that the check at start meets, compiled side by side.

SGLang 0.5.17 has nvcc compile them where they are first called, one after the other, some 10 s
each. Here its own functions that do so are called at once, in threads; nothing is launched. What a
release calls otherwise is compiled where it is called, as without this.
"""

import importlib
import logging
import os
import threading
from typing import Any, Final

import torch

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
    given = os.environ.get(_ARCH)
    try:
        utils = importlib.import_module("sglang.kernels.jit.utils")
        os.environ[_ARCH] = utils.get_jit_cuda_arch().target_name
        threads = [threading.Thread(target=_build, args=one) for one in builds(model)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except Exception as error:
        logger.debug("nothing of SGLang's is compiled ahead", exc_info=error)
    finally:
        os.environ.pop(_ARCH, None)
        if given is not None:
            os.environ[_ARCH] = given


def builds(model: Any) -> list[Build]:
    """(module, function, arguments) of SGLang's that compile what a target launches."""
    bf16, fp8 = torch.bfloat16, torch.float8_e4m3fn
    full = next(layer for layer in model.model.layers if not hasattr(layer, "linear_attn"))
    rotary, row = full.rotary_emb, 2 * full.kv_size
    found: list[Build] = [
        (f"{_OPS}.activation.activation", "activation_module", (bf16,)),
        (f"{_OPS}.moe.moe_align", "_jit_moe_align_module", (torch.int32,)),
        (f"{_OPS}.moe.moe_align_single_token", "_jit_align_single_token_module", ()),
        (f"{_OPS}.kvcache.kvcache", "_jit_kvcache_module", (row, row)),
        (
            f"{_OPS}.attention.rope",
            "_jit_fused_rope_module",
            (bool(rotary.is_neox_style), int(rotary.rotary_dim), bf16, bf16),
        ),
    ]
    if any(parameter.dtype == fp8 for parameter in model.parameters()):
        on = bool(importlib.import_module("sglang.kernels.jit.utils").is_arch_support_pdl())
        for rows_first in (True, False):
            layout = bf16, fp8, 128, False, rows_first, True, False, False, on
            found.append((f"{_OPS}.quantization.per_token_group_quant", "_jit_module", layout))
    return found


def _build(module: str, function: str, arguments: tuple[Any, ...]) -> None:
    try:
        getattr(importlib.import_module(module), function)(*arguments)
    except Exception as error:
        logger.debug("%s.%s is not compiled ahead", module, function, exc_info=error)
