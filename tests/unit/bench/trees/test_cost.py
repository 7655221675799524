from pathlib import Path

import numpy as np
import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.trees.cost import (
    CostModel,
    cycle_ms,
    fit,
    held_out,
    non_negative,
)
from tests.support import speed
from tests.support.speed import COEFFICIENTS, configuration, law, measurement

NOT_MEASURED = (4, 2, 6)


def test_a_cycle_is_its_tokens_over_a_request_s_decode_rate() -> None:
    one = measurement("3,4,8", 8, 12.5, 2.4, simulated=2.46)
    assert one.figures.completion_tokens == 8 * 2400
    assert one.figures.decode_tok_s == pytest.approx(191.92), "of 2400 tokens one is the prefill's"
    assert cycle_ms(one) == pytest.approx(12.5), "by the measured accept length, not the simulated"
    assert cycle_ms(measurement("none", 8, 8.0)) == pytest.approx(8.0)


def test_a_cycle_that_was_measured_request_by_request_is_taken_as_it_is() -> None:
    one = measurement("3,4,8", 8, 12.5, 2.4)
    known = one.model_copy(update={"figures": one.figures.model_copy(update={"cycle_ms": 13.0})})
    assert cycle_ms(known) == 13.0


def test_a_pass_with_failed_requests_has_no_cycle() -> None:
    assert cycle_ms(measurement("none", 8, 8.0, failed=1)) is None


def test_the_fit_recovers_the_law_that_made_the_figures() -> None:
    model = fit(speed.of_law())
    assert model.coefficients == pytest.approx(COEFFICIENTS, rel=1e-6)
    assert model.residuals is not None
    assert model.residuals.cells == 9 * 6, "the baseline and eight trees; MTP is not of the law"
    assert model.residuals.largest < 1e-9
    assert model.residuals.held_out_largest < 1e-6


def test_the_law_bears_noise() -> None:
    def noisy(batch: int, tree: tuple[int, int, int] | None) -> float:
        return law(batch, tree) * (1.02 if (batch + sum(tree or ())) % 2 else 0.98)

    model = fit(speed.of_law(cycle=noisy))
    assert model.residuals is not None
    assert model.residuals.largest < 0.05
    for batch in (3, 12, 24):
        cycle = model.cycle(batch, NOT_MEASURED)
        assert cycle is not None
        assert cycle.ms == pytest.approx(law(batch, NOT_MEASURED), rel=0.05)


def test_no_coefficient_is_negative() -> None:
    model = fit(speed.of_law(cycle=lambda batch, tree: 10.0 - 0.1 * batch))
    assert model.coefficients is not None
    assert min(model.coefficients.values()) >= 0


def test_what_was_measured_is_preferred_to_the_law() -> None:
    def odd(batch: int, tree: tuple[int, int, int] | None) -> float:
        return law(batch, tree) * (1.3 if (batch, tree) == (8, (3, 1, 4)) else 1.0)

    model = fit(speed.of_law(cycle=odd))
    cycle = model.cycle(8, (3, 1, 4))
    assert cycle is not None
    assert (cycle.ms, cycle.source) == (pytest.approx(1.3 * law(8, (3, 1, 4))), "measured")
    assert model.fitted(8, (3, 1, 4)) == pytest.approx(law(8, (3, 1, 4)), rel=0.1)
    between = model.cycle(12, (3, 1, 4))
    assert between is not None
    assert between.source == "fitted"


@pytest.mark.parametrize(
    ("batch", "tree"),
    [(64, None), (64, (3, 1, 4)), (8, (8, 1, 9)), (8, (3, 8, 8)), (8, (3, 4, 16))],
    ids=["batch", "batch of a tree", "steps", "topk", "draft tokens"],
)
def test_the_law_is_not_used_beyond_what_it_was_fitted_to(
    batch: int, tree: tuple[int, int, int] | None
) -> None:
    assert fit(speed.of_law()).cycle(batch, tree) is None


def test_of_chains_alone_nothing_is_said_of_trees() -> None:
    model = fit(speed.of_law([None, *speed.CHAINS]))
    assert model.cycle(8, (3, 4, 8)) is None
    cycle = model.cycle(12, (4, 1, 5))
    assert cycle is not None
    assert cycle.ms == pytest.approx(law(12, (4, 1, 5))), "though branches and tokens are one there"


def test_mtp_stays_with_what_was_measured() -> None:
    model = fit(speed.of_law())
    assert model.measured("mtp", 8) == pytest.approx(1.1 * law(8, (3, 1, 4)))
    assert model.measured("mtp", 12) is None
    cycle = model.cycle(8, (3, 1, 4))
    assert cycle is not None
    assert cycle.ms == pytest.approx(law(8, (3, 1, 4))), "EAGLE3's"


