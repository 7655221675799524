"""The parts of a report that are not the card's tables: each gives its Markdown, or nothing."""

import shlex
import statistics
from collections.abc import Iterator

from sglang_qwen3next_eagle3.bench.reports import markdown
from sglang_qwen3next_eagle3.bench.reports.card import read_card
from sglang_qwen3next_eagle3.bench.reports.markdown import NOTHING
from sglang_qwen3next_eagle3.bench.results import summary
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.bench.results.summary import Cell

_SPEEDS = ("output_tok_s", "request_tok_s", "decode_tok_s")
_TIMES = tuple(f"{time}.{p}" for time in ("ttft", "inter_token") for p in ("p50", "p90", "p99"))


def acceptance(result: Result) -> Iterator[str]:
    found = [cell for cell in _by_batch(result) if cell.spread("accept_length")]
    if not found:
        return
    curves = [cell.accept_by_position() for cell in found]
    positions = max(map(len, curves))
    yield "## Acceptance"
    yield (
        "Accept length: completion tokens over verify steps. The card's accept rate is that over "
        "the draft tokens, the root counted; the plain one is accepted over proposed drafts. "
        "The last columns: share of verify steps that accept at least so many drafts."
    )
    header = ["B", "Configuration", "Dataset", "Accept length", "Card's rate", "Plain rate"]
    lines = []
    for cell, curve in zip(found, curves, strict=True):
        shares = [*map(markdown.percent, curve), *[NOTHING] * (positions - len(curve))]
        length = markdown.spread(cell.spread("accept_length"), markdown.length)
        rates = [
            markdown.spread(cell.spread(rate), markdown.percent)
            for rate in ("card_accept_rate", "accept_rate")
        ]
        lines.append([*_names(result, cell), length, *rates, *shares])
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


def servers(result: Result) -> Iterator[str]:
    started = [each for each in result.configurations if each.argv]
    if started:
        yield "## Servers"
    for each in started:
        variables = [f"{key}={shlex.quote(value)}" for key, value in each.environment.items()]
        ready = "" if each.ready_seconds is None else f", ready after {each.ready_seconds:.0f} s"
        command = " ".join([*variables, shlex.join(each.argv)])
        yield markdown.folded(summary.title(each) + ready, markdown.code(command, "sh"))


def settings(result: Result) -> Iterator[str]:
    if result.settings:
        settings = markdown.table(["setting", ""], markdown.flat(result.settings), words=2)
        yield "## Settings"
        yield markdown.folded("what was asked for", settings)


def regenerate(result: Result) -> Iterator[str]:
    if line := command(result):
        commit = result.provenance.get("commit")
        lines = [f"git checkout {commit}"] if commit else []
        yield "## To regenerate"
        parts = [part["command"] for part in result.provenance.get("parts", ())]
        yield markdown.code("\n".join([*lines, *parts, line]), "sh")


def command(result: Result) -> str:
    """As one line; empty where it is not recorded."""
    found = result.provenance.get("command") or ""
    return found if isinstance(found, str) else shlex.join(map(str, found))


def _by_batch(result: Result) -> list[Cell]:
    return sorted(summary.cells(result).values(), key=lambda cell: cell.key.batch)


def _names(result: Result, cell: Cell) -> list[str]:
    key = cell.key
    configuration = summary.title(result.configuration(key.configuration))
    return [str(key.batch), configuration, read_card().title(key.suite)]
