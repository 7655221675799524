"""A key in a file, and the list of processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import key_files
from tests.support.key_files import KEY


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    return key_files.written(tmp_path, monkeypatch)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ps_shows_no_key_of_a_file(files: tuple[str, str]) -> None:
    code = (
        "import sys; from types import SimpleNamespace as S\n"
        "from sglang_qwen3next_eagle3 import plugin as p\n"
        "sys.modules['__main__'].__spec__ = S(name=p.SERVER_MODULE)\n"
        "p._hook_fast = p._hook_capture = print; p.register()\n"
        "print('has', sys.argv[-1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, f"{KEY}_FILE": files[0]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        printed = next(line for line in started.stdout if line.startswith("has "))
        shown = Path(f"/proc/{started.pid}/cmdline").read_text()
        around = Path(f"/proc/{started.pid}/environ").read_text()
        started.communicate("")
    assert printed == "has --api-key=s3cret\n"
    assert "s3cret" not in shown + around
