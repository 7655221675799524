import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.model.chat_format import Conversation
from sglang_qwen3next_eagle3.train.data.mixing import (
    Candidate,
    content_key,
    draw,
    prompt_key,
    quotas,
    split,
)


def conversation(question: str, answer: str = "So.") -> Conversation:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def candidates(source: int, count: int, prompts: int | None = None) -> list[Candidate]:
    content = [f"{source}-{i}".encode() for i in range(count)]
    return [
        Candidate(source, i, i, content[i], content[i % (prompts or count)]) for i in range(count)
    ]


def test_content_keys_differ_by_role_text_and_where_a_message_ends() -> None:
    one = conversation("a b", "c")
    assert content_key(one) == content_key(conversation(" a\n b", "c "))
    others = [
        conversation("a b", "d"),
        conversation("a", "b c"),
        conversation("A b", "c"),
        [*one, *one],
        [{"role": "system", "content": "a b"}, one[1]],
    ]
    assert len({content_key(other) for other in [one, *others]}) == 6


def test_without_answers_only_the_questions_tell_conversations_apart() -> None:
    one, same, other = conversation("a", "b"), conversation("a", "c"), conversation("d", "b")
    assert content_key(one, answers=False) == content_key(same, answers=False)
    assert content_key(one, answers=False) != content_key(other, answers=False)
    longer = [*one, *one]
    assert content_key(one, answers=False) != content_key(longer, answers=False)


def test_prompt_keys_are_those_of_the_first_question_whatever_its_case() -> None:
    system: Conversation = [{"role": "system", "content": "s"}, *conversation("why  NOT", "b")]
    assert prompt_key(system) == prompt_key(conversation("Why not", "c"))
    assert prompt_key(system) != prompt_key(conversation("Why", "b"))


def weights(*values: float) -> list[Fraction]:
    return [Fraction(value) for value in values]


@pytest.mark.parametrize(
    ("available", "shares", "total", "expected"),
    [
        ([10, 30], None, None, [10, 30]),
        ([10, 30], None, 20, [5, 15]),
        ([10, 30], None, 100, [10, 30]),
        ([100, 100], weights(1, 3), 40, [10, 30]),
        # A third of 12 is 4: the first two run out.
        ([2, 3, 100], weights(1, 1, 1), 12, [2, 3, 7]),
        # 30 wanted from the first, 10 there; the others take 50 by 1 : 3, 12.5 and 37.5.
        ([10, 100, 100], weights(4, 1, 3), 60, [10, 13, 37]),
        # As many as keep to 1 : 3 until the second runs out: 30 of it and 10.
        ([100, 30], weights(1, 3), None, [10, 30]),
        ([100, 31], weights(1, 3), None, [10, 31]),
        ([5, 5, 5], weights(1, 1, 1), 10, [4, 3, 3]),
        ([5], weights(2), None, [5]),
    ],
)
def test_quotas(
    available: list[int], shares: list[Fraction] | None, total: int | None, expected: list[int]
) -> None:
    assert quotas(available, shares, total) == expected


SOURCES = st.lists(
    st.tuples(st.integers(0, 1000), st.fractions(Fraction(1, 100), 100, max_denominator=100)),
    min_size=1,
    max_size=6,
)


@given(SOURCES, st.integers(1, 5000))
def test_quotas_add_up_never_exceed_what_is_there_and_keep_to_the_shares(
    given_sources: list[tuple[int, Fraction]], total: int
) -> None:
    available = [count for count, _ in given_sources]
    shares = [weight for _, weight in given_sources]
    found = quotas(available, shares, total)
    assert sum(found) == min(total, sum(available))
    assert all(0 <= got <= there for got, there in zip(found, available, strict=True))
    # Whatever did not run out is drawn in proportion, to within one conversation.
    rates = [
        (got, w) for got, there, w in zip(found, available, shares, strict=True) if got < there
    ]
    for got, weight in rates:
        for other, other_weight in rates:
            assert (got - 1) / weight < (other + 1) / other_weight


@given(SOURCES)
def test_without_a_total_the_shares_hold_and_one_source_runs_out(
    given_sources: list[tuple[int, Fraction]],
) -> None:
    available = [count for count, _ in given_sources]
    shares = [weight for _, weight in given_sources]
    found = quotas(available, shares, None)
    total = sum(found)
    for got, there, weight in zip(found, available, shares, strict=True):
        assert got <= there
        assert abs(got - total * weight / sum(shares)) < 1
    bound = min(there / weight for there, weight in zip(available, shares, strict=True))
    assert total == int(bound * sum(shares))


@given(st.integers(), st.integers(0, 40), st.randoms())
def test_a_draw_is_without_replacement_and_knows_no_order_of_lines(
    seed: int, count: int, shuffler: random.Random
) -> None:
    pool = candidates(0, 40)
    drawn = draw([pool], [count], seed)
    assert len(set(drawn)) == len(drawn) == count
    shuffled = list(pool)
    shuffler.shuffle(shuffled)
    assert draw([shuffled], [count], seed) == drawn


def test_a_larger_draw_contains_the_smaller_and_another_seed_draws_others() -> None:
    pool = candidates(0, 1000)
    small, large = draw([pool], [100], 1), draw([pool], [200], 1)
    assert set(small) < set(large)
    other = draw([pool], [100], 2)
    # 10 of 100 are expected in common.
    assert len(set(small) & set(other)) < 40


def test_sources_are_mixed_and_each_gives_its_share() -> None:
    drawn = draw([candidates(0, 500), candidates(1, 500)], [100, 300], 0)
    assert [one.source for one in drawn].count(0) == 100
    first_half = [one.source for one in drawn[:200]].count(0)
    assert 25 < first_half < 75


@given(st.integers(), st.integers(1, 60), st.integers(1, 20), st.integers(0, 60))
def test_no_first_question_is_in_both_parts(seed: int, size: int, prompts: int, count: int) -> None:
    drawn = candidates(0, size, prompts)
    train, evaluation = split(drawn, count, seed)
    assert sorted(train + evaluation) == sorted(drawn)
    assert not {one.prompt for one in train} & {one.prompt for one in evaluation}
    assert len(evaluation) <= count
    if prompts >= size:
        assert len(evaluation) == min(count, size)


def test_both_parts_keep_the_order_of_the_draw() -> None:
    drawn = draw([candidates(0, 50)], [50], 3)
    train, evaluation = split(drawn, 10, 3)
    assert train == [one for one in drawn if one in train]
    assert evaluation == [one for one in drawn if one in evaluation]
