"""`bench cycle` from the command line, with servers that pretend."""

import json
import signal
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import INTERRUPTED, ServerFailed, Terminated, UserError
from sglang_qwen3next_eagle3.bench import cycle
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.results.cycles import CycleResult, RankCycles
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.overlay.cycle.recording import MARK, SHIFT, Recording
from sglang_qwen3next_eagle3.serving import server
from tests.support import fake_sglang

ROOT = Path(__file__).resolve().parents[3]
RECORDS = {"ranks": 2, "chunk_seconds": 0.01}


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAUNCHER", fake_sglang.__name__)
    monkeypatch.chdir(ROOT)
    behave(
        monkeypatch, {"none": RECORDS, "3-1-4": {**RECORDS, "per_chunk": 3, "chunk_seconds": 0.03}}
    )


def behave(monkeypatch: pytest.MonkeyPatch, of: dict[str, object]) -> None:
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(of))


def words(out: Path, *more: str) -> list[str]:
    return [
        "bench", "cycle", "--profile", "demo", "--config", "none", "--config", "3,1,4",
        "--output-tokens", "60", "--input-tokens", "4", "--out", str(out), *more,
    ]  # fmt: skip


def test_every_rank_tells_its_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path, "--batch", "1,2")) == 0
    report = capsys.readouterr().out
    result = CycleResult.load(tmp_path)
    assert [(c.configuration, c.batch) for c in result.cells] == [
        ("none", 1), ("none", 2), ("3,1,4", 1), ("3,1,4", 2),
    ]  # fmt: skip
    assert [c.simulated_accept_length for c in result.cells] == [None, None, 2.46, 2.46]
    for cell in result.cells:
        assert [rank.rank for rank in cell.ranks] == ["tp0", "tp1"]
        for rank in cell.ranks:
            phases = {phase.name: phase for phase in rank.phases}
            assert set(phases) == {"receive requests", "run batch", "sampling", "loop"}
            assert phases["sampling"].own.mean >= 0.5
            assert sum(p.own.mean for p in rank.phases) == pytest.approx(rank.cycle.mean, 0.01)
            assert rank.stacks is not None
    assert result.cells[0].verify_steps is None
    assert result.cells[2].verify_steps
    for line in ("## Milliseconds a cycle by phase, B=2, tp0", "## 3,1,4, B=1, accept length 2.46"):
        assert line in report
    assert "By rank, means:" in report
    assert report.strip() == (tmp_path / "report.md").read_text().strip()
    with pytest.raises(UserError, match="is of `bench cycle`: read the report.md beside it"):
        Result.load(tmp_path)


def test_it_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(monkeypatch, {"none": RECORDS, "3-1-4": {"refuse": "no memory"}})
    assert main(words(tmp_path, "--no-stacks")) == 1
    result = CycleResult.load(tmp_path)
    assert [cell.configuration for cell in result.cells] == ["none"]
    assert result.cells[0].ranks[0].stacks is None
    assert "**3,1,4** failed" in capsys.readouterr().out
    behave(monkeypatch, {"none": {"refuse": "it is not asked again"}, "3-1-4": RECORDS})
    assert main(words(tmp_path, "--no-stacks", "--json")) == 0
    printed = CycleResult.model_validate_json(capsys.readouterr().out)
    assert [cell.configuration for cell in printed.cells] == ["none", "3,1,4"]
    assert {row.status for row in printed.configurations} == {"ok"}
    assert main(words(tmp_path)) == 2
    assert "stacks" in capsys.readouterr().err, "another request"


def test_schedulers_that_record_nothing_are_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    behave(monkeypatch, {"none": {"say": "no cycles: another SGLang"}, "3-1-4": RECORDS})
    assert main(words(tmp_path, "--no-stacks")) == 1
    report = capsys.readouterr().out
    assert "its schedulers record nothing" in report
    assert "no cycles: another SGLang" in report
    assert [cell.configuration for cell in CycleResult.load(tmp_path).cells] == ["3,1,4"]


def test_a_batch_that_lost_a_request_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Both requests of the good one are there together for some cycles, on a busy machine too.
    slow = {**RECORDS, "chunk_seconds": 0.03}
    behave(monkeypatch, {"none": {**RECORDS, "fail_at": [4]}, "3-1-4": slow})
    assert main(words(tmp_path, "--no-stacks", "--batch", "2")) == 1
    assert "1 of 2 requests failed: HTTP 500: out of luck" in capsys.readouterr().out
    assert [cell.configuration for cell in CycleResult.load(tmp_path).cells] == ["3,1,4"]


def test_cycles_of_other_batches_do_not_count() -> None:
    def turn(start: int, batch: int) -> list[int]:
        return [start << SHIFT, (start + 1) << SHIFT | 1, (start + 2) << SHIFT | MARK + batch]

    times = [entry for n in range(30) for entry in turn(10 * n, 2 if n < 20 else 1)]
    found = Recording("tp0", {"full": False, "call_ns": 1000.0, "graphs": {}}, times)
    rank = RankCycles.of(found, 2)
    assert rank.cycles == 20 - 8
    assert rank.recorder_ms == 0.001
    with pytest.raises(ServerFailed, match="tp0: no cycle of 4 requests was recorded"):
        RankCycles.of(found, 4)


@pytest.mark.parametrize("length", ["0.5", "1.0,2.0", "many"])
def test_one_accept_length_is_given(
    tmp_path: Path, length: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, "--accept-length", length)) == 2
    assert "accept length" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ended", "status"), [(KeyboardInterrupt(), INTERRUPTED), (Terminated(signal.SIGTERM), 143)]
)
def test_what_ends_it_early_keeps_what_is_done_and_says_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ended: KeyboardInterrupt,
    status: int,
) -> None:
    def server(measuring: cycle._Measuring, contender: Contender, *_: object) -> None:
        raise ended

    monkeypatch.setattr(cycle._Measuring, "server", server)
    assert main(words(tmp_path)) == status
    assert capsys.readouterr().err.endswith(": what is done is kept, the same command goes on\n")
    assert CycleResult.load(tmp_path).cells == ()
