"""The actions of `bench` that measure nothing: what is made of results, and the suites."""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.cli.arguments import Action
from sglang_qwen3next_eagle3.cli.bench.output import add_no_plots, add_output, print_result
from sglang_qwen3next_eagle3.cli.bench.values import batches_of, steps_of

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.bench.trees.cost import CostModel
    from sglang_qwen3next_eagle3.bench.trees.plan import AcceptLengths


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

    if arguments.for_server is not None:
        for option in ("accept_lengths", "adaptive", "steps"):
            if getattr(arguments, option) is not None:
                told = f"--{option.replace('_', '-')}"
                raise UserError(
                    f"--for-server prints what cycles take and no more: leave out {told}"
                )
    if arguments.model:
        model = CostModel.load(arguments.model)
    else:
        model = fit(Result.load(arguments.result))
    if arguments.for_server is not None:
        from sglang_qwen3next_eagle3.bench.trees.adaptive import of_result
        from sglang_qwen3next_eagle3.overlay.environment import CYCLE_COSTS
        from sglang_qwen3next_eagle3.overlay.metrics.cycle_costs import of_gpu
        from sglang_qwen3next_eagle3.serving import profile

        tree = profile.Tree.parse(arguments.for_server)
        shape = (tree.steps, tree.topk, tree.draft_tokens)
        costs = model.for_server(shape, batches_of(arguments.batch))
        if arguments.result:
            result = Result.load(arguments.result)
            of = of_result(result)
            names = [of_gpu(str(gpu.get("name"))) for gpu in result.provenance.get("gpus") or ()]
            keys = {"tp": "tp", "weights": "precision", "fast": "fast", "seams": "seams"}
            kind = {"gpu": names[0] if names else None}
            kind |= {name: of.get(key) for name, key in keys.items()}
            costs = " ".join([*(f"{name}={word}" for name, word in kind.items() if word), costs])
        print(f"{CYCLE_COSTS}={shlex.quote(costs)}")
        return 0
    spec = arguments.accept_lengths
    given = None if spec is None else parse_accept_lengths(spec)
    if arguments.adaptive is not None:
        return _plan_states(arguments, model, given)
    if arguments.steps:
        raise UserError("--steps says which states --adaptive FILE writes: give both")
    found = plan(model, given, batches_of(arguments.batch))
    print(json.dumps(found.payload(model), indent=1) if arguments.json else found.text(model))
    return 0


def _plan_states(
    arguments: argparse.Namespace, model: "CostModel", given: "AcceptLengths | None"
) -> int:
    from sglang_qwen3next_eagle3.base.files import expanded, write_text
    from sglang_qwen3next_eagle3.bench.results.records import Result
    from sglang_qwen3next_eagle3.bench.trees import adaptive
    from sglang_qwen3next_eagle3.overlay.adaptive import states

    file = expanded(Path(arguments.adaptive))
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
    steps = () if arguments.steps is None else steps_of(arguments.steps)
    found = adaptive.plan_states(model, steps=steps, shares=shares, measured=measured)
    write_text(file, found.states.text())
    print(json.dumps(found.payload(), indent=1) if arguments.json else found.text())
    print(f"{arguments.adaptive}: `launch --adaptive {arguments.adaptive}`", file=sys.stderr)
    return 0


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
    add_output(parser)


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
    print_result(joined.result, joined.report, arguments.json)
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
    add_no_plots(parser, "no PNGs")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--readme", action="store_true", help="print a README's table only")
    how.add_argument("--json", action="store_true", help="print the result as JSON")


def _report(arguments: argparse.Namespace) -> int:
    from sglang_qwen3next_eagle3.bench.reports import readme_rows, write
    from sglang_qwen3next_eagle3.bench.results.records import Result

    result = Result.load(arguments.result)
    if arguments.readme:
        print(readme_rows(result))
        return 0
    folder = arguments.result if arguments.result.is_dir() else arguments.result.parent
    print_result(result, write(result, folder, plots=arguments.plots), arguments.json)
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


ACTIONS = {
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
