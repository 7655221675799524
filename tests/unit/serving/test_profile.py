from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving import profile
from sglang_qwen3next_eagle3.serving.command_line import build_argv
from sglang_qwen3next_eagle3.serving.flags import last_value
from sglang_qwen3next_eagle3.serving.profile import MTP_TREE, Profile, Tree

# The two commands of the model card of thoughtworks/Qwen3-Coder-Next-Eagle3, word for word.
CARD_B1 = """
--model-path Qwen/Qwen3-Coder-Next
--speculative-algorithm EAGLE3
--speculative-draft-model-path thoughtworks/Qwen3-Coder-Next-Eagle3
--speculative-num-steps 3
--speculative-num-draft-tokens 8
--speculative-eagle-topk 4
--tp 4
--trust-remote-code
--attention-backend triton
--port 30000
"""
CARD_B32 = """
--model-path Qwen/Qwen3-Coder-Next
--speculative-algorithm EAGLE3
--speculative-draft-model-path thoughtworks/Qwen3-Coder-Next-Eagle3
--speculative-num-steps 5
--speculative-num-draft-tokens 6
--speculative-eagle-topk 1
--tp 4
--trust-remote-code
--attention-backend triton
--port 30000
"""


def minimal(**changes: Any) -> dict[str, Any]:
    base = {
        "description": "d", "hardware": "h", "target": "a/b", "head": "c/d",
        "tree": {"steps": 3, "topk": 4, "draft-tokens": 8},
    }  # fmt: skip
    return {**base, **changes}


def without(*keys: str, **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in minimal(**changes).items() if k not in keys}


def write(tmp_path: Path, data: object) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(
        data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False), encoding="utf-8"
    )
    return str(path)


@pytest.mark.parametrize(("name", "card"), [("b1", CARD_B1), ("b32", CARD_B32)])
def test_profiles_carry_the_card_s_flags_but_trust_remote_code(name: str, card: str) -> None:
    expected = [line.split() for line in card.strip().splitlines()]
    expected.remove(["--trust-remote-code"])
    argv = build_argv(profile.load(name))
    assert argv[:3] == ["python", "-m", "sglang.launch_server"]
    words = [word for flag in expected for word in flag]
    assert argv[3:] == [*words, "--tool-call-parser", "qwen3_coder", "--enable-metrics"]


def test_every_profile_says_what_it_is_and_where_it_runs() -> None:
    assert profile.profile_names() == ("auto", "b1", "b32", "b32-wide", "demo", "h200-fp8")
    ports = set()
    for name in profile.profile_names():
        loaded = profile.load(name)
        assert loaded.description
        assert loaded.sglang["enable-metrics"] is True
        assert loaded.hardware
        ports.add(loaded.sglang["port"])
        if not loaded.cpu_engine:
            assert loaded.sglang["tool-call-parser"] == "qwen3_coder"
            assert loaded.sglang["attention-backend"] == "triton"
    assert ports == {30000}


def test_a_profile_of_one_s_own_is_read(tmp_path: Path) -> None:
    flags = {"tp": 2, "enable-metrics": True, "disable-cuda-graph": False, "cuda-graph-bs": [1, 2]}
    own = profile.load(write(tmp_path, minimal(sglang=flags)))
    argv = build_argv(own)
    assert argv[-6:] == ["--tp", "2", "--enable-metrics", "--cuda-graph-bs", "1", "2"]


