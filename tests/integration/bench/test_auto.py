"""`bench auto` and `bench start` from the command line, with servers that pretend."""

import json
import math
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base import progress, provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench import auto, servers, start
from sglang_qwen3next_eagle3.bench.options import AutoOptions
from sglang_qwen3next_eagle3.bench.results.journal import PassKey
from sglang_qwen3next_eagle3.bench.results.records import ADAPTIVE, CHANGING, Configuration, Result
from sglang_qwen3next_eagle3.overlay.adaptive import states
from sglang_qwen3next_eagle3.overlay.environment import FAST, ROUTING
from sglang_qwen3next_eagle3.serving import doctor, server
from tests.support import fake_sglang

ROOT = Path(__file__).resolve().parents[3]
# A cycle of no time at all is none to a file of states, which has three decimals of a millisecond.
DRAFTS = {"per_chunk": 3, "chunk_seconds": 0.001}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAUNCHER", fake_sglang.__name__)
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"auto": DRAFTS}))


def words(out: Path, *more: str) -> list[str]:
    return [
        "bench", "auto", "--profile", "demo", "--batch", "1,2", "--steps", "0,2",
        "--accept-lengths", "1.0,2.46", "--output-tokens", "10", "--input-tokens", "4",
        "--changes", "3", "--no-plots", "--out", str(out), *more,
    ]  # fmt: skip


def test_costs_are_measured_and_then_the_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path)) == 0
    result = Result.load(tmp_path)
    names = [one.name for one in result.configurations]
    assert names == ["none", "0,1,1", "2,1,3", "auto"]
    measured = {(m.configuration, m.simulated_accept_length) for m in result.measurements}
    # With 0 steps nothing can be accepted, whatever is simulated.
    assert measured == {
        ("none", None), ("0,1,1", 1.0), ("2,1,3", 1.0), ("2,1,3", 2.46), ("auto", 1.0),
        ("auto", 2.46),
    }  # fmt: skip
    assert sum(m.suite == CHANGING for m in result.measurements) == 3
    # As the demo's weights are, whatever the default of a synthetic target is.
    assert result.settings["precision"] == "bf16"
    printed = capsys.readouterr().out
    assert printed.startswith("# Steps that follow load and acceptance, at simulated accept le")
    assert "## auto against none and the best number of steps" in printed
    assert "## auto while load and acceptance change" in printed
    written = states.read(tmp_path / auto.STATES)
    assert written is not None
    assert written.steps == (0, 2)
    assert set(written.cycle_ms) == {1, 2}
    # It goes on where it was, and there is nothing left.
    before = (tmp_path / "passes").stat().st_mtime_ns
    assert main(words(tmp_path)) == 0
    assert (tmp_path / "passes").stat().st_mtime_ns == before
    plan = ["bench", "plan", "--result", str(tmp_path), "--adaptive", str(tmp_path / "more.json")]
    assert main(plan) == 0


def test_all_servers_choose_experts_as_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """None too; and the costs say by which routing they are."""
    served, told = servers.served, dict[str, str | None]()

    def seen(contender: Any, out: Any, flags: Any, seconds: Any, set_there: Any, *of: Any) -> Any:
        told[contender.name] = set_there.get(ROUTING)
        return served(contender, out, flags, seconds, set_there, *of)

    monkeypatch.setattr(servers, "served", seen)
    asked = words(tmp_path, "--repeats", "1", "--alone", "2")
    assert main([*asked, "--routing", "text"]) == 0
    assert told == dict.fromkeys(("none", "auto", "2,1,3 alone"), "text")
    assert Result.load(tmp_path).settings["routing"] == "text"
    written = states.read(tmp_path / auto.STATES)
    assert written is not None
    assert written.where().endswith("routing text, " + written.measured["date"])
    capsys.readouterr()
    assert main(asked) == 2, "another routing does not go into the folder"
    assert "routing" in capsys.readouterr().err


