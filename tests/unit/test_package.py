"""What the distribution promises, read from the files that promise it."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import __version__, plugin
from sglang_qwen3next_eagle3.base import files
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.train.trainer import specforge

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_serve_admits_only_releases_with_a_manifest(pyproject: dict[str, Any]) -> None:
    (requirement,) = pyproject["project"]["optional-dependencies"]["serve"]
    release = re.fullmatch(r"sglang==(\S+)", requirement)
    assert release is not None
    assert release[1] in contract.known_releases()


def test_the_plugin_s_entry_point_is_the_one_the_launcher_looks_for(
    pyproject: dict[str, Any],
) -> None:
    points = pyproject["project"]["entry-points"]["sglang.srt.plugins"]
    assert points == {plugin.NAME: f"{plugin.__name__}:{plugin.register.__name__}"}


def test_the_versions_agree(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["version"] == __version__
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_all_data_is_packaged(pyproject: dict[str, Any]) -> None:
    included = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert {"launch", "patches", "benchmarks/suites"} <= set(included)
    assert {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("*.yaml")} <= set(
        included
    )
    for source, place in included.items():
        name = Path(source).name
        assert place == f"sglang_qwen3next_eagle3/data/{name}"
        find = files.data_dir if (ROOT / source).is_dir() else files.data_file
        assert find(name) == ROOT / source


def test_an_absent_data_folder_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="reinstall"):
        files.data_dir("nothing")
    with pytest.raises(FileNotFoundError, match="reinstall"):
        files.data_file("nothing.yaml")


def test_the_trainer_is_the_one_with_a_manifest() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"specforge=={specforge.RELEASE}" in pins
    assert specforge.read_manifest().release == specforge.RELEASE


@pytest.mark.parametrize(
    ("file", "some"),
    [
        ("constraints.txt", {"sglang", "torch", "transformers", "ruff", "mypy", "pytest"}),
        ("constraints-0.5.23.txt", {"sglang", "torch", "transformers", "pytest"}),
    ],
)
def test_constraints_pin_everything_without_addresses(file: str, some: set[str]) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 100
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", pin) for pin in pins)
    names = [pin.split("==")[0].lower() for pin in pins]
    assert names == sorted(names)
    assert some <= set(names)


def test_releases_are_named_alike_wherever_they_are_chosen() -> None:
    """`[serve]` and the Makefile name one default; CI tests every release that has a manifest."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"DEFAULT := {contract.DEFAULT_RELEASE}\n" in makefile
    assert f'serve = ["sglang=={contract.DEFAULT_RELEASE}"]' in project
    for release in contract.known_releases():
        default = release == contract.DEFAULT_RELEASE
        constraints = "constraints.txt" if default else f"constraints-{release}.txt"
        pins = (ROOT / constraints).read_text(encoding="utf-8").splitlines()
        assert f"sglang=={release}" in pins
        assert ("make test" if default else f"make test SGLANG={release}") in ci.splitlines()
        looked_at = "make lint" if default else f"make licences SGLANG={release} >/dev/null"
        assert looked_at in ci.splitlines()


def test_training_is_refused_beside_another_release() -> None:
    for release in {*contract.known_releases()} - {contract.DEFAULT_RELEASE}:
        words = ["make", "--dry-run", "train-env", f"SGLANG={release}"]
        own = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=own)
        assert done.returncode == 2
        told = f"SGLANG={release}: training runs beside SGLang {contract.DEFAULT_RELEASE} only"
        (line,) = done.stderr.splitlines()
        assert told in line
        assert "leave SGLANG out" in line


OF_A_MACHINE = re.compile(r"(?<![\w.~-])/(work|root|home)/[\w.-]+")
"""A path of the machine that something was made on. Not within a longer path or an address."""
MADE_UP = {
    "/root/.cache",  # In the image, whose user is root.
    "/home/somebody",
}


def test_no_file_holds_a_path_of_the_machine_it_was_made_on() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a clone")
    names = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    assert "README.md" in names
    found = {}
    for name in names:
        content = (ROOT / name).read_bytes()
        if b"\0" in content:
            continue  # No text.
        text = content.decode(errors="replace")
        paths = {path[0] for path in OF_A_MACHINE.finditer(text)} - MADE_UP
        if paths:
            found[name] = paths
    assert found == {}