def test_revisions_are_pinned_on_the_command_line(tmp_path: Path) -> None:
    data = minimal(**{"target-revision": "abc", "head-revision": "def"})
    argv = build_argv(profile.load(write(tmp_path, data)))
    assert last_value(argv, "--revision") == "abc"
    assert last_value(argv, "--speculative-draft-model-revision") == "def"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "colour: unknown key; known are description"),
        ({"tree": {"steps": 3, "topk": 4, "draft-tokens": 8, "x": 1}}, r"tree\.x: unknown key"),
        ({"tree": {"steps": 3, "topk": 1, "draft-tokens": 8}}, "verifies 4 draft tokens, not 8"),
        ({"tree": {"steps": 1, "topk": 4, "draft-tokens": 6}}, "hold 5 draft tokens, 6 are asked"),
        ({"tree": {"steps": 2, "topk": 2, "draft-tokens": 8}}, "hold 7 draft tokens, 8 are asked"),
        ({"tree": {"steps": 0, "topk": 1, "draft-tokens": 2}}, r"tree\.steps"),
        ({"tree": {"steps": 1, "topk": 1}}, r"tree\.draft-tokens: Field required"),
        ({"sglang": {"--tp": 2}}, "'--tp' is not an SGLang flag"),
        ({"sglang": {"tp-size": 2}}, r"use sglang\.tp"),
        ({"sglang": {"model-path": "x"}}, "use target"),
        ({"sglang": {"speculative-num-steps": 3}}, r"use tree\.steps"),
        ({"sglang": {"trust-remote-code": True}}, "part of SGLang and transformers"),
        ({"sglang": {"tp": None}}, "'tp': a flag takes true, false, a number, a text, or a list"),
        ({"sglang": {"tp": {"a": 1}}}, "'tp': a flag takes true"),
        ({"sglang": {"cuda-graph-bs-decode": [1, "x"]}}, "'cuda-graph-bs-decode': a flag takes"),
        ({"sglang": {"cuda-graph-bs-decode": [1.5]}}, "'cuda-graph-bs-decode': a flag takes true"),
        ({"sglang": [1]}, r"sglang: keys with values are needed, as in \{key: value\}"),
        ({"tree": [3, 4, 8]}, r"tree: keys with values are needed, as in \{key: value\}"),
        ({"target": ""}, "target: it is empty: name one, or leave it out"),
        ({"head": " "}, "head: it is empty"),
        ({"target-revision": ""}, "target-revision: it is empty"),
        ({"environment": {"A B": "1"}}, "'A B' is not an environment variable"),
        ({"aux-layers": "3,23"}, "auxiliary layers '3,23' cannot be read"),
        ({"target": None}, "target: "),
        ({"head": None}, "mine.yaml: algorithm eagle3 needs a head: name one, or choose algorithm"),
        ({"algorithm": "dflash"}, "algorithm: Input should be 'eagle3', 'nextn' or 'none'"),
        ({"algorithm": "none"}, "algorithm none takes no head: leave it out, or choose"),
        ({"algorithm": "none", "head": None}, "algorithm none takes no tree"),
        ({"algorithm": "nextn"}, "algorithm nextn takes no head"),
        (
            {"algorithm": "nextn", "head": None, "head-revision": "r"},
            "nextn takes no head-revision",
        ),
        ({"algorithm": "nextn", "head": None, "aux-layers": "card"}, "nextn takes no aux-layers"),
        ({"sglang": {"speculative-algorithm": "NEXTN"}}, "use algorithm"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words) as caught:
        profile.load(write(tmp_path, minimal(**changes)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "words"), [("a: [", "is not YAML"), ("- 1", "no mapping")])
def test_what_is_not_a_yaml_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        profile.load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_unknown_names_and_absent_files_are_refused() -> None:
    with pytest.raises(UserError, match="no profile 'b2': choose one of auto, b1, b32, b32-wide"):
        profile.load("b2")
    with pytest.raises(UserError, match=r"no profile file absent\.yaml"):
        profile.load("absent.yaml")


SPECULATIVE = ["--speculative-algorithm"]
TREE = ["--speculative-num-steps", "3", "--speculative-num-draft-tokens", "8"]
TREE += ["--speculative-eagle-topk", "4"]
HEAD = ["--speculative-draft-model-path", "c/d"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (minimal(), [*SPECULATIVE, "EAGLE3", *HEAD, *TREE]),
        (without("tree"), [*SPECULATIVE, "EAGLE3", *HEAD]),
        (without("head", algorithm="nextn"), [*SPECULATIVE, "NEXTN", *TREE]),
        (without("head", "tree", algorithm="nextn"), [*SPECULATIVE, "NEXTN"]),
        (without("head", "tree", algorithm="none"), []),
    ],
    ids=["eagle3", "eagle3 without a tree", "nextn", "nextn without a tree", "none"],
)
def test_the_algorithm_decides_what_is_said_of_speculation(
    tmp_path: Path, data: dict[str, Any], words: list[str]
) -> None:
    argv = build_argv(profile.load(write(tmp_path, data)))
    assert argv == ["python", "-m", "sglang.launch_server", "--model-path", "a/b", *words]