def test_what_is_told_to_the_server_before_each_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps and accept length for costs; then neither, with the costs in the file."""
    told: list[tuple[str, float, float]] = []
    before = auto._Auto._before

    def spying(self: auto._Auto, key: PassKey, tree: tuple[int, int, int] | None) -> object:
        set_up = before(self, key, tree)

        def spied() -> None:
            set_up()
            length = self._lengths[auto.AUTO].value
            told.append((key.configuration, self._steps.value, length))
            if key.configuration == "auto":
                found = states.read(self._file)
                assert found is not None
                assert set(found.cycle_ms) == {1, 2}

        return spied

    monkeypatch.setattr(auto._Auto, "_before", spying)
    assert main(words(tmp_path, "--changes", "0")) == 0
    assert told[:2] == [("none", 0.0, -1.0)] * 2
    assert told[2:4] == [("0,1,1", 0.0, 1.0)] * 2
    assert told[4:8] == [("2,1,3", 2.0, 1.0)] * 2 + [("2,1,3", 2.0, 2.46)] * 2
    assert told[8:] == [("auto", -1.0, 1.0)] * 2 + [("auto", -1.0, 2.46)] * 2


def test_every_server_has_gpus_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three servers, two at a time; a number of steps by itself is compared with its state."""
    fakes = {"auto": DRAFTS, "2-1-3-alone": DRAFTS}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(fakes))
    assert main([*words(tmp_path), "--alone", "2", "--gpus", "4,6"]) == 0
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if " on CUDA_VISIBLE_DEVICES=" in line]
    assert lines[:2] == ["auto: on CUDA_VISIBLE_DEVICES=4", "none: on CUDA_VISIBLE_DEVICES=6"]
    assert len(lines) == 3
    logs = {path.stem: path.read_text(encoding="utf-8") for path in (tmp_path / "logs").iterdir()}
    assert set(logs) == {"auto", "none", "2-1-3-alone"}
    assert "on GPUs 4" in logs["auto"]
    assert "on GPUs 6" in logs["none"]
    assert lines[2].removeprefix("2,1,3 alone: on CUDA_VISIBLE_DEVICES=") in "46"
    result = Result.load(tmp_path)
    assert all(one.status == "ok" for one in result.configurations)
    names = [one.name for one in result.configurations]
    assert names == ["none", "0,1,1", "2,1,3", "auto", "2,1,3 alone"]
    measured = {(m.configuration, m.simulated_accept_length) for m in result.measurements}
    # What a server of its own is asked at all lengths, the state is at one.
    assert measured == {
        ("none", None), ("0,1,1", 1.0), ("2,1,3", 2.46), ("auto", 1.0), ("auto", 2.46),
        ("2,1,3 alone", 1.0), ("2,1,3 alone", 2.46),
    }  # fmt: skip
    assert result.settings["gpus"] == ["4", "6"]
    assert "asked at the same time, each on GPUs of its own" in said.out
    assert "## Numbers of steps as states and alone" in said.out
    changing = {m.simulated_accept_length for m in result.measurements if m.suite == CHANGING}
    assert changing == {1.0, 2.46}
    # The state was not asked at every one of them: it has no time to be compared by.
    (never,) = re.findall(r"that of ([^.]+), the best that never changes", said.out)
    assert never in {"none", "2,1,3 alone"}
    assert states.read(tmp_path / auto.STATES) is not None


def test_a_server_that_is_not_up_yet_is_not_asked_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With GPUs for one server `none` comes behind the choice, which goes by costs; that the fast
    path was asked for and came to be off is known of the server that was up alone."""
    ready = servers.ready

    def switched(configuration: Configuration, server: Any) -> Configuration:
        return ready(configuration, server).model_copy(update={"switched": {FAST: "off"}})

    monkeypatch.setattr(servers, "ready", switched)
    monkeypatch.setenv(FAST, "on")
    assert main([*words(tmp_path), "--gpus", "4"]) == 0
    result = Result.load(tmp_path)
    assert {m.configuration for m in result.measurements} == {"none", "0,1,1", "2,1,3", "auto"}
    assert sum(m.suite == CHANGING for m in result.measurements) == 3
    assert "gpus" not in result.settings, "nothing was asked at the same time"


@pytest.mark.parametrize("more", [(), ("--gpus", "4,6")])
def test_costs_that_cannot_be_told_are_a_failure_of_one_server(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    def refuse(self: auto._Auto) -> None:
        raise UserError("costs of one file are of one kind of server")

    monkeypatch.setattr(auto._Auto, "_measured", refuse)
    assert main([*words(tmp_path), *more]) == 2
    result = Result.load(tmp_path)
    failed = result.configuration("auto")
    assert failed.status == "failed"
    assert failed.error == "costs of one file are of one kind of server"
    assert result.configuration("none").status == "ok"
    assert {m.configuration for m in result.measurements} == {"none", "0,1,1", "2,1,3"}
    assert "Traceback" not in capsys.readouterr().err


def test_a_server_of_a_part_hears_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this process ignored, what it starts would ignore, too."""
    told = tmp_path / "told"
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"

    def run(self: servers.Loop, groups: object) -> None:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        with told.open("a") as file:
            file.write(done.stdout)

    monkeypatch.setattr(servers.Loop, "run", run)
    main([*words(tmp_path / "out"), "--gpus", "4,6"])
    assert told.read_text().split() == ["False", "False"]


