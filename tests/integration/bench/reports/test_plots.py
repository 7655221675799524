from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.reports import plots
from sglang_qwen3next_eagle3.bench.results.records import Result
from tests.support.bench_results import (
    BASELINE,
    MTP,
    NARROW,
    WIDE,
    like_the_card,
    passes,
    repeated,
    result,
)


@pytest.fixture(autouse=True)
def _matplotlib() -> None:
    pytest.importorskip("matplotlib")


def through_batches() -> Result:
    return result(
        [BASELINE, WIDE, MTP],
        [
            one
            for batch in (1, 8)
            for one in (
                *passes("none", "humaneval", batch, [100 / batch], output_tok_s=90 * batch),
                *passes("3,4,8", "humaneval", batch, [150 / batch], 2.0, output_tok_s=99 * batch),
                *passes("mtp", "humaneval", batch, [120 / batch], 3.0, output_tok_s=95 * batch),
            )
        ],
    )


def labels(panel: Any) -> list[str]:
    return [text.get_text() for text in panel.get_xticklabels()]


def test_each_picture_is_a_png_as_wide_as_a_readme(tmp_path: Path) -> None:
    written = plots.run_plots(through_batches(), tmp_path / "new")
    assert [path.name for path in written] == ["speedup.png", "acceptance.png", "throughput.png"]
    for path in written:
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20]) == 1200


def test_bars_are_speedups_by_suite_and_their_mean() -> None:
    [panel] = plots.speedup(repeated()).axes
    assert labels(panel) == ["HumanEval", "MT-Bench", "Mean"]
    assert [bar.get_height() for bar in panel.patches] == pytest.approx([1.5, 1.1, 185 / 150])
    assert [line.get_ydata()[0] for line in panel.lines if line.get_color() == "black"] == [1.0]


def test_one_suite_needs_no_mean() -> None:
    one, other = plots.speedup(through_batches()).axes
    assert labels(one) == labels(other) == ["HumanEval"]
    assert (one.get_title("left"), other.get_title("left")) == ("B=1", "B=8")
    assert [bar.get_height() for bar in other.patches] == pytest.approx([99 / 90, 95 / 90])


def test_whiskers_reach_as_far_as_the_spread() -> None:
    [panel] = plots.speedup(repeated()).axes
    [whiskers] = panel.collections
    low, high = whiskers.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((140 / 110, 160 / 90))


def test_a_mean_over_fewer_suites_is_not_drawn_beside_the_others() -> None:
    made = result(
        [BASELINE, WIDE, NARROW],
        [
            *(one for suite in ("a", "b") for one in passes("none", suite, 1, [100])),
            *(one for suite in ("a", "b") for one in passes("3,4,8", suite, 1, [150], 2.0)),
            *passes("b32", "b", 1, [120], 2.0),
        ],
    )
    [panel] = plots.speedup(made).axes
    by_name = [[bar.get_height() for bar in bars] for bars in panel.containers]
    assert by_name == [pytest.approx([1.5, 1.5, 1.5]), pytest.approx([1.2])]
    [alone] = panel.containers[1]
    assert 0.5 < alone.get_x() < 1.5, "over the second suite"


def test_without_a_baseline_there_is_no_picture_of_speedups(tmp_path: Path) -> None:
    made = result([WIDE], passes("3,4,8", "humaneval", 1, [150], 2.0))
    assert [path.name for path in plots.run_plots(made, tmp_path)] == ["acceptance.png"]


def test_nothing_measured_gives_no_pictures(tmp_path: Path) -> None:
    assert plots.run_plots(result([BASELINE], []), tmp_path) == []


def test_acceptance_is_a_line_a_configuration_over_the_draft_positions() -> None:
    [panel] = plots.acceptance(through_batches()).axes
    assert [line.get_label() for line in panel.lines] == ["EAGLE3 3,4,8", "MTP 3,1,4"]
    assert list(panel.lines[0].get_xdata()) == [1, 2, 3]
    assert list(panel.lines[0].get_ydata()) == [0.8, 0.5, 0.2]


def test_throughput_is_a_line_a_configuration_through_the_batches() -> None:
    [panel] = plots.throughput(through_batches()).axes
    wide = next(line for line in panel.lines if line.get_label() == "EAGLE3 3,4,8")
    assert list(wide.get_xdata()) == [150, 150 / 8]
    assert list(wide.get_ydata()) == [99, 99 * 8]
    assert plots.throughput(like_the_card()) is None, "one batch makes no line"


def test_no_two_of_many_configurations_look_the_same() -> None:
    many = [WIDE.model_copy(update={"name": f"{n},1,{n + 1}"}) for n in range(1, 16)]
    style = plots.Style(result([BASELINE, *many], []))
    names = ["none", *(each.name for each in many)]
    assert len({tuple(style.line(name).items()) for name in names}) == 16
    assert len({tuple(style.bar(name).items()) for name in names[1:]}) == 15


def test_without_matplotlib_the_way_out_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="plots need matplotlib: pip install"):
        plots.run_plots(repeated(), tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the plot .*speedup\.png: "):
        plots.run_plots(repeated(), tmp_path / "file")
