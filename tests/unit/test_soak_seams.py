"""What the soak of the seams asks, and how it judges two servers."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import soak_seams
from tests.gpu.soak_seams import KINDS, Asking, Limit, alike, body, fewer, kind_of, recorded, wrong


def server(equal: int, other: int = 0, **load: int) -> dict[str, Any]:
    never = {"sampled": 9, "hung up": 9, "aborted": 9, "left": 9}
    alone = {f"alone, {turn}": 21 for turn in ("first", "again", "afterwards")}
    told = {"equal": equal, "another text": other, **never, **load}
    return {"of": 21, **alone, "load": told, "retracted": 3, "tracebacks": 0}


def test_both_servers_alike_pass() -> None:
    assert wrong({"off": server(90, 30), "on": server(85, 35)}, 200, exact=False) == []
    assert wrong({"off": server(120), "on": server(120)}, 200, exact=True) == []


@pytest.mark.parametrize(("equal", "other"), [(60, 60), (1, 119), (66, 54)])
def test_fewer_equal_answers_with_seams_than_chance_explains(equal: int, other: int) -> None:
    found = {"off": server(90, 30), "on": server(equal, other)}
    (said,) = wrong(found, 200, exact=False)
    assert said.startswith("on: ")
    assert "equal under load, without seams 75%" in said
    assert fewer({"off": found["on"], "on": found["off"]}) is None, "more are no fault"


def test_where_all_or_none_were_answered_there_is_no_doubt() -> None:
    assert fewer({"off": server(120), "on": server(120)}) is None
    assert fewer({"off": server(120), "on": server(119, 1)}) is None
    assert fewer({"off": server(120), "on": server(90, 30)}) is not None
    assert fewer({"off": server(120)}) is None
    assert fewer({}) is None


def test_an_empty_sampled_answer_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = Asking("http://nobody", Limit(60), 96)
    number = KINDS.index("sampled")
    monkeypatch.setattr(asking, "ask", lambda number: "")
    told = asking.under_load(number, 0)
    assert told == "wrong: sampled: nothing"
    found = {"off": server(120), "on": server(120, **{told: 1})}
    assert wrong(found, 200, exact=True) == ["on: wrong: sampled: nothing (1)"]


LOGPROBS = "wrong: logprobs: not as many logprobs as tokens"


@pytest.mark.parametrize(("off", "on", "fails"), [(1, 1, 0), (3, 1, 0), (1, 13, 2), (0, 1, 1)])
def test_what_is_wrong_on_both_alike_is_named_and_no_fault_of_seams(
    off: int, on: int, fails: int
) -> None:
    found = {
        "off": server(120, **({LOGPROBS: off} if off else {})),
        "on": server(120, **{LOGPROBS: on}),
    }
    assert alike(found) == ({} if fails else {LOGPROBS: (off, on)})
    reasons = wrong(found, 200, exact=False)
    assert len(reasons) == fails
    assert f"on: {LOGPROBS} ({on})" in reasons or not fails
    assert f"on: {LOGPROBS} ({on})" in wrong(found, 200, exact=True)
    lost = {name: server(120, **{"lost: greedy: ReadTimeout": 1}) for name in ("off", "on")}
    assert len(wrong(lost, 200, exact=False)) == 2


SEAMS = "cycle,requests,relay"
ONE = "cycles of 1 requests are recorded: 1 steps, 17 MiB"
FOUR = "cycles of 4 requests are recorded: 1 steps, 19 MiB"
STAYS = "cycles of 3 requests stay SGLang's: RuntimeError: out of memory (at a.py:1)"
SEVERAL = "cycles are several graphs instead of one: NotJoinable: CUDA refuses: no"
NONE = "no cycles are recorded: they are not with DP attention"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([ONE, FOUR], []),
        ([ONE], ["no cycle of several requests was recorded"]),
        ([FOUR], ["no cycle of one request was recorded"]),
        ([ONE, FOUR, STAYS], [STAYS]),
        ([ONE, FOUR, SEVERAL], [SEVERAL]),
        ([ONE, FOUR.replace(": 1 steps", ": 8 steps")], ["8 launches a cycle of 4"]),
        (
            [NONE],
            [
                NONE,
                "no cycle of one request was recorded",
                "no cycle of several requests was recorded",
            ],
        ),
    ],
)
def test_what_is_under_proof_has_run(said: list[str], why: list[str]) -> None:
    found = {"off": server(120), "on": {**server(120), "said": said}}
    assert wrong(found, 200, exact=False, seams=SEAMS) == [f"on: {each}" for each in why]
    assert wrong(found, 200, exact=False, seams="requests,relay") == []


def test_ranks_that_share_no_memory_have_failed() -> None:
    shared = "requests are broadcast only where there are some"
    for said, why in (([ONE, FOUR, shared], 0), ([ONE, FOUR], 1)):
        found = {"off": server(120), "on": {**server(120), "said": said}}
        assert len(wrong(found, 200, exact=False, seams=SEAMS, ranks=2)) == why
        assert wrong(found, 200, exact=False, seams=SEAMS) == []
        assert wrong(found, 200, exact=False, seams="cycle,relay", ranks=2) == []


def test_seams_are_all_that_so_many_ranks_can_have() -> None:
    assert set(soak_seams.ALL) - set(soak_seams.seams_of(None, 1).split(",")) == set()
    assert set(soak_seams.ALL) - set(soak_seams.seams_of(None, 4).split(",")) == {"sampled"}
    assert soak_seams.seams_of("cycle", 2) == "cycle"


def test_servers_are_asked_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by another run that names the same file."""
    inside: list[str] = []

    def whole(one: Asking, numbers: list[int]) -> dict[int, str]:
        inside.append(one.url)
        time.sleep(0.02)
        assert inside == [one.url]
        inside.remove(one.url)
        return dict.fromkeys(numbers, "a")

    def load(one: Asking, *_: int) -> dict[str, int]:
        return dict.fromkeys(map(str, whole(one, [0])))  # type: ignore[arg-type]

    monkeypatch.setattr(Asking, "whole", whole)
    monkeypatch.setattr(Asking, "load", load)
    monkeypatch.setattr(Asking, "together", lambda one, kind: len(whole(one, [])) + 4)
    words = ["--out", str(tmp_path), "--at-once", "--in-turn", str(tmp_path / "turn")]
    arguments = soak_seams.parsed(words)

    def run(name: str) -> None:
        urls = {side: f"{name}-{side}" for side in ("off", "on")}
        soak_seams.measure(arguments, urls, Limit(60), {})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ("a", "b")))
    del arguments.in_turn
    arguments.in_turn = None
    with pytest.raises(AssertionError):
        run("c")