def test_a_part_that_is_killed_keeps_no_other_from_writing(tmp_path: Path) -> None:
    alone = auto._Alone(tmp_path / "alone")

    def hold(at: Any) -> None:
        with alone:
            at.set()
            time.sleep(600)

    at = auto._FORK.Event()
    process = auto._FORK.Process(target=hold, args=(at,))
    process.start()
    assert at.wait(300)
    process.kill()
    process.join()
    written = threading.Thread(target=lambda: alone.__enter__(), daemon=True)
    written.start()
    written.join(60)
    assert not written.is_alive()
    alone.__exit__()


def test_what_was_asked_at_the_same_time_goes_on_only_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--changes", "0", "--gpus", "4,6")
    assert main([*words(tmp_path / "apart"), *more]) == 0
    capsys.readouterr()
    again = [*words(tmp_path / "apart"), "--changes", "0"]
    for others in ((), ("--side-by-side",), ("--gpus", "4")):
        assert main([*again, *others]) == 2
        assert 'servers: "asked at the same time", now ' in capsys.readouterr().err
    assert main([*again, "--gpus", "5,7"]) == 0, "other cards of the same machine will do"
    assert "asked at the same time, each on GPUs of its own" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--alone", "0"), "--alone 0: a server of 0 steps is the one without speculation"),
        (("--gpus", "0", "--tp", "2"), "--gpus 0: a server needs 2 of them"),
        (("--gpus", "0,1", "--side-by-side"), "leave one out"),
    ],
)
def test_gpus_that_are_too_few_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], said: str
) -> None:
    assert main([*words(tmp_path), *more]) == 2
    assert said in capsys.readouterr().err


def test_changes_are_the_same_in_every_run(tmp_path: Path) -> None:
    for place in ("a", "b"):
        assert main(words(tmp_path / place, "--changes", "5")) == 0
    runs = [
        [(m.batch, m.simulated_accept_length) for m in found.measurements if m.suite == CHANGING]
        for found in (Result.load(tmp_path / place) for place in ("a", "b"))
    ]
    assert runs[0] == runs[1]
    assert len(runs[0]) == 5


def test_no_choice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words(tmp_path), "--steps", "0"]) == 2
    assert "0 steps alone are no choice" in capsys.readouterr().err


def test_a_server_that_dies_leaves_the_rest_unmeasured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = {"auto": {**DRAFTS, "crash_at": 9}}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(crash))
    assert main(words(tmp_path)) == 1
    result = Result.load(tmp_path)
    assert result.configuration("auto").status == "failed"
    assert result.configuration("auto").algorithm == ADAPTIVE
    assert not (tmp_path / auto.STATES).exists()
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"auto": DRAFTS}))
    assert main(words(tmp_path)) == 0


def test_defaults_are_the_issue_s() -> None:
    assert AutoOptions.batches == (1, 4, 8, 16, 32, 48)
    assert AutoOptions.accept_lengths == (1.0, 1.6, 2.46, 3.0)


