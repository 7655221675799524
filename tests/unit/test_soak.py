"""What the soaks ask and how they judge it; the committed results are what the page says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.soak import faults
from tests.soak.asked import Asked, alone, ask, key_of, new_client, requests
from tests.support.fake_openai import Reply, serving

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "cpu2-soak"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_half_are_streamed_a_tenth_cancelled_a_tenth_with_a_grammar_or_a_tool() -> None:
    made = requests(2000, 40)
    assert sum(one.streamed for one in made) == 1000
    assert sum(one.cancelled for one in made) == 200
    assert all(one.streamed for one in made if one.cancelled), "who hangs up has begun to read"
    assert sum(one.kind != "plain" for one in made) == 200
    assert {one.kind for one in made} == {"plain", "regex", "schema", "tool"}
    lengths = {len(one.body["messages"][0]["content"]) for one in made}
    assert max(lengths) > 10 * min(lengths)


def test_each_of_them_is_one_whose_answer_is_known() -> None:
    known = {key_of(one) for one in alone(40)}
    assert len(known) == 40
    made = requests(2000, 40)
    assert {key_of(one) for one in made} == known
    by_body: dict[str, set[tuple[bool, bool]]] = {}
    for one in made:
        by_body.setdefault(key_of(one), set()).add((one.streamed, one.cancelled))
    assert all(ways >= {(True, False), (False, False)} for ways in by_body.values())


def test_what_is_no_answer_is_told() -> None:
    asked = alone(1)[0]
    with new_client() as client:
        with serving(lambda _: Reply("said")) as served:
            came = ask(client, served.url, asked, {})
            assert (came.said, came.whole) == ("said", True)
            streamed = ask(client, served.url, Asked(0, "plain", asked.body, True), {})
            assert not streamed.whole
            assert "without [DONE]" in streamed.broken
        with serving(lambda _: Reply("full", 503)) as served:
            came = ask(client, served.url, asked, {})
            assert (came.status, came.whole) == (503, False)
            assert "full" in came.broken
        gone = ask(client, served.url, asked, {})
        assert (gone.status, gone.whole) == (0, False)
        assert "ConnectError" in gone.broken


@pytest.mark.parametrize("name", ["load", "router"])
def test_the_committed_results_passed(name: str) -> None:
    result = read_json(RESULTS / f"{name}.json")
    assert result["passed"]
    assert f"tests.soak.{name}" in result["made"]["command"]


@pytest.mark.parametrize("name", sorted(faults.FAULTS))
def test_each_fault_was_tried_and_passed(name: str) -> None:
    assert read_json(RESULTS / f"fault-{name}.json")["passed"]


def test_the_page_has_the_figures_of_the_results() -> None:
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    result = read_json(RESULTS / "load.json")
    for figure in (result["requests"], result["at_once"], result["found"]["equal"]):
        assert f"{figure:,}" in page
    for figures in (result["memory_mib"], result["accept_length"]):
        assert " / ".join(f"{figure:,}" for figure in figures) in page
    router = read_json(RESULTS / "router.json")
    assert f"{sum(one['asked'] for one in router['phases'].values()):,}" in page
