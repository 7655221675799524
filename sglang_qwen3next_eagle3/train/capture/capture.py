"""`train capture`: the target's states for every token of the prepared data, for SpecForge to read.

What is on disk is never computed again: the same command goes on after a kill, and several
machines fill one folder, each with its `--shard`. Samples are put into batches before they are
dealt to shards, so that neither changes a bit of the result.
"""

import errno
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import sha256
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.base.provenance import DISTRIBUTION, version
from sglang_qwen3next_eagle3.base.redact import masked
from sglang_qwen3next_eagle3.base.secrets import mask_log
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model import aux_layers, hub, rope, shards
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving import flags
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture import folder as capture_folder
from sglang_qwen3next_eagle3.train.capture.encode import (
    TrainingSample,
    load_format,
    samples_of,
)
from sglang_qwen3next_eagle3.train.capture.features import FeaturesManifest

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.overlay.prefill import PrefillRunner
    from sglang_qwen3next_eagle3.train.capture.transformers_runner import TransformersRunner

SGLANG: Final = "sglang"
TRANSFORMERS: Final = "transformers"


@dataclass(frozen=True)
class CaptureOptions:
    """What to capture and how.

    data: train.jsonl of `train prepare`. target: folder, hub name or `demo`. out: for the features.
    aux_layers: three streams, `card` by default. max_length: tokens of a sample. max_samples: the
    first so many conversations. device, dtype: None for what is here, and for float32 on a CPU and
    the target's on a GPU. shard: the I-th of N parts, from 0. sglang: its flags, which win.
    """

    data: Path
    target: str
    out: Path
    aux_layers: str | None = None
    allow_gdn_aux: bool = False
    max_length: int = 2048
    max_samples: int | None = None
    backend: Literal["sglang", "transformers"] = SGLANG
    device: Literal["cpu", "cuda"] | None = None
    dtype: str | None = None
    tp: int = 1
    shard: tuple[int, int] = (0, 1)
    sglang: tuple[str, ...] = ()


def capture_features(options: CaptureOptions) -> FeaturesManifest:
    """Capture what is not there yet; the manifest as it then stands.

    Raises:
        UserError: options that do not fit, a target whose weights are not whole, a folder of
            something else, a full disk.
        KeyboardInterrupt: what is captured is kept.
    """
    try:
        return _capture(options)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        way_out = "make room" if error.errno == errno.ENOSPC else "mend that"
        raise UserError(
            f"{where}{error.strerror or error}: {way_out} and run the same command again; "
            "what is captured is kept"
        ) from None


def _capture(options: CaptureOptions) -> FeaturesManifest:
    folder = hub.resolve(options.target, what="target")
    target = Target.from_path(folder)
    selection = _selection(options, target)
    options = replace(options, device=_device(options, target))
    given = flags.parse(options.sglang)
    if options.backend == SGLANG:
        rope.check(target.config, given.overrides())
    shards.check_loaded(Folder(folder), given.value("--load-format"))
    samples = _encode(options, folder)
    lengths = [len(ids) for _, ids, _ in samples]
    manifest = _manifest(options, folder, target, selection, lengths)
    out = options.out
    capture_folder.check_request(out, manifest)
    missing = capture_folder.missing(out, lengths, target.hidden_size)
    capture_folder.check_room(out, [lengths[index] for index in missing], manifest)
    with capture_folder.scratch_of(out, options.shard) as scratch:
        capture_folder.begin(out, manifest)
        try:
            if missing:
                _fill(options, folder, selection, samples, missing, scratch)
        finally:
            manifest = capture_folder.update(out, lengths)
            if not manifest.samples_done:
                capture_folder.abandon(out, scratch)
    return manifest


def _selection(options: CaptureOptions, target: Target) -> AuxSelection:
    spelled = aux_layers.CARD if options.aux_layers is None else options.aux_layers
    allow_gdn = options.allow_gdn_aux
    selection = aux_layers.on_target(spelled, target, count=None, allow_gdn=allow_gdn)
    count = len(selection.taps)
    if count != features.STATES:
        raise UserError(
            f"auxiliary layers {selection}: {count} named, but SpecForge trains on "
            f"{features.STATES} throughout: name {features.STATES}"
        )
    return selection


def _device(options: CaptureOptions, target: Target) -> Literal["cpu", "cuda"]:
    """Where to compute, after all that can be checked before."""
    if not 2 <= options.max_length <= target.context_length:
        raise UserError(
            f"--max-length {options.max_length}: from 2 to the target's {target.context_length}"
        )
    if options.max_samples is not None and options.max_samples < 1:
        raise UserError(f"--max-samples {options.max_samples}: at least 1 is needed")
    if options.tp < 1 or (error := target.tp_error(options.tp)):
        raise UserError(f"--tp {options.tp}: {error if options.tp > 0 else 'at least 1'}")
    if options.backend == TRANSFORMERS and (options.tp > 1 or options.sglang):
        raise UserError("--tp and flags after -- are for SGLang: --backend sglang takes them")
    import torch

    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise UserError("--device cuda: no CUDA GPU here; --device cpu does for small models")
    return options.device or ("cuda" if available else "cpu")


