import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.trees.plan import parse_accept_lengths

CHAIN, WIDE = (3, 1, 4), (3, 4, 8)


def test_one_number_is_of_every_tree_that_can_reach_it() -> None:
    given = parse_accept_lengths("2.46")
    assert given.of("3,1,4", CHAIN) == 2.46
    assert given.of("mtp", CHAIN, eagle3=False) == 2.46
    assert given.of("1,1,2", (1, 1, 2)) is None, "two at most"


def test_trees_and_configurations_have_their_own() -> None:
    given = parse_accept_lengths("3,4,8=2.46,5,1,6=2.3,mtp=2.9,mtp:2,1,3=2.2")
    assert given.of("3,4,8", WIDE) == 2.46
    assert given.of("b1", WIDE) == 2.46, "a profile with this tree"
    assert given.of("5,1,6", (5, 1, 6)) == 2.3
    assert given.of("mtp", CHAIN, eagle3=False) == 2.9
    assert given.of("mtp:2,1,3", (2, 1, 3), eagle3=False) == 2.2
    assert given.of("3,1,4", CHAIN) is None


def test_a_tree_s_accept_length_is_of_eagle3_alone() -> None:
    assert parse_accept_lengths("3,1,4=2.5").of("mtp", CHAIN, eagle3=False) is None


def test_a_chain_accepts_one_and_the_shares_of_its_positions() -> None:
    given = parse_accept_lengths("0.7, 0.5, 0.35")
    assert given.of("1,1,2", (1, 1, 2)) == pytest.approx(1.7)
    assert given.of("3,1,4", CHAIN) == pytest.approx(2.55)
    assert given.of("4,1,5", (4, 1, 5)) is None, "nothing is known of its fourth draft"
    assert given.of("3,4,8", WIDE) is None
    assert given.of("mtp", CHAIN, eagle3=False) is None, "another head"


def test_a_single_share_is_not_an_accept_length() -> None:
    given = parse_accept_lengths("0.6")
    assert (given.everywhere, given.by_position) == (None, (0.6,))


def test_shares_and_trees_go_together() -> None:
    given = parse_accept_lengths("0.7,0.5; 3,4,8=2.8")
    assert given.of("2,1,3", (2, 1, 3)) == pytest.approx(2.2)
    assert given.of("3,4,8", WIDE) == 2.8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (";", "is empty"),
        ("wide", "'wide' is not a number"),
        ("3,4,8=much", "'much' is not a number"),
        ("nan", "nan is not an accept length"),
        ("3,4,8=-1", "-1 is not an accept length"),
        ("3,4,8=4.5", "3,4,8 has 3 steps, so its accept length lies between 1 and 4, not at 4.5"),
        ("3,4,8=0.5", "between 1 and 4, not at 0.5"),
        ("3,4,8=2,3,4,8=3", "3,4,8 is given twice"),
        ("0.5,0.6", "do not grow"),
        ("2.46,2.3", "lie between 0 and 1"),
        ("0.5;0.4", "write one for all"),
        ("3,4,8=2.46=1", "write one for all"),
        ("4,8=2.46", "write one for all"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_a_line(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        parse_accept_lengths(text)
    assert "\n" not in str(error.value)
