"""The actions of `bench` that measure: run, speed, auto, start, cycle."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import INTERRUPTED, UserError
from sglang_qwen3next_eagle3.cli.arguments import (
    Action,
    add_key_options,
    add_sglang_flags,
    folder,
    given_of,
    key_of,
    options_of,
    positive,
)
from sglang_qwen3next_eagle3.cli.bench.output import add_output, print_result
from sglang_qwen3next_eagle3.cli.bench.values import (
    gpus,
    length,
    lengths,
    numbers,
    share,
    steps_argument,
    temperature,
    whole_from_0,
)

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.bench.measure import Outcome
    from sglang_qwen3next_eagle3.bench.options import BenchOptions, SyntheticOptions

MEASURED, INCOMPLETE = 0, 1


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
    _add_batches(what, RunOptions)
    _add_repeats(what, RunOptions)
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
    add_output(parser)


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
    _add_repeats(what, SpeedOptions)
    _add_synthetic(what, SpeedOptions)
    _add_sampling(what, SpeedOptions)
    _add_routing(what, SpeedOptions)
    _add_servers(parser, SpeedOptions)
    add_output(parser)


def _add_auto(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import AutoOptions

    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--steps",
        type=steps_argument,
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
    _add_repeats(what, AutoOptions)
    what.add_argument(
        "--changes",
        type=whole_from_0,
        default=AutoOptions.changes,
        metavar="N",
        help="passes between which load and acceptance change (default %(default)s)",
    )
    what.add_argument(
        "--alone",
        type=steps_argument,
        default=AutoOptions.alone,
        metavar="N,N,...",
        help="numbers of steps that a server of their own serves, too, beside the states",
    )
    _add_synthetic(what, AutoOptions)
    _add_routing(what, AutoOptions)
    _add_sampling(what, AutoOptions)
    _add_servers(parser, AutoOptions)
    parser.add_argument(
        "--gpus",
        type=gpus,
        default=AutoOptions.gpus,
        metavar="N,N,...",
        help="every server has GPUs of its own among these (--tp says how many), and as many "
        "servers as there is room for are up and asked at the same time",
    )
    add_output(parser)


def _add_start(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.bench.options import StartOptions

    what = parser.add_argument_group("what is measured")
    _add_configurations(what, "--profile")
    _add_batches(what, StartOptions, "for which graphs are captured")
    _add_repeats(what, StartOptions)
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
    _add_batches(what, CycleOptions, "requests of a cycle")
    what.add_argument(
        "--accept-length",
        type=length,
        default=CycleOptions.accept_length,
        metavar="X",
        help="simulated (default %(default)s); a tree that cannot reach it accepts all",
    )
    _add_synthetic(what, CycleOptions)
    _add_sampling(what, CycleOptions)
    _add_routing(what, CycleOptions)
    what.add_argument(
        "--no-stacks", dest="stacks", action="store_false", help="times only, no sampled stacks"
    )
    _add_servers(parser, CycleOptions, at_once=False)
    out = parser.add_argument_group("what comes out")
    out.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="goes on if begun")
    out.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_synthetic(group: Any, defaults: "type[SyntheticOptions]", *, answers: bool = True) -> None:
    group.add_argument(
        "--input-tokens",
        type=positive,
        default=defaults.input_tokens,
        metavar="N",
        help="of every request, drawn at random (default %(default)s)",
    )
    if answers:
        group.add_argument(
            "--output-tokens",
            type=positive,
            default=defaults.output_tokens,
            metavar="N",
            help="of every answer (default %(default)s)",
        )
    group.add_argument("--seed", type=int, default=defaults.seed, help="of the random tokens")
    group.add_argument(
        "--precision",
        choices=("fp8", "bf16"),
        default=defaults.precision,
        help="of the synthetic target (default %(default)s; bf16 needs two H200)",
    )
    group.add_argument(
        "--prefill-graphs",
        type=numbers,
        default=defaults.prefill_graphs,
        metavar="N,...",
        help="capture CUDA graphs of prefills of up to so many tokens in every server "
        "(default: none, prefills launch kernel by kernel)",
    )


def _add_sampling(group: Any, defaults: "type[SyntheticOptions]") -> None:
    group.add_argument(
        "--temperature",
        type=temperature,
        default=defaults.temperature,
        metavar="T",
        help="of every request (default %(default)g: greedy)",
    )
    group.add_argument(
        "--top-p", type=share, metavar="P", help="with a temperature: draw from this share"
    )
    group.add_argument(
        "--top-k", type=positive, metavar="K", help="with a temperature: draw from the K likeliest"
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


def _add_repeats(group: Any, defaults: "type[BenchOptions]") -> None:
    group.add_argument(
        "--repeats",
        type=positive,
        default=defaults.repeats,
        metavar="N",
        help="how often each is measured (default %(default)s)",
    )


def _add_batches(
    group: Any, defaults: "type[BenchOptions]", summary: str = "requests in flight"
) -> None:
    group.add_argument(
        "--batch",
        dest="batches",
        type=numbers,
        default=defaults.batches,
        metavar="N,...",
        help=f"{summary} (default {','.join(map(str, defaults.batches))})",
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
    how.add_argument("--tp", type=int, metavar="N", help="tensor-parallel ranks (GPUs)")
    how.add_argument(
        "--start-seconds",
        type=positive,
        default=defaults.start_seconds,
        metavar="N",
        help="for a start (default %(default)s)",
    )
    how.add_argument(
        "--stall-seconds",
        type=positive,
        default=defaults.stall_seconds,
        metavar="N",
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
    print_result(outcome.result, outcome.report, as_json)
    if outcome.interrupted:
        print("interrupted: what is done is kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return MEASURED if outcome.complete else INCOMPLETE


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
}
