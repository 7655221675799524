"""The capture hooks on a stand-in of SGLang's model classes; tests/contract runs the real ones."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, Tap
from sglang_qwen3next_eagle3.overlay import capture

LAYERS = 12


class Norm(torch.nn.Module):
    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> Any:
        return hidden * 0, hidden + residual


class Decoder(torch.nn.Module):
    """Streams carry their depth as value; a flagged layer appends the stream that enters it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [
            SimpleNamespace(layer_communicator=SimpleNamespace(is_last_layer=False))
            for _ in range(LAYERS)
        ]
        self.norm = Norm()
        self.layers_to_capture: list[int] = []

    def stock_forward(self, tokens: int, idle: bool = False) -> Any:
        captured = []
        for depth, layer in enumerate(self.layers):
            if getattr(layer, "_is_layer_to_capture", False):
                captured.append(torch.full((tokens, 2), float(depth)))
        hidden = torch.full((tokens, 2), float(LAYERS))
        if not idle:
            hidden, _ = self.norm(hidden - 5, torch.full((tokens, 2), 5.0))
        return (hidden, captured) if captured else hidden


class Model(SimpleNamespace):
    def __init__(self, model_type: str = "qwen3_next", last_rank: bool = True) -> None:
        config = SimpleNamespace(
            model_type=model_type, num_hidden_layers=LAYERS, full_attention_interval=4
        )
        group = SimpleNamespace(is_last_rank=last_rank)
        super().__init__(
            config=config, model=Decoder(), pp_group=group, capture_aux_hidden_states=False
        )


def streams(model: Model, tokens: int = 3, idle: bool = False) -> list[float]:
    """The depths of what one forward pass captures."""
    _, captured = capture._forward(Decoder.stock_forward, model.model, tokens, idle)
    assert all(state.shape == (tokens, 2) for state in captured)
    return [float(state.mean()) for state in captured]


def select(text: str) -> AuxSelection:
    parsed = aux_layers.parse(text)
    assert isinstance(parsed, AuxSelection)
    return parsed


@pytest.mark.parametrize(
    ("text", "depths"),
    [
        ("output:3,7,11", [4, 8, 12]),
        ("input:3,7,11", [3, 7, 11]),
        ("input:0,output:5,output:11", [0, 6, 12]),
        ("output:11", [12]),
        ("input:2,6,9", [2, 6, 9]),
    ],
)
def test_exactly_the_selection_is_captured_in_depth_order(text: str, depths: list[float]) -> None:
    model = Model()
    capture.install(model, select(text))
    assert streams(model) == depths
    assert model.capture_aux_hidden_states


def test_a_second_selection_clears_the_first() -> None:
    model = Model()
    capture.install(model, select("output:3,7,11"))
    capture.install(model, select("input:2,6,9"))
    assert streams(model) == [2, 6, 9]
    capture.install(model, select("output:11"))
    capture.install(model, select("output:7,11"))
    assert streams(model) == [8, 12]
    assert len(model.model.norm._forward_hooks) == 1


def test_no_step_s_tensor_is_kept() -> None:
    model = Model()
    capture.install(model, select("output:11"))
    streams(model)
    tap, _ = model.model.__dict__[capture._FINAL_TAP]
    assert tap._residual is None


def test_an_idle_rank_contributes_its_empty_rows() -> None:
    model = Model()
    capture.install(model, select("output:3,7,11"))
    assert len(capture._forward(Decoder.stock_forward, model.model, 0, True)[1]) == 3


def test_a_model_without_the_final_tap_is_left_alone() -> None:
    model = Model()
    capture.install(model, select("output:3"))
    hidden, captured = capture._forward(Decoder.stock_forward, model.model, 2)
    assert len(captured) == 1
    assert hidden.shape == (2, 2)


def test_the_last_layer_is_told_that_it_is_the_last_with_or_without_a_selection() -> None:
    for text in ("output:3,7", None):
        model = Model()
        if text is not None:
            capture.install(model, select(text))
        seen = []

        def stock(decoder: Decoder, tokens: int) -> Any:
            seen.append([layer.layer_communicator.is_last_layer for layer in decoder.layers])  # noqa: B023
            return decoder.stock_forward(tokens)

        capture._forward(stock, model.model, 2)
        assert seen == [[False] * (LAYERS - 1) + [True]], "before the first pass"


def set_layers(model: Model, ids: list[int] | None, environment: str | None = None) -> list[str]:
    called: list[str] = []

    def original(*_: object) -> None:
        called.append("stock")

    hook: Callable[..., None] = capture.hooks(capture.choose_by(environment))[0].replacement
    hook(original, model, ids)
    return called


def test_the_rule_applies_to_qwen3_next(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = Model()
        assert set_layers(model, None) == []
        assert streams(model) == [4, 8, 12]
        set_layers(model, [11, 1, 7])
        assert streams(model) == [2, 8, 12]
        set_layers(model, [1, 7, 11], "output:3,5,7 allow-gdn")
        assert streams(model) == [4, 6, 8]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3, "one line each"
    assert "output:3,7,11 (card), source: default, the head's config names none" in lines[0]
    assert "output:1,7,11, source: the head's config; leaves a GDN layer: output@1" in lines[1]
    assert f"output:3,5,7, source: {aux_layers.ENVIRONMENT_VARIABLE}" in lines[2]


def test_other_models_and_pipeline_ranks_are_not_touched() -> None:
    other = Model("qwen3_5")
    assert set_layers(other, [1]) == ["stock"]
    assert not other.capture_aux_hidden_states
    first = Model(last_rank=False)
    assert set_layers(first, None) == []
    assert not first.capture_aux_hidden_states


@pytest.mark.parametrize(
    ("ids", "environment", "words"),
    [
        ([3, 7, 12], None, "no layer 12"),
        (None, "output:2,7,11", "2 are GDN layers"),
        ([1, 3, 5, 7], "output:3,7,11", "3 named, the head's fc takes 4"),
        (["a"], None, "layer numbers"),
    ],
)
def test_what_does_not_fit_stops_the_process(
    ids: list[Any] | None, environment: str | None, words: str
) -> None:
    with pytest.raises(SystemExit, match=words):
        set_layers(Model(), ids, environment)


def test_the_config_s_layer_types_place_the_layers() -> None:
    config = SimpleNamespace(num_hidden_layers=2, layer_types=["full_attention"] * 2)
    assert capture.target_of(config).attention_layers == (0, 1)
    assert AuxSelection((Tap(0, "output"),)).depths == (1,)
