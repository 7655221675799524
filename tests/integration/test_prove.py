"""What a proof is made of, by parts that need no GPU."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.overlay.environment import DEFER
from sglang_qwen3next_eagle3.overlay.proofs import NO_FUSION
from tests.gpu import check_text, prove, soak_seams
from tests.gpu.prove import Part, missing, parts, parts_of_ranks, said
from tests.support.processes import marked
from tests.support.widened_demo import widened_demo

OVERLAPPING = """
import os, pathlib, sys, time
name, folder, *others = sys.argv[1], pathlib.Path(sys.argv[2]), *sys.argv[3:]
gpu = os.environ["CUDA_VISIBLE_DEVICES"]
(folder / f"begun-{name}").write_text(f"{gpu} {time.monotonic()}")
for _ in range(2400):
    if all((folder / f"begun-{other}").exists() for other in others):
        break
    time.sleep(0.05)
else:
    sys.exit("alone")
(folder / f"ended-{name}").write_text(str(time.monotonic()))
print("done")
"""


LIMIT = 120
"""Seconds of a part: each only starts Python, and waits for others that do."""


def part(
    name: str,
    folder: Path,
    share: float = 1.0,
    code: str = OVERLAPPING,
    beside: tuple[str, ...] = (),
) -> Part:
    """beside: which others it waits for, so that it passes only at the same time as they."""
    command = "-c", code, name, str(folder), *beside
    return Part(name, command, f"{name}.txt", share, LIMIT, lambda path: None)


def times(folder: Path, name: str) -> tuple[str, float, float]:
    gpu, begun = (folder / f"begun-{name}").read_text().split()
    return gpu, float(begun), float((folder / f"ended-{name}").read_text())


def test_who_measures_times_has_a_gpu_alone_and_others_share_one(tmp_path: Path) -> None:
    together = "half", "other", "whole"
    todo = [
        part("half", tmp_path, 0.5, beside=together),
        part("other", tmp_path, 0.5, beside=together),
        part("whole", tmp_path, beside=together),
        part("last", tmp_path),
    ]
    found = prove.prove(todo, ["0", "7"], tmp_path, 4 * LIMIT)
    assert found["whole"]
    half, other, whole, last = (times(tmp_path, one.name) for one in todo)
    assert half[0] == other[0] != whole[0]
    for one in (half, other, whole):
        assert one[0] != last[0] or one[2] <= last[1], "it has its GPU alone"
    assert json.loads((tmp_path / "proof.json").read_text())["code"] == prove.codes()


def test_it_goes_on_with_what_did_not_pass(tmp_path: Path) -> None:
    bad = part("bad", tmp_path, code="raise SystemExit(3)")
    good = part("good", tmp_path)
    found = prove.prove([good, bad], ["0"], tmp_path, 4 * LIMIT)
    assert not found["whole"]
    assert found["parts"]["bad"]["became"] == "exit status 3"
    first = times(tmp_path, "good")
    found = prove.prove([good, part("bad", tmp_path)], ["0"], tmp_path, 4 * LIMIT)
    assert found["whole"]
    assert times(tmp_path, "good") == first, "not run again"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ('{"code": {"fast": "0a", "seams": "0b"}}', "one.txt of the code {'fast': '0a'"),
        (None, "one.txt of code that is not told"),
        ("[]", "is no proof.json"),
        ("{", "is no proof.json"),
    ],
)
def test_a_folder_with_what_is_of_other_code_is_left_as_it_is(
    tmp_path: Path, told: str | None, words: str
) -> None:
    """The evidence of an older proof is not to be had again."""
    (tmp_path / "one.txt").write_text("evidence")
    if told is not None:
        (tmp_path / "proof.json").write_text(told)
    with pytest.raises(UserError, match=re.escape(words)):
        prove.prove([part("one", tmp_path)], ["0"], tmp_path, 4 * LIMIT)
    assert (tmp_path / "one.txt").read_text() == "evidence"
    assert told is None or (tmp_path / "proof.json").read_text() == told


def test_a_run_that_was_killed_in_its_first_part_goes_on(tmp_path: Path) -> None:
    killed = "import os, pathlib, sys; pathlib.Path(sys.argv[2], 'half').touch(); sys.exit(1)"
    prove.prove([part("one", tmp_path, code=killed)], ["0"], tmp_path, 4 * LIMIT)
    kept = json.loads((tmp_path / "proof.json").read_text())
    (tmp_path / "proof.json").write_text(json.dumps({"code": kept["code"], "parts": {}}))
    assert prove.prove([part("one", tmp_path)], ["0"], tmp_path, 4 * LIMIT)["whole"]


def test_a_part_has_a_limit_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROVE_MARK", str(tmp_path))
    code = "import time; time.sleep(600)"
    slow = Part("slow", ("-c", code), "slow.txt", 1, 5, lambda path: None)
    left: list[dict[int, str]] = []

    class Looking(prove.Running):
        def stop(self) -> None:
            left.append(marked(f"PROVE_MARK={tmp_path}"))
            super().stop()
            left.append(marked(f"PROVE_MARK={tmp_path}"))

    monkeypatch.setattr(prove, "Running", Looking)
    found = prove.prove([slow, part("next", tmp_path)], ["0"], tmp_path, 300)
    assert found["parts"]["slow"]["became"].startswith("not ended after ")
    assert found["parts"]["next"]["became"] == "passed"
    before, behind = left
    assert len(before) == 1
    assert behind == {}


def test_what_would_not_get_half_of_its_time_is_left_out(tmp_path: Path) -> None:
    found = prove.prove([part("one", tmp_path)], ["0"], tmp_path, LIMIT / 2 - 1)
    assert found["parts"]["one"]["became"].startswith("left out: ")
    assert not (tmp_path / "one.txt").exists()


def written(tmp_path: Path, part: str, content: Any) -> str | None:
    (one,) = (one for one in parts(tmp_path, tmp_path, "sanitizer") if one.name == part)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / one.file).write_text(text)
    return missing(one, tmp_path)


def answers(
    equal: dict[str, int] | None = None,
    ranks: int = 1,
    length: float | None = 1.871,
    at_once: tuple[str, ...] = ("defer",),
) -> dict[str, Any]:
    """length: that is accepted with extends that are put off; at_once: whose log says they are."""
    names = [*prove.TREES, *(("defer",) if ranks == 1 else ())]
    counts = {**dict.fromkeys(names, 164), **(equal or {})}
    rows = [
        {
            "server": name,
            "ranks": ranks,
            "at_once": requests,
            "equal": count if requests == 1 else 131,
            "accept_length": (length if name == "defer" else 1.86) if requests == 1 else 1.5,
        }
        for name, count in counts.items()
        for requests in (1, 8)
    ]
    line = "sglang-qwen3next-eagle3: extends of the head: up to 8 cycles of 0 steps at once"
    servers = [{"name": name, "said": ["x", line] if name in at_once else []} for name in counts]
    return {"compared": rows, "servers": servers}


def run(replays: int = 10_000) -> dict[str, Any]:
    return {"requests": 8, "nodes": 4, "replays": replays}


NUMERICS = {"1 rows": {}, "4 rows": {}, "32 rows": {}}


@pytest.mark.parametrize(
    ("part", "content", "lacks"),
    [
        ("text", answers(), None),
        ("text", answers({"auto": 163}), "auto 163"),
        ("text", answers(ranks=2), "3,1,4 0"),
        ("text", {**answers(), "compared": answers()["compared"][:-4]}, "auto 0, defer 0"),
        ("text", answers({"defer": 163}), "of 164: defer 163"),
        ("text", answers(length=1.839), "accept length 1.839 with extends"),
        ("text", answers(length=1.84), None),
        ("text", answers(length=1.88), None),
        ("text", answers(length=1.881), "accept length 1.881 with extends"),
        ("text", answers(length=None), "accept length None"),
        ("text", answers(at_once=()), "defer: no extend is put off"),
        ("text", answers(at_once=("auto", "defer")), "auto: extends are put off"),
        ("text", "{", "cannot be read"),
        ("layers", {"compared": [{"server": "3,1,4", "equal": 64, "prompts": 64}]}, None),
        ("layers", {"compared": [{"server": "3,1,4", "equal": 63, "prompts": 64}]}, "[63]"),
        ("layers", {"compared": []}, "nobody"),
        ("soak", {"passed": True}, None),
        ("soak", {"passed": False, "why not": ["on: a"]}, "on: a"),
        ("kernels", {"shapes": 1, "replays": [run()], "numerics": NUMERICS}, None),
        ("kernels", {"shapes": 1, "replays": [run(100)], "numerics": NUMERICS}, "8x4 100"),
        ("kernels", {"shapes": 2, "replays": [run()], "numerics": NUMERICS}, "1 of 2 shapes"),
        ("kernels", {"shapes": 1, "replays": [run()], "numerics": {"4 rows": {}}}, "4 rows only"),
        ("recorded", "400 turns equal", None),
        ("recorded", "", "no turn"),
        ("sanitizer", "small: ran True\nERROR SUMMARY: 0 errors", None),
        ("sanitizer", "ERROR SUMMARY: 0 errors", "to its end"),
        ("router", {"router": {"rows": 1_007_616, "beside": "SGLang's kernel"}}, None),
        ("router", {"router": {"rows": 1_007_616, "beside": "torch.sort (..)"}}, "torch.sort"),
        ("router", {"router": {"rows": 8192, "beside": "SGLang's kernel"}}, "8192 rows"),
    ],
)
def test_what_a_file_lacks(tmp_path: Path, part: str, content: Any, lacks: str | None) -> None:
    found = written(tmp_path, part, content)
    assert (found is None) if lacks is None else (found is not None and lacks in found)


def of_ranks(folder: Path, ranks: int = 2) -> dict[str, Part]:
    return {one.name: one for one in parts_of_ranks(folder, folder, ranks)}


@pytest.mark.parametrize(
    ("part", "content", "lacks"),
    [
        ("text", answers(ranks=2), None),
        ("text", answers(ranks=4), "3,1,4 0, 3,4,8 0, 5,1,6 0, auto 0"),
        ("text", answers(), "3,1,4 0"),
        ("text", answers({"5,1,6": 163}, ranks=2), "5,1,6 163"),
        ("soak", {"passed": True, "ranks": 2}, None),
        ("soak", {"passed": True}, "of 1 ranks, not 2"),
        ("soak", {"passed": False, "why not": ["on: a"], "ranks": 2}, "on: a"),
    ],
)
def test_what_a_file_of_several_ranks_lacks(
    tmp_path: Path, part: str, content: Any, lacks: str | None
) -> None:
    one = of_ranks(tmp_path)[part]
    (tmp_path / one.file).write_text(json.dumps(content))
    found = missing(one, tmp_path)
    assert (found is None) if lacks is None else (found is not None and lacks in found)


@pytest.mark.parametrize("ranks", [2, 4])
def test_servers_of_several_ranks_are_started_as_the_launcher_takes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ranks: int
) -> None:
    """Of the same target for text and load, without fused sums, and asked in turn."""
    todo = of_ranks(tmp_path, ranks)
    text, soak = todo["text"].command, todo["soak"].command
    monkeypatch.setattr(sys, "argv", list(text))
    of_text = check_text.parsed()
    of_soak = soak_seams.parsed(soak[2:])
    assert of_text.tp == of_soak.tp == ranks
    assert of_text.in_turn == of_soak.in_turn == tmp_path / "turn"
    assert of_text.flags == of_soak.flags == [NO_FUSION]
    assert of_text.server == ["none", *prove.TREES]
    target = widened_demo(demo_pair().target, tmp_path / "target", ranks)
    command = soak_seams.command_of(of_soak, tmp_path, 30000, target)
    words, extra = command[2 : command.index("--")], command[command.index("--") :]
    monkeypatch.setenv(soak_seams.SEAMS, of_soak.seams)
    assert launch.main([*words, "--dry-run", "--json", *extra]) == 0
    told = json.loads(capsys.readouterr().out)
    argv = told["argv"]
    assert argv[argv.index("--tp") + 1] == str(ranks)
    assert NO_FUSION in argv
    assert not [note for note in told["notes"] if "not used" in note]
    assert "sampled" not in of_soak.seams.split(","), "it is for one GPU"
    assert "requests" in of_soak.seams.split(",")


def test_on_one_gpu_a_server_puts_extends_off_and_the_others_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on without a word is in the proof, too."""
    (text,) = (one for one in parts(tmp_path, tmp_path, "sanitizer") if one.name == "text")
    monkeypatch.setattr(sys, "argv", list(text.command))
    monkeypatch.delenv(DEFER, raising=False)
    asked = check_text.parsed()
    assert asked.seconds < text.seconds
    found = check_text.Check(asked, tmp_path, tmp_path).contenders
    deferred = {one.name: one.environment.get(DEFER) for one in found}
    assert deferred == {**dict.fromkeys(["none", *prove.TREES]), "defer": "32"}
    (one,) = (one for one in found if one.name == "defer")
    assert one.adaptive
    assert DEFER not in prove.SWITCHED


