"""Whether a machine and a command make a server that serves well, and what its memory allows."""

from sglang_qwen3next_eagle3.serving.doctor.examine import (
    Report,
    before_the_launch,
    of_machine,
    of_profile,
)
from sglang_qwen3next_eagle3.serving.doctor.host import has_gpu
from sglang_qwen3next_eagle3.serving.doctor.report import as_data, show

__all__ = ["Report", "as_data", "before_the_launch", "has_gpu", "of_machine", "of_profile", "show"]
