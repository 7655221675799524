""".ci/run: what it could not test for want of a tool is said, and it fails as what it runs does."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, tools: list[str], status: int) -> tuple[int, str]:
    """In a clone with a `make` that does nothing, where these tools alone are there."""
    for name in ("bash", "dirname"):
        (folder / name).symlink_to(str(shutil.which(name)))
    for name in tools:
        (folder / name).symlink_to("/bin/true")
    (folder / "make").write_text(f"#!{folder}/bash\nexit {status}\n")
    (folder / "make").chmod(0o755)
    done = subprocess.run(
        [str(folder / "bash"), str(ROOT / ".ci" / "run")],
        env={**os.environ, "PATH": str(folder)},
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
    assert run(tmp_path, tools, status) == (status, f"tests skipped for want of a tool: {missing}")