def test_with_gpus_enough_text_and_load_have_their_own(tmp_path: Path) -> None:
    apart = {one.name: one for one in parts_of_ranks(tmp_path, tmp_path, 2, alone=True)}
    assert apart["text"].share == apart["soak"].share == 1
    files = {word for one in apart.values() for word in one.command if "turn" in word}
    assert files == {"--in-turn", str(tmp_path / "turn-soak")}


def test_ranks_have_as_many_gpus_and_what_is_spare_may_be_left_out(tmp_path: Path) -> None:
    rest = Part("rest", ("-c", "0"), "rest.txt", 1, 1e6, lambda path: None, spare=True)
    found = prove.prove([part("one", tmp_path), rest], ["2,3"], tmp_path, 4 * LIMIT, 2)
    assert found["parts"]["rest"]["became"].startswith("left out")
    assert found["whole"]
    assert times(tmp_path, "one")[0] == "2,3"
    with pytest.raises(UserError, match="holds a proof of 2 ranks, not of 4"):
        prove.prove([part("one", tmp_path)], ["0,1,2,3"], tmp_path, 4 * LIMIT, 4)
    assert json.loads((tmp_path / "proof.json").read_text())["ranks"] == 2


def test_gpus_that_are_no_multiple_of_the_ranks_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "HumanEval.jsonl.gz").touch()
    words = ["prove", str(tmp_path), "--data-dir", str(tmp_path), "--tp", "2", "--gpus", "0,1,2"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        prove.main()
    assert ended.value.code == 2
    assert "--gpus 0,1,2: a server of --tp 2 takes 2 of them" in capsys.readouterr().err


def test_every_file_is_missing_at_first(tmp_path: Path) -> None:
    everything = parts(tmp_path, tmp_path, "sanitizer")
    assert {missing(one, tmp_path) for one in everything} == {"its file"}
    scripts = [word for one in everything for word in one.command if word.endswith(".py")]
    assert scripts
    assert all((prove.ROOT / script).is_file() for script in scripts)


def test_the_files_are_those_that_the_tables_name() -> None:
    for table in (prove.of_fast.PROVED, prove.of_seams.PROVED):
        for proof in table:
            todo = parts(Path(), Path(), "sanitizer")
            if proof.ranks > 1:
                todo = parts_of_ranks(Path(), Path(), proof.ranks)
            own = {Path(one.file).name for one in todo} | {"said.txt"}
            named = {Path(file).name.replace("-alone", "") for file in proof.evidence}
            assert named <= own


def test_what_servers_said_is_a_block_for_each(tmp_path: Path) -> None:
    line = "[t] sglang-qwen3next-eagle3: fast path on: dense up to 8 rows; code 0a"
    (tmp_path / "none.log").write_text(f"noise\n{line}\n")
    (tmp_path / "314.log").write_text("[t] sglang-qwen3next-eagle3: seams on: chain; code 0b\n")
    blocks = "== 314\n[t] seams on: chain; code 0b\n== none\n[t] fast path on: dense up to 8 rows"
    assert said(tmp_path) == f"{blocks}; code 0a\n"
    assert said(tmp_path / "nowhere") == ""


def test_without_prompts_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["prove", str(tmp_path), "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        prove.main()
    assert ended.value.code == 2
    assert "HumanEval.jsonl.gz" in capsys.readouterr().err


def test_a_folder_of_other_code_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "HumanEval.jsonl.gz").touch()
    (tmp_path / "soak.json").write_text("{}")
    monkeypatch.setattr(prove, "SANITIZER", sys.executable)
    monkeypatch.setattr(sys, "argv", ["prove", str(tmp_path), "--data-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        prove.main()
    assert ended.value.code == 2
    assert "holds soak.json of code that is not told" in capsys.readouterr().err
    assert (tmp_path / "soak.json").read_text() == "{}"
