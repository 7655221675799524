"""`train` in a process that has imported nothing."""

import subprocess
import sys


def test_help_and_errors_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sglang_qwen3next_eagle3.__main__ import main\n"
        "status = main(['train', 'run', '--recipe', 'nope'])\n"
        "print(status, sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "2 []"
    assert done.stderr.startswith("error: no recipe 'nope'")
