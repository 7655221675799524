"""`bench` against real servers on the CPU: its own, started for it."""

import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench.results.cycles import CycleResult
from sglang_qwen3next_eagle3.bench.results.records import Result


def test_a_baseline_and_a_chain_have_the_same_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "run", "--profile", "demo", "--suite", "smoke", "--limit", "3"]
    words += ["--config", "none", "--config", "3,1,4", "--batch", "1,3", "--max-tokens", "24"]
    assert main([*words, "--side-by-side", "--out", str(tmp_path)]) == 0
    result = Result.load(tmp_path)
    for batch in (1, 3):
        (plain,) = result.of("none", "smoke", batch)
        (chain,) = result.of("3,1,4", "smoke", batch)
        assert chain.equality is not None
        assert chain.equality.equal == chain.equality.of == plain.figures.requests
        assert plain.figures.accept_length is None
        assert chain.figures.accept_length is not None
        assert chain.figures.accept_length > 1.5
        assert len(chain.figures.accept_by_position) == 3
        assert 0 < chain.figures.ttft.p50 < chain.figures.seconds
    assert result.configuration("3,1,4").max_running_requests == 8
    assert {path.name for path in (tmp_path / "plots").glob("*.png")} >= {"speedup.png"}
    capsys.readouterr()
    assert main(["bench", "compare", str(tmp_path), str(tmp_path), "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert {cell["figures"]["output_tok_s"]["ratio"] for cell in cells} == {1.0}


def test_the_phases_of_a_cycle_are_told_by_the_scheduler_itself(tmp_path: Path) -> None:
    words = ["bench", "cycle", "--profile", "demo", "--config", "3,1,4", "--out", str(tmp_path)]
    assert main([*words, "--output-tokens", "48", "--input-tokens", "8"]) == 0
    (cell,) = CycleResult.load(tmp_path).cells
    (rank,) = cell.ranks
    phases = {phase.name: phase for phase in rank.phases}
    # Of each once a cycle, and of the draft's graph, which there is none on a CPU, its steps.
    for name in ("receive requests", "draft preparation", "draft steps", "tree", "commit"):
        assert phases[name].calls == 1, name
    for name in ("verify preparation", "verify graph", "sampling", "draft extend", "output"):
        assert phases[name].calls == 1, name
    whole = sum(phase.own.mean for phase in rank.phases)
    assert whole == pytest.approx(rank.cycle.mean, rel=0.01)
    # 48 tokens at 2.46 a cycle, without the first cycles.
    assert 8 <= rank.cycles <= 24
    assert rank.stacks is not None
    assert rank.stacks.samples > 0
    assert set(rank.stacks.phases) <= {*phases, "loop"}
    assert "## 3,1,4, B=1, accept length 2.46" in (tmp_path / "report.md").read_text()


def test_acceptance_is_simulated_at_two_lengths_in_one_start(tmp_path: Path) -> None:
    words = ["bench", "speed", "--profile", "demo", "--config", "3,4,8", "--batch", "2"]
    words += ["--accept-lengths", "1.0,2.46", "--output-tokens", "40", "--input-tokens", "8"]
    assert main([*words, "--repeats", "1", "--no-plots", "--out", str(tmp_path)]) == 0
    result = Result.load(tmp_path)
    for length in (1.0, 2.46):
        (found,) = result.of("3,4,8", "synthetic", 2, length)
        figures = found.figures
        assert figures.verify_steps is not None
        # The first token is the prefill's, and the last step may give more than was asked for.
        steps = figures.verify_steps / 2
        assert 39 / length <= steps <= 39 / length + 1
    assert "simulated" in (tmp_path / "logs" / "3-4-8.log").read_text()
