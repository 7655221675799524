from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.trainer import recipe
from tests.support.train_runs import MINIMAL


def test_the_packaged_recipes_are_read_by_name() -> None:
    assert recipe.names() == ("card", "demo")
    assert [recipe.load(name).aux_layers for name in recipe.names()] == ["card", "card"]


def test_a_recipe_may_be_a_file(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert recipe.load(str(path)).draft.vocab_size == 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": []}, "recipe r: sources: unknown key; known are description, target"),
        ({"draft": {}}, "recipe r: draft.vocab-size: Field required"),
        ({"hardware": {"gpus": 0, "tp": 1, "dp": 1}}, "recipe r: hardware.gpus: "),
        (
            {"draft": {**MINIMAL["draft"], "num-key-value-heads": 3}},
            "num-attention-heads is no multiple of num-key-value-heads",
        ),
        ({"specforge": {"deployment": {}}}, "its sections are model, data, training, tracking"),
        (
            {"specforge": {"model": {"target_model_path": "x"}}},
            "specforge.model.target_model_path is filled in by `train run`",
        ),
        ({"specforge": {"training": {"strategy": "dflash"}}}, "training.strategy is filled in"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        recipe.parse({**MINIMAL, **change}, "r")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "not YAML"), (b"\xff\xfe\x00", "not YAML"), (b"- 1", "holds no mapping")],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        recipe.load(str(path))
    assert "\n" not in str(refused.value)


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(UserError, match="no recipe 'cart': choose one of card, demo, or give"):
        recipe.load("cart")
