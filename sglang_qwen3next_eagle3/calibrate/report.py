"""What a calibration says: the figures for scripts, their table and picture for people."""

from collections.abc import Mapping
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import figures as pictures
from sglang_qwen3next_eagle3.calibrate.measure import SelectionMeasurement
from sglang_qwen3next_eagle3.calibrate.scoring import Score
from sglang_qwen3next_eagle3.calibrate.verdict import (
    CONFIDENCE,
    MIN_TEXTS,
    Estimate,
    ScoredSelection,
    Verdict,
    spelled,
)
from sglang_qwen3next_eagle3.model.target import Target

ADVICE = (
    "the head's config names another selection, and the texts, which are not the target's own "
    "answers, speak against it by little: --regenerate tells more"
)


def figures(measurement: SelectionMeasurement, target: Target, own_answers: bool) -> dict[str, Any]:
    """JSON-ready. aux_layers: the selection that was found, as --aux-layers takes it, or None;
    advice: what would tell more, or None.

    own_answers: whether the texts are what the target itself says.
    """
    verdict = measurement.verdict
    chosen = verdict.chosen
    selection = None if chosen is None else spelled(chosen.depths, target)
    return {
        "aux_layers": None if selection is None else selection.name or str(selection),
        "conclusion": conclusion(verdict, target),
        "advice": ADVICE if verdict.narrowly_against_config and not own_answers else None,
        "candidates": [_candidate(c, verdict, target) for c in verdict.candidates],
        "control": _score(verdict.control),
        "gain_over_control": asdict(verdict.gain),
        "search": {
            "found": str(spelled(measurement.searched, target)),
            "sweeps": measurement.sweeps,
        },
        "top1_by_stream": {
            "around": list(measurement.around),
            "slots": [list(values) for values in measurement.profile],
        },
    }


def conclusion(verdict: Verdict, target: Target) -> str:
    """One sentence: what was found, and how sure that is."""
    best, chosen = verdict.candidates[0], verdict.chosen
    name = str(spelled(best.depths, target))
    if not verdict.enough:
        return (
            f"not found: {verdict.texts} texts are too few to be sure of anything; give "
            f"{MIN_TEXTS} or more"
        )
    if not verdict.learned:
        return (
            "not found: with no selection does the head draft better than with states of other "
            "places; is it trained, and for this target?"
        )
    if chosen is None:
        return (
            f"not servable: the head drafts best from {name} in this order, SGLang concatenates "
            "the states in layer order; permute the columns of fc.weight"
        )
    found = str(spelled(chosen.depths, target))
    others = [c for c in verdict.candidates if c is not chosen]
    tied = [str(spelled(c.depths, target)) for c in others if c.tied]
    if not tied:
        second = others[0]
        return (
            f"{found}: the next best, {spelled(second.depths, target)}, overlaps less with the "
            f"target by {_interval(second.margin)}, and its accept length is shorter by "
            f"{_interval(second.shorter)}"
        )
    return f"{found}; these texts do not tell it from {', '.join(tied)}"


def table(data: Mapping[str, Any]) -> str:
    """For a terminal: candidates with their figures, the conclusion, the file."""
    from rich.console import Console
    from rich.table import Table

    steps = len(data["control"]["top1"])
    grid = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("selection", "known as", f"top-1, steps 1..{steps}", "top-5"):
        grid.add_column(column)
    grid.add_column("accept length", justify="right")
    grid.add_column("overlap", justify="right")
    grid.add_column(f"less than the best ({CONFIDENCE:.0%})")
    for row in data["candidates"]:
        margin = _interval(Estimate(**row["margin"])) if row["margin"]["mean"] else ""
        grid.add_row(*_cells(row), margin + (", not told apart" if row["tied"] and margin else ""))
    grid.add_row(*_cells({**data["control"], "selection": "displaced states", "names": []}), "")
    out = Console(file=StringIO(), width=160, highlight=False)
    out.print(grid)
    seconds = ", ".join(f"{name} {value} s" for name, value in data["seconds"].items())
    memory = ", ".join(f"{name} {value:,} MiB" for name, value in data["peak_mib"].items())
    out.print(f"{_texts(data)}; {seconds}; peak {memory}", soft_wrap=True)
    out.print(data["conclusion"], markup=False, soft_wrap=True)
    if data["advice"] is not None:
        out.print(data["advice"], markup=False, soft_wrap=True)
    if data["written"] is not None:
        out.print(f"`launch` will use it: {data['written']}", markup=False, soft_wrap=True)
    file: Any = out.file
    return str(file.getvalue()).rstrip()


