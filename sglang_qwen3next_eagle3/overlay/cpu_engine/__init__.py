"""What lets stock SGLang serve Qwen3-Next with EAGLE3 on a machine without a GPU.

SGLang's CPU path expects compiled AMX kernels that its PyPI package does not carry. This package
supplies them as torch operators and replaces the few symbols that assume CUDA or Triton. It serves
small models for tests and demonstrations: the scheduler, the draft worker and the acceptance of
drafts are SGLang's own, the arithmetic is ours and proves nothing about the GPU kernels.

Importing this module loads neither torch nor sglang, so that a launcher can read `ENVIRONMENT`.
"""

from pathlib import Path
from typing import Final

__all__ = ["ENVIRONMENT", "SHIM_DIR", "hooks"]

ENVIRONMENT: Final[dict[str, str]] = {
    # Chooses SGLang's CPU code paths; read once, when its modules are imported.
    "SGLANG_USE_CPU_ENGINE": "1",
    # Compiling a dozen small functions costs minutes on a few cores.
    "TORCH_COMPILE_DISABLE": "1",
    # The default of bfloat16 would round the convolution's state of a float32 model.
    "SGLANG_MAMBA_CONV_DTYPE": "float32",
    # The other way to move accepted tokens' KV is a Triton kernel.
    "SGLANG_NATIVE_MOVE_KV_CACHE": "1",
}
"""What must be in the environment before sglang or torch is imported."""

SHIM_DIR: Final = Path(__file__).parent / "shim"
"""Goes on PYTHONPATH: sgl_kernel finds its operator library there."""
