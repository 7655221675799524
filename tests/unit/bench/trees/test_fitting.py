import numpy as np
import pytest

from sglang_qwen3next_eagle3.bench.trees.fitting import held_out, non_negative


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
