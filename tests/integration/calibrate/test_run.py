"""`head calibrate` from the command line, with a synthetic target in SGLang's place."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sglang_qwen3next_eagle3 import __main__, launch
from sglang_qwen3next_eagle3.calibrate import measure, prompts, report, run, states, verdict
from sglang_qwen3next_eagle3.calibrate.measure import SelectionMeasurement
from sglang_qwen3next_eagle3.calibrate.prompts import Questions
from sglang_qwen3next_eagle3.calibrate.run import Pair
from sglang_qwen3next_eagle3.calibrate.scoring import Depths, Scorer, Text, Texts
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.model.target import Target
from tests.support import calibration
from tests.support.checkpoints import POINTER, write_config
from tests.support.heads import random_tensors, write
from tests.support.server import free_port

FOUND, NOT_FOUND, REFUSED = 0, 1, 2


@pytest.fixture(autouse=True)
def config_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


_MEASURED: dict[bytes, SelectionMeasurement] = {}


@pytest.fixture(autouse=True)
def measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is a function of what it is measured on, and takes a second."""
    original = measure.measure

    def remembered(
        scorer: Scorer, texts: Texts, target: Target, **asked: Any
    ) -> SelectionMeasurement:
        known = {name: value for name, value in asked.items() if name != "task"}
        head = scorer.model.head
        tensors = [tensor for text in texts for tensor in (text.ids, text.streams)]
        tensors += [text.last_hidden for text in texts] + list(scorer.model.tensors.values())
        digest = hashlib.sha256(repr((head.config, target, known)).encode())
        for tensor in tensors:
            digest.update(tensor.contiguous().numpy().tobytes())
        digest.update(bytes(text.start for text in texts))
        key = digest.digest()
        if key not in _MEASURED:
            _MEASURED[key] = original(scorer, texts, target, **asked)
        return _MEASURED[key]

    monkeypatch.setattr(measure, "measure", remembered)


QUESTION = 10
"""Tokens of each text that are the question, where the target answers."""


class SpeakingTexts:
    """A loaded target that answers every question with the rest of its text."""

    def __init__(self, texts: list[Text]) -> None:
        self._texts = texts
        self._said: list[list[int]] = []

    def plan(self, lengths: Sequence[int]) -> list[range]:
        return [range(len(lengths))]

    def begin(self, asked: Sequence[Sequence[int]]) -> list[int]:
        self._said = [list(ids) for ids in asked]
        return self._next()

    def step(self, tokens: Sequence[int]) -> list[int]:
        for said, token in zip(self._said, tokens, strict=True):
            said.append(token)
        return self._next()

    def _next(self) -> list[int]:
        said = zip(self._texts, self._said, strict=False)
        return [int(text.ids[len(ids)]) for text, ids in said]

    def prefill(self, asked: Sequence[Sequence[int]], dtype: torch.dtype) -> Iterator[Text]:
        for text, ids in zip(self._texts, asked, strict=False):
            assert len(ids) == calibration.LENGTH
            yield text


