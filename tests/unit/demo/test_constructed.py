"""The demo pair that is built by script."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from sglang_qwen3next_eagle3.demo import recipe
from sglang_qwen3next_eagle3.demo.constructed import (
    MANIFEST,
    DemoPair,
    default_cache_dir,
    demo_pair,
    is_intact,
)
from sglang_qwen3next_eagle3.demo.tokenizer import SPECIAL_TOKENS, corpus
from sglang_qwen3next_eagle3.errors import UserError

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> DemoPair:
    return demo_pair(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def tokenizer(pair: DemoPair) -> Any:
    return transformers.AutoTokenizer.from_pretrained(pair.target)


def files_of(pair: DemoPair) -> dict[str, bytes]:
    root = pair.target.parent
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_two_builds_at_once_give_the_same_bytes_and_leave_nothing_else(
    pair: DemoPair, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(demo_pair, [tmp_path, tmp_path])
    assert first == second
    assert files_of(first) == files_of(pair)
    assert [path.name for path in tmp_path.iterdir()] == [first.target.parent.name]


def test_a_second_call_builds_nothing(pair: DemoPair) -> None:
    root = pair.target.parent
    before = root.stat().st_mtime_ns
    assert demo_pair(root.parent) == pair
    assert root.stat().st_mtime_ns == before


def test_a_damaged_or_half_made_cache_is_rebuilt(pair: DemoPair, tmp_path: Path) -> None:
    folder = tmp_path / pair.target.parent.name
    (folder / "target").mkdir(parents=True)
    assert not is_intact(folder)
    rebuilt = demo_pair(tmp_path)
    assert files_of(rebuilt) == files_of(pair)

    weights = rebuilt.head / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert not is_intact(folder)
    assert files_of(demo_pair(tmp_path)) == files_of(pair)
    (rebuilt.target / "config.json").unlink()
    assert not is_intact(folder)


def test_the_manifest_names_every_other_file(pair: DemoPair) -> None:
    manifest = json.loads((pair.target.parent / MANIFEST).read_text())
    assert set(manifest) | {MANIFEST} == set(files_of(pair))


def test_the_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache_dir() == Path("/somewhere/sglang-qwen3next-eagle3")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "sglang-qwen3next-eagle3"


def test_a_cache_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        demo_pair(tmp_path / "file")


@pytest.mark.parametrize(
    "text", ["def f(x: int) -> int:\n    return x\n", "Grüße, 東京 🙂", "  two  spaces\t\n\n", ""]
)
def test_the_tokenizer_gives_back_any_text(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_chat_template_is_qwens(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert len({tuple(tokenizer.encode(token)) for token in SPECIAL_TOKENS}) == 3
    assert all(len(tokenizer.encode(token)) == 1 for token in SPECIAL_TOKENS)
    assert len(tokenizer) <= recipe.VOCAB


def test_transformers_loads_every_tensor_and_answers(pair: DemoPair, tokenizer: Any) -> None:
    import torch

    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        pair.target, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    question, answer = corpus()[0]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    start = prompt["input_ids"].shape[1]
    output = model.generate(**prompt, max_new_tokens=16)[0, start:]
    assert len(output) == 16
    assert len(set(output.tolist())) > 4

    # Shown an answer of its corpus, the target reads it almost as it was written.
    whole = tokenizer.encode(answer, return_tensors="pt")
    whole = torch.cat([prompt["input_ids"], whole], dim=1)
    with torch.no_grad():
        guesses = model(whole).logits[0, start:-1].argmax(-1)
    assert (guesses == whole[0, start + 1 :]).float().mean() > 0.6


def test_the_config_says_what_sglang_and_transformers_each_read(pair: DemoPair) -> None:
    config = json.loads((pair.target / "config.json").read_text())
    assert config["full_attention_interval"] == 4
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config["partial_rotary_factor"] == config["rope_parameters"]["partial_rotary_factor"]
    attention = [i for i, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    assert attention == [3, 7, 11]


def test_the_head_has_the_tensors_that_sglang_loads(pair: DemoPair) -> None:
    config = json.loads((pair.head / "config.json").read_text())
    size, width = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    shapes = {
        "fc.weight": (size, 3 * size),
        "midlayer.self_attn.q_proj.weight": (query, 2 * size),
        "midlayer.self_attn.k_proj.weight": (key, 2 * size),
        "midlayer.self_attn.v_proj.weight": (key, 2 * size),
        "midlayer.self_attn.o_proj.weight": (size, query),
        "midlayer.mlp.gate_proj.weight": (width, size),
        "midlayer.mlp.up_proj.weight": (width, size),
        "midlayer.mlp.down_proj.weight": (size, width),
        "midlayer.input_layernorm.weight": (size,),
        "midlayer.hidden_norm.weight": (size,),
        "midlayer.post_attention_layernorm.weight": (size,),
        "norm.weight": (size,),
        "lm_head.weight": (config["draft_vocab_size"], size),
        "d2t": (config["draft_vocab_size"],),
        "t2d": (config["vocab_size"],),
    }
    tensors = load_file(pair.head / "model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == shapes
    kinds = {"d2t": np.dtype(np.int64), "t2d": np.dtype(np.bool_)}
    for name, tensor in tensors.items():
        assert tensor.dtype == kinds.get(name, np.dtype(np.float32)), name


def test_the_draft_vocabulary_is_the_same_in_both_directions(
    pair: DemoPair, tokenizer: Any
) -> None:
    tensors = load_file(pair.head / "model.safetensors")
    target_ids = tensors["d2t"] + np.arange(len(tensors["d2t"]))
    assert np.array_equal(target_ids, np.flatnonzero(tensors["t2d"]))
    assert set(tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))) <= set(target_ids.tolist())
