"""A room uses what the others say that it may use, and one word is one class."""

import ast
from pathlib import Path

import pytest

import sglang_qwen3next_eagle3

ROOT = Path(sglang_qwen3next_eagle3.__file__).parent


def public(room: Path) -> list[str]:
    """`__all__` of a folder, which is not imported."""
    for node in ast.parse((room / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


def reached_past(words: list[str]) -> list[str]:
    """Of a dotted name within the package, each part that the folder it lies in does not list."""
    found, folder = [], ROOT
    for place, word in enumerate(words):
        if place and word not in public(folder):
            found.append(".".join(words[: place + 1]))
        folder /= word
        if not folder.is_dir():
            break
    return found


def imported(module: Path) -> list[list[str]]:
    nodes = ast.walk(ast.parse(module.read_text(encoding="utf-8")))
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return [
        [*str(node.module).split(".")[1:], alias.name]
        for node in froms
        if str(node.module).split(".")[0] == ROOT.name
        for alias in node.names
    ]


# Python's own folder is there once it has compiled a module.
ROOMS = sorted({path.stem for path in ROOT.iterdir() if path.name != "__pycache__"})


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_reaches_into_no_other(room: str) -> None:
    folder = ROOT / room
    modules = folder.rglob("*.py") if folder.is_dir() else [ROOT / f"{room}.py"]
    past = {
        f"{module.relative_to(ROOT)}: {found}"
        for module in modules
        if module.is_file()
        for words in imported(module)
        if words[0] != room
        for found in reached_past(words)
    }
    assert past == set()


def test_what_a_room_lists_is_there() -> None:
    for init in ROOT.rglob("__init__.py"):
        nodes = list(ast.walk(ast.parse(init.read_text(encoding="utf-8"))))
        there = {node.id for node in nodes if isinstance(node, ast.Name)}
        there |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.alias)}
        there |= {path.stem for path in init.parent.iterdir()}
        assert set(public(init.parent)) <= there, init


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for file in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert "Profile" in places
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert twice == {}, "one word, one class: the second takes a noun in front"
