"""`bench run`: suites of prompts over HTTP, configuration by configuration."""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import masked, without_paths
from sglang_qwen3next_eagle3.bench import configurations, options
from sglang_qwen3next_eagle3.bench.load.load import Conversation
from sglang_qwen3next_eagle3.bench.load.runner import Session, Work
from sglang_qwen3next_eagle3.bench.results import assemble
from sglang_qwen3next_eagle3.bench.results.journal import Journal, Key, claim
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Result
from sglang_qwen3next_eagle3.bench.suites import prompts, suites
from sglang_qwen3next_eagle3.bench.suites.prompts import Selection
from sglang_qwen3next_eagle3.bench.suites.suites import Suite
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat
from sglang_qwen3next_eagle3.serving import server as servers
from sglang_qwen3next_eagle3.serving.server import Server

Start = Callable[[], AbstractContextManager[Server]]
INTERRUPTED = options.INTERRUPTED
API_KEY_VARIABLE = "SGLANG_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--suite", action="append", metavar="NAME", help="of `bench suites`, or a .yaml; repeatable"
    )
    what.add_argument(
        "--config",
        action="append",
        metavar="NAME",
        help=f"{configurations.HOW_TO_SPELL}; repeatable (default: none and --profile)",
    )
    what.add_argument(
        "--batch", type=options.numbers, default=[1], metavar="N,...", help="requests in flight"
    )
    what.add_argument("--repeats", type=options.positive, default=1, metavar="N")
    what.add_argument("--limit", type=options.positive, metavar="N", help="prompts of each suite")
    what.add_argument("--max-tokens", type=options.positive, metavar="N", help="of each answer")
    what.add_argument("--ignore-eos", action="store_true", help="every answer of full length")
    what.add_argument("--seed", type=int, help="of the choice of prompts (default: the suite's)")
    what.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where the suites' files are")
    what.add_argument("--tokenizer", help="folder or hub name (default: the target)")
    options.add_server_arguments(parser, "b1")
    theirs = parser.add_argument_group("a server that already runs")
    theirs.add_argument("--base-url", metavar="URL", help="measure it instead of starting any")
    theirs.add_argument("--name", help="what to call it (default: its tree, or none)")
    theirs.add_argument("--api-key", help=f"default: ${API_KEY_VARIABLE}")
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="start all servers at once, ask one at a time (small models, shares of one GPU)",
    )
    options.add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """0: all measured; 1: a configuration failed; 130: interrupted. Raises UserError."""
    options.require_plots(not arguments.no_plots)
    chosen = [suites.load(name) for name in arguments.suite or ["smoke"]]
    selections = {
        suite.name: prompts.select(suite, arguments.data_dir, arguments.limit, arguments.seed)
        for suite in chosen
    }
    rows, target, revision = _rows(arguments)
    described = provenance.describe(arguments.words)
    request = _request(arguments, chosen, selections, target)
    with claim(arguments.out, request, provenance.stamp(described)) as journal:
        chat = ChatFormat(arguments.tokenizer or target, revision)
        chat.require_template("give --tokenizer with one")
        conversations = {
            name: [Conversation.of(prompt, chat) for prompt in found.prompts]
            for name, found in selections.items()
        }
        turns = {
            name: sum(len(prompt.turns) for prompt in found.prompts)
            for name, found in selections.items()
        }
        groups = _groups(arguments, chosen, rows)
        interrupted = _measure(arguments, journal, chosen, conversations, turns, groups)
        result = assemble.result(
            journal,
            "suites",
            described,
            _settings(arguments, chosen, selections, target),
            [configuration for configuration, _ in rows],
            greedy=[suite.name for suite in chosen if suite.temperature == 0],
        )
        _write(arguments, result)
        return options.status(journal, groups, interrupted)


def _rows(
    arguments: argparse.Namespace,
) -> tuple[list[tuple[Configuration, Start]], str, str | None]:
    """The configurations with what starts them, the target's name, and its revision."""
    if arguments.base_url is not None:
        return _running(arguments)
    base = options.base_profile(arguments)
    names = arguments.config or ["none", arguments.profile]
    rows = []
    for contender in configurations.parse(names, base, partial(options.given, arguments)):
        described = contender.describe(arguments.sglang)
        start = options.starter(contender, arguments.out, arguments.sglang, arguments.start_seconds)
        rows.append((described, start))
    return rows, base.target, None if arguments.tokenizer else base.target_revision


def _running(
    arguments: argparse.Namespace,
) -> tuple[list[tuple[Configuration, Start]], str, str | None]:
    if arguments.config:
        raise UserError("--config starts servers, --base-url measures one that runs: choose")
    key = arguments.api_key or os.environ.get(API_KEY_VARIABLE)
    url = arguments.base_url.rstrip("/").removesuffix("/v1")
    with servers.running(url, key) as server:
        info = server.info()
    if arguments.name is None and "speculative_algorithm" not in info:
        raise UserError(f"{url} does not say how it serves (a router?): give it a --name")
    row = _described(arguments.name, info)
    target = str(info.get("tokenizer_path") or info.get("model_path") or "")
    if not (arguments.tokenizer or target):
        raise UserError(f"{url} does not say which model it serves: give --tokenizer")
    return [(row, lambda: servers.running(url, key))], target, None