def test_another_algorithm_drops_what_belonged_to_the_one_before(tmp_path: Path) -> None:
    own = {"head-revision": "r", "aux-layers": "output:2,3,4", "allow-gdn-aux": True}
    eagle3 = profile.load(write(tmp_path, minimal(**own)))
    for algorithm in ("none", "nextn"):
        changed = eagle3.override(algorithm=algorithm)
        kept = changed.model_dump(by_alias=True, exclude_none=True)
        assert kept["algorithm"] == algorithm
        assert kept.keys().isdisjoint({"head", "head-revision", "aux-layers", "tree"})
        assert not changed.allow_gdn_aux
    assert eagle3.override(algorithm="eagle3") == eagle3, "the same algorithm keeps everything"
    with pytest.raises(UserError, match="with these options: algorithm eagle3 needs a head"):
        eagle3.override(algorithm="none").override(algorithm="eagle3")
    with pytest.raises(UserError, match="algorithm none takes no tree"):
        eagle3.override(algorithm="none", tree=MTP_TREE)


@pytest.mark.parametrize("algorithm", ["eagle3", "nextn", "none"])
def test_what_a_profile_is_dumped_to_is_read_back(tmp_path: Path, algorithm: str) -> None:
    changed = profile.load("b1").override(algorithm=algorithm)
    data = changed.model_dump(by_alias=True, exclude_none=True)
    assert profile.load(write(tmp_path, data)) == changed


def test_a_tree_is_read_as_it_is_spelled() -> None:
    assert Tree.parse("3,4,8") == Tree(steps=3, topk=4, draft_tokens=8)
    assert Tree.parse("3,1,4") == MTP_TREE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3,4", "tree '3,4': write steps,topk,draft-tokens, for example 3,4,8"),
        ("3, 4, 8", "write steps,topk,draft-tokens"),
        ("", "tree '': write steps,topk,draft-tokens"),
        ("3,1,8", "tree 3,1,8: a chain .topk 1. of 3 steps verifies 4 draft tokens, not 8"),
        ("0,1,2", "tree 0,1,2: steps: "),
    ],
)
def test_a_tree_that_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Tree.parse(text)
    assert "\n" not in str(caught.value)


@given(st.integers(1, 4), st.integers(1, 4))
def test_a_tree_holds_what_its_levels_hold(steps: int, topk: int) -> None:
    # Level by level: the root, its topk children, then topk for each of the topk best.
    nodes = 1 + topk + sum(topk * topk for _ in range(steps - 1))
    draft = steps + 1 if topk == 1 else nodes
    assert Tree(steps=steps, topk=topk, draft_tokens=draft).capacity == nodes


def test_options_win_over_the_profile_and_are_checked_like_it() -> None:
    changed = profile.load("b1").override(target="x/y", sglang={"tp": 2, "port": None})
    assert (changed.target, changed.sglang["tp"], changed.sglang["port"]) == ("x/y", 2, 30000)
    assert isinstance(changed, Profile)
    with pytest.raises(UserError, match="with these options: aux-layers"):
        changed.override(aux_layers="nonsense")


def test_the_last_value_of_a_flag_counts_under_any_of_its_names() -> None:
    argv = ["--tp", "4", "--port=1", "--tp-size", "2", "--flag", "--port", "2", "--end"]
    assert last_value(argv, "--tp") == last_value(argv, "--tensor-parallel-size") == "2"
    assert last_value(argv, "--port") == "2"
    assert last_value(argv, "--flag") == ""
    assert last_value(argv, "--end") == ""
    assert last_value(argv, "--absent") is None
