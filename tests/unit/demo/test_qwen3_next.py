"""The trainable Qwen3-Next computes what transformers' does, forwards and backwards."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from qwen3_next import CHUNK, Qwen3Next, delta_rule  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from sizes import Sizes  # noqa: E402
from torch.nn import functional as F  # noqa: E402

SIZES = replace(Sizes(), vocab_size=256, hidden_size=64, num_hidden_layers=4, num_experts=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Ours, and transformers' with the checkpoint that ours wrote."""
    torch.manual_seed(0)
    ours = Qwen3Next(SIZES)
    for name, parameter in ours.named_parameters():
        if "norm" in name:  # from their ones and zeros, where a mistake would not show
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder: Path = tmp_path_factory.mktemp("checkpoint")
    save_file(ours.checkpoint(), folder / "model.safetensors", metadata={"format": "pt"})
    config = {**SIZES.config(253, 255), "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    theirs, info = transformers.Qwen3NextForCausalLM.from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values()), info
    theirs.set_experts_implementation("eager")
    return ours, theirs.train()


def test_logits_and_gradients_are_those_of_transformers(models: tuple[Any, Any]) -> None:
    ours, theirs = models
    ids = torch.randint(0, 250, (2, 2 * CHUNK))
    mine, reference = ours(ids)[0], theirs(input_ids=ids).logits
    torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)
    for logits in (mine, reference):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    pairs = {
        "embedding": (ours.embed_tokens.weight, theirs.model.embed_tokens.weight),
        "decay": (ours.layers[0].mixer.A_log, theirs.model.layers[0].linear_attn.A_log),
        "time step": (ours.layers[1].mixer.dt_bias, theirs.model.layers[1].linear_attn.dt_bias),
        "router": (ours.layers[2].mlp.gate.weight, theirs.model.layers[2].mlp.gate.weight),
        "query": (
            ours.layers[3].mixer.q_proj.weight,
            theirs.model.layers[3].self_attn.q_proj.weight,
        ),
    }
    for name, (one, other) in pairs.items():
        scale = other.grad.abs().max()
        assert scale > 0, name
        assert (one.grad - other.grad).abs().max() < 1e-3 * scale, name


def test_a_later_token_changes_no_earlier_logit(models: tuple[Any, Any]) -> None:
    ours, _ = models
    ids = torch.randint(0, 250, (1, 2 * CHUNK))
    changed = ids.clone()
    changed[0, 100] = (ids[0, 100] + 1) % 250
    with torch.no_grad():
        before, after = ours(ids)[0], ours(changed)[0]
    torch.testing.assert_close(before[:, :100], after[:, :100], atol=1e-5, rtol=1e-5)
    assert (before[:, 100:] - after[:, 100:]).abs().max() > 1e-3


def test_the_chunked_delta_rule_is_the_recurrence_token_by_token() -> None:
    torch.manual_seed(1)
    batch, heads, length, width = 2, 3, 3 * CHUNK, 8
    q, k, v = (torch.randn(batch, heads, length, width) for _ in range(3))
    decay, beta = -torch.rand(batch, heads, length), torch.rand(batch, heads, length)
    state, outs = torch.zeros(batch, heads, width, width), []
    q1, k1 = (F.normalize(x, dim=-1) for x in (q, k))
    for t in range(length):
        state = state * decay[..., t, None, None].exp()
        recalled = (k1[..., t, None, :] @ state)[..., 0, :]
        written = beta[..., t, None] * (v[..., t, :] - recalled)
        state = state + k1[..., t, :, None] * written[..., None, :]
        outs.append((q1[..., t, None, :] @ state)[..., 0, :] * width**-0.5)
    expected = torch.stack(outs, dim=2)
    torch.testing.assert_close(delta_rule(q, k, v, decay, beta), expected, atol=1e-5, rtol=1e-4)
