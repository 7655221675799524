"""`bench speed` from the command line, with servers that pretend."""

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench import servers, speed
from sglang_qwen3next_eagle3.bench.options import SpeedOptions
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.overlay import environment
from sglang_qwen3next_eagle3.overlay.simulate import AcceptLength
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving import server
from tests.support import fake_sglang

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAUNCHER", fake_sglang.__name__)
    monkeypatch.chdir(ROOT)
    # In the tree's server three tokens come with every step, whatever is simulated.
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"2-1-3": {"per_chunk": 3}}))


def words(out: Path, *more: str) -> list[str]:
    return [
        "bench", "speed", "--profile", "demo", "--config", "none", "--config", "2,1,3",
        "--output-tokens", "10", "--input-tokens", "4", "--no-plots", "--out", str(out), *more,
    ]  # fmt: skip


def test_every_cell_is_measured_in_one_start_a_tree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, "--batch", "1,2", "--repeats", "2")) == 0
    result = Result.load(tmp_path)
    assert result.kind == "speed"
    lengths = {m.simulated_accept_length for m in result.measurements if m.configuration != "none"}
    assert lengths == {1.0, 1.6, 2.46, 3.0}
    assert len(result.of("none", "synthetic", 2)) == 2
    assert len(result.of("2,1,3", "synthetic", 2, 2.46)) == 2
    assert len(result.measurements) == 2 * 2 * (1 + 4)
    assert "Acceptance is simulated" in capsys.readouterr().out
    assert "--max-running-requests" in result.configuration("none").argv
    assert (tmp_path / "cost-model.json").is_file()
    assert main(["bench", "plan", "--result", str(tmp_path), "--accept-lengths", "2.2"]) == 0
    assert "2,1,3" in capsys.readouterr().out


def test_a_routing_is_asked_for_told_to_the_server_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    served = servers.served

    def seen(
        contender: Any, out: Any, flags: Any, seconds: Any, set_there: Any, *options: Any
    ) -> Any:
        told.append(set_there.get(environment.ROUTING))
        return served(contender, out, flags, seconds, set_there, *options)

    monkeypatch.setattr(servers, "served", seen)
    asked = words(tmp_path, "--batch", "1", "--repeats", "1", "--accept-lengths", "2.46")
    assert main([*asked, "--routing", "uniform"]) == 0
    result = Result.load(tmp_path)
    assert result.settings["routing"] == "uniform"
    assert told == ["uniform", "uniform"], "without speculation, too"
    assert any("evenly" in note for note in result.notes)
    capsys.readouterr()
    assert main(asked) == 2, "another routing does not go into the folder"
    assert "routing" in capsys.readouterr().err


def test_parts_of_two_gpus_are_joined_with_their_cost_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two, both = (tmp_path / name for name in ("one", "two", "both"))
    lengths = "1.0,2.46"
    assert main(words(one, "--batch", "1", "--accept-lengths", lengths, "--repeats", "1")) == 0
    assert main(words(two, "--batch", "1", "--accept-lengths", "1.6,2.46", "--repeats", "2")) == 0
    capsys.readouterr()
    assert (
        main(["bench", "join", str(one), str(two), "--no-plots", "--json", "--out", str(both)]) == 0
    )
    printed = capsys.readouterr()
    assert "2 passes are in several folders" in printed.err, "the baseline, and 2.46"
    result = Result.load(both)
    assert json.loads(printed.out) == result.model_dump(mode="json")
    assert result.settings["accept_lengths"] == [1.0, 1.6, 2.46]
    assert result.settings["repeats"] == 2
    counts = {x: len(result.of("2,1,3", "synthetic", 1, x)) for x in (1.0, 1.6, 2.46)}
    assert counts == {1.0: 1, 1.6: 2, 2.46: 2}
    assert (
        result.of("2,1,3", "synthetic", 1, 2.46)[0]
        == Result.load(one).of("2,1,3", "synthetic", 1, 2.46)[0]
    )
    assert set(Result.load(one).notes) <= set(result.notes)
    assert main(["bench", "plan", "--result", str(both), "--accept-lengths", "2.2"]) == 0


