"""A head in the forms of others: what is written is the same head, and nothing else is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.demo import demo_pair
from sglang_qwen3next_eagle3.head import check as head_check
from sglang_qwen3next_eagle3.head import convert, formats
from sglang_qwen3next_eagle3.head.captured_layers import NamedLayers, decide
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.forward import HeadModel
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.target import Target
from tests.support import foreign_heads as foreign
from tests.support.heads import CONFIG, TARGET, TARGET_HIDDEN, VOCAB, random_tensors, write

IDS = foreign.IDS


def converted(source: Path, out: Path, layers: formats.Tap | None = None) -> Path:
    convert.write(convert.plan(source, str(source), layers), out)
    return out


def logits(folder: Path) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    embedding = torch.randn(VOCAB, CONFIG["hidden_size"], generator=generator)
    model = HeadModel.load(folder, embedding)
    aux = torch.randn(12, 3 * TARGET_HIDDEN, generator=generator)
    ids = torch.randint(VOCAB, (12,), generator=generator)
    return [*model.predict(aux, ids, 3), model.target_ids]


def captured(folder: Path) -> tuple[int, ...]:
    head, target = Head.from_path(folder), Target.from_config(TARGET)
    head_check.check(head, target)
    return decide(target, NamedLayers.of(head), count=head.aux_count).selection.depths


@pytest.mark.parametrize("form", foreign.FORMS)
def test_it_drafts_what_it_drafted(tmp_path: Path, form: str) -> None:
    original = foreign.sglang(tmp_path / "sglang")
    out = converted(foreign.FORMS[form](tmp_path / "source"), tmp_path / "out")
    for ours, theirs in zip(logits(out), logits(original), strict=True):
        assert torch.equal(ours, theirs)
    if "NeMo" not in form:
        assert captured(out) == captured(original) == (4, 24, 47)


def test_two_layers_keep_their_norms_apart(tmp_path: Path) -> None:
    original = foreign.sglang(tmp_path / "sglang", layers=2)
    out = converted(foreign.speculators(tmp_path / "source", layers=2), tmp_path / "out")
    for ours, theirs in zip(logits(out), logits(original), strict=True):
        assert torch.equal(ours, theirs)


def test_bytes_are_copied_as_they_are(tmp_path: Path) -> None:
    original = {name: t.bfloat16() if t.is_floating_point() else t for name, t in
                random_tensors(CONFIG).items()}  # fmt: skip
    config = {key: value for key, value in foreign.OF_SGLANG.items() if key != "model_type"}
    out = converted(write(tmp_path / "source", config, original), tmp_path / "out")
    found = load_file(out / "model.safetensors")
    assert found.keys() == original.keys()
    for name, tensor in original.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_demo_s_head_comes_back_from_speculators(tmp_path: Path) -> None:
    """Trained weights in bf16: the same bytes, sizes and layers, so the same drafts."""
    demo = demo_pair().head
    own = json.loads((demo / "config.json").read_text(encoding="utf-8"))
    read = (*foreign.LAYER_KEYS, "rope_parameters", "eagle_config", "draft_vocab_size")
    layer = {key: own[key] for key in (*foreign.LAYER_KEYS, "rope_parameters")}
    entered = [layer_id + 1 for layer_id in own["eagle_config"][IDS]]
    source = foreign.speculators(
        tmp_path / "source",
        transformer_layer_config={"model_type": "llama", **layer},
        draft_vocab_size=own["draft_vocab_size"],
        **{IDS: entered},
    )
    original = load_file(demo / "model.safetensors")
    renamed = {name.replace("midlayer", "layers.0"): t for name, t in original.items()}
    write(source, json.loads((source / "config.json").read_text()), renamed)
    out = converted(source, tmp_path / "out")
    found = load_file(out / "model.safetensors")
    assert found.keys() == original.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in original.items())
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert {key: written[key] for key in read} == {key: own[key] for key in read}


@pytest.mark.parametrize(
    ("form", "ids", "config"),
    [
        (foreign.speculators, [2, 24, 45], {"eagle_config": {IDS: [1, 23, 44]}}),
        (foreign.vllm, [2, 24, 45], {"eagle_config": {IDS: [1, 23, 44]}}),
        (foreign.speculators, [0, 24, 48], {convert.AUX_LAYERS_KEY: "input:0,24,48"}),
        (foreign.speculators, None, {convert.AUX_LAYERS_KEY: "sglang"}),
        (foreign.nemo, [3, 23, 47], {"eagle_config": {IDS: [3, 23, 47]}}),
        (foreign.nemo, None, {convert.AUX_LAYERS_KEY: "sglang"}),
    ],
)
def test_ids_are_told_as_sglang_counts(
    tmp_path: Path, form: Any, ids: list[int] | None, config: dict[str, Any]
) -> None:
    made = convert.plan(form(tmp_path / "source", **{IDS: ids}), "it")
    for key, value in config.items():
        found = made.config[key]
        if isinstance(value, dict):
            assert {name: found.get(name) for name in value} == value
        else:
            assert found == value
    if ids is None:
        assert IDS not in made.config["eagle_config"]
        assert any("names no layers" in note for note in made.notes)


@pytest.mark.parametrize(("layers", "depths"), [("outputs", (4, 24, 47)), ("inputs", (3, 23, 46))])
def test_ids_that_could_be_either_are_asked_for(
    tmp_path: Path, layers: formats.Tap, depths: tuple[int, ...]
) -> None:
    source = foreign.top_level_ids(tmp_path / "source")
    with pytest.raises(UserError, match=r"say which with --layers outputs or --layers inputs"):
        convert.plan(source, "it")
    assert captured(converted(source, tmp_path / "out", layers)) == depths


REFUSED = {
    "norm_before_residual is true": {"norm_before_residual": True},
    "its embedding was trained with it": {"embed_requires_grad": True},
    "its speculators_model_type is 'dflash'": {"speculators_model_type": "dflash"},
    "its speculators_model_type is 'peagle'": {"speculators_model_type": "peagle"},
    "a P-EAGLE head": {"parallel_drafting": True},
}


@pytest.mark.parametrize(("told", "changes"), REFUSED.items())
def test_another_network_is_refused(tmp_path: Path, told: str, changes: dict[str, Any]) -> None:
    source = foreign.speculators(tmp_path / "source", **changes)
    with pytest.raises(UserError) as refused:
        convert.plan(source, "it")
    assert told in str(refused.value)
    with pytest.raises(UserError, match="a head that SGLang cannot serve") as refused:
        Head.from_path(source)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("layers.0.self_attn.q_norm.weight", "norms of queries and keys"),
        ("layers.0.self_attn.v_proj.bias", "its attention has biases"),
        ("mask_hidden", "a P-EAGLE head"),
    ],
)
def test_tensors_of_another_network_are_refused(tmp_path: Path, extra: str, told: str) -> None:
    tensors = {**random_tensors(CONFIG), extra: torch.ones(8)}
    for i, change in enumerate(({}, {"architectures": ["Eagle3LlamaForCausalLM"]})):
        source = write(tmp_path / f"{i}", {**foreign.OF_SGLANG, **change}, tensors)
        with pytest.raises(UserError) as refused:
            convert.plan(source, "it")
        assert told in str(refused.value)
    with pytest.raises(UserError, match=told):
        head_check.check(Head.from_path(tmp_path / "0"), Target.from_config(TARGET))


def test_what_is_in_order_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is in SGLang's form already: serve it as it is"):
        convert.plan(foreign.sglang(tmp_path / "source"), "it")
    # SGLang takes these names as well.
    renamed = {
        name.replace("midlayer", "layers.0"): t for name, t in random_tensors(CONFIG).items()
    }
    with pytest.raises(UserError, match="in SGLang's form already"):
        convert.plan(write(tmp_path / "other", foreign.OF_SGLANG, renamed), "it")


@pytest.mark.parametrize(
    ("drop", "told"),
    [
        (["d2t", "t2d"], "drafts 24 of 40 tokens and does not say which"),
        (["lm_head.weight"], "has a draft vocabulary and no lm_head.weight"),
        (["fc.weight"], "is no EAGLE3 head"),
        (["layers.0.self_attn.q_proj.weight"], "has no midlayer.self_attn.q_proj.weight"),
        (["layers.0.mlp.up_proj.weight"], "it lacks 1 tensor, midlayer.mlp.up_proj.weight"),
    ],
)
def test_what_is_not_whole_is_not_converted(tmp_path: Path, drop: list[str], told: str) -> None:
    source = foreign.speculators(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    write(source, json.loads((source / "config.json").read_text()), {
        name: tensor for name, tensor in tensors.items() if name not in drop
    })  # fmt: skip
    with pytest.raises(UserError) as refused:
        convert.plan(source, "it")
    assert told in str(refused.value)


def test_a_head_without_an_own_vocabulary_drafts_with_the_target_s(tmp_path: Path) -> None:
    source = foreign.speculators(tmp_path / "source", draft_vocab_size=VOCAB)
    tensors = load_file(source / "model.safetensors")
    for name in ("lm_head.weight", "d2t", "t2d"):
        del tensors[name]
    write(source, json.loads((source / "config.json").read_text()), tensors)
    made = convert.plan(source, "it")
    assert made.config["draft_vocab_size"] is None
    assert "it has no lm_head: SGLang drafts with the target's" in made.notes


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    source = foreign.nemo_checkpoint(tmp_path / "source")

    class Bad:
        def __reduce__(self) -> tuple[Any, ...]:
            return (shutil.rmtree, (str(tmp_path),))

    torch.save({"a": Bad()}, source / "draft_model.pt")
    with pytest.raises(UserError, match=r"draft_model\.pt cannot be read as tensors alone"):
        convert.plan(source, "it")
    assert source.is_dir()


def test_nothing_is_overwritten_and_nothing_half_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = convert.plan(foreign.speculators(tmp_path / "source"), "it")
    out = tmp_path / "there"
    out.mkdir()
    (out / "file").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder: name another"):
        convert.write(made, out)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not an empty folder"):
        convert.write(made, tmp_path / "file")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.base_files, "write_json", fail)
    with pytest.raises(UserError, match="cannot be written"):
        convert.write(made, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source", "there"]


def test_the_command_says_what_it_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = foreign.vllm(tmp_path / "source")
    out = tmp_path / "out"
    assert main(["head", "convert", str(source), str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert "layers.0.self_attn.qkv_proj.weight" in said
    assert "(form: vLLM): nothing is written" in said
    assert main(["head", "convert", str(source), str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["format"] == "vLLM"
    assert told["out"] == str(out)
    assert told["renamed"]["midlayer.self_attn.k_proj.weight"].endswith("qkv_proj.weight")
    assert told["config"]["architectures"]["is"] == ["LlamaForCausalLMEagle3"]
    origin = json.loads((out / "provenance.json").read_text())["converted"]
    assert origin["format"] == "vLLM"
    assert origin["source"] == "source", "no path of this machine"
    assert origin["source_sha256"] == convert.content_hash(Folder(source))
    assert main(["head", "convert", str(source), str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (
            foreign.speculators,
            "the form of this head is speculators, which SGLang does not read: convert it",
        ),
        (foreign.vllm, "is vLLM, which SGLang does not read: convert it with"),
        (foreign.nemo, "is NeMo AutoModel, which SGLang does not read: convert"),
        (foreign.unnamed, "is that of another architecture, which SGLang does not read"),
        (foreign.without_model_type, "its config.json has no model_type"),
        (foreign.top_level_ids, "names layers 3,23,46 at its top level"),
    ],
)
def test_inspect_and_launch_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: Any, told: str
) -> None:
    from tests.support.checkpoints import write_target

    head, target = form(tmp_path / "head"), write_target(tmp_path / "target", TARGET)
    assert main(["head", "inspect", str(head), "--target", str(target), "--json"]) == 2
    (finding,) = [
        f for f in json.loads(capsys.readouterr().out)["findings"] if f["level"] == "error"
    ]
    assert told in finding["text"]
    argv = ["launch", "--profile", "b1", "--target", str(target), "--head", str(head), "--dry-run"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_an_option_says_what_top_level_ids_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.support.checkpoints import write_target

    head, target = foreign.top_level_ids(tmp_path / "h"), write_target(tmp_path / "t", TARGET)
    argv = ["launch", "--profile", "b1", "--target", str(target), "--head", str(head), "--dry-run"]
    assert main([*argv, "--aux-layers", "output:3,23,47"]) == 0
    assert "output:3,23,47" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"architectures": 3}, "architectures in its config.json is 3: a list of names is needed"),
        ({"architectures": ["x", 3]}, '["x", 3]: a list of names is needed'),
        ({"num_hidden_layers": 10**30}, "a whole number from 0 to 1000 is needed"),
        ({"num_hidden_layers": -1}, "num_hidden_layers in its config.json is -1: a whole number"),
        ({"num_aux_hidden_states": "x"}, 'num_aux_hidden_states in its config.json is "x"'),
        ({"num_aux_hidden_states": float("inf")}, "is Infinity: a whole number from 0 to 1000"),
        ({"hidden_size": True}, "hidden_size in its config.json is true: a whole number"),
        ({"vocab_size": [1]}, "vocab_size in its config.json is [1]: a whole number"),
        ({"eagle_config": [1]}, "eagle_config in its config.json is [1]: an object is needed"),
        ({"eagle_config": {IDS: 3}}, f"{IDS} in its config.json is 3: a list is needed"),
        ({IDS: "x"}, f'{IDS} in its config.json is "x": a list is needed'),
    ],
)
def test_a_key_of_another_kind_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], told: str
) -> None:
    for make in (foreign.sglang, foreign.vllm):
        source = make(tmp_path / make.__name__)
        config = source / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | change))
        assert main(["head", "convert", str(source), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        assert main(["head", "inspect", str(source), "--target", "demo", "--json"]) == 2
        assert told in str(json.loads(capsys.readouterr().out)["findings"])


def test_so_it_is_inside_the_config_of_speculators(tmp_path: Path) -> None:
    source = foreign.speculators(tmp_path / "head")
    config = json.loads((source / "config.json").read_text())
    config["transformer_layer_config"]["num_attention_heads"] = "many"
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match='num_attention_heads in its config.json is "many"'):
        convert.plan(source, "head")