_REASONS: Final = {
    "no_answer": "no answer in so many tokens",
    "special_token": "a special token of the target in the text",
}
# Ids and mask of every sample stay in memory: 5 bytes a token.
_Compact = tuple[str, "array[int]", bytes]


def _encode(options: CaptureOptions, folder: Path) -> list[_Compact]:
    chat = load_format(folder)
    kept: list[_Compact] = []
    left_out = Counter[str]()
    with Progress("encoding", options.max_samples) as progress:
        for sample in samples_of(
            options.data, chat, options.max_length, left_out, progress.advance
        ):
            kept.append((sample.id, array("i", sample.ids), bytes(sample.loss_mask)))
            if len(kept) == options.max_samples:
                break
    if not kept:
        raise UserError(
            f"{options.data}: no conversation has an assistant's token among its first "
            f"{options.max_length}{_without(left_out)}: raise --max-length, or prepare other data"
        )
    print(
        f"{len(kept)} samples, {sum(len(k[1]) for k in kept)} tokens{_without(left_out)}",
        file=sys.stderr,
    )
    return kept


def _without(left_out: Counter[str]) -> str:
    """What was left out, and why, for people."""
    return "".join(f"; {count} left out: {_REASONS[why]}" for why, count in left_out.items())


def _manifest(
    options: CaptureOptions,
    folder: Path,
    target: Target,
    selection: AuxSelection,
    lengths: Sequence[int],
) -> FeaturesManifest:
    library = options.backend
    assert options.device is not None
    return FeaturesManifest(
        selection=str(selection),
        selection_name=selection.name,
        depths=selection.depths,
        target=options.target,
        config_sha256=features.config_sha256(target.config),
        weights_sha256=features.weights_sha256(folder),
        hidden_size=target.hidden_size,
        data_sha256=sha256(options.data),
        max_length=options.max_length,
        max_samples=options.max_samples,
        backend=library,
        device=options.device,
        compute_dtype=options.dtype or "auto",
        tp=options.tp,
        flags=tuple(masked(options.sglang)),
        versions={DISTRIBUTION: __version__, library: _version(library)},
        samples=len(lengths),
        tokens=sum(lengths),
    )


def _version(library: str) -> str:
    found = version(library)
    if found is None:
        raise UserError(f"{library} is not installed: pip install 'sglang-qwen3next-eagle3[serve]'")
    return found


def _fill(
    options: CaptureOptions,
    folder: Path,
    selection: AuxSelection,
    samples: Sequence[_Compact],
    missing: set[int],
    scratch: Path,
) -> None:
    index, count = options.shard
    lengths = [len(ids) for _, ids, _ in samples]
    log = scratch / capture_folder.LOG
    where = f", its log is {log}" if options.backend == SGLANG else ""
    print(f"loading {options.target} with {options.backend}{where}", file=sys.stderr)
    with _masked(log), _backend(options, folder, selection, log) as backend:
        mine = backend.plan(lengths)[index::count]
        todo = [batch for batch in mine if not missing.isdisjoint(batch)]
        total = sum(lengths[i] for batch in mine for i in batch)
        left = sum(lengths[i] for batch in todo for i in batch)
        states = backend.prefill_batches([samples[i][1] for i in batch] for batch in todo)
        with Progress("capturing", total, done=total - left, unit="tokens") as progress:
            for batch, captured in zip(todo, states, strict=True):
                for i, one in zip(batch, captured, strict=True):
                    if i in missing:
                        id, ids, mask = samples[i]
                        capture_folder.write_sample(
                            features.sample_path(options.out, i),
                            TrainingSample(id, ids.tolist(), list(mask)),
                            one.streams,
                            one.last_hidden,
                            scratch,
                        )
                progress.advance(sum(lengths[i] for i in batch))
    log.unlink(missing_ok=True)


@contextmanager
def _masked(log: Path) -> Iterator[None]:
    """SGLang prints its arguments; of a capture that failed the log is kept."""
    try:
        yield
    finally:
        mask_log(log)


def _backend(
    options: CaptureOptions, folder: Path, selection: AuxSelection, log: Path
) -> "PrefillRunner | TransformersRunner":
    if options.backend == TRANSFORMERS:
        from sglang_qwen3next_eagle3.train.capture.transformers_runner import TransformersRunner

        return TransformersRunner(
            folder, selection, device=options.device or "cpu", dtype=options.dtype
        )
    from sglang_qwen3next_eagle3.overlay.prefill import PrefillRunner

    return PrefillRunner(
        folder,
        selection,
        device=options.device or "cuda",
        dtype=options.dtype,
        tp=options.tp,
        max_length=options.max_length,
        extra=options.sglang,
        log=log,
    )
