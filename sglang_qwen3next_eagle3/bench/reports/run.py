"""A result of `bench run` as Markdown: the card's tables with the card's own figures beside them,
and whatever else a reader needs in order to believe or to repeat them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.reports import markdown, report_details
from sglang_qwen3next_eagle3.bench.reports.card import CardFigures, CardTable, read_card
from sglang_qwen3next_eagle3.bench.reports.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import NONE, Configuration, Result
from sglang_qwen3next_eagle3.bench.results.summary import Row

_FIRST = ("date", "commit", "command", "versions", "gpus", "host")


def report(result: Result, plots: Sequence[str] = ()) -> str:
    """The whole report. plots: PNGs to show, by their paths from where the report will lie.

    Raises:
        UserError: a result of another kind.
    """
    _refuse_other_kinds(result)
    target = result.settings.get("target")
    parts = [
        f"# Benchmark of {target}" if target else "# Benchmark",
        *_notes(result),
        "## What was run",
        _provenance(result),
        *_about_the_card(result),
        *(part for batch in result.batches for part in _batch(result, batch)),
        *(f"![{plot}]({plot})" for plot in plots),
        *report_details.acceptance(result),
        *report_details.latency(result),
        *report_details.equality(result),
        *report_details.lacking(result),
        *report_details.servers(result),
        *report_details.settings(result),
        *report_details.regenerate(result),
    ]
    return "\n\n".join(parts) + "\n"


def readme_rows(result: Result) -> str:
    """One table for the README: tok/s and speedup of every configuration, the card's beneath.

    Raises:
        UserError: a result of another kind.
    """
    _refuse_other_kinds(result)
    titles = map(read_card().title, result.suites)
    header = ["B", "Configuration", *titles, "Mean", "Accept length"]
    lines = [
        line
        for batch in result.batches
        for configuration in result.configurations
        for line in _readme_lines(result, configuration, batch)
    ]
    legend = (
        "tok/s (speedup); at B=1 a request's, above that the total of the server. "
        "A mean marked * is over fewer suites than are shown."
    )
    return f"{markdown.table(header, lines, words=2)}\n\n{legend}\n"


def _readme_lines(
    result: Result, configuration: Configuration, batch: int
) -> Iterator[Sequence[str]]:
    rows = summary.rows(result, configuration.name, batch)
    mean = summary.mean_row(rows)
    if mean is None:
        return
    partial = " *" if len(mean.suites) < len(result.suites) else ""
    by_suite = {row.suites[0]: row for row in rows}
    yield [
        str(batch),
        summary.title(configuration),
        *(_short(by_suite.get(suite)) for suite in result.suites),
        _short(mean) + partial,
        markdown.spread(mean.accept_length, markdown.length, bounds=False),
    ]
    if card := read_card().table(configuration, batch):
        theirs = card.mean_over(mean.suites)
        yield [
            str(batch),
            f"EAGLE3 {','.join(map(str, card.tree))}, the card's own",
            *(_short_card(card.row(suite)) for suite in result.suites),
            _short_card(theirs) + (partial if theirs else ""),
            _card_row(theirs)[-1],
        ]


def _refuse_other_kinds(result: Result) -> None:
    if result.kind != "suites":
        raise UserError(
            f"this is a result of kind {result.kind!r}, the report is of `bench run`'s: "
            "`bench speed` prints its own"
        )


def _notes(result: Result) -> Iterator[str]:
    if result.notes:
        yield "\n".join(f"- {note}" for note in result.notes)


def _provenance(result: Result) -> str:
    known = dict(result.provenance)
    dirty = known.pop("dirty", None)
    if known.get("commit") and dirty is not None:
        state = "with uncommitted changes" if dirty else "clean"
        known["commit"] = f"{known['commit']}, {state}"
    if known.pop("command", None):
        known["command"] = f"`{report_details.command(result)}`"
    if "gpus" in known:
        known["gpus"] = _gpus(known["gpus"])
    ordered = {key: known[key] for key in (*_FIRST, *known) if key in known}
    return markdown.table(["what", ""], markdown.flat(ordered), words=2)


def _about_the_card(result: Result) -> Iterator[str]:
    card = read_card()
    pairs = [(each, batch) for each in result.configurations for batch in result.batches]
    if any(card.table(*pair) for pair in pairs):
        yield f"Columns named Card: {card.source}; {card.conditions}. {' '.join(card.notes)}"


def _batch(result: Result, batch: int) -> Iterator[str]:
    yield f"## B={batch}"
    if batch == 1:
        yield (
            "tok/s: completion tokens of a request over its seconds, prefill included, median over "
            "requests (`request_tok_s`). The card's B=1 figures are of this kind."
        )
    else:
        yield (
            "tok/s: completion tokens of all requests over the seconds of the pass "
            "(`output_tok_s`), the total of the server. The card's B=32 figures are of this kind."
        )
    for configuration in result.configurations:
        if configuration.name == NONE:
            continue
        rows = summary.rows(result, configuration.name, batch)
        mean = summary.mean_row(rows)
        yield f"### {summary.title(configuration)}, B={batch}"
        if mean is None:
            yield f"Not measured: {configuration.error or configuration.status}."
            continue
        card = read_card().table(configuration, batch)
        yield _card_table(configuration, rows, mean, card)
        if all(row.baseline is None for row in rows):
            yield f"No speedup: configuration `{NONE}` was not measured at this batch size."
        elif len(mean.suites) < len(rows):
            titles = ", ".join(map(read_card().title, mean.suites))
            yield f"The mean is over what both have figures of: {titles}."
        theirs = None if card is None else card.mean_over(mean.suites)
        if card is not None and theirs is not None and theirs is not card.mean:
            yield f"The card's mean here is over these of its {len(card.rows)} datasets only."


def _card_table(
    configuration: Configuration, rows: list[Row], mean: Row, card: CardTable | None
) -> str:
    name = summary.ALGORITHMS[configuration.algorithm]
    header = ["Dataset", "Baseline (tok/s)", f"{name} (tok/s)", "Speedup"]
    header += ["Accept Rate", "Accept Length"]
    lines = [[read_card().title(row.suites[0]), *_row(row)] for row in rows]
    lines.append(["**Mean**", *_row(mean)])
    if card is not None:
        header += ["Card: Baseline", "Card: EAGLE3", "Card: Speedup"]
        rates = card.mean.accept_rate is not None
        header += ["Card: Accept Rate", "Card: Accept Length"] if rates else []
        of_suites = [card.row(row.suites[0]) for row in rows]
        for line, theirs in zip(lines, [*of_suites, card.mean_over(mean.suites)], strict=True):
            line += _card_row(theirs)[: 5 if rates else 3]
    return markdown.table(header, lines)


def _gpus(gpus: Sequence[Mapping[str, Any]]) -> str:
    """Alike ones together: "4x NVIDIA H200, 143771 MiB, 580.1"."""
    spelled = [", ".join(map(str, gpu.values())) for gpu in gpus]
    counts = {each: spelled.count(each) for each in spelled}
    return "; ".join(f"{count}x {each}" for each, count in counts.items()) or "none"


def _row(row: Row) -> list[str]:
    return [
        markdown.spread(row.baseline, markdown.speed),
        markdown.spread(row.own, markdown.speed),
        markdown.spread(row.speedup, markdown.times),
        markdown.spread(row.accept_rate, markdown.percent),
        markdown.spread(row.accept_length, markdown.length),
    ]


def _card_row(theirs: CardFigures | None) -> list[str]:
    if theirs is None:
        return [NOTHING] * 5
    rate, length = theirs.accept_rate, theirs.accept_length
    return [
        markdown.speed(theirs.baseline),
        markdown.speed(theirs.eagle3),
        markdown.times(theirs.speedup),
        NOTHING if rate is None else markdown.percent(rate),
        NOTHING if length is None else markdown.length(length),
    ]


def _short(row: Row | None) -> str:
    if row is None or row.own is None:
        return NOTHING
    speed = markdown.speed(row.own.median)
    return speed if row.speedup is None else f"{speed} ({markdown.times(row.speedup.median)})"


def _short_card(theirs: CardFigures | None) -> str:
    if theirs is None:
        return NOTHING
    return f"{markdown.speed(theirs.eagle3)} ({markdown.times(theirs.speedup)})"
