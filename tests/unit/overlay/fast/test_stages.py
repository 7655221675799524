import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET, STAGES, Wanted, parse


@pytest.mark.parametrize("text", [None, "", " ", "off", "OFF"])
def test_off(text: str | None) -> None:
    assert parse(text) is None


def test_on_and_require_are_all_stages_of_the_target() -> None:
    assert parse("on") == Wanted(frozenset(OF_TARGET))
    assert parse("Require") == Wanted(frozenset(OF_TARGET), required=True)


def test_the_head_and_sums_over_ranks_are_named() -> None:
    assert parse("on,head_w8,allreduce") == Wanted(frozenset(STAGES))
    assert parse("on,head,allreduce") == Wanted(frozenset(STAGES) - {"head_w8"})
    assert parse("require, head") == Wanted(frozenset({*OF_TARGET, "head"}), required=True)
    assert parse("head") == Wanted(frozenset({"head"}))


@pytest.mark.parametrize(
    ("text", "spelled"),
    [("on,head_w8", "on,head_w8"), ("head_w8,head", "head_w8"), ("require,head", "on,head")],
)
def test_the_head_in_8_bits_is_the_head(text: str, spelled: str) -> None:
    wanted = parse(text)
    assert wanted is not None
    assert "head" in wanted.stages
    assert wanted.spelled == spelled
    assert parse(spelled) == Wanted(wanted.stages)


def test_stages_one_by_one() -> None:
    assert parse("dense, moe") == Wanted(frozenset({"dense", "moe"}))


@pytest.mark.parametrize("text", ["yes", "on,off", "dense,require", "dense moe"])
def test_anything_else_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(
        UserError, match="is not one of on, off, auto, require and the stages dense, moe"
    ):
        parse(text)


def test_auto_is_what_is_proved_of_the_target_and_what_is_named() -> None:
    assert parse("auto") == Wanted(frozenset(OF_TARGET), auto=True)
    assert parse("Auto, head") == Wanted(frozenset({*OF_TARGET, "head"}), auto=True)
    with pytest.raises(UserError, match="'auto' is not one of"):
        parse("head,auto")
