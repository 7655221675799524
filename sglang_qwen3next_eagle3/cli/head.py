"""`sglang-qwen3next-eagle3 head inspect`, `head calibrate` and `head convert`."""

import argparse
import json
import sys
from pathlib import Path

from sglang_qwen3next_eagle3.cli.arguments import (
    Action,
    add_actions,
    add_sglang_flags,
    options_of,
    positive,
)
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.hub import DEMO
from sglang_qwen3next_eagle3.model.target import Target

TARGET = "Qwen/Qwen3-Coder-Next"
FOUND, NOT_FOUND = 0, 1
WIDE = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_actions(parser, ACTIONS)


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Exit status: 0 serves, 1 serves with warnings, 2 does not serve."
    parser.add_argument("head", help="folder or hub name of an EAGLE3 head, or demo")
    parser.add_argument("--revision", help="revision of the head on the hub")
    parser.add_argument("--target", help=f"its target: folder or hub name (default {TARGET})")
    parser.add_argument("--target-revision", help="revision of the target on the hub")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _calibrate_arguments(parser: argparse.ArgumentParser) -> None:
    from sglang_qwen3next_eagle3.calibrate import CalibrationOptions as Defaults

    parser.description = (
        "Which auxiliary layers was a head trained with? One load of the target in SGLang, all "
        "streams captured, then the head's own forward for every candidate. Exit status: 0 found, "
        "1 not found, 2 it cannot be measured."
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("--head", required=True, help="folder or hub name of the head, or demo")
    what.add_argument("--head-revision", help="revision of the head on the hub")
    what.add_argument("--target", help=f"its target: folder or hub name (default {TARGET})")
    what.add_argument("--target-revision", help="revision of the target on the hub")
    what.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="JSONL with text, messages or conversations, or a plain text (default: built in)",
    )
    what.add_argument(
        "--regenerate",
        action=argparse.BooleanOptionalAction,
        help="let the target answer the prompts itself, greedily: what heads are trained on "
        "(default: with the built-in prompts)",
    )
    what.add_argument(
        "--answer-tokens",
        type=positive,
        default=Defaults.answer_tokens,
        metavar="N",
        help="tokens of the target's longest answer (default %(default)s)",
    )
    what.add_argument("--max-prompts", type=positive, metavar="N", help="use the first N of them")
    what.add_argument(
        "--max-length",
        type=positive,
        default=Defaults.max_length,
        metavar="N",
        help="cut longer prompts into pieces of N tokens; where the target answers them, leave "
        "them out (default %(default)s)",
    )
    what.add_argument(
        "--steps",
        type=positive,
        default=Defaults.steps,
        help="drafts in a chain (default %(default)s)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--tp", type=positive, default=Defaults.tp, help="tensor-parallel ranks of the target"
    )
    how.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    how.add_argument(
        "--load-format", help="SGLang's --load-format; dummy tries the command without weights"
    )
    out = parser.add_argument_group("what comes out")
    out.add_argument("--json", action="store_true", help="print JSON")
    out.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="top-1 agreement by stream for each slot"
    )
    out.add_argument("--out", type=Path, metavar="FILE", help="write the result there")
    out.add_argument(
        "--no-write",
        dest="keep",
        action="store_false",
        help="do not keep the result for `launch`",
    )
    add_sglang_flags(parser, "flags for SGLang, untouched; they win")


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a head of speculators, vLLM or NeMo AutoModel, or one whose config lacks what "
        "SGLang reads, in SGLang's form. Only names change; a head of another network is refused."
    )
    parser.add_argument("source", help="folder or hub name of the head")
    parser.add_argument("out", type=Path, help="a new folder; nothing is overwritten")
    parser.add_argument("--revision", help="revision of the head on the hub")
    parser.add_argument(
        "--layers",
        choices=("outputs", "inputs"),
        help="what its layer ids count, where its form does not say: the states that leave those "
        "layers (SGLang, SpecForge, ModelOpt) or that enter them (vLLM, speculators)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would change, write nothing"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError."""
    return int(arguments.call(arguments))


def _calibrate(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.calibrate import CalibrationOptions, calibrate

    arguments.target = _target_of(arguments)
    figures = calibrate(options_of(CalibrationOptions, arguments))
    from sglang_qwen3next_eagle3.calibrate import report

    print(json.dumps(figures, indent=2) if arguments.json else report.table(figures))
    return NOT_FOUND if figures["aux_layers"] is None else FOUND


def _convert(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.head import convert

    folder = hub.resolve(arguments.source, arguments.revision, "head")
    made = convert.plan(folder, arguments.source, arguments.layers)
    if not arguments.dry_run:
        convert.write(made, arguments.out)
    out = None if arguments.dry_run else str(arguments.out)
    if arguments.json:
        print(json.dumps({**made.summary(), "out": out}, indent=2))
        return 0
    from rich.console import Console

    # Whoever reads a pipe wants whole names.
    width = None if sys.stdout.isatty() else WIDE
    convert.show(made, Console(highlight=False, file=sys.stdout, width=width))
    said = "nothing is written" if out is None else f"written to {out}"
    print(f"{arguments.source} (form: {made.format.name}): {said}")
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.head import inspect as head_inspect

    # First, so that a head that is not there is not reported as its target.
    files = head_inspect.files_of(arguments.head, arguments.revision)
    name = _target_of(arguments)
    folder = hub.resolve(name, arguments.target_revision, "target", only_config=True)
    target = Target.from_path(folder)
    report = head_inspect.inspect(arguments.head, files, name, target)
    if arguments.json:
        print(head_inspect.as_json(report))
    else:
        from rich.console import Console

        head_inspect.show(report, Console(highlight=False, file=sys.stdout))
    return report.status


def _target_of(arguments: argparse.Namespace) -> str:
    """Its target: the one that is named, else that of the demo pair, else the published one."""
    if arguments.target is not None:
        return str(arguments.target)
    return DEMO if arguments.head == DEMO else TARGET


ACTIONS = {
    "inspect": Action(
        "will it serve? reads headers and small tensors only, also on the hub",
        _inspect_arguments,
        _inspect,
    ),
    "convert": Action(
        "write a head of another trainer or server in SGLang's form",
        _convert_arguments,
        _convert,
    ),
    "calibrate": Action(
        "measure which auxiliary layers it was trained with", _calibrate_arguments, _calibrate
    ),
}
