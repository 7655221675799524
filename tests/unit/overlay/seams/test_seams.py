"""How seams are asked for."""

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import SEAMS
from sglang_qwen3next_eagle3.overlay.seams import seams


@pytest.mark.parametrize("text", [None, "", " ", "off", "OFF"])
def test_without_a_word_they_are_sglangs(text: str | None) -> None:
    assert seams.parse(text) == frozenset()


def test_all_or_some_are_asked_for() -> None:
    assert seams.parse("on") == frozenset(seams.ON)
    assert seams.parse("commit, Requests") == {"commit", "requests"}


def test_auto_is_no_more_than_on() -> None:
    assert seams.parse("Auto") == frozenset(seams.ON)
    assert seams.is_auto("AUTO")
    assert not seams.is_auto("on")
    assert not seams.is_auto(None)
    with pytest.raises(UserError, match="'auto' is not one of"):
        seams.parse("chain,auto")


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        (None, "off"),
        ("off", "off"),
        ("on", "on"),
        ("requests,cycle", "requests,cycle"),
        ("sampled,on", "on,sampled"),
        ("cycle,sampled", "cycle,sampled"),
        (",".join(seams.ALL), "on,sampled"),
    ],
)
def test_one_spelling_of_each(text: str | None, spelled: str) -> None:
    wanted = seams.parse(text)
    assert seams.spelled(wanted) == spelled
    assert seams.parse(spelled) == wanted


@pytest.mark.parametrize("seam", ["sampled", "extend"])
def test_what_is_of_recorded_cycles_needs_them(seam: str) -> None:
    with pytest.raises(UserError, match=f"{seam} is of cycles that are recorded: name cycle, too"):
        seams.parse(f"commit,{seam}")


@pytest.mark.parametrize("text", ["commits", "on,commits", "require"])
def test_another_word_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=f"{SEAMS}={text}: .* is not one of on, off, auto and the seams"
    ):
        seams.parse(text)
