"""Captured streams of stock SGLang with the plugin against transformers' `hidden_states`, fp32."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.deep_target import write_deep_target
from tests.support.demo_server import cpu_environment, cpu_flags

PROMPT = list(range(20, 97))
DECODE_STEPS = 6
DEPTH = 48
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


def dump(target: Path, out: Path, selections: Sequence[str]) -> dict[str, torch.Tensor]:
    """By selection: its streams over prompt and decoded tokens, and the tokens.

    In a process of its own, because SGLang reads the CPU engine's environment when it is imported.
    """
    script = Path(__file__).parents[1] / "support" / "dump_streams.py"
    command = [sys.executable, str(script), str(target), str(out), *selections]
    command += ["--prompt", ",".join(map(str, PROMPT)), "--steps", str(DECODE_STEPS)]
    subprocess.run(
        [*command, "--", *cpu_flags()], check=True, env={**os.environ, **cpu_environment()}
    )
    loaded: dict[str, torch.Tensor] = torch.load(out)
    return loaded


def by_transformers(target: Path, tokens: torch.Tensor) -> torch.Tensor:
    """transformers' streams by depth, [layers + 1, T, hidden].

    Its last `hidden_states` is normed, so the output of the last layer is taken from the layer.
    """
    from transformers import Qwen3NextForCausalLM

    model = Qwen3NextForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    last: list[torch.Tensor] = []

    def keep(_module: object, _arguments: object, output: torch.Tensor) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    model.model.layers[-1].register_forward_hook(keep)
    with torch.no_grad():
        states = model.model(input_ids=tokens[None], output_hidden_states=True).hidden_states
    return torch.cat([*states[:-1], last[0].reshape(states[0].shape)])


@pytest.fixture(scope="module")
def captured(pair: DemoPair, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return dump(pair.target, tmp_path_factory.mktemp("streams") / "streams.pt", SELECTIONS)


@pytest.fixture(scope="module")
def expected(pair: DemoPair, captured: dict[str, torch.Tensor]) -> torch.Tensor:
    return by_transformers(pair.target, captured["tokens"][:-1])


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


def test_as_deep_as_the_published_target_to_the_last_layer_s_output(
    pair: DemoPair, tmp_path: Path
) -> None:
    """48 layers of the demo's width, weights by chance: the depths that the card's and the fork's
    heads read, and the output of the last layer."""
    target = write_deep_target(pair.target, tmp_path / "deep", DEPTH)
    text = f"input:1,output:3,output:23,output:43,output:{DEPTH - 1}"
    streams = dump(target, tmp_path / "streams.pt", [text])
    expected = by_transformers(target, streams["tokens"][:-1])
    assert len(expected) == DEPTH + 1
    wanted = expected[[1, 4, 24, 44, DEPTH]]
    assert streams[text].shape == wanted.shape
    difference = (streams[text] - wanted).abs().amax(dim=(1, 2))
    print(f"largest difference by depth {difference.tolist()}, of {wanted.abs().max():.3g}")
    assert difference.max() < 1e-4
    assert (expected[1:] - expected[:-1]).abs().amax(dim=(1, 2)).min() > 1e-2
