"""`head calibrate`, from its options to the file that `launch` reads."""

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.figures import require as require_matplotlib
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.calibrate import prompts
from sglang_qwen3next_eagle3.head import captured_layers
from sglang_qwen3next_eagle3.head import files as head_files
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.check import check
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.model import hub, rope, shards
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection, validate
from sglang_qwen3next_eagle3.model.embeddings import vocabulary_rows
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving import flags


@dataclass(frozen=True)
class CalibrationOptions:
    """What to measure, and what to do with it.

    head, target: folder, hub name or `demo`. prompts: a file, None for the built-in ones.
    regenerate: let the target answer them; by default those that are built in. max_prompts: the
    first so many. max_length: tokens of a text; longer ones are cut into pieces, or left out where
    they are answered. steps: drafts in a chain. load_format: SGLang's; dummy needs no weights.
    plot: a PNG to write. out: where to keep the result instead of where `launch` looks; keep: at
    all. sglang: its flags, which win.
    """

    head: str
    target: str
    head_revision: str | None = None
    target_revision: str | None = None
    prompts: Path | None = None
    regenerate: bool | None = None
    answer_tokens: int = 128
    max_prompts: int | None = None
    max_length: int = 512
    steps: int = 3
    tp: int = 1
    device: Literal["cpu", "cuda"] | None = None
    load_format: str | None = None
    plot: Path | None = None
    out: Path | None = None
    keep: bool = True
    sglang: tuple[str, ...] = ()


DUMMY, DUMMY_FLAGS = "dummy", ("--skip-tokenizer-init",)


@dataclass(frozen=True)
class Pair:
    """A target and a head as the user spells them, and where they are."""

    target_name: str
    head_name: str
    target_folder: Path
    head_folder: Path
    target: Target
    head: Head


def calibrate(options: CalibrationOptions) -> dict[str, Any]:
    """Measure, and keep what was found. The figures: `report.figures`, and how they were made.

    Raises:
        UserError: the pair, the prompts or SGLang do not allow it.
    """
    if options.plot is not None:
        require_matplotlib()
    pair = load_pair(options)
    import torch

    from sglang_qwen3next_eagle3.calibrate import report, states
    from sglang_qwen3next_eagle3.calibrate.measure import measure
    from sglang_qwen3next_eagle3.calibrate.scoring import Scorer
    from sglang_qwen3next_eagle3.head.forward import HeadModel

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    source = source_of(options, pair.target, pair.target_folder)
    dummy = source.kind == prompts.RANDOM
    if dummy:
        embedding, lm_head = states.dummy_rows(pair.target)
    else:
        embedding, lm_head = vocabulary_rows(pair.target_folder, pair.target)
    extra = [*_load_flags(options.load_format, dummy), *options.sglang]

    clock = Clock()
    with states.StoredTexts() as texts, Tasks() as task:
        texts.require_room(source.most, pair.target, dtype)
        done = task("loading the target", 1)
        with states.load(
            pair.target_folder, device=device, tp=options.tp, longest=source.longest, extra=extra
        ) as runner:
            done()
            clock.lap("load")
            if source.asked is not None:
                count = len(source.texts)
                done = task(f"{count} answers of the target", count * source.answer_tokens)
            samples = source.samples(runner, options.steps, done)
            if source.asked is not None:
                clock.lap("answers")
            tokens = sum(len(sample.ids) for sample in samples)
            stored = texts.require_room(tokens, pair.target, dtype)
            label = f"prefill of {len(samples)} texts, {stored / 2**20:,.0f} MiB on disk"
            done = task(label, len(samples))
            texts.fill(samples, runner.prefill([sample.ids for sample in samples], dtype), done)
        clock.lap("prefill")
        model = HeadModel.load(pair.head_folder, embedding, dtype, device, lm_head)
        own = own_selection(pair.head, pair.target)
        scorer = Scorer(model, lm_head)
        measurement = measure(scorer, texts, pair.target, own=own, steps=options.steps, task=task)
        clock.lap("search")

    figures = report.figures(measurement, pair.target, own_answers=source.kind == prompts.OWN)
    figures |= {
        "head": pair.head_name,
        "target": pair.target_name,
        "version": __version__,
        "device": device,
        "load_format": options.load_format,
        "texts": source.kind,
        "prompts": len(samples),
        "left_out": source.left_out(samples),
        "tokens": tokens,
        "answer_tokens": sum(sample.answer_tokens for sample in samples),
        "seconds": clock.laps,
        "peak_mib": peak_mib(device),
    }
    written = None
    # A measurement of weights that are not there is none.
    if figures["aux_layers"] is not None and options.keep and not dummy:
        written = write(pair, figures, options.out)
    figures["written"] = None if written is None else str(written)
    if options.plot is not None:
        title = f"{pair.head_name} on {pair.target_name}"
        report.save_plot(measurement, pair.target, title, options.plot)
    return figures


