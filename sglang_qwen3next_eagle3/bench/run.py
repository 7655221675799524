"""`bench run`: suites of prompts over HTTP, configuration by configuration."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sglang_qwen3next_eagle3.base import figures, provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import slug
from sglang_qwen3next_eagle3.base.redact import masked, without_paths
from sglang_qwen3next_eagle3.bench import configurations, servers
from sglang_qwen3next_eagle3.bench.load import Dialogue
from sglang_qwen3next_eagle3.bench.measure import Benchmark, Outcome, measure
from sglang_qwen3next_eagle3.bench.options import RunOptions
from sglang_qwen3next_eagle3.bench.results.journal import PassKey, claim
from sglang_qwen3next_eagle3.bench.results.records import Configuration
from sglang_qwen3next_eagle3.bench.servers import ServedConfiguration, Work
from sglang_qwen3next_eagle3.bench.suites import Selection, Suite, load_suite, select
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat
from sglang_qwen3next_eagle3.serving import server as serving


def run_suites(options: RunOptions) -> Outcome:
    """Measure, and write what came out into the options' folder.

    Raises:
        UserError: something in the options, the suites' data or the folder does not allow it.
    """
    if options.plots:
        figures.require("--no-plots")
    suites = [load_suite(name) for name in options.suites]
    _refuse_shared_names(suites)
    selections = {
        suite.name: select(suite, options.data_dir, options.limit, options.seed) for suite in suites
    }
    compared, target, revision = _compared(options)
    described = provenance.describe(options.words)
    request = _request(options, suites, selections, target)
    with claim(options.out, request, provenance.stamp(described)) as journal:
        chat = ChatFormat(options.tokenizer or target, revision)
        chat.require_template("give --tokenizer with one")
        dialogues = {
            name: [Dialogue.of(prompt, chat) for prompt in found.prompts]
            for name, found in selections.items()
        }
        benchmark = Benchmark(
            kind="suites",
            label="bench",
            compared=compared,
            keys=_keys(options, suites),
            work=_work(options, suites, dialogues),
            requests=lambda key: sum(len(p.turns) for p in selections[key.suite].prompts),
            settings=_settings(options, suites, selections, target),
            greedy=[suite.name for suite in suites if suite.temperature == 0],
            side_by_side=options.side_by_side,
        )
        return measure(benchmark, journal, options, described)


def _refuse_shared_names(suites: Sequence[Suite]) -> None:
    """Passes are kept by the names of their suites."""
    files = [slug(suite.name) for suite in suites]
    for suite in suites:
        if files.count(slug(suite.name)) > 1:
            raise UserError(
                f"suite {suite.name} is given twice, or goes by one name with another: "
                "rename the file of one, which is its name"
            )


def _compared(options: RunOptions) -> tuple[list[ServedConfiguration], str, str | None]:
    """The configurations with what starts them, the target's name, and its revision."""
    if options.base_url is not None:
        return _running(options, options.base_url)
    base = options.base()
    names = options.configurations or ["none", options.profile]
    compared = [
        servers.served(contender, options.out, options.flags, options.start_seconds)
        for contender in configurations.parse(names, base, options.given, options.profile)
    ]
    return compared, base.target, None if options.tokenizer else base.target_revision


def _running(options: RunOptions, url: str) -> tuple[list[ServedConfiguration], str, str | None]:
    if options.configurations:
        raise UserError("--config starts servers, --base-url measures one that runs: choose")
    url = url.rstrip("/").removesuffix("/v1")
    with serving.running(url, options.api_key) as server:
        info = server.info()
    if options.name is None and "speculative_algorithm" not in info:
        raise UserError(f"{url} does not say how it serves (a router?): give it a --name")
    row = configurations.of_running(options.name, info)
    target = str(info.get("tokenizer_path") or info.get("model_path") or "")
    if not (options.tokenizer or target):
        raise UserError(f"{url} does not say which model it serves: give --tokenizer")

    @contextmanager
    def start() -> Iterator[Callable[[], serving.Server]]:
        with serving.running(url, options.api_key) as server:
            yield lambda: server

    return [ServedConfiguration(row, start)], target, None


def _keys(
    options: RunOptions, suites: Sequence[Suite]
) -> Callable[[Configuration, int], list[PassKey]]:
    return lambda row, repetition: [
        PassKey(row.name, suite.name, batch, repetition)
        for batch in options.batches
        for suite in suites
    ]


def _work(
    options: RunOptions, suites: Sequence[Suite], dialogues: Mapping[str, Sequence[Dialogue]]
) -> Callable[[PassKey], Work]:
    sampling = {suite.name: _sampling(options, suite) for suite in suites}

    def work(key: PassKey) -> Work:
        asked = dialogues[key.suite]
        return Work(asked, sampling[key.suite], warm=asked[: key.batch])

    return work


def _sampling(options: RunOptions, suite: Suite) -> dict[str, Any]:
    return {
        "temperature": suite.temperature,
        "max_new_tokens": options.max_tokens or suite.max_tokens,
        "ignore_eos": options.ignore_eos,
    }


def _request(
    options: RunOptions,
    suites: Sequence[Suite],
    selections: Mapping[str, Selection],
    target: str,
) -> dict[str, Any]:
    """What has to be the same for a rerun to go on. More configurations, batches and repetitions
    may be added; the servers' own arguments are compared one by one."""
    return {
        "kind": "suites",
        "suites": [suite.model_dump(mode="json") for suite in suites],
        "limit": options.limit,
        "max_tokens": options.max_tokens,
        "ignore_eos": options.ignore_eos,
        "seed": options.seed,
        "data": {name: found.settings["data"] for name, found in selections.items()},
        "target": target,
        "head": options.head,
        "tokenizer": options.tokenizer,
        "profile": options.profile if options.base_url is None else None,
        "flags": masked(options.flags),
    }


def _settings(
    options: RunOptions,
    suites: Sequence[Suite],
    selections: Mapping[str, Selection],
    target: str,
) -> dict[str, Any]:
    of_suites = {
        suite.name: {**selections[suite.name].settings, "sampling": _sampling(options, suite)}
        for suite in suites
    }
    cleaned: dict[str, Any] = without_paths(
        {
            "target": target,
            "head": options.head,
            "profile": options.profile if options.base_url is None else None,
            "suites": of_suites,
            "batches": list(options.batches),
            "repeats": options.repeats,
            "side_by_side": options.side_by_side,
            "flags": masked(options.flags),
        }
    )
    return cleaned
