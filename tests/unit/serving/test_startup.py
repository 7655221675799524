"""What a start spends its time on, by the lines of a log."""

import time
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.overlay.environment import FAST, SEAMS
from sglang_qwen3next_eagle3.serving import startup
from sglang_qwen3next_eagle3.serving.startup import StampedLog

AT = "[2026-11-26 18:18:"
LOG = (
    (2.0, "sglang-qwen3next-eagle3: it will answer at http://127.0.0.1:30000; ask it with"),
    (9.5, f"{AT}09] server_args=ServerArgs(model_path='Init torch distributed begin')"),
    (20.0, f"{AT}20 TP0] Init torch distributed begin."),
    (20.5, f"{AT}20 TP1] Load weight begin. avail mem=139.00 GB"),
    (23.0, f"{AT}23 TP0] Load weight begin. avail mem=139.00 GB"),
    (33.0, f"{AT}33 TP0] Load weight end. elapsed=10 s, type=Qwen3NextForCausalLM"),
    (33.5, f"{AT}33 TP0] Load weight begin. avail mem=64.03 GB"),
    (34.0, f"{AT}34 TP0] Load weight end. elapsed=0.07 s, type=LlamaForCausalLMEagle3"),
    (35.0, f"{AT}35 TP0] Memory pool end. avail mem=61.90 GB"),
    (48.0, f"{AT}48 TP0] sglang-qwen3next-eagle3: fast path on: moe; checked in 12.0 s"),
    (48.5, f"{AT}48 TP0] Capture target verify CUDA graph begin. backend=full, bs=[1]"),
    (53.0, f"{AT}53 TP0] Capture target verify CUDA graph end. elapsed=4.93 s"),
    (53.0, f"{AT}53 TP0] Capture draft decode CUDA graph begin. backend=full"),
    (55.0, f"{AT}55 TP0] Capture draft decode CUDA graph end. elapsed=2 s"),
    (56.0, f"{AT}56 TP0] max_total_num_tokens=16384, chunked_prefill_size=8192"),
)
WARMED = (
    (57.0, f"{AT}57] INFO:     Application startup complete."),
    (59.0, f"{AT}59] The server is fired up and ready to roll!"),
    (70.0, f"{AT}59] Capture another CUDA graph begin: a request's"),
)
SKIPPED = (
    (57.0, f"{AT}57] The server is fired up and ready to roll!"),
    (57.5, f"{AT}57] INFO:     Application startup complete."),
)


@pytest.mark.parametrize("ranks", ["Init torch distributed begin.", "Init parallel begin."])
def test_a_phase_lasts_to_the_next_one(ranks: str) -> None:
    """As 0.5.17 and 0.5.23 call the ranks' communication."""
    lines = [(when, f"{line[:26]}{ranks}" if when == 20.0 else line) for when, line in LOG]
    found = startup.phases((*lines, *WARMED), 0.0)
    assert found.ready
    assert {phase.name: phase.seconds for phase in found.phases} == {
        startup.LAUNCHER: 2.0,
        startup.MODULES: 7.5,
        startup.PROCESSES: 10.5,
        startup.RANKS: 3.0,
        startup.TARGET: 10.0,
        startup.MEMORY: 0.5 + 1.0,
        startup.HEAD: 0.5,
        startup.BACKENDS: 13.5 - 12.0 + 1.0,
        startup.CHECK: 12.0,
        "graphs: target verify": 4.5,
        "graphs: draft decode": 2.0,
        startup.SERVER: 1.0,
        startup.WARM: 2.0,
    }
    assert found.seconds == 59.0


def test_a_server_without_a_warm_up_request_is_ready_when_it_listens() -> None:
    found = startup.phases((*LOG, *SKIPPED), 0.0)
    assert found.ready
    assert found.seconds == 57.5
    assert found.of(startup.WARM) == 0


def test_a_start_that_broke_off_is_not_ready() -> None:
    assert not startup.phases(LOG, 0.0).ready


