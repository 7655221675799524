"""What `launch` asks of the doctor, in a process that has imported nothing."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.usefixtures("installed")


def test_what_launch_asks_imports_nothing_heavy() -> None:
    script = """
import sys
from sglang_qwen3next_eagle3.cli import launch
from sglang_qwen3next_eagle3.serving import preflight, profile
from sglang_qwen3next_eagle3.serving.preflight import Options
demo = profile.load("demo")
launch._examine(preflight.plan(demo, Options()), demo)
print(sorted({"torch", "sglang", "transformers", "rich", "huggingface_hub"} & set(sys.modules)))
"""
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == ["[]"]
