from dataclasses import replace

import pytest
import torch

from sglang_qwen3next_eagle3.calibrate.scoring import Depths, Score
from sglang_qwen3next_eagle3.calibrate.verdict import (
    Verdict,
    judge,
    known_selections,
    paired,
    spelled,
)
from sglang_qwen3next_eagle3.model.aux_layers import parse
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.checkpoints import CODER_NEXT

TARGET = Target.from_config(CODER_NEXT)
PROMPTS = 8
CARD, OTHER, THIRD = (4, 24, 48), (3, 24, 48), (3, 23, 48)
SCATTER = torch.tensor([1.0, -1.0, 2.0, -2.0, 1.0, -1.0, 0.5, -0.5], dtype=torch.float64)


def scored(overlap: float, scatter: float = 0.0, runs: float = 10.0) -> Score:
    """100 roots in each of 8 prompts; the overlap's sum is scattered over the prompts."""
    full = torch.full((PROMPTS,), 100.0, dtype=torch.float64)
    chains = torch.full((PROMPTS, 3), runs, dtype=torch.float64)
    return Score(full, chains, chains, chains, 100 * overlap + scatter * SCATTER)


def verdict(scores: dict[Depths, Score], named: list[tuple[str, Depths]]) -> Verdict:
    return judge(named, scores, scored(0.1))


def test_the_best_is_chosen_where_it_is_told_apart() -> None:
    found = verdict({CARD: scored(0.4), OTHER: scored(0.5, runs=12.0)}, [("card", CARD)])
    assert found.chosen is not None
    assert found.chosen.depths == OTHER
    second = found.candidates[1]
    assert second.names == ("card",)
    assert second.margin.mean == pytest.approx(0.1)
    shorter = second.shorter
    assert (shorter.mean, shorter.low, shorter.high) == pytest.approx((0.06, 0.06, 0.06)), (
        "3 steps of 2 runs in 100 roots, the same on every prompt"
    )
    assert not second.tied


def test_a_selection_with_a_name_is_kept_where_noise_alone_speaks_against_it() -> None:
    scores = {CARD: scored(0.499, scatter=5.0), OTHER: scored(0.5)}
    found = verdict(scores, [("card", CARD)])
    assert found.candidates[0].depths == OTHER
    assert found.candidates[1].tied
    assert found.chosen is not None
    assert found.chosen.depths == CARD


def test_of_those_with_a_name_the_config_s_is_kept_else_the_best() -> None:
    scores = {OTHER: scored(0.5), CARD: scored(0.499, scatter=5.0), THIRD: scored(0.498, 5.0)}
    for names, kept in (({"config": THIRD, "card": CARD}, THIRD), ({"a": THIRD, "b": CARD}, CARD)):
        found = verdict(scores, list(names.items()))
        assert found.chosen is not None
        assert found.chosen.depths == kept


@pytest.mark.parametrize(
    ("config", "overlap", "narrowly"),
    [(OTHER, 0.5, False), (CARD, 0.45, True), (CARD, 0.35, False), (None, 0.45, False)],
)
def test_a_margin_is_small_or_not_by_what_the_head_gains_over_the_control(
    config: Depths | None, overlap: float, narrowly: bool
) -> None:
    """The best overlaps by 0.5, the control by 0.1: a quarter of the gain is 0.1."""
    named = [] if config is None else [("config", config)]
    found = verdict({OTHER: scored(0.5), CARD: scored(overlap)}, named)
    assert found.chosen is found.candidates[0]
    assert found.narrowly_against_config is narrowly


@pytest.mark.parametrize(("overlap", "learned"), [(0.11, False), (0.15, True)])
def test_a_head_that_makes_nothing_of_the_states_has_no_selection(
    overlap: float, learned: bool
) -> None:
    """A scatter of 1.25 in 100 tokens over 8 prompts is an error of 0.0044."""
    found = judge([("card", CARD)], {CARD: scored(overlap, scatter=1.0)}, scored(0.1))
    assert found.gain.error == pytest.approx(0.0044, rel=0.1)
    assert found.learned is learned
    assert (found.chosen is not None) is learned


def test_a_selection_that_sglang_cannot_concatenate_is_not_chosen() -> None:
    permuted = (48, 24, 4)
    found = verdict({permuted: scored(0.5), CARD: scored(0.4)}, [("card", CARD)])
    assert found.candidates[0].depths == permuted
    assert found.chosen is None
    twice = (4, 4, 48)
    assert verdict({twice: scored(0.5)}, []).chosen is None


def test_an_interval_is_over_prompts_and_weighted() -> None:
    same = paired(torch.tensor([10.0, 10.0, 10.0]), torch.tensor([5.0, 5.0, 5.0]))
    assert (same.mean, same.low, same.high, same.error) == (2.0, 2.0, 2.0, 0.0)
    # Two values, equally often: the mean of 100 draws is binomial with p = 1/2, error 0.05.
    coin = paired(torch.tensor([0.0, 1.0] * 50).double(), torch.ones(100).double())
    assert coin.mean == 0.5
    assert coin.error == pytest.approx(0.05, rel=0.05)
    assert coin.low == pytest.approx(0.5 - 2.576 * 0.05, abs=0.015)
    assert coin.high == pytest.approx(0.5 + 2.576 * 0.05, abs=0.015)


def test_named_selections_are_those_that_fit_the_target_and_the_head() -> None:
    own = parse("input:1,2,3")
    assert not isinstance(own, str)
    assert known_selections(TARGET, 3, own) == [
        ("config", (1, 2, 3)), ("card", (4, 24, 48)), ("fork", (3, 27, 47)),
        ("sglang", (2, 24, 45)),
    ]  # fmt: skip
    ids = parse("output:1,5,44")
    assert not isinstance(ids, str)
    found = dict(known_selections(TARGET, 3, ids))
    assert found["config"] == (2, 6, 45)
    assert found["config, ids as inputs"] == (1, 5, 44), "as vLLM reads ids"
    assert known_selections(TARGET, 4, None) == []
    shallow = Target({**CODER_NEXT, "num_hidden_layers": 8})
    assert [name for name, _ in known_selections(shallow, 3, None)] == ["sglang"]


@pytest.mark.parametrize(
    ("depths", "text"),
    [
        ((4, 24, 48), "output:3,23,47"),
        ((3, 27, 47), "input:3,27,47"),
        ((1, 24, 48), "output:0,23,47"),
        ((0, 8, 47), "input:0,output:7,input:47"),
        ((2, 6, 45), "output:1,5,44"),
    ],
)
def test_a_selection_is_spelled_by_attention_layers_where_it_can_be(
    depths: Depths, text: str
) -> None:
    found = spelled(depths, TARGET)
    assert str(found) == text
    assert found.depths == depths


def test_a_named_selection_keeps_its_name() -> None:
    assert spelled(CARD, TARGET).name == "card"
    assert spelled((2, 24, 45), TARGET).name == "sglang"
    assert spelled(OTHER, TARGET).name is None


def test_scores_are_sums_over_prompts() -> None:
    score = scored(0.3)
    heavier = replace(score, roots=torch.tensor([100.0] * 7 + [900.0]))
    assert score.accept_length == pytest.approx(1.3)
    assert heavier.accept_length == pytest.approx(1 + 240 / 1600)
