"""What `bench auto` found: steps that follow load and acceptance, against none and the best."""

from collections.abc import Callable, Iterator
from statistics import median

from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import (
    ADAPTIVE,
    ALONE,
    CHANGING,
    NONE,
    Result,
)
from sglang_qwen3next_eagle3.bench.results.summary import Cell, CellKey

OF_NONE, OF_BEST = 0.98, 0.95
"""What it has to reach of no speculation, and of the best number of steps at each point."""


def section(result: Result) -> Iterator[str]:
    """Nothing where no configuration chose for itself."""
    names = [c.name for c in result.configurations if c.algorithm == ADAPTIVE]
    for name in names:
        compared = _Compared(result, name)
        yield f"## {name} against none and the best number of steps"
        yield compared.table("decode_tok_s")
        yield (
            "Tokens a second behind the first one, of a request: first over no speculation, then "
            "over the fastest number of steps at the same load and accept length, none among "
            f"them. {compared.verdict('decode_tok_s')} With prefill, as clients see it: "
            f"{compared.verdict('output_tok_s')}"
        )
        if gpus := result.settings.get("gpus"):
            yield (
                "The servers were up and asked at the same time, each on GPUs of its own among "
                f"{', '.join(gpus)}: what they share is the host."
            )
        yield from compared.alone()
        yield from compared.changes()


