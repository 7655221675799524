"""The environment of a CPU server, in a process that has imported nothing."""

import subprocess
import sys


def test_the_environment_is_known_without_torch_or_sglang():
    script = (
        "import sys; from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT;"
        "assert ENVIRONMENT; print(*{'torch', 'sglang', 'sgl_kernel'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == ""
