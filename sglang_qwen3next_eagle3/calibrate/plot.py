"""Top-1 agreement by stream for each slot of fc, as a picture."""

from pathlib import Path

from sglang_qwen3next_eagle3.base import figures
from sglang_qwen3next_eagle3.calibrate.measure import SelectionMeasurement
from sglang_qwen3next_eagle3.model.target import Target


def save(measurement: SelectionMeasurement, target: Target, title: str, path: Path) -> None:
    """One panel a slot: the share of first drafts that are the target's, for every stream there.

    Each point is both the output of a layer and the input of the next; the others of the slots
    are as in the best selection found.

    Raises:
        UserError: the file cannot be written.
    """
    slots = len(measurement.profile)
    figure = figures.figure(max(6.0, 0.22 * target.num_layers), 2.2 * slots)
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(slots, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    depths = range(target.num_layers + 1)
    for slot, (panel, values) in enumerate(zip(axes, measurement.profile, strict=True)):
        for layer in target.attention_layers:
            panel.axvspan(layer + 0.6, layer + 1.4, color="0.9", zorder=0)
        panel.plot(depths, values, marker=".", markersize=4, linewidth=1)
        best = measurement.around[slot]
        panel.plot([best], [values[best]], marker="o", markersize=7, color="tab:red")
        panel.set_title(f"slot {slot + 1}: {_name(best)}", fontsize=9, loc="left")
        panel.set_ylabel("top-1 agreement", fontsize=8)
        panel.tick_params(labelsize=7)
    axes[0].set_ylim(0, 1.1 * max(map(max, measurement.profile)) or 1.0)
    step = max(1, -(-target.num_layers // 16))
    axes[-1].set_xticks(range(0, target.num_layers + 1, step))
    axes[-1].set_xticklabels([_name(depth) for depth in depths[::step]], rotation=60, ha="right")
    axes[-1].set_xlabel("stream (grey: what an attention layer puts out)", fontsize=8)
    figures.save(figure, path)


def _name(depth: int) -> str:
    return f"output@{depth - 1}" if depth else "input@0"