def source_of(options: CalibrationOptions, target: Target, folder: Path) -> prompts.TextSource:
    """What the options ask for. folder: the target's.

    Raises:
        UserError: the prompts or the target's tokenizer do not allow it, or texts are too short.
    """
    most, length = options.max_prompts, options.max_length
    regenerate = options.regenerate
    if options.load_format == DUMMY:
        if regenerate:
            raise UserError("--regenerate needs the target's weights: leave --load-format out")
        texts = prompts.random_tokens(target, most or prompts.RANDOM_PROMPTS, length)
        return _long_enough(prompts.TextSource(prompts.RANDOM, texts), options.steps)
    file = options.prompts
    if regenerate if regenerate is not None else file is None:
        chats = prompts.read(file) if file else prompts.built_in_questions()
        asked = prompts.questions(chats[:most], folder, target, length)
        if options.answer_tokens <= options.steps + 1:
            raise UserError(
                f"{options.steps} draft steps need --answer-tokens above {options.steps + 1}"
            )
        return prompts.TextSource(prompts.OWN, asked.ids, asked, options.answer_tokens)
    given = prompts.read(file) if file else prompts.built_in()
    # Prompts are counted, as where they are answered; a long one is cut into several texts.
    texts = prompts.tokenize(given[:most], folder, length)
    return _long_enough(prompts.TextSource(prompts.GIVEN, texts), options.steps)


def _long_enough(source: prompts.TextSource, steps: int) -> prompts.TextSource:
    if min(map(len, source.texts)) <= steps + 1:
        raise UserError(f"{steps} draft steps need prompts of more than {steps + 1} tokens")
    return source


def load_pair(options: CalibrationOptions) -> Pair:
    """The checkpoints on disk, checked as `launch` checks them.

    Raises:
        UserError: they are not there, or not a pair.
    """
    head, target = options.head, options.target
    head_folder = hub.resolve(head, options.head_revision, "head")
    config = hub.resolve(target, options.target_revision, "target", only_config=True)
    found, its_target = Head.from_path(head_folder), Target.from_path(config)
    check(found, its_target)
    given = flags.parse(options.sglang)
    rope.check(its_target.config, given.overrides())
    error = its_target.tp_error(options.tp)
    if error is not None:
        raise UserError(f"{error}: choose another --tp")
    whole = hub.resolve(target, options.target_revision, "target")
    load_format = given.value("--load-format") or options.load_format
    shards.check_loaded(head_files.Folder(whole), load_format)
    return Pair(options.target, options.head, whole, head_folder, its_target, found)


def own_selection(head: Head, target: Target) -> AuxSelection | None:
    """What the head's config names, if that can be served at all."""
    try:
        own = captured_layers.NamedLayers.of(head).selection(target)
        if own is not None:
            validate(own, target, head.aux_count, allow_gdn=True)
    except UserError:
        return None
    return own


def write(pair: Pair, figures: Mapping[str, Any], out: Path | None) -> Path:
    """Keep the measurement where `launch` finds it, or in `out`."""
    files = head_files.Folder(pair.head_folder)
    content = head_files.content_hash(files)
    assert content is not None
    size = sum(files.sizes[name] for name in shards.weight_files(files))
    # Not the first: of those that are not told apart a named one is chosen.
    chosen = next(row for row in figures["candidates"] if row["chosen"])
    record = AuxRecord(
        head=content,
        head_bytes=size,
        selection=figures["aux_layers"],
        date=datetime.now(UTC).date().isoformat(),
        measured={
            "head": pair.head_name,
            "target": pair.target_name,
            "prompts": figures["prompts"],
            "tokens": figures["tokens"],
            "texts": figures["texts"],
            "accept_length": chosen["accept_length"],
            "accept_length_of_displaced_states": figures["control"]["accept_length"],
            "version": __version__,
        },
    )
    path = out or aux_record.default_path(record)
    aux_record.save(record, path)
    return path


class Clock:
    """Wall time by piece of work, in seconds."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 1)
        self._last = now


def peak_mib(device: str) -> dict[str, int]:
    """Largest resident memory of this process and of an SGLang rank; of the GPU, this process's."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    found = {
        "scoring": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit,
        "prefill": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit,
    }
    if device != "cpu":
        import torch

        found["gpu_scoring"] = torch.cuda.max_memory_allocated() // 2**20
    return found


class Tasks(contextlib.ExitStack):
    """Pieces of work one after the other, each with a bar: `done = task(label, total)`."""

    def __call__(self, label: str, total: int) -> Callable[[], None]:
        self.close()
        return self.enter_context(Progress(label, total, unit="done", announced=True)).advance


def _load_flags(load_format: str | None, dummy: bool) -> list[str]:
    if load_format is None:
        return []
    return ["--load-format", load_format, *(DUMMY_FLAGS if dummy else ())]
