"""The image's wheel, built from what the Dockerfile copies and nothing else."""

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = {".yaml", ".toml", ".json"}


def copied(dockerfile: str) -> list[str]:
    """The sources that the stage of the wheel copies."""
    stage = dockerfile.split("AS wheel")[1].split("\nFROM ")[0]
    return [word for line in re.findall(r"^COPY (.*)$", stage, re.M) for word in line.split()[:-1]]


def ignored(path: Path, patterns: Sequence[str]) -> bool:
    """Whether .dockerignore keeps a file from the builder: by itself, or a folder above it."""
    names = [str(path), *map(str, path.parents)]
    return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in patterns)


def copy(source: Path, to: Path, patterns: Sequence[str]) -> None:
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    for file in files:
        relative = file.relative_to(ROOT)
        if "__pycache__" in file.parts or ignored(relative, patterns):
            continue
        (to / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, to / relative)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image")
    patterns = (ROOT / ".dockerignore").read_text().split()
    for source in copied((ROOT / "Dockerfile").read_text()):
        copy(ROOT / source, folder / "src", patterns)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=folder / "src", capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_it_builds_and_carries_all_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("sglang_qwen3next_eagle3/") for name in names}
    for folder, data in (("launch", "launch"), ("patches", "patches"), ("benchmarks", "")):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "results" not in path.parts and path.suffix in DATA:
                base = ROOT / folder if data else ROOT / "benchmarks"
                assert f"data/{data}/{path.relative_to(base)}".replace("//", "/") in inside
    assert {"demo/target/model.safetensors", "demo/head/model.safetensors"} <= inside
    assert not any("benchmarks/results" in name or name.startswith("tests") for name in names)


def test_it_launches_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for words in (["launch", "--list"], ["launch", "--profile", "demo", "--dry-run"]):
        done = subprocess.run(
            [sys.executable, "-m", "sglang_qwen3next_eagle3", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout, "the demo pair of the wheel"
