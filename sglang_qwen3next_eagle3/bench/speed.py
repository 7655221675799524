"""`bench speed`: what a draft tree costs, whatever the weights.

The full-size architecture with dummy weights, random tokens, and an accept length that SGLang is
told: no checkpoint, no data. It says nothing about acceptance.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import masked, without_paths
from sglang_qwen3next_eagle3.bench import configurations, options
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.load.runner import Session, Work
from sglang_qwen3next_eagle3.bench.results import assemble
from sglang_qwen3next_eagle3.bench.results.journal import Journal, Key, claim
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Result
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.hub import DEMO
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.simulate import AcceptLength
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving.profile import Profile
from sglang_qwen3next_eagle3.serving.server import Server

Start = Callable[[], AbstractContextManager[Server]]
SUITE = "synthetic"
BATCHES = [1, 2, 4, 8, 16, 32]
ACCEPT_LENGTHS = [1.0, 1.6, 2.46, 3.0]
"""1.6 and 3.0: the lowest and highest of the card's suites; 2.46: their mean."""
PEERS = ["none", "mtp", "eagle3-defaults", "3,4,8", "chains:1-7"]
CONTEXT = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--config",
        action="append",
        metavar="NAME",
        help=f"{configurations.HOW_TO_SPELL}; repeatable (default: {' '.join(PEERS)})",
    )
    what.add_argument("--batch", type=options.numbers, default=BATCHES, metavar="N,...")
    what.add_argument(
        "--accept-lengths",
        type=_lengths,
        default=ACCEPT_LENGTHS,
        metavar="X,...",
        help="simulated; a tree skips those it cannot reach "
        f"(default {','.join(map(str, ACCEPT_LENGTHS))})",
    )
    what.add_argument("--input-tokens", type=options.positive, default=256)
    what.add_argument("--output-tokens", type=options.positive, default=256)
    what.add_argument("--repeats", type=options.positive, default=2, metavar="N")
    what.add_argument("--seed", type=int, default=0, help="of the random tokens")
    what.add_argument(
        "--precision",
        choices=("fp8", "bf16"),
        default="fp8",
        help="of the synthetic target (default %(default)s; bf16 needs two H200)",
    )
    options.add_server_arguments(parser, "h200-fp8")
    options.add_output_arguments(parser)


def _lengths(text: str) -> list[float]:
    lengths = sorted({float(part) for part in text.split(",")})
    if not lengths or lengths[0] < 1:
        raise argparse.ArgumentTypeError("accept lengths are 1 or more")
    return lengths


def run(arguments: argparse.Namespace) -> int:
    """0: all measured; 1: a configuration failed; 130: interrupted. Raises UserError."""
    options.require_plots(not arguments.no_plots)
    described = provenance.describe(arguments.words)
    with (
        claim(arguments.out, _request(arguments), provenance.stamp(described)) as journal,
        options.scratch("bench-") as scratch,
    ):
        given, flags = _given(arguments, scratch)
        base = given(profiles.load(arguments.profile))
        shared = AcceptLength.create(scratch / "accept-length")
        environment = {variables.SIMULATE: str(scratch / "accept-length")}
        contenders = configurations.parse(arguments.config or PEERS, base, given)
        rows: list[tuple[Configuration, Start]] = []
        for contender in contenders:
            its = [*_head_flags(contender, flags), *flags]
            start = options.starter(
                contender, arguments.out, its, arguments.start_seconds, environment
            )
            rows.append((contender.describe(its), start))
        groups = _groups(arguments, contenders, rows)
        vocabulary = Target.from_path(_folder(base)).vocab_size
        interrupted = _measure(arguments, journal, groups, shared, vocabulary)
        result = assemble.result(
            journal,
            "speed",
            described,
            _settings(arguments, flags),
            [configuration for configuration, _ in rows],
            NOTES,
        )
        _write(arguments, result)
        return options.status(journal, groups, interrupted)


NOTES = (
    "Acceptance is simulated: these figures say what a tree costs at a given accept length, not "
    "which accept length a head reaches.",
    "At one accept length a larger tree looks worse than it is: with one head it accepts more.",
    "All answers repeat one token, so expert routing is that of dummy weights, not of text.",
)


def _given(
    arguments: argparse.Namespace, scratch: Path
) -> tuple[Callable[[Profile], Profile], list[str]]:
    """What the command line makes of a profile, and SGLang's flags."""
    chosen = profiles.load(arguments.profile)
    flags = _server_flags(arguments, chosen)
    if arguments.target is not None or chosen.target == DEMO:
        return partial(options.given, arguments), flags
    target = synthetic.write_target(
        scratch / f"Qwen3-Coder-Next-{arguments.precision}", arguments.precision
    )
    head = arguments.head or str(synthetic.write_head(scratch / "head"))
    moved = argparse.Namespace(**{**vars(arguments), "target": str(target), "head": head})
    return partial(options.given, moved), [*synthetic.FLAGS, *flags]