def test_lengths_out_of_a_tree_s_reach_are_left_out() -> None:
    assert speed.reachable(None, [1.0, 3.0]) == [None]
    assert speed.reachable((1, 1, 2), [1.0, 1.6, 2.0, 2.46]) == [1.0, 1.6, 2.0]


def test_prompts_are_random_ordinary_tokens_of_a_seed() -> None:
    def ids(seed: int) -> list[list[int]]:
        return [list(c.turns([]) or ()) for c in synthetic.dialogues(3, 50, 1000, seed)]

    assert ids(0) == ids(0)
    assert ids(0) != ids(1)
    assert max(token for row in ids(0) for token in row) < 990
    assert len({tuple(row) for row in ids(0)}) == 3
    assert synthetic.dialogues(1, 5, 1000, 0)[0].turns([(1, 2)]) is None


def test_what_cannot_be_measured_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, "--accept-lengths", "0.5")) == 2
    assert "accept lengths are 1 or more" in capsys.readouterr().err
    assert main(words(tmp_path, "--config", "fast")) == 2
    error = capsys.readouterr().err
    assert "no configuration 'fast'" in error
    assert error.count("\n") == 1


def test_without_a_baseline_there_is_a_report_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"none": {"refuse": "no GPU"}}))
    assert main(words(tmp_path, "--batch", "1")) == 1
    report = (tmp_path / "report.md").read_text()
    assert "No cost model: the result has no baseline" in report
    assert "error: no GPU" in report
    assert [m.equality for m in Result.load(tmp_path).measurements] == [None] * 8


def test_nothing_is_downloaded_for_the_synthetic_pair(tmp_path: Path) -> None:
    asked = SpeedOptions(out=tmp_path, head="org/mine")
    served, flags = speed.synthetic_pair(asked, tmp_path)
    for profile in ("h200-fp8", "b1"):
        found = served.given(profiles.load(profile))
        assert found.target == str(tmp_path / "Qwen3-Coder-Next-fp8")
        assert found.head == "org/mine"
    assert "dummy" in flags


def test_the_fakes_are_told_what_to_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[float] = []
    monkeypatch.setattr(
        AcceptLength, "value", property(None, lambda _self, number: told.append(number))
    )
    assert main(words(tmp_path, "--batch", "1", "--repeats", "1")) == 0
    assert told == [-1.0, 1.0, 1.6, 2.46, 3.0]


def test_every_contender_has_the_prefill_graphs_that_are_asked_for(tmp_path: Path) -> None:
    def flags(**more: Any) -> str:
        # With a target of one's own nothing is written.
        asked = SpeedOptions(out=tmp_path, target="org/mine", batches=(1, 8), **more)
        return " ".join(speed.synthetic_pair(asked, tmp_path)[1])

    assert "--disable-prefill-cuda-graph" in flags()
    assert "--cuda-graph-bs-prefill" not in flags()
    with_graphs = flags(prefill_graphs=(256, 2048))
    named = "--cuda-graph-backend-prefill breakable --cuda-graph-bs-prefill 256 2048 "
    assert named in with_graphs
    assert "--disable-prefill-cuda-graph" not in with_graphs
    assert flags() == with_graphs.replace(named, "--disable-prefill-cuda-graph ")


