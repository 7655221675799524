"""`bench start`: what the start of a server spends its time on; and for `warmup` a start whose
compile caches are in a folder of its own."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sglang_qwen3next_eagle3.base import processes, provenance, workfolder
from sglang_qwen3next_eagle3.base.files import read_json, slug, write_json, write_text
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.base.schema import StrictRecord, validate
from sglang_qwen3next_eagle3.bench import configurations, markdown, servers, speed
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.load import Dialogue
from sglang_qwen3next_eagle3.bench.options import StartOptions
from sglang_qwen3next_eagle3.bench.results import journal
from sglang_qwen3next_eagle3.bench.results.records import Configuration
from sglang_qwen3next_eagle3.bench.servers import ServedConfiguration
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.model import hub, precision
from sglang_qwen3next_eagle3.serving import caches, startup
from sglang_qwen3next_eagle3.serving.profile import Profile
from sglang_qwen3next_eagle3.serving.server import Server
from sglang_qwen3next_eagle3.serving.unused import Said

T = TypeVar("T", bound=StrictRecord)
BEGUN = "begun.json"
FIRST_REQUEST = "first request"
SAMPLED_REQUEST = "first sampled request"
_REQUESTS = (FIRST_REQUEST, SAMPLED_REQUEST)
_GREEDY = {"temperature": 0}
_SAMPLED = {"temperature": 0.7, "top_p": 0.8, "top_k": 20}
"""With such, FlashInfer's sampling is compiled by nvcc at the first of them."""
SHORT, LONG = 16, 3000
"""Tokens of the prompts with which kernels of the prefill are compiled."""


class MeasuredStart(StrictRecord):
    """ready_seconds: until it answered, as a client sees it. phases: seconds, in their order; the
    first request's among them. cache_bytes: of what was compiled before and behind it. made_with:
    the commit, the software and the machine, as passes of other benchmarks have them."""

    configuration: str
    repetition: int
    ready_seconds: float
    phases: dict[str, float]
    cache_bytes: tuple[int, int] | None = None
    made_with: dict[str, Any] | None = None


class StartResult(StrictRecord):
    """A whole `bench start`. provenance, settings, notes: as of other benchmarks; the provenance is
    that of its first part."""

    format: int = 1
    kind: str = "start"
    provenance: dict[str, Any]
    settings: dict[str, Any]
    configurations: tuple[Configuration, ...]
    starts: tuple[MeasuredStart, ...]
    notes: tuple[str, ...] = ()


class Begun(StrictRecord):
    """The starts of one that has not ended, with the provenance of the first."""

    provenance: dict[str, Any]
    starts: tuple[MeasuredStart, ...] = ()


def run_start(options: StartOptions) -> tuple[StartResult, str]:
    """Start every configuration as often as asked; the result and its table. What a folder has of
    them is not started again.

    Raises:
        UserError: something in the options or the folder does not allow it.
        ServerFailed: a server did not start.
    """
    described = provenance.describe(options.words)
    if options.caches is not None:
        caches.check(options.caches)
    path, begun = options.out / "result.json", options.out / BEGUN
    busy = f"another benchmark writes to {options.out}: choose another --out"

    def bound() -> bool:
        return path.is_file() or begun.is_file()

    with workfolder.claim(options.out, _request(options), busy=busy, bound=bound):
        if path.is_file():
            result = _read(path, StartResult)
        else:
            there = _read(begun, Begun) if begun.is_file() else Begun(provenance=dict(described))
            result = _started(options, there, provenance.stamp(described))
            write_json(path, result.model_dump(mode="json"), indent=1)
            begun.unlink(missing_ok=True)
        report = table({_title(one, options.repeats): one.phases for one in result.starts})
        report = "\n\n".join([report, *result.notes])
        write_text(options.out / "report.md", f"# What a start takes, in seconds\n\n{report}\n")
    return result, report


def _request(options: StartOptions) -> dict[str, Any]:
    return options.request(
        "start",
        configurations=list(options.configurations),
        batches=list(options.batches),
        repeats=options.repeats,
        caches=None if options.caches is None else str(options.caches),
    )


def _read(path: Path, kind: type[T]) -> T:
    way_out = "delete it, or choose another --out"
    return validate(kind, read_json(path, way_out), f"{path} is damaged", way_out=f": {way_out}")