class _Compared:
    def __init__(self, result: Result, name: str) -> None:
        self._result, self._name = result, name
        cells = summary.cells(result)
        self._cells = {
            (key.configuration, key.batch, key.simulated_accept_length): cell
            for key, cell in cells.items()
            if key.suite != CHANGING
        }
        self._changing = {key: cell for key, cell in cells.items() if key.suite == CHANGING}
        mine = {(batch, x) for one, batch, x in self._cells if one == name and x is not None}
        self._points = sorted((x, batch) for batch, x in mine if x is not None)

    def _figure(self, name: str, batch: int, length: float | None, figure: str) -> float | None:
        cell: Cell | None = self._cells.get((name, batch, None if name == NONE else length))
        spread = None if cell is None else cell.spread(figure)
        return None if spread is None else spread.median

    def _best(self, batch: int, length: float, figure: str) -> tuple[str, float] | None:
        found = {
            one.name: value
            for one in self._result.configurations
            if one.name != self._name
            and (value := self._figure(one.name, batch, length, figure)) is not None
        }
        return max(found.items(), key=lambda item: item[1]) if found else None

    def ratios(self, batch: int, length: float, figure: str) -> tuple[float, float] | None:
        mine = self._figure(self._name, batch, length, figure)
        plain = self._figure(NONE, batch, None, figure)
        best = self._best(batch, length, figure)
        return None if not (mine and plain and best) else (mine / plain, mine / best[1])

    def table(self, figure: str) -> str:
        batches = sorted({batch for _, batch in self._points})
        lines = []
        for length in sorted({x for x, _ in self._points}):
            cells = [self._spelled(batch, length, figure) for batch in batches]
            lines.append([markdown.length(length), *cells])
        return markdown.table(["Accept length", *(f"B={b}" for b in batches)], lines)

    def _spelled(self, batch: int, length: float, figure: str) -> str:
        ratios, best = self.ratios(batch, length, figure), self._best(batch, length, figure)
        if ratios is None or best is None:
            return NOTHING
        return f"{ratios[0]:.2f}x, {ratios[1]:.2f}x of {best[0]}"

    def verdict(self, figure: str) -> str:
        found = {at: r for at in self._points if (r := self.ratios(at[1], at[0], figure))}
        if not found:
            return "Nothing was measured."
        of_none = _least(found, lambda at: found[at][0])
        of_best = _least(found, lambda at: found[at][1])
        return (
            f"Least over none {found[of_none][0]:.3f} ({_where(of_none)}): {OF_NONE} "
            f"{_held(found[of_none][0], OF_NONE)}. Least over the best {found[of_best][1]:.3f} "
            f"({_where(of_best)}): {OF_BEST} {_held(found[of_best][1], OF_BEST)}."
        )

    def alone(self) -> Iterator[str]:
        """What a cycle takes in a server of its own over what it takes as a state."""
        every = self._result.configurations
        trees = {one.tree: one.name for one in every if not one.name.endswith(ALONE)}
        lines, batches = [], sorted({batch for _, batch in self._points})
        for one in every:
            state = trees.get(one.tree)
            if not one.name.endswith(ALONE) or state is None:
                continue
            cells = []
            for batch in batches:
                lengths = {x for name, b, x in self._cells if (name, b) == (state, batch)}
                ratios = [
                    mine / its
                    for x in lengths
                    if (mine := self._figure(one.name, batch, x, "cycle_ms"))
                    and (its := self._figure(state, batch, x, "cycle_ms"))
                ]
                cells.append(markdown.times(median(ratios)) if ratios else NOTHING)
            lines.append([state, *cells])
        if lines:
            yield "## Numbers of steps as states and alone"
            yield markdown.table(["steps", *(f"B={b}" for b in batches)], lines)
            yield (
                "What a cycle takes in a server that serves this number of steps and no other, "
                "over what it takes in the one that has a state for each. The best number of "
                "steps above is the better of both."
            )

    def changes(self) -> Iterator[str]:
        """While load and acceptance change: pass by pass, and all of them together."""
        rows = sorted(
            ((one.repetition, key) for key, cell in self._changing.items() for one in cell.passes),
            key=lambda row: row[0],
        )
        lines, mine, plain, best = [], 0.0, 0.0, 0.0
        steady = dict[str, list[float]]()
        for repetition, key in rows:
            line = self._change(repetition, key)
            if line is None:
                continue
            tokens, seconds, others = line
            none, fastest = others[NONE], max(others.values())
            mine, plain, best = mine + seconds, plain + tokens / none, best + tokens / fastest
            for name, rate in others.items():
                steady.setdefault(name, []).append(tokens / rate)
            rate = tokens / seconds
            lines.append(
                [
                    str(repetition + 1),
                    str(key.batch),
                    markdown.length(key.simulated_accept_length or 0.0),
                    markdown.speed(rate),
                    markdown.times(rate / none),
                    markdown.times(rate / fastest),
                ]
            )
        if not lines:
            return
        yield f"## {self._name} while load and acceptance change"
        header = ["pass", "B", "accept length", "output tok/s", "over none", "over the best"]
        yield markdown.table(header, lines)
        # What was not measured at every one of them, as it accepts less or is never chosen there,
        # has no time to compare.
        everywhere = {name: sum(took) for name, took in steady.items() if len(took) == len(lines)}
        one = min(everywhere, key=everywhere.__getitem__)
        yield (
            "No pass is warmed up, so each begins with what suited the one before. Output tokens, "
            f"prefill included. All passes together take {markdown.times(plain / mine)} the speed "
            f"of no speculation, {markdown.times(best / mine)} that of the best at each point, and "
            f"{markdown.times(everywhere[one] / mine)} that of {one}, the best that never changes."
        )

    def _change(
        self, repetition: int, key: CellKey
    ) -> tuple[float, float, dict[str, float]] | None:
        """Tokens and seconds of a pass, and what each number of steps gives there."""
        length = key.simulated_accept_length
        passes = [one for one in self._changing[key].answered if one.repetition == repetition]
        others = {
            one.name: rate
            for one in self._result.configurations
            if one.name != self._name
            and (rate := self._figure(one.name, key.batch, length, "output_tok_s"))
        }
        if not passes or NONE not in others:
            return None
        figures = passes[0].figures
        return float(figures.completion_tokens), figures.seconds, others


Point = tuple[float, int]
"""Accept length and requests."""


def _least(found: dict[Point, tuple[float, float]], ratio: Callable[[Point], float]) -> Point:
    return min(found, key=ratio)


def _where(at: Point) -> str:
    return f"accept length {at[0]:g}, B={at[1]}"


def _held(ratio: float, wanted: float) -> str:
    return "is reached" if ratio >= wanted else "is not reached"
