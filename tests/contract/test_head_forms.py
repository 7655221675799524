"""What `head inspect` says of a head's form against what the installed SGLang makes of it."""

import importlib.util
import json
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.demo import demo_pair
from sglang_qwen3next_eagle3.head import check, formats
from tests.support.checkpoints import write_config


@pytest.mark.parametrize("model_type", [*check.MODEL_TYPES, None, "eagle3", "speculator_model"])
def test_transformers_reads_heads_of_the_model_types_that_are_accepted(
    tmp_path: Path, model_type: str | None
) -> None:
    """With any other, or none, the server ended half a minute after its start."""
    from transformers import AutoConfig

    own = json.loads((demo_pair().head / "config.json").read_text(encoding="utf-8"))
    config = {key: value for key, value in own.items() if key != "model_type"}
    if model_type is not None:
        config["model_type"] = model_type
    write_config(tmp_path, config)
    if model_type in check.MODEL_TYPES:
        read = AutoConfig.from_pretrained(tmp_path)
        for key in ("head_dim", "draft_vocab_size", "eagle_config", "num_key_value_heads"):
            assert getattr(read, key) == own[key]
        assert read.rope_parameters["rope_theta"] == own["rope_theta"]
        assert "partial_rotary_factor" not in read.rope_parameters
    else:
        with pytest.raises(ValueError, match=r"model_type|model type"):
            AutoConfig.from_pretrained(tmp_path)


UNKNOWN = {
    "norm_before_residual": {"norm_before_residual": True},
    "embed_requires_grad": {"embed_requires_grad": True},
    "parallel_drafting": {"parallel_drafting": True},
    "use_mtp_layernorm": {"eagle_config": {"use_mtp_layernorm": True}},
    "use_last_layernorm": {"eagle_config": {"use_last_layernorm": False}},
    "use_input_layernorm_in_first_layer": {
        "eagle_config": {"use_input_layernorm_in_first_layer": False}
    },
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_sglang_s_head_still_knows_nothing_of_what_is_refused(key: str) -> None:
    """A release that reads one of these serves such heads: then they need not be refused."""
    assert formats.unservable(UNKNOWN[key]) is not None
    package = importlib.util.find_spec("sglang")
    assert package is not None
    assert package.submodule_search_locations is not None
    (root,) = package.submodule_search_locations
    assert key not in (Path(root) / "srt/models/llama_eagle3.py").read_text(encoding="utf-8")
