import copy
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay.requests import choices


def seeds_of(seed: int | None, count: int) -> list[int | None]:
    """As SGLang sends `n` choices: first a copy that fills the prefix cache."""
    sent: list[Any] = []
    one = SimpleNamespace(sampling_params=SimpleNamespace(sampling_seed=seed, max_new_tokens=9))
    first = copy.copy(one)
    first.sampling_params = copy.copy(one.sampling_params)
    for tokenized in (first, *(copy.copy(one) for _ in range(count))):
        assert choices.send_one_request(lambda _, t: sent.append(t) or 7, None, tokenized) == 7
    return [tokenized.sampling_params.sampling_seed for tokenized in sent[1:]]


def test_each_choice_has_a_seed_of_its_own() -> None:
    assert seeds_of(11, 1) == [11]
    assert seeds_of(11, 4) == [11, 12, 13, 14]


def test_without_a_seed_there_is_none() -> None:
    assert seeds_of(None, 3) == [None] * 3


@pytest.mark.parametrize("seed", [2**63 - 2, -(2**63)])
def test_seeds_stay_within_64_bits(seed: int) -> None:
    assert all(one is not None and -(2**63) <= one < 2**63 for one in seeds_of(seed, 4))


def test_an_embedding_is_handed_on() -> None:
    sent: list[Any] = []
    choices.send_one_request(lambda _, t: sent.append(t), None, SimpleNamespace(rid="a"))
    assert len(sent) == 1