def test_where_sampled_cycles_are_named_some_have_to_be_recorded() -> None:
    drawn = "cycles of 4 sampled requests are recorded: 1 steps, 19 MiB"
    assert recorded([ONE, FOUR, drawn]) == {"greedy": [1, 4], "sampled": [4]}
    for said, why in (([ONE, FOUR, drawn], 0), ([ONE, drawn], 0), ([ONE, FOUR], 1)):
        found = {"off": server(120), "on": {**server(120), "said": said}}
        assert len(wrong(found, 200, exact=False, seams=f"{SEAMS},sampled")) == why


def test_of_the_other_side_nothing_is_recorded_and_all_is_answered() -> None:
    found = {"off": {**server(120), "together": 3}, "on": {**server(120), "together": 4}}
    assert wrong(found, 200, exact=False) == ["off: 3 of 4 together"]


def test_of_what_is_sampled_some_is_known_beforehand() -> None:
    number = KINDS.index("one of one")
    sampling = body(number, 96)["sampling_params"]
    assert sampling["top_k"] == 1
    assert sampling["temperature"] > 0
    assert kind_of(number) in soak_seams.SAME
    asking = Asking("http://nobody", Limit(60), 96)
    asking.known[number] = "as it was"
    for said, told in (("as it was", "equal"), ("another", "another text")):
        asking.ask = lambda number, said=said: said  # type: ignore[method-assign,misc]
        assert asking.under_load(number, 0) == told
