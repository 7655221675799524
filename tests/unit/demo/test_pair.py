"""The trained pair that comes with the package is what its cards say."""

import json
from math import prod
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.demo import pair as pairs
from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.head.check import check
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.shards import headers
from sglang_qwen3next_eagle3.model.target import Target


@pytest.fixture(scope="module")
def pair() -> DemoPair:
    return demo_pair()


@pytest.fixture(scope="module")
def tokenizer(pair: DemoPair) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(pair.target)


def test_both_together_take_at_most_16_megabytes(pair: DemoPair) -> None:
    files = [path for folder in (pair.target, pair.head) for path in folder.iterdir()]
    assert 10e6 < sum(path.stat().st_size for path in files) <= 16e6


def test_weights_are_bf16(pair: DemoPair) -> None:
    for folder in (pair.target, pair.head):
        stored = [tensor for _, tensor in headers(Folder(folder)).values()]
        floats = {tensor.dtype for tensor in stored} - {"I64", "BOOL"}
        assert floats == {"BF16"}, folder


def test_the_target_has_the_real_one_s_architecture(pair: DemoPair) -> None:
    target = Target.from_path(pair.target)
    assert target.num_layers == 12
    assert target.attention_layers == (3, 7, 11)
    assert target.config["num_experts"] == 8
    assert target.config["shared_expert_intermediate_size"] > 0
    stored = [tensor for _, tensor in headers(Folder(pair.target)).values()]
    parameters = sum(prod(tensor.shape) for tensor in stored)
    assert 5e6 < parameters < 7e6


def test_the_head_fits_the_target_and_names_the_card_s_layers(pair: DemoPair) -> None:
    head = Head.from_path(pair.head)
    check(head, Target.from_path(pair.target))
    assert head.layer_ids == [3, 7, 11]
    assert head.context_length == Target.from_path(pair.target).context_length


def test_chat_turns_are_spelled_in_qwen_s_format(tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "a\n"}, {"role": "assistant", "content": "b"}]
    spelled = tokenizer.apply_chat_template(turns, tokenize=False)
    assert spelled == "<|im_start|>user\na\n<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    ids = tokenizer(spelled).input_ids
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert ids.count(start) == ids.count(end) == 2
    assert tokenizer.eos_token_id == end


def test_any_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = "def f(x):\n    return x ** 2  # naïve: 漢字, 🙂\t\r\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_each_has_a_model_card_and_the_head_its_provenance(pair: DemoPair) -> None:
    for folder in (pair.target, pair.head):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert card.startswith("---\nlicense: apache-2.0\n")
    provenance = json.loads((pair.head / "provenance.json").read_text())
    assert provenance["features"]["depths"] == [4, 8, 12]
    assert provenance["training_state"]["global_step"] == 1500


def test_an_installation_without_the_weights_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "__file__", str(tmp_path / "pair.py"))
    with pytest.raises(UserError, match=r"not whole, .*config.json is missing: reinstall"):
        demo_pair()
