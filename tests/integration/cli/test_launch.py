"""A dry run in a process that has imported nothing."""

import subprocess
import sys


def test_dry_run_imports_neither_torch_nor_sglang() -> None:
    script = (
        "import sys; from sglang_qwen3next_eagle3 import launch;"
        "assert launch.main(['--profile', 'b1', '--dry-run']) == 0;"
        "print(sorted({'torch', 'sglang', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == "[]"
