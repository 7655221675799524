"""`sglang-qwen3next-eagle3 bench`: run, speed, cycle, plan, join, compare, report, divergences,
suites."""

import argparse
import json
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import INTERRUPTED, UserError
from sglang_qwen3next_eagle3.cli.arguments import (
    Action,
    add_actions,
    add_key_options,
    add_sglang_flags,
    folder,
    given_of,
    key_of,
    options_of,
    positive,
)
from sglang_qwen3next_eagle3.overlay.adaptive.states import MOST_STEPS

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.bench.measure import Outcome
    from sglang_qwen3next_eagle3.bench.options import BenchOptions, SyntheticOptions
    from sglang_qwen3next_eagle3.bench.results.records import Result
    from sglang_qwen3next_eagle3.bench.trees.cost import CostModel
    from sglang_qwen3next_eagle3.bench.trees.plan import AcceptLengths

MEASURED, INCOMPLETE = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, ACTIONS)


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError."""
    status: int = arguments.call(arguments)
    return status


def _add_run(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import RunOptions

    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--suite",
        dest="suites",
        action="append",
        metavar="NAME",
        help="of `bench suites`, or a .yaml; repeatable",
    )
    _add_configurations(what, "none and --profile")
    _add_batches(what, RunOptions, "requests in flight")
    what.add_argument("--repeats", type=positive, default=RunOptions.repeats, metavar="N")
    what.add_argument("--limit", type=positive, metavar="N", help="prompts of each suite")
    what.add_argument("--max-tokens", type=positive, metavar="N", help="of each answer")
    what.add_argument("--ignore-eos", action="store_true", help="every answer of full length")
    what.add_argument("--seed", type=int, help="of the choice of prompts (default: the suite's)")
    what.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where the suites' files are")
    what.add_argument("--tokenizer", help="folder or hub name (default: the target)")
    _add_servers(parser, RunOptions)
    theirs = parser.add_argument_group("a server that already runs")
    theirs.add_argument("--base-url", metavar="URL", help="measure it instead of starting any")
    theirs.add_argument("--name", help="what to call it (default: its tree, or none)")
    add_key_options(theirs)
    _add_output(parser)


def _add_speed(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import SpeedOptions

    what = parser.add_argument_group("what is measured")
    _add_configurations(what, " ".join(SpeedOptions.configurations))
    _add_batches(what, SpeedOptions)
    what.add_argument(
        "--accept-lengths",
        type=lengths,
        default=SpeedOptions.accept_lengths,
        metavar="X,...",
        help="simulated; a tree skips those it cannot reach "
        f"(default {','.join(map(str, SpeedOptions.accept_lengths))})",
    )
    what.add_argument("--repeats", type=positive, default=SpeedOptions.repeats, metavar="N")
    _add_synthetic(what, SpeedOptions)
    _add_routing(what, SpeedOptions)
    _add_servers(parser, SpeedOptions)
    _add_output(parser)


def _add_auto(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import AutoOptions

    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--steps",
        type=_steps_argument,
        default=AutoOptions.steps,
        metavar="N,N,...",
        help="states to build, each of them seconds of the start and memory "
        f"(default {','.join(map(str, AutoOptions.steps))})",
    )
    _add_batches(what, AutoOptions)
    what.add_argument(
        "--accept-lengths",
        type=lengths,
        default=AutoOptions.accept_lengths,
        metavar="X,...",
        help=f"simulated (default {','.join(map(str, AutoOptions.accept_lengths))})",
    )
    what.add_argument("--repeats", type=positive, default=AutoOptions.repeats, metavar="N")
    what.add_argument(
        "--changes",
        type=_whole,
        default=AutoOptions.changes,
        metavar="N",
        help="passes between which load and acceptance change (default %(default)s)",
    )
    _add_synthetic(what, AutoOptions)
    _add_servers(parser, AutoOptions)
    _add_output(parser)


def _add_start(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import StartOptions

    what = parser.add_argument_group("what is measured")
    _add_configurations(what, "--profile")
    _add_batches(what, StartOptions, "for which graphs are captured")
    what.add_argument("--repeats", type=positive, default=StartOptions.repeats, metavar="N")
    what.add_argument(
        "--caches",
        type=folder,
        metavar="FOLDER",
        help="for what is compiled (default: the caller's)",
    )
    what.add_argument(
        "--log",
        dest="logs",
        action="append",
        type=Path,
        metavar="FILE",
        help="read a server's log instead, by SGLang's whole seconds; repeatable",
    )
    _add_synthetic(what, StartOptions, answers=False)
    _add_servers(parser, StartOptions, at_once=False)
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, metavar="FOLDER", help="for result, report and logs")
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_cycle(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import CycleOptions

    what = parser.add_argument_group("what is measured")
    _add_configurations(what, " ".join(CycleOptions.configurations))
    _add_batches(what, CycleOptions, "requests of a cycle (default 1)")
    what.add_argument(
        "--accept-length",
        type=_length,
        default=CycleOptions.accept_length,
        metavar="X",
        help="simulated (default %(default)s); a tree that cannot reach it accepts all",
    )
    _add_synthetic(what, CycleOptions)
    _add_routing(what, CycleOptions)
    what.add_argument(
        "--no-stacks", dest="stacks", action="store_false", help="times only, no sampled stacks"
    )
    _add_servers(parser, CycleOptions, at_once=False)
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="goes on if begun")
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_synthetic(group: Any, defaults: "type[SyntheticOptions]", *, answers: bool = True) -> None:
    group.add_argument("--input-tokens", type=positive, default=defaults.input_tokens)
    if answers:
        group.add_argument("--output-tokens", type=positive, default=defaults.output_tokens)
    group.add_argument("--seed", type=int, default=defaults.seed, help="of the random tokens")
    group.add_argument(
        "--precision",
        choices=("fp8", "bf16"),
        default=defaults.precision,
        help="of the synthetic target (default %(default)s; bf16 needs two H200)",
    )


def _add_routing(group: Any, defaults: "type[SyntheticOptions]") -> None:
    group.add_argument(
        "--routing",
        choices=("dummy", "uniform", "text"),
        default=defaults.routing,
        help="how its routers choose experts: as dummy weights do of one token (default), evenly "
        "for every row anew, or with the frequencies and the agreement of text",
    )


def _add_configurations(group: Any, default: str) -> None:
    from sglang_qwen3next_eagle3.bench.options import HOW_TO_SPELL

    group.add_argument(
        "--config",
        dest="configurations",
        action="append",
        metavar="NAME",
        help=f"{HOW_TO_SPELL}; repeatable (default: {default})",
    )


def _add_batches(group: Any, defaults: "type[BenchOptions]", summary: str | None = None) -> None:
    group.add_argument(
        "--batch",
        dest="batches",
        type=numbers,
        default=defaults.batches,
        metavar="N,...",
        help=summary,
    )


def _add_servers(
    parser: argparse.ArgumentParser, defaults: "type[BenchOptions]", *, at_once: bool = True
) -> None:
    """at_once: several may be up at the same time."""
    how = parser.add_argument_group("how it is served")
    how.add_argument(
        "--profile",
        default=defaults.profile,
        help="flags and checkpoints that all configurations share (default %(default)s)",
    )
    how.add_argument("--target", help="checkpoint folder or hub name instead of the profile's")
    how.add_argument("--head", help="EAGLE3 head instead of the profile's")
    how.add_argument("--tp", type=int, help="tensor-parallel ranks")
    how.add_argument(
        "--start-seconds",
        type=positive,
        default=defaults.start_seconds,
        help="for a start (default %(default)s)",
    )
    how.add_argument(
        "--stall-seconds",
        type=positive,
        default=defaults.stall_seconds,
        help="without a byte, then a server counts as stalled (default %(default)s)",
    )
    if at_once:
        how.add_argument(
            "--side-by-side",
            action="store_true",
            help="start all servers at once, ask one at a time; give each a share of the memory, "
            "with flags after --",
        )
    add_sglang_flags(parser, "flags for every SGLang, untouched; they win", dest="flags")


def _add_output(parser: argparse.ArgumentParser) -> None:
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="goes on if begun")
    _add_no_plots(out, "no PNGs, no matplotlib needed")
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_no_plots(group: Any, summary: str) -> None:
    group.add_argument("--no-plots", dest="plots", action="store_false", help=summary)


def _run(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.options import RunOptions
    from sglang_qwen3next_eagle3.bench.run import run_suites

    options = replace(options_of(RunOptions, arguments), api_key=key_of(arguments))
    return _measured(run_suites(options), arguments.json)


def _speed(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.options import SpeedOptions
    from sglang_qwen3next_eagle3.bench.speed import run_speed

    return _measured(run_speed(options_of(SpeedOptions, arguments)), arguments.json)


def _auto(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.auto import run_auto
    from sglang_qwen3next_eagle3.bench.options import AutoOptions

    options = options_of(AutoOptions, arguments)
    _refuse_without_gpu(options)
    return _measured(run_auto(options), arguments.json)


def _refuse_without_gpu(options: "BenchOptions") -> None:
    """Before minutes of starts that fail one after the other. Raises UserError."""
    from sglang_qwen3next_eagle3.serving import doctor

    if not options.base().cpu_engine and not doctor.has_gpu():
        raise UserError(
            f"no GPU is here, and the profile {options.profile} serves on one: --profile demo "
            "shows what is measured, on a CPU"
        )


def _start(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench import start
    from sglang_qwen3next_eagle3.bench.options import StartOptions

    if arguments.logs:
        for name in given_of(StartOptions, arguments):
            if name != "words":
                flag = {"configurations": "config", "batches": "batch"}.get(name, name)
                told = "flags after --" if name == "flags" else f"--{flag.replace('_', '-')}"
                raise UserError(f"--log reads what is there and starts nothing: leave out {told}")
        for path in arguments.logs:
            if not path.is_file():
                raise UserError(f"there is no log {path}")
        found = start.of_logs(arguments.logs)
        if empty := [name for name, phases in found.items() if not phases]:
            raise UserError(f"{empty[0]} is no log of a server: no line of it has SGLang's time")
        print(json.dumps(found, indent=1) if arguments.json else start.table(found))
        return 0
    if arguments.out is None:
        raise UserError("--out FOLDER for what comes out, or --log FILE of a server that started")
    options = options_of(StartOptions, arguments)
    _refuse_without_gpu(options)
    result, report = start.run_start(options)
    print(json.dumps(result.model_dump(mode="json"), indent=1) if arguments.json else report)
    return 0


def _cycle(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.cycle import run_cycle
    from sglang_qwen3next_eagle3.bench.options import CycleOptions

    result, report, complete = run_cycle(options_of(CycleOptions, arguments))
    print(json.dumps(result.model_dump(mode="json"), indent=1) if arguments.json else report)
    return MEASURED if complete else INCOMPLETE


def _measured(outcome: "Outcome", as_json: bool) -> int:
    """0: all that was asked for is measured; 1: something is missing; 130: interrupted."""
    _print(outcome.result, outcome.report, as_json)
    if outcome.interrupted:
        print("interrupted: what is done is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return MEASURED if outcome.complete else INCOMPLETE


def _print(result: "Result", report: str, as_json: bool) -> None:
    print(json.dumps(result.model_dump(mode="json"), indent=1) if as_json else report)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import HOW_TO_WRITE_ACCEPT_LENGTHS

    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--result",
        type=Path,
        metavar="PATH",
        help="a result of `bench speed` or `bench auto`, or its folder",
    )
    source.add_argument("--model", type=Path, metavar="FILE", help="a saved cost model")
    parser.add_argument("--accept-lengths", metavar="SPEC", help=HOW_TO_WRITE_ACCEPT_LENGTHS)
    parser.add_argument("--batch", metavar="B,B,...", help="all that were measured by default")
    parser.add_argument(
        "--adaptive",
        type=Path,
        metavar="FILE",
        help="write the states that `launch --adaptive` takes, from measured chains",
    )
    parser.add_argument(
        "--steps", metavar="N,N,...", help="with --adaptive: these in place of the fewest that do"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="figures for scripts")
    how.add_argument(
        "--for-server",
        metavar="S,K,D",
        help="the variable that tells the metrics of a server what this tree's cycles take",
    )


def _plan(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.results.records import Result
    from sglang_qwen3next_eagle3.bench.trees.cost import CostModel, fit
    from sglang_qwen3next_eagle3.bench.trees.plan import parse_accept_lengths, plan

    if arguments.model:
        model = CostModel.load(arguments.model)
    else:
        model = fit(Result.load(arguments.result))
    if arguments.for_server:
        from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS
        from sglang_qwen3next_eagle3.serving import profile

        tree = profile.Tree.parse(arguments.for_server)
        shape = (tree.steps, tree.topk, tree.draft_tokens)
        costs = model.for_server(shape, _batches(arguments.batch))
        print(f"{CYCLE_COSTS}={shlex.quote(costs)}")
        return 0
    spec = arguments.accept_lengths
    given = None if spec is None else parse_accept_lengths(spec)
    if arguments.adaptive:
        return _plan_states(arguments, model, given)
    if arguments.steps:
        raise UserError("--steps says which states --adaptive FILE writes: give both")
    found = plan(model, given, _batches(arguments.batch))
    print(json.dumps(found.payload(model), indent=1) if arguments.json else found.text(model))
    return 0


def _plan_states(
    arguments: argparse.Namespace, model: "CostModel", given: "AcceptLengths | None"
) -> int:
    from sglang_qwen3next_eagle3.base.files import expanded, write_text
    from sglang_qwen3next_eagle3.bench.results.records import Result
    from sglang_qwen3next_eagle3.bench.trees import adaptive
    from sglang_qwen3next_eagle3.overlay.adaptive import states

    file = expanded(arguments.adaptive)
    if file.suffix != ".json" or file.is_dir():
        raise UserError(f"--adaptive {file}: name a file that ends in .json, as a launch wants it")
    if arguments.batch is not None:
        raise UserError("--adaptive writes states of all batches that were measured: no --batch")
    shares = adaptive.SHARES
    if given is not None:
        if not given.by_position:
            raise UserError(
                "--adaptive takes the shares of steps that accept at least 1, 2, ... drafts "
                "(--accept-lengths 0.7,0.5,0.35), or none"
            )
        shares = states.conditional(given.by_position)
    measured = adaptive.of_result(Result.load(arguments.result)) if arguments.result else {}
    steps = () if arguments.steps is None else _steps(arguments.steps)
    found = adaptive.plan_states(model, steps=steps, shares=shares, measured=measured)
    write_text(file, found.states.text())
    print(json.dumps(found.payload(), indent=1) if arguments.json else found.text())
    print(f"{arguments.adaptive}: `launch --adaptive {arguments.adaptive}`", file=sys.stderr)
    return 0


def _steps(words: str) -> tuple[int, ...]:
    """`0,1,3`. Raises UserError."""
    parts = [word.strip() for word in words.split(",")]
    if not all(word.isdecimal() and int(word) <= MOST_STEPS for word in parts):
        raise UserError(f"--steps {words}: give whole numbers, 0 to {MOST_STEPS}, as 0,1,3")
    return tuple(sorted(set(map(int, parts))))


def _batches(words: str | None) -> tuple[int, ...]:
    """Empty where they are not given. Raises UserError."""
    if words is None:
        return ()
    parts = [word.strip() for word in words.split(",")]
    if not all(word.isdigit() and int(word) > 0 for word in parts):
        raise UserError(f"--batch {words}: give batch sizes as 1,8,32")
    return tuple(map(int, parts))


def _add_join(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="of `bench run` or `bench speed`, asked for the same but for configurations and "
        "repetitions (and batches, of `bench run`); of a pass that several hold, the first one's "
        "counts",
    )
    _add_output(parser)


def _join(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.join import join_results

    joined = join_results(
        arguments.folders, arguments.out, plots=arguments.plots, words=arguments.words
    )
    if joined.doubled:
        print(
            f"{joined.doubled} passes are in several folders: the first one's count",
            file=sys.stderr,
        )
    _print(joined.result, joined.report, arguments.json)
    return 0


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, help="a result file or its folder")
    parser.add_argument("b", type=Path, help="another")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _compare(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.reports.compare import compare
    from sglang_qwen3next_eagle3.bench.results.records import Result

    compared = compare(Result.load(arguments.a), Result.load(arguments.b))
    print(json.dumps(compared.data, indent=2) if arguments.json else compared.markdown)
    return 0


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("result", type=Path, help="a result file or its folder")
    _add_no_plots(parser, "no PNGs")
    parser.add_argument("--readme", action="store_true", help="print a README's table only")


def _report(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.reports import readme_rows, write
    from sglang_qwen3next_eagle3.bench.results.records import Result

    result = Result.load(arguments.result)
    if arguments.readme:
        print(readme_rows(result))
        return 0
    folder = arguments.result if arguments.result.is_dir() else arguments.result.parent
    print(write(result, folder, plots=arguments.plots))
    return 0


def _add_divergences(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of `bench run`")
    parser.add_argument("--suite", default="humaneval", help="default %(default)s")
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where its files are")
    parser.add_argument(
        "--target", default="demo", help="a folder or hub name, small enough for this machine "
        "(default: the demo's)"
    )  # fmt: skip


def _divergences(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.divergences import find_divergences

    rows: Iterator[Mapping[str, Any]] = find_divergences(
        arguments.folder, arguments.suite, arguments.target, arguments.data_dir
    )
    for row in rows:
        print(json.dumps(row), flush=True)
    return 0


def _add_suites(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _suites(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.suites import load_suite, suite_names

    found = [load_suite(name) for name in suite_names()]
    if arguments.json:
        print(
            json.dumps([suite.model_dump(mode="json", by_alias=True) for suite in found], indent=2)
        )
        return 0
    width = max((len(suite.name) for suite in found), default=0)
    for suite in found:
        print(f"{suite.name:{width}}  {suite.description}")
    return 0


def numbers(text: str) -> tuple[int, ...]:
    """`1,8,32`"""
    try:
        return tuple(sorted({positive(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1, as 1,8,32") from None


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0")
    return int(text)


def _steps_argument(text: str) -> tuple[int, ...]:
    try:
        return _steps(text)
    except UserError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: whole numbers from 0 to {MOST_STEPS}, as 0,1,3"
        ) from None


def lengths(text: str) -> tuple[float, ...]:
    """`1.0,2.5`"""
    try:
        found = {float(part) for part in text.split(",")}
    except ValueError:
        found = set()
    if not found or not all(1 <= length < math.inf for length in found):  # nan neither
        raise argparse.ArgumentTypeError(f"{text!r}: accept lengths are 1 or more, as 1.0,2.5")
    return tuple(sorted(found))


def _length(text: str) -> float:
    """`2.46`"""
    (found, *more) = lengths(text)
    if more:
        raise argparse.ArgumentTypeError(f"{text!r}: one accept length")
    return found


ACTIONS = {
    "run": Action(
        "suites of prompts over HTTP: speed, acceptance, equality, as in the card's tables",
        _add_run,
        _run,
    ),
    "speed": Action(
        "what a draft tree costs: dummy weights, simulated acceptance", _add_speed, _speed
    ),
    "auto": Action(
        "what cycles of each number of steps cost, and whether steps that follow load and "
        "acceptance are ever slower than none or than the best",
        _add_auto,
        _auto,
    ),
    "start": Action(
        "what the start of a server spends its time on, phase by phase", _add_start, _start
    ),
    "cycle": Action(
        "where the host's time goes in a cycle, phase by phase, in every scheduler",
        _add_cycle,
        _cycle,
    ),
    "plan": Action(
        "which tree pays at which accept length, from a result of `bench speed`", _add_plan, _plan
    ),
    "join": Action(
        "parts of one benchmark, measured on several GPUs or machines, as one", _add_join, _join
    ),
    "compare": Action("two results side by side", _add_compare, _compare),
    "report": Action("write the report and the plots of a result again", _add_report, _report),
    "divergences": Action(
        "how close the target held the tokens at which greedy answers part, in fp32 on a CPU",
        _add_divergences,
        _divergences,
    ),
    "suites": Action("list the suites", _add_suites, _suites),
}
