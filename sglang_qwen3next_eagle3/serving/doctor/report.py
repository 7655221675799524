"""A doctor's report, for people and for scripts."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.findings import RANKS
from sglang_qwen3next_eagle3.overlay.seams.sizes import RECORDED_BYTES
from sglang_qwen3next_eagle3.serving.doctor.examine import Report
from sglang_qwen3next_eagle3.serving.doctor.memory import GIB, MIB, Choice, DoesNotFit, Plan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WORDS = {"note": ("ok", "green"), "warning": ("warning", "yellow"), "error": ("error", "red")}
VERDICTS = (
    ("fine", "green"),
    ("serves, but slower or at risk", "yellow"),
    ("does not serve", "red"),
)


def show(report: Report, console: "Console") -> None:
    """The findings, the worst last; the memory plan; the verdict."""
    from rich.markup import escape

    width = max((len(finding.subject) for finding in report.findings), default=0)
    for finding in sorted(report.findings, key=lambda one: RANKS[one.level]):
        word, colour = WORDS[finding.level]
        text = f"{finding.text}; {finding.means}" if finding.means else finding.text
        line = f"[{colour}]{word:7}[/]  {escape(f'{finding.subject:{width}}')}  {escape(text)}"
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(f"{'':{width + 11}}-> {escape(finding.remedy)}", soft_wrap=True)
    if report.plan is not None:
        console.print()
        console.print(f"[bold]memory of one rank[/], {escape(report.basis)}", soft_wrap=True)
        console.print(_plan(report.plan))
        if report.choices:
            console.print()
            console.print("[bold]what one flag changes[/]")
            console.print(_choices(report.plan, report.choices))
    verdict, colour = VERDICTS[report.status]
    about = f": {escape(report.subject)}" if report.subject else ""
    console.print(f"\n[bold {colour}]{verdict}[/]{about}", soft_wrap=True)


def _plan(plan: Plan) -> "Table":
    from rich.table import Table

    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, value, about in _lines(plan):
        table.add_row(name, value, about)
    return table


def _lines(plan: Plan) -> Iterator[tuple[str, str, str]]:
    s, weights, pools = plan.settings, plan.weights, plan.pools
    ranks = f"one of {s.tp} ranks" if s.tp > 1 else ""
    yield "free before the weights", _gib(plan.before), ranks
    yield "weights of the target", _gib(weights.target), ""
    if s.speculative:
        what = "the MTP layer" if s.algorithm == "nextn" else "the head"
        later = f"{_gib(weights.loading)} more while it loads" if weights.loading else ""
        yield f"weights of {what}", _gib(weights.draft), later
    if isinstance(pools, DoesNotFit):
        yield "kept free by SGLang", _gib(plan.reserve), f"--mem-fraction-static {s.fraction:g}"
        yield "does not fit", _gib(pools.missing), f"are missing: {pools.reason}"
        return
    kind = {4: "fp32", 2: "16 bit"}.get(s.ssm_bytes, "")
    each = f"{pools.slots} + 1 of {plan.state.both / MIB:.1f} MiB ({kind})"
    yield "GDN states", _gib(plan.states), each
    if s.speculative:
        about = f"({pools.requests} + 1) requests x {s.draft_tokens} draft tokens"
        yield "states of verification", _gib(plan.verification), about
    yield "KV", _gib(plan.kv), f"{pools.tokens:,} tokens of {plan.cell.target / 1024:.1f} KiB"
    if plan.draft_kv:
        yield "KV of the draft", _gib(plan.draft_kv), f"of {plan.cell.draft / 1024:.1f} KiB"
    yield "table of requests", _gib(plan.table), ""
    if plan.fast:
        yield "buffers of the fast path", _gib(plan.fast), "out of what SGLang keeps free"
    if plan.recorded:
        each = f"{plan.recorded // RECORDED_BYTES} of {_gib(RECORDED_BYTES)}"
        yield "recorded cycles, at most", _gib(plan.recorded), f"{each}, measured with one request"
    kept = f"SGLang keeps {_gib(plan.reserve)} for them (--mem-fraction-static {s.fraction:g})"
    yield "left for graphs, activations", _gib(plan.rest), kept if s.on_gpu else ""
    yield "", "", ""
    whose = "asked for" if s.asks_requests else "that SGLang would take"
    asked = f"of {s.max_running_requests} {whose}" if s.max_running_requests else ""
    limit = {"states": ", as many as GDN states allow", "tokens": ", as many as KV allows"}
    several = f"; each may hold {pools.slots_each} states" if pools.slots_each > 1 else ""
    yield (
        "requests at once",
        str(pools.requests),
        f"{asked}{limit.get(pools.capped_by, '')}{several}".lstrip(" ,;"),
    )
    whole = pools.tokens // s.context_length
    yield "longest request", f"{plan.longest:,}", f"tokens, of a context of {s.context_length:,}"
    if whole:
        yield "of that length at once", str(min(whole, pools.requests)), ""
    yield "tokens for each of them", f"{pools.tokens // pools.requests:,}", "if all run at once"


def _choices(now: Plan, choices: tuple[Choice, ...]) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("flag", no_wrap=True)
    for name in ("requests", "KV tokens", "GDN states", "left over"):
        table.add_column(name, justify="right")
    table.add_column("costs")
    for flag, plan, costs in [("(as asked)", now, "")] + [
        (choice.flag, choice.plan, choice.costs) for choice in choices
    ]:
        if isinstance(plan.pools, DoesNotFit):
            table.add_row(flag, *"----", plan.pools.reason if plan is not now else "")
        else:
            pools = plan.pools
            counts = str(pools.requests), f"{pools.tokens:,}", str(pools.slots)
            table.add_row(flag, *counts, _gib(plan.rest), costs)
    return table


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB" if count >= 10 * MIB else f"{count / MIB:.1f} MiB"


def as_data(report: Report) -> dict[str, Any]:
    """For scripts."""
    data: dict[str, Any] = {
        "profile": report.subject,
        "status": report.status,
        "findings": [vars(finding) for finding in report.findings],
    }
    if report.plan is not None:
        data["plan"] = {
            "basis": report.basis,
            **plan_data(report.plan),
            "choices": [
                {"flag": c.flag, "costs": c.costs, **_outcome(c.plan)} for c in report.choices
            ],
        }
    return data


def plan_data(plan: Plan) -> Mapping[str, Any]:
    """Bytes of one rank."""
    return {
        "tp": plan.settings.tp,
        "mem_fraction_static": plan.settings.fraction,
        "bytes": {
            "before_weights": plan.before,
            "weights": plan.weights.target,
            "draft": plan.weights.draft,
            "gdn_states": plan.states,
            "verification": plan.verification,
            "kv": plan.kv,
            "draft_kv": plan.draft_kv,
            "request_table": plan.table,
            "fast_path": plan.fast,
            "recorded_cycles": plan.recorded,
            "rest": plan.rest,
            "reserved_by_sglang": plan.reserve,
        },
        **_outcome(plan),
    }


def _outcome(plan: Plan) -> dict[str, Any]:
    pools = plan.pools
    if isinstance(pools, DoesNotFit):
        return {"fits": False, "reason": pools.reason, "missing_bytes": pools.missing}
    return {
        "fits": True,
        "max_running_requests": pools.requests,
        "capped_by": pools.capped_by or None,
        "max_total_num_tokens": pools.tokens,
        "max_mamba_cache_size": pools.slots,
        "states_each": pools.slots_each,
        "longest_request": plan.longest,
    }
