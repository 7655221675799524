"""A result of `bench run` as Markdown: the card's tables with the card's own figures beside them,
and whatever else a reader needs in order to believe or to repeat them."""

import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench import markdown
from sglang_qwen3next_eagle3.bench.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.reports.card import CardFigures, CardTable, read_card
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.cycles import CycleResult
from sglang_qwen3next_eagle3.bench.results.records import NONE, Configuration, Result
from sglang_qwen3next_eagle3.bench.results.summary import Cell, SuiteRow
from sglang_qwen3next_eagle3.overlay.environment import FAST, SEAMS

_FIRST = ("date", "commit", "command", "versions", "gpus", "host")
_SPEEDS = ("output_tok_s", "request_tok_s", "decode_tok_s")
_TIMES = tuple(f"{time}.{p}" for time in ("ttft", "inter_token") for p in ("p50", "p90", "p99"))


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
        *acceptance(result),
        *latency(result),
        *equality(result),
        *lacking(result),
        *servers(result),
        *settings(result),
        *regenerate(result),
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
        known["command"] = f"`{command(result)}`"
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
    configuration: Configuration, rows: list[SuiteRow], mean: SuiteRow, card: CardTable | None
) -> str:
    name = summary.algorithm_of(configuration)
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


def _row(row: SuiteRow) -> list[str]:
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


def _short(row: SuiteRow | None) -> str:
    if row is None or row.own is None:
        return NOTHING
    speed = markdown.speed(row.own.median)
    return speed if row.speedup is None else f"{speed} ({markdown.times(row.speedup.median)})"


def _short_card(theirs: CardFigures | None) -> str:
    if theirs is None:
        return NOTHING
    return f"{markdown.speed(theirs.eagle3)} ({markdown.times(theirs.speedup)})"


def acceptance(result: Result) -> Iterator[str]:
    found = [cell for cell in _by_batch(result) if cell.spread("accept_length")]
    if not found:
        return
    curves = [cell.accept_by_position() for cell in found]
    positions = max(map(len, curves))
    yield "## Acceptance"
    yield (
        "Accept length: completion tokens over verify steps; per cycle: without the first token of "
        "each request, which its prefill gives, as `bench plan` takes it. The card's accept rate "
        "is the accept length over the draft tokens, the root counted; the plain one is accepted "
        "over proposed drafts. "
        "The last columns: share of verify steps that accept at least so many drafts."
    )
    header = [
        "B",
        "Configuration",
        "Dataset",
        "Accept length",
        "Per cycle",
        "Card's rate",
        "Plain rate",
    ]
    lines = []
    for cell, curve in zip(found, curves, strict=True):
        shares = [*map(markdown.percent, curve), *[NOTHING] * (positions - len(curve))]
        tokens = [
            markdown.spread(cell.spread(figure), markdown.length)
            for figure in ("accept_length", "per_cycle")
        ]
        rates = [
            markdown.spread(cell.spread(rate), markdown.percent)
            for rate in ("card_accept_rate", "accept_rate")
        ]
        lines.append([*_names(result, cell), *tokens, *rates, *shares])
    yield markdown.table([*header, *(f">= {n + 1}" for n in range(positions))], lines, words=3)


def latency(result: Result) -> Iterator[str]:
    found = [cell for cell in _by_batch(result) if cell.answered]
    if not found:
        return
    yield "## Speed and latency"
    yield (
        "Medians over repetitions. Total: all tokens over the seconds of the pass. Request: a "
        "request's tokens over its seconds; decode: after its first token. Times in ms."
    )
    header = ["B", "Configuration", "Dataset", "total tok/s", "request tok/s", "decode tok/s"]
    header += [f"{time} {p}" for time in ("TTFT", "inter-token") for p in ("p50", "p90", "p99")]
    lines = [
        [
            *_names(result, cell),
            *(
                markdown.spread(cell.spread(speed), markdown.speed, bounds=False)
                for speed in _SPEEDS
            ),
            *(
                markdown.spread(cell.spread(time), markdown.milliseconds, bounds=False)
                for time in _TIMES
            ),
        ]
        for cell in found
    ]
    yield markdown.table(header, lines, words=3)


