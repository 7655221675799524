from pathlib import Path

import pytest
import yaml

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench import configurations
from sglang_qwen3next_eagle3.bench.configurations import parse
from sglang_qwen3next_eagle3.serving import profile as profiles

BASE = profiles.load("b1")


def test_every_way_to_spell_one() -> None:
    found = parse(["none", "mtp", "mtp:2,1,3", "eagle3-defaults", "3,4,8", "b32"], BASE)
    assert [(c.name, c.profile.algorithm, c.tree) for c in found] == [
        ("none", "none", None),
        ("mtp", "nextn", (3, 1, 4)),
        ("mtp:2,1,3", "nextn", (2, 1, 3)),
        ("eagle3-defaults", "eagle3", (3, 1, 4)),
        ("3,4,8", "eagle3", (3, 4, 8)),
        ("b32", "eagle3", (5, 1, 6)),
    ]
    assert found[3].profile.tree is None, "left to SGLang"
    assert {c.profile.target for c in found} == {BASE.target}
    assert found[4].profile.head == BASE.head
    assert found[0].profile.head is None


def test_chains_are_spread() -> None:
    assert [c.name for c in parse(["chains:1-3"], BASE)] == ["1,1,2", "2,1,3", "3,1,4"]


def test_a_profile_of_one_s_own_keeps_its_head_and_goes_by_its_name(tmp_path: Path) -> None:
    data = {"description": "d", "hardware": "h", "target": "org/target", "head": "org/other"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**data, "tree": None}))
    (found,) = parse([str(tmp_path / "mine.yaml")], BASE)
    assert (found.name, found.profile.head) == ("mine", "org/other")
    given = parse([str(tmp_path / "mine.yaml")], BASE, lambda p: p.override(target="org/given"))
    assert given[0].profile.target == "org/given"


def test_what_is_written_is_what_the_launcher_reads(tmp_path: Path) -> None:
    for contender in parse(["none", "mtp", "eagle3-defaults", "3,4,8"], BASE):
        assert profiles.load(str(contender.write(tmp_path))) == contender.profile


def test_the_row_of_a_result_holds_no_path_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    base = BASE.override(target="org/name", head="org/head")
    (contender,) = parse(["3,4,8"], base)
    row = contender.describe(contender.plan(["--crash-dump-folder", str(tmp_path / "x")]))
    assert row.tree == (3, 4, 8)
    assert not [word for word in row.argv if str(tmp_path) in word]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["3,4"], "no configuration '3,4'"),
        (["chains:3-1"], "chains:FIRST-LAST"),
        (["mtp:3"], "tree '3'"),
        (["nothing.yaml"], "no profile file nothing.yaml"),
        (["b1", "b1"], "b1 is given twice"),
        (["chains:2-3", "2,1,3"], "2,1,3 is given twice"),
    ],
)
def test_other_spellings_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        parse(names, BASE)


def test_a_tree_needs_a_head() -> None:
    plain = BASE.override(algorithm="none")
    with pytest.raises(UserError, match="a tree needs a head"):
        parse(["3,4,8"], plain)


@pytest.mark.parametrize(
    ("name", "slug"), [("3,4,8", "3-4-8"), ("mtp:3,1,4", "mtp-3-1-4"), ("h200-fp8", "h200-fp8")]
)
def test_names_become_names_of_files(name: str, slug: str) -> None:
    assert configurations.slug(name) == slug
