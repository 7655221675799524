"""Commands that the documents ask people to paste are ones that our parsers take."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.bench import configurations
from sglang_qwen3next_eagle3.bench.options import RunOptions, SpeedOptions
from sglang_qwen3next_eagle3.bench.suites import load_suite
from sglang_qwen3next_eagle3.cli import bench as verb
from sglang_qwen3next_eagle3.cli import launch
from sglang_qwen3next_eagle3.cli.arguments import options_of

DOCS = Path(__file__).resolve().parents[3] / "docs"
PROGRAM = "sglang-qwen3next-eagle3"


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command of ours in the page's blocks of code, whole lines only."""
    for block in re.findall(r"^```\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words = words[1:]
            if words[:1] == [PROGRAM]:
                yield words[1:]


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, module in (("bench", verb), ("launch", launch)):
        module.add_arguments(verbs.add_parser(name, allow_abbrev=False))
    parser.set_defaults(words=words)
    return parser.parse_args(words)


ASKED = [words for words in commands("scaling.md") if words[0] in ("bench", "launch")]


@pytest.mark.parametrize("words", ASKED, ids=lambda words: " ".join(words)[:60])
def test_every_command_is_one_that_can_be_given(words: list[str]) -> None:
    arguments = parsed(words)
    if arguments.verb == "bench" and arguments.action in ("run", "speed"):
        kind = RunOptions if arguments.action == "run" else SpeedOptions
        options = options_of(kind, arguments)
        if getattr(options, "base_url", None) is None:
            found = configurations.parse(options.configurations, options.base(), options.given)
            assert {contender.profile.sglang["tp"] for contender in found} == {4}
        assert all(map(load_suite, getattr(options, "suites", ())))


def test_there_are_some_of_each_kind() -> None:
    kinds = {" ".join(words[:2]) if words[0] == "bench" else words[0] for words in ASKED}
    assert kinds == {"launch", "bench speed", "bench run", "bench compare"}


def test_results_of_different_runs_have_folders_of_their_own() -> None:
    folders = [words[words.index("--out") + 1] for words in ASKED if "--out" in words]
    assert len(set(folders)) == len(folders) == 4


def test_no_page_installs_this_package_from_a_registry_that_has_it_not() -> None:
    pages = [*DOCS.glob("*.md"), DOCS.parent / "README.md"]
    lines = [line for page in pages for line in page.read_text().splitlines()]
    installing = [line for line in lines if "pip install" in line]
    assert sum("-c constraints.txt '.[serve]'" in line for line in installing) >= 2
    assert not [line for line in installing if re.search(r"install [^#]*\b" + PROGRAM, line)]