def _started(options: StartOptions, there: Begun, made_with: dict[str, Any]) -> StartResult:
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        pair, flags = speed.synthetic_pair(options, Path(scratch))
        base = pair.base()
        names = options.configurations or (options.profile,)
        contenders = configurations.parse(names, base, pair.given, options.profile)
        target = speed.target_of(base)
        environment = {} if options.caches is None else caches.environment(options.caches)
        compared = [
            servers.served(
                contender,
                options.out,
                [*speed.head_flags(contender, flags), *flags],
                options.start_seconds,
                environment,
                dict.fromkeys(environment, "--caches"),
            )
            for contender in contenders
        ]
        starts = list(there.starts)
        with Progress("bench start", len(contenders) * options.repeats, unit="starts") as progress:
            servers.tell_unused(compared, progress.say)
            for contender, one in zip(contenders, compared, strict=True):
                for repetition in range(options.repeats):
                    if any(
                        (start.configuration, start.repetition) == (contender.name, repetition)
                        for start in starts
                    ):
                        progress.advance()
                        continue
                    progress.say(f"{contender.name}: starting the server")
                    log = options.out / "logs" / f"{slug(contender.name)}.log"
                    prompts = _prompts(options, target.vocab_size)
                    found = measure(
                        one,
                        log,
                        prompts,
                        options.stall_seconds,
                        options.caches,
                        options.output_tokens,
                    )
                    found = found.model_copy(
                        update={"repetition": repetition, "made_with": made_with}
                    )
                    if options.repeats > 1:
                        log.rename(log.with_stem(f"{log.stem}-{repetition + 1}"))
                    progress.say(f"{contender.name}: ready after {found.ready_seconds:.0f} s")
                    starts.append(found)
                    kept = there.model_copy(update={"starts": tuple(starts)})
                    write_json(options.out / BEGUN, kept.model_dump(mode="json"), indent=1)
                    progress.advance()
    return StartResult(
        provenance=there.provenance,
        settings=speed.settings(_request(options), target, flags),
        configurations=tuple(one.configuration for one in compared),
        starts=tuple(starts),
        notes=tuple(journal.of_several_machines(_stamps(starts), "starts")),
    )


def _stamps(starts: Sequence[MeasuredStart]) -> list[dict[str, Any]]:
    """What they were made with: one entry for each that differs, the oldest first."""
    found: list[dict[str, Any]] = []
    for one in starts:
        if (stamp := one.made_with or {}) not in found:
            found.append(stamp)
    return found


def measure(
    served: ServedConfiguration,
    log: Path,
    prompts: Sequence[Sequence[int]],
    stall_seconds: float,
    folder: Path | None = None,
    tokens: int = servers.WARM_TOKENS,
    sampled: bool = False,
) -> MeasuredStart:
    """One start, up to the answers to all prompts, one after the other; it is ended then.

    folder: where it keeps what it compiles; tokens: of an answer. sampled: the first prompt is
    asked once more then, for a sampled answer.

    Raises:
        ServerFailed: it did not start, or did not answer.
    """
    log.unlink(missing_ok=True)
    with startup.StampedLog(log) as stamped:
        before = _compiled(folder)
        with served.start() as poll:
            while (server := poll()) is None:
                time.sleep(processes.POLL_SECONDS)
            ready = time.monotonic() - stamped.begun
            spent = [_ask(server, prompt, tokens, stall_seconds, _GREEDY) for prompt in prompts]
            if sampled:
                more = _ask(server, prompts[0], tokens, stall_seconds, _SAMPLED)
        lines = stamped.lines()
    found = startup.phases(lines, stamped.begun)
    phases = {phase.name: phase.seconds for phase in found.phases}
    # What the log does not tell of: the server answers a little later than it says.
    if (left := ready - found.seconds) > 0:
        phases[startup.SERVER] = round(phases.get(startup.SERVER, 0.0) + left, 2)
    phases[FIRST_REQUEST] = round(sum(spent), 2)
    if sampled:
        phases[SAMPLED_REQUEST] = round(more, 2)
    after = _compiled(folder)
    return MeasuredStart(
        configuration=served.configuration.name,
        repetition=0,
        ready_seconds=round(ready, 2),
        phases=phases,
        cache_bytes=None if before is None or after is None else (before, after),
    )


