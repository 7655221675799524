"""Captured streams of stock SGLang with the plugin against transformers' `hidden_states`, fp32."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.demo_server import cpu_environment, cpu_flags

PROMPT = list(range(20, 97))
DECODE_STEPS = 6
SELECTIONS = (
    "card",
    "fork",
    "sglang",
    "output:11",
    "output:3,7,11",
    "input:3,output:7,output:11",
    "input:0,output:5,input:10",
)


@pytest.fixture(scope="module")
def pair() -> DemoPair:
    return demo_pair()


@pytest.fixture(scope="module")
def captured(pair: DemoPair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """By selection: its streams over prompt and decoded tokens, and the tokens.

    In a process of its own, because SGLang reads the CPU engine's environment when it is imported.
    """
    out = tmp_path_factory.mktemp("streams") / "streams.pt"
    script = Path(__file__).parents[1] / "support" / "dump_streams.py"
    command = [sys.executable, str(script), str(pair.target), str(out), *SELECTIONS]
    command += ["--prompt", ",".join(map(str, PROMPT)), "--steps", str(DECODE_STEPS)]
    subprocess.run(
        [*command, "--", *cpu_flags()], check=True, env={**os.environ, **cpu_environment()}
    )
    loaded: dict[str, torch.Tensor] = torch.load(out)
    return loaded


@pytest.fixture(scope="module")
def expected(pair: DemoPair, captured: dict[str, torch.Tensor]) -> torch.Tensor:
    """transformers' streams by depth, [layers + 1, T, hidden].

    Its last `hidden_states` is normed, so the output of the last layer is taken from the layer.
    """
    from transformers import Qwen3NextForCausalLM

    model = Qwen3NextForCausalLM.from_pretrained(pair.target, dtype=torch.float32).eval()
    last: list[torch.Tensor] = []

    def keep(_module: object, _arguments: object, output: torch.Tensor) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    model.model.layers[-1].register_forward_hook(keep)
    tokens = captured["tokens"][:-1]
    with torch.no_grad():
        states = model.model(input_ids=tokens[None], output_hidden_states=True).hidden_states
    return torch.cat([*states[:-1], last[0].reshape(states[0].shape)])


@pytest.mark.parametrize("text", SELECTIONS)
def test_prefill_and_decode_equal_transformers(
    text: str, pair: DemoPair, captured: dict[str, torch.Tensor], expected: torch.Tensor
) -> None:
    target = Target.from_path(pair.target)
    selection = aux_layers.on_target(text, target, count=None, allow_gdn=True)
    streams = captured[text]
    assert isinstance(selection, AuxSelection)
    assert streams.shape == (len(selection.depths), len(PROMPT) + DECODE_STEPS, target.hidden_size)
    wanted = expected[list(selection.depths)]
    prefill, decode = (streams - wanted).abs().split([len(PROMPT), DECODE_STEPS], dim=1)
    assert prefill.max() < 1e-4
    assert decode.max() < 1e-4


def test_the_streams_of_one_depth_are_told_from_its_neighbours(expected: torch.Tensor) -> None:
    """What makes the comparison above mean something: neighbouring depths differ by far more."""
    steps = (expected[1:] - expected[:-1]).abs().amax(dim=(1, 2))
    assert steps.min() > 1e-2
