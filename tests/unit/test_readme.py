"""README says what was measured, and links to what exists."""

import re
from pathlib import Path

import pytest

from tests.support import readme

FOLDERS = ("docs", "benchmarks", "deploy", "examples", "sglang_qwen3next_eagle3")
PAGES = [
    *sorted(readme.ROOT.glob("*.md")),
    *(page for folder in FOLDERS for page in sorted((readme.ROOT / folder).rglob("*.md"))),
]


def test_its_tables_are_those_of_the_results() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.filled(text) == text, "run `make readme`"


def test_a_changed_figure_is_noticed() -> None:
    text = readme.README.read_text(encoding="utf-8")
    (figure,) = re.findall(r"\| 3,4,8 \| ([\d.]+) \|", text)[:1]
    assert readme.filled(text.replace(f"| 3,4,8 | {figure} |", "| 3,4,8 | 1.0 |")) == text


def text_of(page: Path) -> str:
    """Without blocks of code, whose # is no heading."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", one.strip().lower()).replace(" ", "-") for one in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(readme.ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), f"{page} links to {link}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page} links to {link}"
