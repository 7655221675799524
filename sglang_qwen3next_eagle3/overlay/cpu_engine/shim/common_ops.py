"""Found by sgl_kernel when none of its compiled operator libraries can be loaded.

They are linked against libcuda; on a machine without it `sgl_kernel.load_utils` falls back to
`import common_ops`, and this folder is on the path for that.
"""

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.cpu_engine.ops import register

register(variants.cpu_operators())