def _head_flags(contender: Contender, flags: Sequence[str]) -> Sequence[str]:
    synthetic_head = contender.profile.algorithm == "eagle3" and synthetic.FLAGS[0] in flags
    return synthetic.HEAD_FLAGS if synthetic_head else ()


def _server_flags(arguments: argparse.Namespace, chosen: Profile) -> list[str]:
    """Decode graphs for the batches that are measured and no others, and no prefill graphs: they
    take minutes and are not what is measured."""
    largest = max(arguments.batch)
    flags = ["--max-running-requests", str(largest), "--disable-radix-cache", "--random-seed", "1"]
    if not chosen.cpu_engine:
        flags += ["--cuda-graph-bs-decode", *map(str, arguments.batch)]
        flags += ["--disable-prefill-cuda-graph", "--skip-server-warmup"]
        flags += ["--context-length", str(CONTEXT), "--mem-fraction-static", "0.85"]
    return [*flags, *arguments.sglang]


def _folder(base: Profile) -> Path:
    return hub.resolve(base.target, base.target_revision, "target", only_config=True)


def _groups(
    arguments: argparse.Namespace,
    contenders: Sequence[Contender],
    rows: Sequence[tuple[Configuration, Start]],
) -> list[list[Session]]:
    trees = {contender.name: contender.tree for contender in contenders}

    def keys(configuration: Configuration, repetition: int) -> list[Key]:
        return [
            Key(configuration.name, SUITE, batch, repetition, length)
            for length in reachable(trees[configuration.name], arguments.accept_lengths)
            for batch in arguments.batch
        ]

    return options.sessions(rows, keys, arguments.repeats, restart=False)


def _measure(
    arguments: argparse.Namespace,
    journal: Journal,
    groups: Sequence[Sequence[Session]],
    shared: AcceptLength,
    vocabulary: int,
) -> bool:
    """Whether it was interrupted."""
    # Kernels are compiled and tuned once for a batch, whatever is accepted.
    warmed: set[tuple[str, int]] = set()

    def workload(key: Key) -> Work:
        length = key.simulated_accept_length

        def simulate() -> None:
            shared.value = -1.0 if length is None else length

        # Other tokens for every repetition and configuration alike.
        asked = synthetic.conversations(
            key.batch, arguments.input_tokens, vocabulary, arguments.seed + key.repetition
        )
        sampling = {
            "temperature": 0,
            "max_new_tokens": arguments.output_tokens,
            "ignore_eos": True,
        }
        place = key.configuration, key.batch
        warm = [] if place in warmed else asked
        warmed.add(place)
        return Work(asked, sampling, warm, simulate)

    return options.execute("bench speed", arguments, journal, groups, workload, lambda k: k.batch)


def reachable(tree: tuple[int, int, int] | None, lengths: Sequence[float]) -> list[float | None]:
    """The accept lengths to simulate for a tree; [None] without speculation."""
    if tree is None:
        return [None]
    return [length for length in lengths if length <= tree[0] + 1]


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "kind": "speed",
        "input_tokens": arguments.input_tokens,
        "output_tokens": arguments.output_tokens,
        "seed": arguments.seed,
        "precision": arguments.precision,
        "profile": arguments.profile,
        "target": arguments.target,
        "head": arguments.head,
        "tp": arguments.tp,
        "flags": masked(arguments.sglang),
    }


def _settings(arguments: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    cleaned: dict[str, Any] = without_paths(
        {
            **_request(arguments),
            "batches": arguments.batch,
            "accept_lengths": arguments.accept_lengths,
            "repeats": arguments.repeats,
            "flags": masked(flags),
        }
    )
    return cleaned


def _write(arguments: argparse.Namespace, result: Result) -> None:
    result.save(arguments.out / "result.json")
    text = describe(result, arguments.out, plots=not arguments.no_plots)
    if arguments.json:
        print(json.dumps(result.model_dump(mode="json"), indent=1))
    else:
        print(text)


def describe(result: Result, out: Path, *, plots: bool) -> str:
    """Write the cost model, the report and the plots beside the result; the report's text."""
    from sglang_qwen3next_eagle3.bench.reports import plots as drawing
    from sglang_qwen3next_eagle3.bench.reports import speed as speed_report
    from sglang_qwen3next_eagle3.bench.trees import cost

    try:
        model = cost.fit(result)
    except UserError as error:
        text = speed_report.without_model(result, str(error))
        (out / "report.md").write_text(text, encoding="utf-8")
        return text
    drawn = drawing.speed_plots(result, model, out / "plots") if plots else []
    text = speed_report.speed_report(result, model, [f"plots/{path.name}" for path in drawn])
    (out / "report.md").write_text(text, encoding="utf-8")
    (out / "cost-model.json").write_text(model.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return text