def _described(name: str | None, info: dict[str, Any]) -> Configuration:
    """A running server by what it says of itself; a router says nothing."""
    algorithm = str(info.get("speculative_algorithm") or "none").lower()
    values = [
        info.get(f"speculative_{key}") for key in ("num_steps", "eagle_topk", "num_draft_tokens")
    ]
    whole = algorithm != "none" and all(isinstance(value, int) for value in values)
    tree = tuple(values) if whole else None
    known = {"eagle3": "eagle3", "eagle": "nextn", "nextn": "nextn"}.get(algorithm, "none")
    spelled = ",".join(map(str, tree)) if tree else algorithm
    spelled = f"mtp:{spelled}" if known == "nextn" else spelled
    served = without_paths([str(info[key]) for key in ("model_path", "tp_size") if key in info])
    return Configuration.model_validate(
        {"name": name or spelled, "algorithm": known, "tree": tree, "argv": served}
    )


def _groups(
    arguments: argparse.Namespace,
    chosen: Sequence[Suite],
    rows: Sequence[tuple[Configuration, Start]],
) -> list[list[Session]]:
    def keys(configuration: Configuration, repetition: int) -> list[Key]:
        return [
            Key(configuration.name, suite.name, batch, repetition)
            for batch in arguments.batch
            for suite in chosen
        ]

    return options.sessions(rows, keys, arguments.repeats, side_by_side=arguments.side_by_side)


def _measure(
    arguments: argparse.Namespace,
    journal: Journal,
    chosen: Sequence[Suite],
    conversations: Mapping[str, Sequence[Conversation]],
    turns: Mapping[str, int],
    groups: Sequence[Sequence[Session]],
) -> bool:
    """Whether it was interrupted."""
    by_name = {suite.name: suite for suite in chosen}

    def workload(key: Key) -> Work:
        asked = conversations[key.suite]
        return Work(asked, _sampling(arguments, by_name[key.suite]), asked[: key.batch])

    return options.execute("bench", arguments, journal, groups, workload, lambda k: turns[k.suite])


def _sampling(arguments: argparse.Namespace, suite: Suite) -> dict[str, Any]:
    return {
        "temperature": suite.temperature,
        "max_new_tokens": arguments.max_tokens or suite.max_tokens,
        "ignore_eos": arguments.ignore_eos,
    }


def _request(
    arguments: argparse.Namespace,
    chosen: Sequence[Suite],
    selections: Mapping[str, Selection],
    target: str,
) -> dict[str, Any]:
    """What has to be the same for a rerun to go on. More configurations, batches and repetitions
    may be added; the servers' own arguments are compared one by one."""
    return {
        "kind": "suites",
        "suites": [suite.model_dump(mode="json") for suite in chosen],
        "limit": arguments.limit,
        "max_tokens": arguments.max_tokens,
        "ignore_eos": arguments.ignore_eos,
        "seed": arguments.seed,
        "data": {name: found.settings["data"] for name, found in selections.items()},
        "target": target,
        "head": arguments.head,
        "tokenizer": arguments.tokenizer,
        "profile": arguments.profile if arguments.base_url is None else None,
        "flags": masked(arguments.sglang),
    }


def _settings(
    arguments: argparse.Namespace,
    chosen: Sequence[Suite],
    selections: Mapping[str, Selection],
    target: str,
) -> dict[str, Any]:
    of_suites = {
        suite.name: {**selections[suite.name].settings, "sampling": _sampling(arguments, suite)}
        for suite in chosen
    }
    cleaned: dict[str, Any] = without_paths(
        {
            "target": target,
            "head": arguments.head,
            "profile": arguments.profile if arguments.base_url is None else None,
            "suites": of_suites,
            "batches": arguments.batch,
            "repeats": arguments.repeats,
            "side_by_side": arguments.side_by_side,
            "flags": masked(arguments.sglang),
        }
    )
    return cleaned


def _write(arguments: argparse.Namespace, result: Result) -> None:
    result.save(arguments.out / "result.json")
    text = describe(result, arguments.out, plots=not arguments.no_plots)
    print(json.dumps(result.model_dump(mode="json"), indent=1) if arguments.json else text)


def describe(result: Result, out: Path, *, plots: bool) -> str:
    """Write the report and the plots beside the result; the report's text."""
    from sglang_qwen3next_eagle3.bench.reports import plots as drawing
    from sglang_qwen3next_eagle3.bench.reports import run as report

    drawn = drawing.run_plots(result, out / "plots") if plots and result.measurements else []
    text = report.report(result, [f"plots/{path.name}" for path in drawn])
    (out / "report.md").write_text(text, encoding="utf-8")
    return text
