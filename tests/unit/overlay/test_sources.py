"""What changes the digest of what is proved, and what does not."""

import ast
import copy
from collections.abc import Callable
from pathlib import Path

import pytest

import sglang_qwen3next_eagle3
from sglang_qwen3next_eagle3.overlay import sources
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams

PACKAGE = Path(sglang_qwen3next_eagle3.__file__).parent
SOURCE = '''"""What it is."""
import logging
logger = logging.getLogger(__name__)
ROWS = 8  # of a pass
"""Rows."""
def kernel(x, ROWS: int):
    """x: [T]."""
    # A comment.
    logger.info("launched with %d", ROWS)
    return x + 1 if ROWS else (x,)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "one.py").write_text(SOURCE)
    (tmp_path / "table.py").write_text("NAMES = 1\n")
    return tmp_path


def code_of(folder: Path) -> str | None:
    return sources.digest(folder, frozenset({"table"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("What it is", "What else it is"),
        lambda text: text.replace("# A comment.", "# Another one,\n    # of two lines."),
        lambda text: text.replace('"""Rows."""\n', ""),
        lambda text: text.replace("launched with", "has launched"),
        lambda text: text.replace("x + 1", "(x  +  1)"),
    ],
)
def test_words_are_no_part_of_it(folder: Path, change: Callable[[str], str]) -> None:
    before = code_of(folder)
    assert change(SOURCE) != SOURCE
    (folder / "kernels" / "one.py").write_text(change(SOURCE))
    (folder / "table.py").write_text("NAMES = 2\n")
    assert code_of(folder) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("ROWS = 8", "ROWS = 16"),
        lambda text: text.replace("x + 1", "x - 1"),
        lambda text: text.replace("x + 1", "x + 1.0"),
        lambda text: text.replace("ROWS: int", "ROWS: float"),
        lambda text: text.replace("(x,)", "[x]"),
        lambda text: text.replace('logger.info("launched with %d", ROWS)', "x += 1"),
    ],
)
def test_what_computes_is(folder: Path, change: Callable[[str], str]) -> None:
    before = code_of(folder)
    (folder / "kernels" / "one.py").write_text(change(SOURCE))
    assert code_of(folder) != before


def test_an_f_string_that_one_python_cuts_is_that_of_the_others() -> None:
    whole = ast.parse('f"{{a {x!r:>{n}} b"', mode="eval")
    cut = copy.deepcopy(whole)
    assert isinstance(cut.body, ast.JoinedStr)
    cut.body.values[:1] = [ast.Constant("{"), ast.Constant("a ")]
    assert "".join(sources._told(cut)) == "".join(sources._told(whole))
    other = ast.parse('f"{{a {x!r:>{m}} b"', mode="eval")
    assert "".join(sources._told(other)) != "".join(sources._told(whole))


def test_a_module_that_is_new_or_has_another_name_counts(folder: Path) -> None:
    found = [code_of(folder)]
    (folder / "new.py").write_text("")
    found.append(code_of(folder))
    (folder / "new.py").rename(folder / "kernels" / "new.py")
    found.append(code_of(folder))
    assert len(set(found)) == 3


def test_without_source_there_is_none(folder: Path) -> None:
    for path in folder.rglob("*.py"):
        path.rename(path.with_suffix(".pyc"))
    assert code_of(folder) is None


@pytest.mark.parametrize(("folder_name", "table"), [("fast", of_fast), ("seams", of_seams)])
def test_what_is_left_out_is_there_and_the_kernels_are_not(folder_name: str, table: object) -> None:
    """A module that was moved or has another name would be left out no more, or none would be."""
    apart = getattr(table, "APART")  # noqa: B009
    folder = PACKAGE / "overlay" / folder_name
    assert all((folder / f"{name}.py").is_file() for name in apart)
    computing = {
        path.relative_to(folder).with_suffix("").as_posix()
        for path in folder.rglob("*.py")
        if "triton.jit" in path.read_text(encoding="utf-8")
    }
    assert len(computing) > 1
    assert not computing & apart