def test_a_cell_is_the_median_of_the_upper_accept_lengths_and_keeps_the_extremes() -> None:
    # The cycle hangs on the accept length, as MTP's does under dummy weights.
    cheap = [(5.0, 1.0), (5.1, 1.0), (5.2, 1.6), (5.4, 1.6)]
    dear = [(8.0, 2.46), (8.2, 2.46), (8.6, 3.0), (9.0, 3.0)]
    passes = [
        measurement("3,1,4", 1, ms, length, repetition=place % 2)
        for place, (ms, length) in enumerate([*dear, *cheap])
    ]
    model = fit(
        speed.result(
            [configuration(None), configuration((3, 1, 4))],
            [measurement("none", 1, 6.0), *passes],
        )
    )
    cell = model.cell("3,1,4", 1)
    assert cell is not None
    assert (cell.cycle_ms, cell.low_ms, cell.high_ms) == pytest.approx((8.4, 5.0, 9.0))
    assert model.coefficients is None, "two cells are no law"
    assert model.cycle(1, (4, 1, 5)) is None


def test_the_tree_s_own_name_comes_before_another_configuration_of_it() -> None:
    names = ["eagle3-defaults", "3,1,4"]
    made = speed.result(
        [configuration(None), *(configuration((3, 1, 4), name) for name in names)],
        [
            measurement("none", 1, 6.0),
            measurement("eagle3-defaults", 1, 9.0, 2.0),
            measurement("3,1,4", 1, 8.0, 2.0),
            measurement("eagle3-defaults", 2, 9.5, 2.0),
        ],
    )
    model = fit(made)
    own, other = model.cycle(1, (3, 1, 4)), model.cycle(2, (3, 1, 4))
    assert own is not None
    assert other is not None
    assert (own.ms, other.ms) == pytest.approx((8.0, 9.5))


def test_figures_measured_by_hand_on_an_h200_are_reproduced() -> None:
    """The residuals that the law leaves on them: median 1.1 %, largest 3.3 %."""
    model = fit(speed.by_hand())
    assert model.residuals is not None
    assert model.residuals.median < 0.015
    assert model.residuals.largest < 0.04
    for tree, ms in ((None, 6.3), ((3, 1, 4), 8.6), ((5, 1, 6), 9.4), ((3, 4, 8), 10.5)):
        fitted = model.fitted(1, tree)
        assert fitted == pytest.approx(ms, rel=0.05), "a cycle by the profiler, without prefill"


def test_a_model_is_the_same_from_its_file(tmp_path: Path) -> None:
    model = fit(speed.of_law())
    model.save(tmp_path / "deep" / "cost-model.json")
    assert CostModel.load(tmp_path / "deep" / "cost-model.json") == model
    assert model.provenance["commit"] == "abc1234"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no cost model"),
        ("{", r"is damaged \(Expecting.*give a cost model of `bench speed`"),
        ('{"kind": "speed", "cells": []}', "is no cost model of `bench speed`: kind"),
        (b"\xff\xfe", "is damaged .*give a cost model"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    tmp_path: Path, content: str | bytes | None, said: str
) -> None:
    path = tmp_path / "model.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=said):
        CostModel.load(path)


def test_a_result_without_a_baseline_is_refused() -> None:
    made = speed.result([configuration((3, 1, 4))], [measurement("3,1,4", 1, 8.0, 2.0)])
    with pytest.raises(UserError, match="has no baseline: measure the configuration 'none' too"):
        fit(made)


def test_a_result_of_suites_is_refused() -> None:
    made = speed.of_law().model_copy(update={"kind": "suites"})
    with pytest.raises(UserError, match="this result is of `bench run`"):
        fit(made)


def test_a_measurement_of_an_unknown_configuration_is_refused() -> None:
    made = speed.result([configuration(None)], [measurement("3,1,4", 1, 8.0, 2.0)])
    with pytest.raises(UserError, match="measures '3,1,4', which is not among"):
        fit(made)


def test_without_a_bound_in_the_way_it_is_least_squares() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    values = np.array([1.0, 3.0, 4.0, 6.0])
    assert non_negative(rows, values) == pytest.approx([1.1, 1.6]), "the line by hand"


def test_a_term_that_would_be_negative_is_zero_and_the_others_make_up_for_it() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    assert non_negative(rows, np.array([3.0, 2.0, 1.0])) == pytest.approx([2.0, 0.0])


def test_nothing_is_made_of_values_that_only_negative_terms_would_meet() -> None:
    assert non_negative(np.ones((2, 1)), np.array([-1.0, -2.0])).tolist() == [0.0]


def test_of_terms_that_are_alike_one_is_used() -> None:
    rows = np.array([[1.0, 1.0], [2.0, 2.0]])
    assert sorted(non_negative(rows, np.array([3.0, 6.0]))) == pytest.approx([0.0, 3.0])


def test_each_value_is_predicted_from_the_others() -> None:
    predicted = held_out(np.ones((3, 1)), np.array([1.0, 2.0, 6.0]))
    assert predicted == pytest.approx([4.0, 3.5, 1.5])
