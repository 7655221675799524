""".ci/run: what it could not test for want of a tool is said, it fails as what it runs does, and
what it installed leaves the disk before more is installed.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, tools: list[str], does: str) -> tuple[int, str]:
    """In a clone whose `make` does this, where these tools alone are there."""
    commands = folder / "commands"
    commands.mkdir()
    for name in ("bash", "dirname", "mkdir", "rm"):
        (commands / name).symlink_to(str(shutil.which(name)))
    for name in tools:
        (commands / name).symlink_to("/bin/true")
    (commands / "make").write_text(f"#!{commands}/bash\n{does}\n")
    (commands / "make").chmod(0o755)
    script = folder / "clone" / ".ci" / "run"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", script)
    done = subprocess.run(
        [str(commands / "bash"), str(script)],
        env={**os.environ, "PATH": str(commands)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1]


def test_every_tool_that_a_test_is_skipped_without_is_named() -> None:
    """Those by hand on a GPU aside, which are no part of what .ci/run runs."""
    folder = ROOT / "tests"
    files = [path for path in folder.rglob("*.py") if folder / "gpu" not in path.parents]
    text = "".join(path.read_text() for path in files)
    asked = set(re.findall(r'shutil\.which\("([^"]+)"\)', text))
    tools = re.search(r'^tools="(.*)"$', (ROOT / ".ci" / "run").read_text(), re.M)
    assert tools is not None
    assert set(tools[1].split()) == asked


@pytest.mark.parametrize(
    ("tools", "missing"),
    [
        (["promtool", "kubectl"], "prometheus systemd-analyze"),
        (["prometheus", "promtool", "kubectl", "systemd-analyze"], "none"),
    ],
)
@pytest.mark.parametrize("status", [0, 2])
def test_what_is_missing_is_the_last_line(
    tmp_path: Path, tools: list[str], missing: str, status: int
) -> None:
    said = f"tests skipped for want of a tool: {missing}"
    assert run(tmp_path, tools, f"exit {status}") == (status, said)


# As the Makefile: the release's environment is made if it is not there. One at a time is what fits.
MAKES = r"""
asked="$*"
environment=.venv
if [[ "$asked" == *SGLANG=* ]]; then environment=.venv-${asked##*SGLANG=}; fi
mkdir -p "$environment"
if [[ -e .venv && -e .venv-0.5.23 ]]; then exit 28; fi
"""


def test_one_environment_at_a_time_and_none_is_left(tmp_path: Path) -> None:
    assert run(tmp_path, [], MAKES)[0] == 0
    assert not list((tmp_path / "clone").glob(".venv*"))


def test_an_environment_that_was_there_stays(tmp_path: Path) -> None:
    kept = tmp_path / "clone" / ".venv-0.5.23" / "bin"
    kept.mkdir(parents=True)
    assert run(tmp_path, [], "exit 0")[0] == 0
    assert kept.exists()


def test_what_make_runs_may_keep_what_python_compiled(tmp_path: Path) -> None:
    """Packages are installed without it: each process would compile SGLang again otherwise."""
    rules = tmp_path / "rules"
    rules.write_text(f"include {ROOT / 'Makefile'}\nshow:\n\t@env\n")
    done = subprocess.run(
        ["make", "-f", str(rules), "show"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PATH=" in done.stdout
    assert "PYTHONDONTWRITEBYTECODE" not in done.stdout
