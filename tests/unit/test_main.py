import subprocess
import sys

import pytest

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.__main__ import VERBS, main


def test_an_error_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "--profile", "b3"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: no profile 'b3'")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert VERBS[verb][1] in capsys.readouterr().out.replace("\n", " ")


def test_the_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip().endswith(__version__)


def test_the_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "launch", "--list"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "b1 " in printed