def of_logs(paths: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Seconds by phase of servers' logs, by SGLang's own times."""
    found: dict[str, dict[str, float]] = {}
    for path in paths:
        start = startup.of_log(path)
        name = path.name if path.name not in found else str(path)
        found[name] = {} if start is None else {one.name: one.seconds for one in start.phases}
    return found


def table(starts: Mapping[str, Mapping[str, float]]) -> str:
    """A column a start, a row a phase, in the order in which phases begin."""
    names: list[str] = []
    for phases in starts.values():
        names += [name for name in phases if name not in names]
    asked = [name for name in _REQUESTS if name in names]
    names = [*(name for name in names if name not in asked), *asked]
    lines = [[name, *(_seconds(phases.get(name)) for phases in starts.values())] for name in names]
    totals = [
        _seconds(sum(value for name, value in phases.items() if name not in _REQUESTS))
        for phases in starts.values()
    ]
    lines.append(["until it answers", *totals])
    return markdown.table(["seconds", *starts], lines)


def _seconds(value: float | None) -> str:
    return markdown.NOTHING if value is None else f"{value:.1f}"


def _title(one: MeasuredStart, repeats: int) -> str:
    return one.configuration if repeats == 1 else f"{one.configuration} #{one.repetition + 1}"


def _compiled(folder: Path | None) -> int | None:
    """Bytes."""
    return None if folder is None else sum(one.bytes for one in caches.kept(folder))


def _prompts(options: StartOptions, vocabulary: int) -> list[Sequence[int]]:
    asked = synthetic.dialogues(1, options.input_tokens, vocabulary, options.seed)
    return [ids for one in asked if (ids := one.turns(())) is not None]


def _ask(
    server: Server,
    ids: Sequence[int],
    tokens: int,
    stall_seconds: float,
    chosen: Mapping[str, float],
) -> float:
    """Seconds until its answer. Raises ServerFailed."""
    sampling = {**chosen, "max_new_tokens": tokens, "ignore_eos": True}
    begun = time.monotonic()
    prompt = Dialogue("first", lambda answers: None if answers else ids)
    servers.ask(server, [prompt], 1, sampling, stall_seconds)
    return time.monotonic() - begun


@dataclass(frozen=True)
class Warmed:
    """before, behind: a start without what was compiled, and one with it. caches: what is kept."""

    folder: Path
    before: MeasuredStart
    behind: MeasuredStart | None
    caches: tuple[caches.CompileCache, ...]

    def payload(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "caches": [
                {"name": one.name, "path": str(one.path), "files": one.files, "bytes": one.bytes}
                for one in self.caches
            ],
            "before": self.before.model_dump(mode="json"),
            "behind": None if self.behind is None else self.behind.model_dump(mode="json"),
        }

    def text(self) -> str:
        """For a terminal."""
        lines = [
            [one.name, f"{one.files:,}", f"{one.bytes / 2**20:,.1f}", str(one.path)]
            for one in self.caches
            if one.files
        ]
        kept = markdown.table(["cache", "files", "MiB", "folder"], lines)
        starts = {"first start": self.before.phases}
        if self.behind is not None:
            starts["with caches"] = self.behind.phases
        nothing = "Nothing was compiled that is kept."
        return f"{kept if lines else nothing}\n\n{table(starts)}"


def warm(
    profile: Profile,
    folder: Path,
    logs: Path,
    *,
    flags: Sequence[str] = (),
    own_weights: bool = False,
    start_seconds: float,
    stall_seconds: float,
    again: bool = True,
    said: Said | None = None,
) -> Warmed:
    """Fill a folder with what a server of this profile compiles: one start, with its own flags and
    dummy weights; and another one that finds it there.

    own_weights: the profile's, in place of the full-size architecture's dummies. again: start a
    second time. said: who says what the profile does, for people.

    Raises:
        UserError: it cannot be served so.
        ServerFailed: it did not start, or did not answer.
    """
    caches.check(folder)
    with tempfile.TemporaryDirectory(prefix="warmup-") as scratch:
        served, words = _with_dummies(profile, Path(scratch), own_weights)
        contender = Contender("warmup", served, said or Said())
        environment = caches.environment(folder)
        one = servers.served(
            contender,
            logs,
            [*words, *flags],
            start_seconds,
            environment,
            dict.fromkeys(environment, "--out"),
        )
        vocabulary = speed.target_of(served).vocab_size
        prompts = [
            ids
            for tokens in (SHORT, LONG)
            for each in synthetic.dialogues(1, tokens, vocabulary, 0)
            if (ids := each.turns(())) is not None
        ]
        log = logs / "logs" / f"{slug(contender.name)}.log"
        with Progress("warmup", 1 + again, unit="starts") as progress:
            servers.tell_unused([one], progress.say)
            progress.say("warmup: starting a server, which compiles: minutes")
            before = measure(one, log, prompts, stall_seconds, folder, sampled=True)
            caches.note_filled(folder)
            kept = tuple(caches.kept(folder))
            progress.say(f"warmup: ready after {before.ready_seconds:.0f} s")
            progress.advance()
            behind = None
            if again:
                progress.say("warmup: starting it again, with what was compiled")
                behind = measure(one, log, prompts, stall_seconds, folder, sampled=True)
                progress.say(f"warmup: ready after {behind.ready_seconds:.0f} s")
                progress.advance()
        caches.note_filled(folder)
    return Warmed(folder, before, behind, kept)


def _with_dummies(profile: Profile, scratch: Path, own: bool) -> tuple[Profile, list[str]]:
    if own or profile.target == hub.DEMO:
        return profile, []
    quantized = precision.of_checkpoint(profile.target) == "fp8"
    like: synthetic.Precision = "fp8" if quantized else "bf16"
    target = synthetic.write_target(scratch / f"Qwen3-Coder-Next-{like}", like)
    fields: dict[str, Any] = {"target": str(target)}
    words = list(synthetic.FLAGS)
    if profile.algorithm == "eagle3":
        fields["head"] = str(synthetic.write_head(scratch / "head"))
        words += synthetic.HEAD_FLAGS
    revisions = {"target_revision": None, "head_revision": None}
    return profile.model_copy(update={**fields, **revisions}), words