def test_a_start_is_measured_with_its_first_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say = "\n".join(
        [
            "sglang-qwen3next-eagle3: it will answer at http://127.0.0.1",
            "[2026-11-26 18:18:09] server_args=ServerArgs()",
            "[2026-11-26 18:18:09] The server is fired up and ready to roll!",
            "[2026-11-26 18:18:09] INFO:     Application startup complete.",
        ]
    )
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"say": say, "per_chunk": 3}}))
    argv = ["bench", "start", "--profile", "demo", "--out", str(tmp_path), "--repeats", "2"]
    assert main([*argv, "--caches", str(tmp_path / "caches"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [one["repetition"] for one in printed["starts"]] == [0, 1]
    for one in printed["starts"]:
        assert "first request" in one["phases"]
        assert "launcher: checks" in one["phases"]
        assert one["cache_bytes"] == [0, 0]
        assert one["ready_seconds"] > 0
    assert "until it answers" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"demo-1.log", "demo-2.log"}
    assert not (tmp_path / "begun.json").exists()
    # What is there is not measured again, and nothing else takes its place.
    before = (tmp_path / "result.json").read_bytes()
    assert main([*argv, "--caches", str(tmp_path / "caches"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == printed
    assert main(argv) == 2
    assert "was begun with other arguments (caches: " in capsys.readouterr().err
    assert (tmp_path / "result.json").read_bytes() == before
    assert main(["bench", "report", str(tmp_path)]) == 2
    assert "is of `bench start`: read the report.md beside it" in capsys.readouterr().err


def test_starts_that_were_broken_off_keep_those_that_were_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"per_chunk": 3}}))
    # Also where there is no clone to tell it.
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "one")
    argv = ["bench", "start", "--profile", "demo", "--out", str(tmp_path), "--json", "--repeats"]
    measure, measured = start.measure, []

    def interrupted(*words: Any) -> start.MeasuredStart:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(measure(*words))
        return measured[-1]

    monkeypatch.setattr(start, "measure", interrupted)
    assert main([*argv, "3"]) == 130
    (kept,) = json.loads((tmp_path / "begun.json").read_text())["starts"]
    capsys.readouterr()
    # As it was begun, and no otherwise; what was measured stays as it was.
    assert main([*argv, "2"]) == 2
    assert "was begun with other arguments (repeats: 3, now 2)" in capsys.readouterr().err
    monkeypatch.setattr(start, "measure", measure)
    # Gone on with by another commit: each start says by which it was made, and the report, too.
    monkeypatch.setattr(start.provenance, "stamp", lambda described: {"commit": "another"})
    assert main([*argv, "3"]) == 0
    result = json.loads(capsys.readouterr().out)
    starts, (note,) = result["starts"], result["notes"]
    assert [one["repetition"] for one in starts] == [0, 1, 2]
    assert starts[0] == kept
    assert starts[0]["made_with"]["commit"] == result["provenance"]["commit"] == "one"
    assert [one["made_with"]["commit"] for one in starts[1:]] == ["another"] * 2
    assert note.startswith("Not all starts were made alike: commit one, ")
    assert note in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "begun.json").exists()
    logs = {path.name for path in (tmp_path / "logs").iterdir()}
    assert logs == {"demo-1.log", "demo-2.log", "demo-3.log"}


def test_a_warmup_says_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine a line of how far it is would come between.
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", math.inf)
    slow = {"warmup": {"per_chunk": 3, "chunk_seconds": 0.02}}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(slow))
    assert main(["warmup", "--profile", "demo", "--out", str(tmp_path / "caches"), "--json"]) == 0
    printed = capsys.readouterr()
    both = json.loads(printed.out)
    for one in (both["before"], both["behind"]):
        assert one["phases"]["first sampled request"] >= 0.02
    said = [line for line in printed.err.splitlines() if line.startswith("warmup: ")]
    first, ready, again, end = said
    assert "which compiles" in first
    assert "with what was compiled" in again
    assert "ready after" in ready
    assert "ready after" in end


@pytest.mark.parametrize("verb", ["auto", "start"])
def test_other_folders_and_machines_are_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert main(["bench", verb, "--profile", "demo", "--out", str(file)]) == 2
    error = capsys.readouterr().err
    assert "is a file: name a folder with --out" in error
    assert error.count("\n") == 1
    monkeypatch.setattr(doctor, "has_gpu", lambda: False)
    out = tmp_path / "out"
    assert main(["bench", verb, "--profile", "b1", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "no GPU is here, and the profile b1 serves on one" in error
    assert error.count("\n") == 1
    assert not out.exists()
