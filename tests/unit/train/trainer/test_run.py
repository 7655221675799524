"""`train` as a command: what is refused before SpecForge starts, and what a dry run prints."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.cli import train as cli
from sglang_qwen3next_eagle3.model import aux_layers, hub
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.trainer import run, specforge
from sglang_qwen3next_eagle3.train.trainer.supervise import TrainingOutcome, TrainingPlan
from tests.support.checkpoints import POINTER, write_config
from tests.support.small_target import CONFIG
from tests.support.train_runs import ErrorOf, Made


@pytest.mark.parametrize("action", cli.ACTIONS)
def test_every_action_explains_itself(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", action, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert cli.ACTIONS[action].summary in printed.replace("\n", " ")
    assert "--out" in printed or action == "evaluate"


def test_a_run_is_planned_from_recipe_target_and_features(
    made: Made, trained: list[TrainingPlan], capsys: pytest.CaptureFixture[str]
) -> None:
    words = made.trainable("--features", str(made.features()), "--set", "training.max_steps=7")
    held_out = str(made.features("held-out"))
    assert made.run(*words, "--eval-features", held_out, "--json") == 0
    (plan,) = trained
    assert plan.config["model"]["aux_hidden_state_layer_ids"] == [3, 7, 11]
    assert plan.config["data"]["eval_hidden_states_path"] == held_out
    assert plan.config["training"]["attention_backend"] == "sdpa"
    assert (plan.steps, plan.device, plan.processes) == (7, "cpu", 1)
    assert plan.about["recipe"]["name"] == "small"
    assert plan.about["data"]["vocabulary"] == {"coverage": 1.0}
    assert json.loads(capsys.readouterr().out)["checkpoint"].endswith("head-step10")


def test_features_of_another_selection_are_refused(made: Made, error_of: ErrorOf) -> None:
    words = made.trainable("--features", str(made.features()))
    printed = error_of(*words, "--aux-layers", "fork")
    assert "the features are of auxiliary layers output:3,7,11 (card), not input:3,7,11" in printed


def test_held_out_features_of_another_selection_are_refused(made: Made, error_of: ErrorOf) -> None:
    other = aux_layers.named("fork", Target(CONFIG))
    wrong = made.features("held-out", selection=str(other), depths=other.depths)
    words = made.trainable("--features", str(made.features()))
    assert "the features are of" in error_of(*words, "--eval-features", str(wrong))


def test_features_of_another_target_are_refused(made: Made, error_of: ErrorOf) -> None:
    words = made.trainable("--features", str(made.features(config_sha256="0")))
    assert "of another target" in error_of(*words)


def test_a_target_that_is_not_whole_is_refused(made: Made, error_of: ErrorOf) -> None:
    words = made.trainable("--features", str(made.features()))
    (made.target / "model.safetensors").write_bytes(POINTER)
    assert "model.safetensors is a git LFS pointer" in error_of(*words)


def test_a_capture_that_is_not_complete_is_refused(made: Made, error_of: ErrorOf) -> None:
    words = made.trainable("--features", str(made.features(samples_done=9)))
    assert "is not complete: start `train capture` again" in error_of(*words)


def test_a_missing_step_is_named(made: Made, error_of: ErrorOf) -> None:
    assert "--vocab is missing; `train vocab` makes it" in error_of("--device", "cpu")
    words = made.trainable()
    assert "--features is missing; `train capture` makes it" in error_of(*words)
    assert "nope: it is not there" in error_of("--vocab", "nope")
    assert "holds no features.json" in error_of(*words, "--features", str(made.folder))


def test_a_vocabulary_of_another_size_is_refused(made: Made, error_of: ErrorOf) -> None:
    torch.save({"d2t": torch.zeros(5), "t2d": torch.zeros(9)}, made.vocab)
    printed = error_of(*made.trainable("--features", str(made.features())))
    assert "maps 5 draft tokens to 9 of the target" in printed
    assert "`train vocab --size 64`" in printed


def test_gdn_layers_need_leave(made: Made, error_of: ErrorOf) -> None:
    words = made.trainable("--features", str(made.features()))
    assert "--allow-gdn-aux" in error_of(*words, "--aux-layers", "output:3,5,7")


def test_specforge_trains_on_three_states(made: Made, error_of: ErrorOf) -> None:
    words = made.trainable("--features", str(made.features()))
    assert "2 named, the head's fc takes 3" in error_of(*words, "--aux-layers", "output:3,7")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.nope=1", "SpecForge refuses the run config: training.nope: unknown key"),
        ("training.num_epochs=0", "training.num_epochs: Input should be greater than 0"),
        ("training.attention_backend=eager", "does not support attention_backend='eager'"),
        ("training.batch_size=11", "10 samples do not fill a batch of 11"),
    ],
)
def test_settings_that_specforge_refuses(
    made: Made, error_of: ErrorOf, setting: str, message: str
) -> None:
    words = made.trainable("--features", str(made.features()))
    assert message in error_of(*words, "--set", setting)


def test_a_trainer_that_is_not_installed_is_said_to_be(
    error_of: ErrorOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(specforge, "installed", lambda: None)
    assert "SpecForge is not installed: `make train-env`" in error_of()


def test_ctrl_c_is_no_error(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(plan: TrainingPlan, out: Path) -> TrainingOutcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", train)
    assert made.run(*made.trainable("--features", str(made.features()))) == 130
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_dry_run_needs_none_of_the_steps_before_it(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.run("--dry-run", "--json") == 0
    config = json.loads(capsys.readouterr().out)
    assert config["model"]["vocab_mapping_path"].endswith("vocab.pt")
    assert not made.out.exists()
    assert made.run("--dry-run") == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed) == config, "what people read is what SpecForge reads"


def test_a_dry_run_says_how_many_steps_its_features_are(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.run("--dry-run", "--features", str(made.features())) == 0
    assert "# optimizer steps: 10\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("selection", "ids"),
    [("card", [3, 23, 47]), ("fork", [2, 26, 46]), ("sglang", [1, 23, 44])],
)
def test_a_dry_run_knows_the_published_target(
    selection: str, ids: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "run", "--recipe", "card", "--dry-run", "--json"]
    assert main([*words, "--aux-layers", selection]) == 0
    config = json.loads(capsys.readouterr().out)
    assert config["model"]["aux_hidden_state_layer_ids"] == ids
    assert main([*words, "--aux-layers", "output:3,7,11"]) == 2
    assert "give the target as a local folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("here", "device", "gpus", "outcome"),
    [
        (0, None, None, "cpu"),
        (2, None, None, "cuda"),
        (8, "cuda", 8, "cuda"),
        (2, "cpu", None, "cpu"),
        (0, "cuda", None, "no CUDA GPU here"),
        (1, None, None, "pass --gpus 1"),
        (2, None, 4, "4 training processes"),
        (2, "cpu", 2, "on a CPU one process trains"),
        (2, None, 0, "at least 1"),
    ],
)
def test_the_device_is_what_is_here(
    monkeypatch: pytest.MonkeyPatch, here: int, device: str | None, gpus: int | None, outcome: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here)
    if outcome in ("cpu", "cuda"):
        assert run.choose_device(device, gpus, dp=2) == outcome
    else:
        with pytest.raises(UserError, match=outcome):
            run.choose_device(device, gpus, dp=2)


def test_a_target_of_one_file_gets_the_index_that_specforge_reads(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    target = write_config(tmp_path / "target", CONFIG)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, target / "model.safetensors")
    for _ in range(2):
        indexed = specforge.indexed(target, tmp_path / "beside")
        index = json.loads((indexed / hub.INDEX).read_text())
        assert index["weight_map"] == {"lm_head.weight": "model.safetensors"}
        assert (indexed / "config.json").read_text() == (target / "config.json").read_text()
    assert not (target / hub.INDEX).exists()
    assert specforge.indexed(indexed, tmp_path / "again") == indexed
