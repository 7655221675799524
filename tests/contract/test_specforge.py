"""The installed SpecForge against its manifest, and what this package relies on in it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.contract import Installed
from sglang_qwen3next_eagle3.train import draft_vocabulary, export
from sglang_qwen3next_eagle3.train.trainer import recipe, runconfig, specforge
from tests.support import specforge_oracle
from tests.support.checkpoints import CODER_NEXT

ROOT = Path(__file__).parents[2]
VOCABULARY = draft_vocabulary.choose({7: 5, 2: 3, 4: 2}, 6, 9)


def test_every_symbol_is_as_reviewed() -> None:
    manifest = specforge.require()
    assert manifest.release == specforge.RELEASE
    assert {symbol.part for symbol in manifest.symbols} == {"training"}


def test_the_one_hook_is_the_loss() -> None:
    hooked = {s.target for s in specforge.read_manifest().symbols if s.role == "hooked"}
    assert hooked == {"specforge.core.loss:LogSoftmaxLoss"}


def test_another_release_or_a_changed_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SpecForge 0\.3\.0 is not supported: `make train-env`"):
        specforge.require(Installed("0.3.0", tmp_path))
    with pytest.raises(UserError, match=r"specforge\.core\.loss:LogSoftmaxLoss is not what"):
        specforge.require(Installed(specforge.RELEASE, tmp_path))


@pytest.fixture(scope="module")
def printed() -> str:
    """`train run --recipe card --dry-run`, in a process of its own."""
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3", "train", "run"]
    command += ["--recipe", "card", "--dry-run"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# The table "Training Details" of the model card of thoughtworks/Qwen3-Coder-Next-Eagle3, and where
# the printed config says it. Its last row, "Training accuracy (acc_0) 0.97", is an outcome: no
# config says it, `train evaluate` measures it.
CARD = {
    "Framework: SpecForge (PyTorch)": r"^# trainer: SpecForge; ",
    "Framework: SGLang backend": r"^# capture: SGLang on ",
    "Hardware: 8x NVIDIA H200": r"^# capture: SGLang on 8 GPUs ",
    "Hardware: TP=4, DP=2": r"\(TP=4, DP=2\)",
    "Hardware: DP=2, a process each": r"nproc_per_node: 2$",
    "Pre-training: 6 epochs": r"^  num_epochs: 6$",
    "Pre-training: 54K": r"conversations: 54000$",
    "Pre-training: ShareGPT": r"^# data: .*/ShareGPT",
    "Pre-training: UltraChat": r"^# data: .*/ultrachat",
    "Pre-training: PerfectBlend": r"^# data: .*/open-perfectblend",
    "Pre-training: LR=1e-4": r"^  learning_rate: 0\.0001$",
    "Optimizer: AdamW": r"optimizer: AdamW ",
    "Batch size: 1 (per device)": r"^  batch_size: 1$",
    "max_length: 2048": r"^  max_length: 2048$",
    "TTT: 7": r"^  ttt_length: 7$",
    "Precision: bfloat16": r"^  torch_dtype: bfloat16$",
}


@pytest.mark.parametrize("row", CARD)
def test_the_card_s_recipe_is_the_card_s_table(row: str, printed: str) -> None:
    assert re.search(CARD[row], printed, re.MULTILINE), printed


def test_the_only_optimizer_is_adamw() -> None:
    """The config has no key for it: SpecForge's one optimizer is PyTorch's AdamW."""
    found = specforge.installed()
    assert found is not None
    source = (found.root / "specforge" / "optimizer.py").read_text()
    assert set(re.findall(r"torch\.optim\.(\w+)\(", source)) == {"AdamW"}


def test_the_card_s_config_is_one_to_specforge(printed: str) -> None:
    from specforge.config.schema import Config

    config = Config.model_validate(yaml.safe_load(printed))
    assert config.mode == "offline"
    assert config.training.lr_scheduler == "cosine"
    assert config.model.aux_hidden_state_layer_ids == [3, 23, 47]


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_passes_specforge_s_checks(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from specforge.application import resolve_run
    from specforge.config.schema import Config

    target = [] if name == "card" else ["--target", "Qwen/Qwen3-Coder-Next"]
    assert main(["train", "run", "--recipe", name, "--dry-run", "--json", *target]) == 0
    config = Config.model_validate(json.loads(capsys.readouterr().out))
    assert resolve_run(config).algorithm.name == "eagle3"


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("oracle")
    target = Target({**CODER_NEXT, "rope_theta": 5000000})
    selection = aux_layers.named("card", target)
    config = folder / "draft.json"
    config.write_text(
        json.dumps(runconfig.head_config(recipe.load("card").draft, target, selection))
    )
    draft_vocabulary.write(VOCABULARY, folder, {})
    command = [sys.executable, "-m", specforge_oracle.__name__, str(folder), str(config)]
    done = subprocess.run(
        [*command, str(folder / draft_vocabulary.MAPPING)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_loss_on_a_cpu_is_specforge_s_reference_and_its_gradient(
    oracle: dict[str, Any],
) -> None:
    reference, ours = oracle["losses"]["reference"], oracle["losses"]["ours"]
    assert ours["value"] == pytest.approx(reference["value"], rel=1e-6)
    assert ours["gradient"] == pytest.approx(reference["gradient"], rel=1e-5, abs=1e-8)
    assert any(ours["gradient"])


# The published head: names, shapes and dtypes of its tensors.
PUBLISHED = {
    "fc.weight": [[2048, 6144], "bfloat16"],
    "midlayer.self_attn.q_proj.weight": [[2048, 4096], "bfloat16"],
    "midlayer.self_attn.k_proj.weight": [[512, 4096], "bfloat16"],
    "midlayer.self_attn.v_proj.weight": [[512, 4096], "bfloat16"],
    "midlayer.self_attn.o_proj.weight": [[2048, 2048], "bfloat16"],
    "midlayer.mlp.gate_proj.weight": [[8192, 2048], "bfloat16"],
    "midlayer.mlp.up_proj.weight": [[8192, 2048], "bfloat16"],
    "midlayer.mlp.down_proj.weight": [[2048, 8192], "bfloat16"],
    "midlayer.input_layernorm.weight": [[2048], "bfloat16"],
    "midlayer.hidden_norm.weight": [[2048], "bfloat16"],
    "midlayer.post_attention_layernorm.weight": [[2048], "bfloat16"],
    "norm.weight": [[2048], "bfloat16"],
    "lm_head.weight": [[32000, 2048], "bfloat16"],
    "d2t": [[32000], "int64"],
    "t2d": [[151936], "bool"],
}


def test_specforge_builds_the_published_head_from_the_card_s_recipe(
    oracle: dict[str, Any],
) -> None:
    built = dict(oracle["published"])
    # In training it holds the target's; the export leaves it out.
    assert built.pop("embed_tokens.weight") == [[151936, 2048], "bfloat16"]
    assert built == PUBLISHED
    sizes = [torch.Size(shape).numel() for shape, dtype in built.values() if dtype == "bfloat16"]
    assert sum(sizes) == 145_235_968


def test_specforge_reads_our_draft_vocabulary(oracle: dict[str, Any]) -> None:
    expected = VOCABULARY.tensors()
    assert oracle["vocabulary"]["d2t"] == expected["d2t"].tolist() == [0, 0, 0, 0, 0, 2]
    assert oracle["vocabulary"]["t2d"] == expected["t2d"].tolist()


def test_accuracies_are_those_that_specforge_reports(oracle: dict[str, Any]) -> None:
    found = oracle["accuracies"]
    # SpecForge counts 1e-6 of a query for a sample that has none at some step.
    assert found["ours"] == pytest.approx(found["alone"], abs=1e-8)
    assert found["ours"] == pytest.approx(found["padded"], abs=1e-8)
    assert found["positions"] > 60
    assert len({round(accuracy, 6) for accuracy in found["ours"]}) > 3, "worth comparing"


def test_the_exporter_s_own_reason_is_given(tmp_path: Path) -> None:
    torch.save({"strategy": "dflash"}, tmp_path / "training_state.pt")
    with pytest.raises(UserError, match="SpecForge could not export .*ValueError: .*dflash"):
        export._specforge_export(tmp_path, tmp_path, tmp_path / "head")