def test_prefill_graphs_are_in_the_settings_and_in_what_a_folder_was_begun_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The demo's servers have none, and a fake takes whatever it is told.
    monkeypatch.setattr(speed, "refuse_prefill_graphs", lambda options, chosen: None)
    asked = words(tmp_path, "--batch", "1", "--repeats", "1", "--accept-lengths", "2.46")
    assert main([*asked, "--prefill-graphs", "256,4"]) == 0
    result = Result.load(tmp_path)
    assert result.settings["prefill_graphs"] == [4, 256]
    (note,) = [note for note in result.notes if "CUDA graphs of prefills" in note]
    assert "of 4, 256 tokens" in note
    assert note in (tmp_path / "report.md").read_text()
    capsys.readouterr()
    assert main(asked) == 2, "without them it is another benchmark"
    assert "prefill_graphs" in capsys.readouterr().err
    assert main([*asked[:-1], "2.46", "--out", str(tmp_path / "without")]) == 0
    without = Result.load(tmp_path / "without")
    assert "prefill_graphs" not in without.settings
    assert not [note for note in without.notes if "prefill" in note]


def test_sampled_requests_are_asked_for_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_with = list[Any]()
    ask = servers.ask

    def asks(server: Any, prompts: Any, batch: int, sampling: Any, *more: Any) -> Any:
        asked_with.append(sampling)
        return ask(server, prompts, batch, sampling, *more)

    monkeypatch.setattr(servers, "ask", asks)
    asked = words(tmp_path, "--batch", "1", "--repeats", "1", "--accept-lengths", "2.46")
    assert main([*asked, "--temperature", "0.7", "--top-p", "0.8", "--top-k", "20"]) == 0
    drawn = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
    assert asked_with
    assert all(one.items() >= drawn.items() for one in asked_with)
    result = Result.load(tmp_path)
    assert result.settings["sampling"] == drawn
    assert "Every request is sampled: temperature 0.7, top_p 0.8, top_k 20." in result.notes
    capsys.readouterr()
    assert main(asked) == 2, "greedy ones are another benchmark"
    assert "sampling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--top-p", "0.8"), "--top-p: requests are greedy, and nothing is drawn"),
        (("--top-k", "20", "--top-p", "0.8"), "--top-p and --top-k: requests are greedy"),
    ],
)
def test_nothing_is_drawn_from_greedy_requests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], why: str
) -> None:
    assert main(words(tmp_path / "out", "--batch", "1", *more)) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (("--temperature", "-1"), "a temperature is 0 or more"),
        (("--temperature", "nan"), "a number is needed"),
        (("--temperature", "1", "--top-p", "0"), "a share above 0, up to 1"),
        (("--temperature", "1", "--top-p", "1.5"), "a share above 0, up to 1"),
        (("--temperature", "1", "--top-k", "0"), "at least 1"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], why: str
) -> None:
    assert main(words(tmp_path / "out", "--batch", "1", *more)) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--prefill-graphs", "256", "--profile", "demo"], "the profile demo serves on a CPU"),
        (["--prefill-graphs", "64"], "none serves a prompt of --input-tokens 256"),
        (["--prefill-graphs", "64,1024"], "give one from 256 to 512"),
        (["--prefill-graphs", "256", "--input-tokens", "100"], "give one from 100 to 200"),
        (
            ["--prefill-graphs", "256", "--", "--disable-prefill-cuda-graph"],
            "--prefill-graphs 256 and --disable-prefill-cuda-graph behind -- both say",
        ),
        (["--prefill-graphs", "256", "--", "--cuda-graph-bs-prefill", "512"], "leave one out"),
        (["--prefill-graphs", "256", "--", "--cuda-graph-backend-prefill=full"], "leave one out"),
        (["--prefill-graphs", "256", "--", '--cuda-graph-config={"prefill": {}}'], "leave one"),
    ],
)
@pytest.mark.parametrize("verb", ["speed", "cycle"])
def test_prefill_graphs_that_serve_nothing_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, more: list[str], why: str
) -> None:
    assert main(["bench", verb, "--out", str(tmp_path / "out"), "--config", "none", *more]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("graphs", [(256,), (512,), (64, 300)])
def test_prefill_graphs_that_serve_a_prompt_are_taken(
    tmp_path: Path, graphs: tuple[int, ...]
) -> None:
    asked = SpeedOptions(out=tmp_path, prefill_graphs=graphs)
    speed.refuse_prefill_graphs(asked, profiles.load("h200-fp8"))