class Setup:
    """A head trained with known streams, its target's folder, and what SGLang was asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, trained: Depths | None):
        made = calibration.head(folder / "head")
        self.head = made.folder
        self.target = write_config(folder / "target", calibration.SMALL_TARGET)
        rows = {"model.embed_tokens.weight": made.embedding, "lm_head.weight": calibration.LM_HEAD}
        save_file(rows, self.target / "model.safetensors")
        self.texts = calibration.texts(made.model, trained, count=8)
        self.asked: dict[str, Any] = {}
        ids = [text.ids.tolist() for text in self.texts]
        monkeypatch.setattr(prompts, "tokenize", lambda given, *_: ids[: len(given)])
        asked = Questions([row[:QUESTION] for row in ids], frozenset(), left_out=2)
        monkeypatch.setattr(prompts, "questions", lambda *_: asked)
        monkeypatch.setattr(states, "load", self.load)

    @contextmanager
    def load(self, folder: Path, **asked: Any) -> Iterator[SpeakingTexts]:
        assert folder == self.target
        self.asked = asked
        yield SpeakingTexts(self.texts)

    def run(self, *argv: str) -> int:
        """With the texts as given."""
        names = ["--head", str(self.head), "--target", str(self.target), "--device", "cpu"]
        return __main__.main(["head", "calibrate", *names, "--no-regenerate", *argv])

    def run_with_answers(self, *argv: str) -> int:
        names = ["--head", str(self.head), "--target", str(self.target), "--device", "cpu"]
        count = str(calibration.LENGTH - QUESTION)
        return __main__.main(["head", "calibrate", *names, "--answer-tokens", count, *argv])


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    return Setup(tmp_path, monkeypatch, (3, 7, 11))


@pytest.mark.usefixtures("setup", "installed")  # triton finds its plugins before
def test_what_is_found_is_printed_written_and_picked_up_by_launch(
    setup: Setup, capsys: pytest.CaptureFixture[str], executed: dict[str, Any]
) -> None:
    assert setup.run() == FOUND
    printed = capsys.readouterr().out
    assert re.search(r"^input:3,7,11 +fork +1\.000", printed, re.MULTILINE), "the best is first"
    assert re.search(r"^output:3,7,11 +card +0", printed, re.MULTILINE)
    assert "input:3,7,11: the next best, " in printed
    assert "`launch` will use it: " in printed
    record = aux_record.find(Folder(setup.head))
    assert record is not None
    assert record.selection == "fork"
    assert record.measured["prompts"] == 8
    assert record.measured["texts"] == "as given"
    argv = ["--profile", "b1", "--target", str(setup.target), "--head", str(setup.head)]
    launch.main([*argv, "--port", str(free_port())])
    assert executed["environment"][ENVIRONMENT_VARIABLE] == "fork"
    assert f"source: {record.source}" in capsys.readouterr().err


def test_a_script_reads_json(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.run("--json", "--no-write", "--steps", "2") == FOUND
    data = json.loads(capsys.readouterr().out)
    assert data["aux_layers"] == "fork"
    assert data["written"] is None
    best = data["candidates"][0]
    assert best["depths"] == [3, 7, 11]
    assert best["top1"][0] == 1.0
    assert len(best["top1"]) == len(best["top5"]) == 2
    assert data["search"]["found"] == "input:3,7,11"
    assert [len(values) for values in data["top1_by_stream"]["slots"]] == [13, 13, 13]
    assert data["tokens"] == 8 * calibration.LENGTH
    assert set(data["seconds"]) == {"load", "prefill", "search"}
    assert (data["texts"], data["answer_tokens"], data["left_out"]) == ("as given", 0, 0)
    assert aux_record.find(Folder(setup.head)) is None


def test_the_target_answers_the_built_in_prompts_itself(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.run_with_answers("--json", "--no-write") == FOUND
    data = json.loads(capsys.readouterr().out)
    assert data["aux_layers"] == "fork"
    assert data["candidates"][0]["top1"][0] == 1.0
    assert data["texts"] == "own answers"
    assert data["tokens"] == 8 * calibration.LENGTH
    assert data["answer_tokens"] == 8 * (calibration.LENGTH - QUESTION)
    assert data["left_out"] == 2
    assert set(data["seconds"]) == {"load", "answers", "prefill", "search"}
    assert setup.asked["longest"] == calibration.LENGTH


def test_prompts_of_the_user_are_answered_on_request_only(
    setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"text": "text"}\n' * 8)
    for flags, made in ((), "as given"), (("--regenerate",), "own answers"):
        assert setup.run_with_answers("--no-write", "--json", "--prompts", str(file), *flags) == 0
        assert json.loads(capsys.readouterr().out)["texts"] == made
    assert setup.run_with_answers("--no-write") == FOUND
    assert (
        "8 prompts with the target's own answers (2 left out), 320 tokens, 240 of them answers"
        in capsys.readouterr().out
    )


def test_a_target_that_is_not_whole_is_refused_before_anything_is_loaded(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    (setup.target / "model.safetensors").write_bytes(POINTER)
    assert setup.run() == REFUSED
    error = capsys.readouterr().err
    assert "model.safetensors is a git LFS pointer" in error
    assert error.count("\n") == 1
    assert not setup.asked


def test_answers_that_are_shorter_than_a_chain_are_refused_before_anything_is_loaded(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.run_with_answers("--steps", "4", "--answer-tokens", "5") == REFUSED
    assert "4 draft steps need --answer-tokens above 5" in capsys.readouterr().err
    assert not setup.asked


def test_foreign_texts_that_speak_narrowly_against_the_config_come_with_advice(
    setup: Setup, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "SMALL", 10.0)  # Any margin is small.
    named = {"qwen3next_eagle3_aux_layers": "card"}
    config = json.loads((setup.head / "config.json").read_text())
    (setup.head / "config.json").write_text(json.dumps({**config, **named}))
    setup.run("--no-write")
    assert report.ADVICE in capsys.readouterr().out
    setup.run_with_answers("--no-write", "--json")
    data = json.loads(capsys.readouterr().out)
    assert data["aux_layers"] == "fork"
    assert data["advice"] is None, "these are the target's own answers"


def test_the_result_may_go_beside_the_head(setup: Setup) -> None:
    out = setup.head / aux_record.FILE
    assert setup.run("--out", str(out)) == FOUND
    record = aux_record.find(Folder(setup.head))
    assert record is not None
    assert json.loads(out.read_text())["aux-layers"] == record.selection == "fork"


def test_a_head_that_knows_nothing_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = Setup(tmp_path, monkeypatch, None)
    assert setup.run() == NOT_FOUND
    assert "not found: with no selection does the head draft better" in capsys.readouterr().out
    assert aux_record.find(Folder(setup.head)) is None


def test_sglang_gets_what_it_was_asked_for(setup: Setup) -> None:
    setup.run("--tp", "2", "--load-format", "auto", "--", "--mem-fraction-static", "0.5")
    assert setup.asked["tp"] == 2
    assert setup.asked["device"] == "cpu"
    assert list(setup.asked["extra"]) == [
        "--load-format", "auto", "--mem-fraction-static", "0.5",
    ]  # fmt: skip


def test_fewer_prompts_on_request(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.run("--json", "--max-prompts", "3")
    assert json.loads(capsys.readouterr().out)["prompts"] == 3


@pytest.mark.parametrize(("count", "status"), [("1", NOT_FOUND), ("7", NOT_FOUND), ("8", FOUND)])
def test_a_few_texts_make_nothing_certain(
    setup: Setup, capsys: pytest.CaptureFixture[str], count: str, status: int
) -> None:
    assert setup.run("--max-prompts", count) == status
    said = f"not found: {count} texts are too few to be sure of anything; give 8 or more"
    assert (said in capsys.readouterr().out) is (status == NOT_FOUND)
    assert (aux_record.find(Folder(setup.head)) is None) is (status == NOT_FOUND)


def test_the_record_keeps_the_figures_of_the_chosen_selection(tmp_path: Path) -> None:
    """The config's is chosen among those that are tied, and need not be the first of them."""
    folder = calibration.head(tmp_path / "head").folder
    pair = Pair("t", "h", tmp_path, folder, calibration.target(), Head.from_path(folder))
    rows = [{"chosen": False, "accept_length": 2.5}, {"chosen": True, "accept_length": 2.4}]
    figures = {
        "candidates": rows, "aux_layers": "card", "prompts": 8, "tokens": 9, "texts": "as given",
        "control": {"accept_length": 1.0},
    }  # fmt: skip
    path = run.write(pair, figures, tmp_path / "record.json")
    assert json.loads(path.read_text())["measured"]["accept_length"] == 2.4


