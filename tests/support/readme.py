"""README's tables, made from the committed results: `make readme` writes them, a test holds them.

A block stands between `<!-- NAME -->` and `<!-- /NAME -->`.
"""

import re
from functools import partial
from pathlib import Path

from sglang_qwen3next_eagle3.bench.reports import speed
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.trees import cost
from sglang_qwen3next_eagle3.bench.trees.plan import PlanRow, plan

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SPEED = ROOT / "benchmarks" / "results" / "h200x1-speed"
CARD = ROOT / "benchmarks" / "results" / "h200x4-tp" / "bf16"
"""Served as the card's was: bf16, TP 4."""
BATCHES = (1, 8, 32)
CHAIN, WIDE = "3,1,4", "3,4,8"


def blocks() -> dict[str, str]:
    """The content of each block by its name."""
    result = Result.load(SPEED)
    rows = plan(cost.fit(result), batches=BATCHES).rows
    return {
        "trees": _trees(rows),
        "rule": _rule(rows),
        "card": speed.readme_rows(Result.load(CARD)).strip(),
    }


def _trees(rows: tuple[PlanRow, ...]) -> str:
    names = list(dict.fromkeys(row.name for row in rows))
    names.sort(key=lambda name: next(row.cycle_ms for row in rows if row.name == name))
    lines = [
        "| tree | " + " | ".join(f"cycle at B={b}, ms | breaks even at" for b in BATCHES) + " |",
        "|---|" + "---:|---:|" * len(BATCHES),
    ]
    for name in names:
        cells = []
        for batch in BATCHES:
            row = _row(rows, name, batch)
            even = "" if row.break_even is None else f"{row.break_even:.2f}"
            cells += [f"{row.cycle_ms:.1f}", even]
        label = "no speculation" if name == "none" else "MTP 3,1,4" if name == "mtp" else name
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _rule(rows: tuple[PlanRow, ...]) -> str:
    chain = [_even(rows, CHAIN, batch) for batch in BATCHES]
    wide = [_even(rows, WIDE, batch) for batch in BATCHES]
    return (
        f"Rule of thumb: with one request at a time the chain `{CHAIN}` pays from an accept length "
        f"of {chain[0]}, with {BATCHES[1]} at once from {chain[1]}, with {BATCHES[2]} from "
        f"{chain[2]}; the card's wide tree `{WIDE}` pays from {wide[0]}, {wide[1]} and {wide[2]}. "
        f"So with a head of unknown acceptance take `--tree {CHAIN}`, and with many requests at "
        "once measure first."
    )


def _even(rows: tuple[PlanRow, ...], name: str, batch: int) -> str:
    return f"{_row(rows, name, batch).break_even:.2f}"


def _row(rows: tuple[PlanRow, ...], name: str, batch: int) -> PlanRow:
    return next(row for row in rows if (row.name, row.batch) == (name, batch))


def _between(content: str, marks: re.Match[str]) -> str:
    return f"{marks[1]}{content}\n{marks[2]}"


def filled(text: str) -> str:
    """The text with every block made again."""
    for name, content in blocks().items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(pattern, partial(_between, content), text, flags=re.DOTALL)
        assert count == 1, f"README has no block {name}"
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