def test_a_log_has_whole_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "server.log"
    path.write_text("\n".join(line for _, line in (*LOG, *WARMED)), encoding="utf-8")
    found = startup.of_log(path)
    assert found is not None
    assert not found.exact
    assert found.of(startup.TARGET) == 10
    assert main(["bench", "start", "--log", str(path)]) == 0
    assert "| fast path: check | 12.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--log", "absent.log"], "there is no log absent.log"),
        (["--log", "x", "--out", "y"], "starts nothing: leave out --out"),
        (["--log", "x", "--config", "none"], "leave out --config"),
        (["--log", "x", "--caches", "y"], "leave out --caches"),
        (["--log", "x", "--profile", "demo"], "leave out --profile"),
        (["--log", "x", "--", "--tp", "2"], "leave out flags after --"),
        ([], "--out FOLDER for what comes out"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert main(["bench", "start", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_another_file_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("milk\n", encoding="utf-8")
    assert main(["bench", "start", "--log", str(path)]) == 2
    assert "is no log of a server" in capsys.readouterr().err


def test_lines_have_the_time_at_which_they_came(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    with StampedLog(path) as stamped:
        path.write_text("first\nsec", encoding="utf-8")
        deadline = time.monotonic() + 30
        while not stamped.lines() and time.monotonic() < deadline:
            time.sleep(0.01)
        with path.open("a", encoding="utf-8") as stream:
            stream.write("ond\n")
    lines = stamped.lines()
    assert [text for _, text in lines] == ["first", "second"]
    assert stamped.begun <= lines[0][0] <= lines[1][0]


AHEAD = f"{AT}48 TP0] sglang-qwen3next-eagle3: "
FAST_LINE = (
    f"{AHEAD}fast path on: dense up to 8 rows, moe up to 8 rows; 48 of 48 layers; checked in 6.0 s"
    "; code 0123456789ab"
)
HEAD_LINE = f"{AHEAD}fast path on: head up to 8 rows; checked in 1.0 s"
ROUNDED_LINE = (
    f"{AHEAD}fast path on: head up to 8 rows, its weights in 8 bits beside the loaded ones "
    "(1,145 MB); checked in 23.6 s"
)


@pytest.mark.parametrize(
    ("lines", "asked", "told"),
    [
        ((), {}, {FAST: "off", SEAMS: "off"}),
        ((), {FAST: "off", SEAMS: "off"}, {FAST: "off", SEAMS: "off"}),
        # Of a log whose level lets no such line through nothing is known.
        ((), {FAST: "auto,head", SEAMS: "auto"}, {}),
        ((FAST_LINE,), {FAST: "auto"}, {FAST: "dense,moe", SEAMS: "off"}),
        ((FAST_LINE, HEAD_LINE), {FAST: "auto,head"}, {FAST: "dense,moe,head", SEAMS: "off"}),
        (
            (FAST_LINE, ROUNDED_LINE),
            {FAST: "on,head,head_w8"},
            {FAST: "dense,moe,head_w8", SEAMS: "off"},
        ),
        (
            (f"{AHEAD}fast path off: not proved with TP 2", f"{AHEAD}seams on: commit, chain"),
            {FAST: "auto", SEAMS: "auto"},
            {FAST: "off", SEAMS: "commit,chain"},
        ),
        (
            (f"{AHEAD}seams off: not proved yet",), {FAST: "on", SEAMS: "auto"}, {SEAMS: "off"},
        ),
        # What a user could not ask for so, and what is not known, are no reasons to fail.
        ((f"{AHEAD}seams on: chain, extend, new",), {}, {FAST: "off", SEAMS: "chain,extend"}),
        ((f"{AHEAD}seams on: chain, slots; code 0a",), {}, {FAST: "off", SEAMS: "chain,slots"}),
        ((f"{AHEAD}seams on: none",), {SEAMS: "chain"}, {FAST: "off", SEAMS: "off"}),
    ],
)  # fmt: skip
def test_what_of_ours_came_to_serve(
    lines: tuple[str, ...], asked: dict[str, str], told: dict[str, str]
) -> None:
    assert startup.switched(lines, asked) == told