def _texts(data: Mapping[str, Any]) -> str:
    """`60 prompts with the target's own answers (4 left out), 5000 tokens, 3000 of them answers`"""
    if not data["answer_tokens"]:
        return f"{data['prompts']} prompts, {data['texts']}, {data['tokens']} tokens"
    left_out = f" ({data['left_out']} left out)" if data["left_out"] else ""
    return (
        f"{data['prompts']} prompts with the target's own answers{left_out}, "
        f"{data['tokens']} tokens, {data['answer_tokens']} of them answers"
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["selection"],
        ", ".join(row["names"]),
        " ".join(f"{share:.3f}" for share in row["top1"]),
        " ".join(f"{share:.3f}" for share in row["top5"]),
        f"{row['accept_length']:.3f}",
        f"{row['overlap']:.4f}",
    ]


def _candidate(candidate: ScoredSelection, verdict: Verdict, target: Target) -> dict[str, Any]:
    return {
        "selection": str(spelled(candidate.depths, target)),
        "depths": list(candidate.depths),
        "names": list(candidate.names),
        "chosen": candidate is verdict.chosen,
        "tied": candidate.tied,
        **_score(candidate.score),
        "margin": asdict(candidate.margin),
        "shorter": asdict(candidate.shorter),
    }


def _interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.4f} ({estimate.low:.4f} to {estimate.high:.4f})"


def _score(score: Score) -> dict[str, Any]:
    return {
        "top1": score.top1,
        "top5": score.top5,
        "accept_length": score.accept_length,
        "overlap": score.mean_overlap,
    }


def save_plot(measurement: SelectionMeasurement, target: Target, title: str, path: Path) -> None:
    """Top-1 agreement by stream for each slot of fc, as a picture.

    One panel a slot: the share of first drafts that are the target's, for every stream there.

    Each point is both the output of a layer and the input of the next; the others of the slots
    are as in the best selection found.

    Raises:
        UserError: the file cannot be written.
    """
    slots = len(measurement.profile)
    figure = pictures.figure(max(6.0, 0.22 * target.num_layers), 2.2 * slots)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(slots, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    depths = range(target.num_layers + 1)
    for slot, (panel, values) in enumerate(zip(axes, measurement.profile, strict=True)):
        for layer in target.attention_layers:
            panel.axvspan(layer + 0.6, layer + 1.4, color="0.9", zorder=0)
        panel.plot(depths, values, marker=".", markersize=4, linewidth=1)
        best = measurement.around[slot]
        panel.plot([best], [values[best]], marker="o", markersize=7, color="tab:red")
        panel.set_title(f"slot {slot + 1}: {_stream(best)}", fontsize=9, loc="left")
        panel.set_ylabel("top-1 agreement", fontsize=8)
        panel.tick_params(labelsize=7)
    axes[0].set_ylim(0, 1.1 * max(map(max, measurement.profile)) or 1.0)
    step = max(1, -(-target.num_layers // 16))
    axes[-1].set_xticks(range(0, target.num_layers + 1, step))
    axes[-1].set_xticklabels([_stream(depth) for depth in depths[::step]], rotation=60, ha="right")
    axes[-1].set_xlabel("stream (grey: what an attention layer puts out)", fontsize=8)
    pictures.save(figure, path)


def _stream(depth: int) -> str:
    return f"output@{depth - 1}" if depth else "input@0"
