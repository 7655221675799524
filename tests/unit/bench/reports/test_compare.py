import json
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.reports.compare import ResultComparison, as_markdown, compare
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Result
from tests.support.bench_results import BASELINE, PROVENANCE, WIDE, passes, result


def wide(*tok_s: float, length: float = 2.0, **changes: Any) -> Result:
    return result([WIDE], passes("3,4,8", "humaneval", 1, tok_s, length), **changes)


def figure(comparison: ResultComparison, name: str = "request_tok_s") -> dict[str, Any]:
    [cell] = comparison.data["cells"]
    found: dict[str, Any] = cell["figures"][name]
    return found


def test_a_cell_s_ratio_is_of_the_medians() -> None:
    compared = compare(wide(100, 90, 110), wide(150, 140, 130, 160), ("old", "new"))
    assert figure(compared)["ratio"] == pytest.approx(1.45)
    assert figure(compared)["a"] == {"median": 100, "low": 90, "high": 110, "repetitions": 3}
    assert figure(compared, "inter_token.p50")["ratio"] == pytest.approx(100 / 145, rel=1e-2)
    text = compared.markdown
    assert "# new against old" in text
    row = "| 1 | 3,4,8 | HumanEval | 100.0 (90.0 to 110.0) | 145.0 (130.0 to 160.0) | **1.45x** |"
    assert row in text


@pytest.mark.parametrize(("other", "apart"), [((112, 120), True), ((109, 120), False)])
def test_a_ratio_is_marked_where_the_spreads_do_not_overlap(
    other: tuple[float, float], apart: bool
) -> None:
    compared = compare(wide(90, 110), wide(*other))
    assert figure(compared)["apart"] is apart
    assert figure(compare(wide(*other), wide(90, 110)))["apart"] is apart, "in either direction"


def test_the_text_says_how_often_chance_marks_a_ratio() -> None:
    compared = compare(wide(90, 100, 110), wide(150, 160, 170))
    assert compared.data["chance"] == pytest.approx(0.1), "2 of the 20 orders of 3 and 3"
    assert "Chance alone does that to up to 10.0%" in compared.markdown


def test_without_a_second_repetition_nothing_is_marked() -> None:
    compared = compare(wide(100), wide(200, 210))
    assert (figure(compared)["apart"], compared.data["chance"]) == (None, None)
    assert "**2.05x**" not in compared.markdown
    assert "Nothing is bold without two repetitions" in compared.markdown


def test_a_figure_of_zero_has_no_ratio() -> None:
    none = wide(100).measurements[0].figures.model_copy(update={"output_tok_s": 0.0})
    zero = result([WIDE], [wide(100).measurements[0].model_copy(update={"figures": none})])
    compared = compare(zero, wide(100))
    assert figure(compared, "output_tok_s")["ratio"] is None
    assert "| 0.0 | 90.0 | - |" in compared.markdown


def test_what_differs_in_provenance_and_settings_is_listed_and_what_is_alike_is_not() -> None:
    versions = {"sglang": "0.5.23", "torch": "2.11.0"}
    gpus = [{**PROVENANCE["gpus"][0], "name": "NVIDIA H100"}] * 4
    other = {**PROVENANCE, "versions": versions, "gpus": gpus}
    compared = compare(wide(100), wide(100, provenance=other, settings={"target": "X", "seed": 1}))
    assert compared.data["differences"] == {
        "provenance.versions.sglang": ["0.5.17", "0.5.23"],
        **{f"provenance.gpus.{n}.name": ["NVIDIA H200", "NVIDIA H100"] for n in range(4)},
        "settings.target": ["Qwen/Qwen3-Coder-Next", "X"],
    }
    assert "| provenance.versions.sglang | 0.5.17 | 0.5.23 |" in compared.markdown


def test_servers_are_compared_by_flag_whatever_their_order() -> None:
    def of(configuration: Configuration) -> Result:
        return result([configuration], passes("3,4,8", "humaneval", 1, [100], 2.0))

    python, flags = WIDE.argv[:3], WIDE.argv[3:]
    turned = (*python, *flags[2:], *flags[:2])
    assert compare(of(WIDE), of(WIDE.model_copy(update={"argv": turned}))).data["servers"] == []

    argv = (*python, "--model-path", "TARGET", "--tp", "2", *flags[4:])
    changed = WIDE.model_copy(update={"argv": argv, "environment": {}, "tree": (5, 1, 6)})
    [row] = compare(of(WIDE), of(changed)).data["servers"]
    assert row == {
        "configuration": "3,4,8",
        "a": "SGLANG_NOTE=a b [eagle3 (3, 4, 8)] --tp 4",
        "b": "[eagle3 (5, 1, 6)] --tp 2",
    }


def test_cells_that_only_one_has_are_named() -> None:
    more = result(
        [BASELINE, WIDE],
        [
            *passes("none", "humaneval", 8, [100]),
            *passes("3,4,8", "humaneval", 1, [150], 2.0),
        ],
    )
    compared = compare(more, wide(100))
    assert [cell["batch"] for cell in compared.data["only_in"]["a"]] == [8]
    assert compared.data["only_in"]["b"] == []
    text = compared.markdown
    assert "## Only in A\n\n- 8, none, HumanEval" in text
    assert "## Only in B" not in text


def speed(*cells: tuple[float | None, float]) -> Result:
    measured = [
        one
        for simulated, tok_s in cells
        for one in passes("3,4,8", "256 in", 1, [tok_s], simulated, simulated=simulated)
    ]
    return result([WIDE], measured, kind="speed")


def test_results_of_bench_speed_are_compared_at_equal_accept_lengths() -> None:
    compared = compare(speed((1.0, 80), (2.0, 160)), speed((2.0, 200), (3.0, 240)))
    assert [cell["simulated_accept_length"] for cell in compared.data["cells"]] == [2.0]
    assert figure(compared)["ratio"] == 1.25
    assert "| 1 | 3,4,8 | 256 in | 2 | 160.0 | 200.0 | 1.25x |" in compared.markdown
    assert "## Only in B\n\n- 1, 3,4,8, 256 in, accept length 3" in compared.markdown


def test_a_comparison_is_json() -> None:
    compared = compare(speed((2.0, 160)), speed((2.0, 200)))
    assert as_markdown(json.loads(json.dumps(compared.data))) == compared.markdown


def test_two_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="A is a result of kind 'suites', B of 'speed'"):
        compare(wide(100), speed((2.0, 100)))


def test_results_with_nothing_in_common_are_refused_and_what_each_has_is_said() -> None:
    other = result([BASELINE], passes("none", "mt-bench", 8, [100]))
    with pytest.raises(UserError) as refusal:
        compare(wide(100), other)
    assert str(refusal.value) == (
        "A and B have no cell in common: 3,4,8; humaneval; B=1 against none; mt-bench; B=8"
    )
