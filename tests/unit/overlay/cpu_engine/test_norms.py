from types import SimpleNamespace

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.cpu_engine import norms
from tests.support.transformers_model import modeling


def module(weight, activation):
    return SimpleNamespace(weight=weight, bias=None, eps=1e-6, activation=activation)


@pytest.mark.parametrize("activation", ["silu", "swish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gated_norm_equals_that_of_transformers(activation, dtype):
    theirs = modeling().Qwen3NextRMSNormGated(32, eps=1e-6)
    torch.nn.init.normal_(theirs.weight, 1.0, 0.3)
    x, gate = torch.randn(2, 5, 32).to(dtype)
    out = norms.gated_rms_norm(module(theirs.weight, activation), x, gate)
    assert out.dtype == dtype
    torch.testing.assert_close(out, theirs(x, gate))


def test_the_gate_can_be_a_sigmoid_and_the_weight_absent():
    x, gate = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    out = norms.gated_rms_norm(module(None, "sigmoid"), x, gate)
    torch.testing.assert_close(out, 0.5 * x / 12.5**0.5)


def test_a_residual_is_refused():
    x = torch.ones(1, 2)
    with pytest.raises(NotImplementedError, match="residual"):
        norms.gated_rms_norm(module(None, "silu"), x, x, residual=x)


def test_the_shared_expert_is_added_in_place_through_its_gate():
    hidden = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    weight = torch.tensor([1.0, -1.0])
    total = torch.tensor([[10.0, 10.0], [10.0, 10.0]])
    norms.add_gated_shared_expert(hidden, weight, torch.tensor([[1.0, 2.0], [4.0, 8.0]]), total)
    gate = 1 / (1 + 2.718281828**1)
    torch.testing.assert_close(total, torch.tensor([[10 + gate, 10 + 2 * gate], [12.0, 14.0]]))
