"""README says what was measured, and links to what exists."""

import re
from pathlib import Path

import pytest

from tests.support import readme

PAGES = [readme.README, *sorted((readme.ROOT / "docs").glob("*.md"))]


def test_its_tables_are_those_of_the_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.filled(text) == text, "run `make readme`"


def test_a_changed_figure_is_noticed() -> None:
    text = readme.README.read_text(encoding="utf-8")
    (figure,) = re.findall(r"\| 3,4,8 \| ([\d.]+) \|", text)[:1]
    assert readme.filled(text.replace(f"| 3,4,8 | {figure} |", "| 3,4,8 | 1.0 |")) == text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not link.startswith(("http:", "https:")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