def test_a_target_without_weights_is_tried_and_nothing_is_kept(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    (setup.target / "model.safetensors").unlink()
    argv = ["--load-format", "dummy", "--json", "--max-prompts", "4", "--max-length", "40"]
    assert setup.run_with_answers(*argv) == NOT_FOUND
    data = json.loads(capsys.readouterr().out)
    assert data["load_format"] == "dummy"
    assert data["texts"] == "random tokens"
    assert data["tokens"] == 160
    assert "--skip-tokenizer-init" in setup.asked["extra"]
    assert setup.run_with_answers(*argv, "--regenerate") == REFUSED
    assert "--regenerate needs the target's weights" in capsys.readouterr().err


def test_a_head_of_another_target_is_refused_before_anything_is_loaded(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {**calibration.SMALL_TARGET, "vocab_size": 64}
    write_config(setup.target, config)
    assert setup.run() == REFUSED
    assert "it belongs to another target" in capsys.readouterr().err
    assert not setup.asked


def test_a_head_with_ids_that_cannot_be_served_can_be_measured(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [3, 7, 12]}}
    config = json.loads((setup.head / "config.json").read_text())
    write(setup.head, {**config, **ids}, random_tensors(config))
    assert setup.run("--no-write") == FOUND
    assert "config" not in capsys.readouterr().out


def test_ranks_that_the_target_cannot_be_split_over_are_refused(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    assert setup.run("--tp", "3") == REFUSED
    assert "is not divisible by TP 3" in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_the_measurement(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert setup.run("--plot", "out.png") == REFUSED
    assert "plots need matplotlib: pip install" in capsys.readouterr().err
    assert not setup.asked


def test_a_plot_is_a_png(setup: Setup, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "agreement.png"
    assert setup.run("--plot", str(file), "--no-write") == FOUND
    assert file.read_bytes().startswith(b"\x89PNG")
    assert report._stream(0) == "input@0"
    assert report._stream(4) == "output@3"