def equality(result: Result) -> Iterator[str]:
    found = [(cell, equal) for cell in _by_batch(result) if (equal := cell.equality())]
    if not found:
        return
    yield "## Equality with no speculation"
    yield (
        "Greedy answers, token by token, all repetitions together. First divergence: how many "
        "tokens an answer that differs shares with the other. The row of no speculation, if there "
        "is one, compares its repetitions with its first: that is the arithmetic's own noise."
    )
    header = ["B", "Configuration", "Dataset", "equal", "of", "share"]
    header += ["earliest divergence", "median divergence"]
    lines = []
    for cell, equal in found:
        share = markdown.percent(equal.equal / equal.of) if equal.of else NOTHING
        where = equal.first_divergence
        ends = [f"{min(where)}", f"{statistics.median(where):g}"] if where else [NOTHING] * 2
        lines.append([*_names(result, cell), f"{equal.equal}", f"{equal.of}", share, *ends])
    yield markdown.table(header, lines, words=3)


def lacking(result: Result) -> Iterator[str]:
    broken = [each for each in result.configurations if each.status == "failed"]
    lacking = summary.missing(result)
    unanswered = [cell for cell in _by_batch(result) if cell.failed]
    if broken or lacking or unanswered:
        yield "## What failed or is missing"
    for each in broken:
        yield f"**{summary.title(each)}** failed: {each.error or 'no reason is recorded'}"
        if each.log_tail:
            yield markdown.code("\n".join(each.log_tail), "text")
    if lacking:
        header = ["B", "Configuration", "Dataset", "repetitions", "of"]
        cells = [(Cell(key, ()), count, most) for key, count, most in lacking]
        lines = [[*_names(result, cell), f"{there}", f"{most}"] for cell, there, most in cells]
        yield markdown.table(header, lines, words=3)
    if unanswered:
        header = ["B", "Configuration", "Dataset", "requests without an answer"]
        lines = [[*_names(result, cell), f"{cell.failed}"] for cell in unanswered]
        yield markdown.table(header, lines, words=3)


def servers(result: Result | CycleResult) -> Iterator[str]:
    started = [each for each in result.configurations if each.argv]
    if started:
        yield "## Servers"
    for each in started:
        variables = [f"{key}={shlex.quote(value)}" for key, value in each.environment.items()]
        ready = "" if each.ready_seconds is None else f", ready after {each.ready_seconds:.0f} s"
        command = " ".join([*variables, shlex.join(each.argv)])
        served = "".join(f", {word}" for word in _switched(each))
        yield markdown.folded(summary.title(each) + ready + served, markdown.code(command, "sh"))


def _switched(each: Configuration) -> Iterator[str]:
    """What of ours came to serve."""
    for variable, title in ((FAST, "fast path"), (SEAMS, "seams")):
        if variable in each.switched:
            yield f"{title} {each.switched[variable]}"


def settings(result: Result | CycleResult) -> Iterator[str]:
    if result.settings:
        settings = markdown.table(["setting", ""], markdown.flat(result.settings), words=2)
        yield "## Settings"
        yield markdown.folded("what was asked for", settings)


def regenerate(result: Result | CycleResult) -> Iterator[str]:
    if line := command(result):
        commit = result.provenance.get("commit")
        lines = [f"git checkout {commit}"] if commit else []
        yield "## To regenerate"
        parts = [part["command"] for part in result.provenance.get("parts", ())]
        yield markdown.code("\n".join([*lines, *parts, line]), "sh")


def command(result: Result | CycleResult) -> str:
    """As one line; empty where it is not recorded."""
    found = result.provenance.get("command") or ""
    return found if isinstance(found, str) else shlex.join(map(str, found))


def _by_batch(result: Result) -> list[Cell]:
    return sorted(summary.cells(result).values(), key=lambda cell: cell.key.batch)


def _names(result: Result, cell: Cell) -> list[str]:
    key = cell.key
    configuration = summary.title(result.configuration(key.configuration))
    return [str(key.batch), configuration, read_card().title(key.suite)]
