"""`train capture`: the target's states for every token of the prepared data, for SpecForge to read.

What is on disk is never computed again: the same command goes on after a kill, and several
machines fill one folder, each with its `--shard`. Samples are put into batches before they are
dealt to shards, so that neither changes a bit of the result.
"""

import argparse
import errno
import json
import sys
import time
from array import array
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture import folder as capture_folder
from sglang_qwen3next_eagle3.train.capture.encode import (
    Sample,
    encode,
    load_format,
    read_conversations,
)
from sglang_qwen3next_eagle3.train.capture.features import Manifest
from sglang_qwen3next_eagle3.train.data.workspace import sha256
from sglang_qwen3next_eagle3.train.trainer.specforge import target_folder

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.overlay.prefill.runner import PrefillRunner
    from sglang_qwen3next_eagle3.train.transformers_backend import TransformersRunner

SGLANG, TRANSFORMERS = "sglang", "transformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to capture")
    what.add_argument("--data", type=Path, required=True, help="train.jsonl of `train prepare`")
    what.add_argument("--target", required=True, help="folder, hub name or `demo`")
    what.add_argument("--out", type=Path, required=True, help="folder for the features")
    what.add_argument(
        "--aux-layers",
        metavar="SELECTION",
        help="three streams: card (default), fork, sglang, output:3,23,47, input:3,output:23,47",
    )
    what.add_argument("--allow-gdn-aux", action="store_true", help="let them name GDN layers")
    what.add_argument("--max-length", type=int, default=2048, help="tokens (default: %(default)s)")
    what.add_argument("--max-samples", type=int, metavar="N", help="the first N conversations only")
    how = parser.add_argument_group("how to capture")
    how.add_argument("--backend", choices=(SGLANG, TRANSFORMERS), default=SGLANG)
    how.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    how.add_argument("--dtype", help="to compute in (default: float32 on cpu, else the target's)")
    how.add_argument("--tp", type=int, default=1, help="tensor-parallel ranks (GPUs)")
    how.add_argument(
        "--shard", type=_shard, default=(0, 1), metavar="I/N", help="the I-th of N parts, from 0"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for a script")
    parser.add_argument("sglang", nargs="*", metavar="-- FLAGS", help="flags for SGLang; they win")


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r}: 0/4, 1/4, 2/4 or 3/4, for example")
    return int(index), int(count)


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0, or 130 after Ctrl-C. Raises UserError."""
    started = time.monotonic()
    try:
        manifest = capture(arguments)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        way_out = "make room" if error.errno == errno.ENOSPC else "mend that"
        raise UserError(
            f"{where}{error.strerror or error}: {way_out} and run the same command again; "
            "what is captured is kept"
        ) from None
    if arguments.json:
        report = {**manifest.as_json(), "folder": str(arguments.out)}
        print(json.dumps({**report, "seconds": round(time.monotonic() - started, 1)}, indent=2))
    else:
        state = "complete" if manifest.complete else "other shards are still to be captured"
        print(
            f"{arguments.out}: {manifest.samples_done} of {manifest.samples} samples, "
            f"{manifest.tokens_done} tokens, auxiliary layers {manifest.spelled()}: {state}"
        )
    return 0


def capture(arguments: argparse.Namespace) -> Manifest:
    """Capture what is not there yet; the manifest as it then stands."""
    folder = target_folder(arguments.target)
    target = Target.from_path(folder)
    selection = _selection(arguments, target)
    _check(arguments, target)
    samples = _encode(arguments, folder)
    lengths = [len(ids) for _, ids, _ in samples]
    manifest = _manifest(arguments, folder, target, selection, lengths)
    out: Path = arguments.out
    capture_folder.check_request(out, manifest)
    missing = capture_folder.missing(out, lengths, target.hidden_size)
    capture_folder.check_room(out, [lengths[index] for index in missing], manifest)
    with capture_folder.scratch_of(out, arguments.shard) as scratch:
        capture_folder.begin(out, manifest, scratch)
        try:
            if missing:
                _fill(arguments, folder, selection, samples, missing, scratch)
        finally:
            manifest = capture_folder.update(out, lengths, scratch)
            if not manifest.samples_done:
                capture_folder.abandon(out, scratch)
    return manifest


def _selection(arguments: argparse.Namespace, target: Target) -> AuxSelection:
    resolved = aux_layers.resolve(
        target, wanted=arguments.aux_layers, count=None, allow_gdn=arguments.allow_gdn_aux
    )
    count = len(resolved.selection.taps)
    if count != features.STATES:
        raise UserError(
            f"auxiliary layers {resolved.selection}: {count} named, but SpecForge trains on "
            f"{features.STATES} throughout: name {features.STATES}"
        )
    return resolved.selection


def _check(arguments: argparse.Namespace, target: Target) -> None:
    if not 2 <= arguments.max_length <= target.context_length:
        raise UserError(
            f"--max-length {arguments.max_length}: from 2 to the target's {target.context_length}"
        )
    if arguments.max_samples is not None and arguments.max_samples < 1:
        raise UserError(f"--max-samples {arguments.max_samples}: at least 1 is needed")
    if arguments.tp < 1 or (error := target.tp_error(arguments.tp)):
        raise UserError(f"--tp {arguments.tp}: {error if arguments.tp > 0 else 'at least 1'}")
    if arguments.backend == TRANSFORMERS and (arguments.tp > 1 or arguments.sglang):
        raise UserError("--tp and flags after -- are for SGLang: --backend sglang takes them")
    import torch

    available = torch.cuda.is_available()
    if arguments.device is None:
        arguments.device = "cuda" if available else "cpu"
    if arguments.device == "cuda" and not available:
        raise UserError("--device cuda: no CUDA GPU here; --device cpu does for small models")


# Ids and mask of every sample stay in memory: 5 bytes a token.
_Compact = tuple[str, "array[int]", bytes]


def _encode(arguments: argparse.Namespace, folder: Path) -> list[_Compact]:
    chat = load_format(folder)
    kept: list[_Compact] = []
    left_out = 0
    with Progress("encoding", arguments.max_samples) as progress:
        for conversation in read_conversations(arguments.data):
            sample = encode(chat, conversation.messages, arguments.max_length, conversation.id)
            progress.advance()
            if sample is None:
                left_out += 1
                continue
            kept.append((sample.id, array("i", sample.ids), bytes(sample.loss_mask)))
            if len(kept) == arguments.max_samples:
                break
    if not kept:
        raise UserError(
            f"{arguments.data}: no conversation has an assistant's token among its first "
            f"{arguments.max_length}: raise --max-length, or prepare other data"
        )
    why = f"; {left_out} left out, no answer in {arguments.max_length} tokens" if left_out else ""
    print(f"{len(kept)} samples, {sum(len(k[1]) for k in kept)} tokens{why}", file=sys.stderr)
    return kept


def _manifest(
    arguments: argparse.Namespace,
    folder: Path,
    target: Target,
    selection: AuxSelection,
    lengths: Sequence[int],
) -> Manifest:
    library = arguments.backend
    return Manifest(
        selection=str(selection),
        selection_name=selection.name,
        depths=selection.depths,
        target=arguments.target,
        config_sha256=features.config_sha256(target.config),
        weights_sha256=features.weights_sha256(folder),
        hidden_size=target.hidden_size,
        data_sha256=sha256(arguments.data),
        max_length=arguments.max_length,
        max_samples=arguments.max_samples,
        backend=library,
        device=arguments.device,
        compute_dtype=arguments.dtype or "auto",
        tp=arguments.tp,
        flags=tuple(arguments.sglang),
        versions={"sglang-qwen3next-eagle3": __version__, library: _version(library)},
        samples=len(lengths),
        tokens=sum(lengths),
    )


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"{library} is not installed: pip install 'sglang-qwen3next-eagle3[serve]'"
        ) from None


def _fill(
    arguments: argparse.Namespace,
    folder: Path,
    selection: AuxSelection,
    samples: Sequence[_Compact],
    missing: set[int],
    scratch: Path,
) -> None:
    index, count = arguments.shard
    lengths = [len(ids) for _, ids, _ in samples]
    log = scratch / capture_folder.LOG
    where = f", its log is {log}" if arguments.backend == SGLANG else ""
    print(f"loading {arguments.target} with {arguments.backend}{where}", file=sys.stderr)
    with _backend(arguments, folder, selection, log) as backend:
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
                            features.sample_path(arguments.out, i),
                            Sample(id, ids.tolist(), list(mask)),
                            one.streams,
                            one.last_hidden,
                            scratch,
                        )
                progress.advance(sum(lengths[i] for i in batch))
    log.unlink(missing_ok=True)


def _backend(
    arguments: argparse.Namespace, folder: Path, selection: AuxSelection, log: Path
) -> "PrefillRunner | TransformersRunner":
    options: dict[str, Any] = {"device": arguments.device, "dtype": arguments.dtype}
    if arguments.backend == TRANSFORMERS:
        from sglang_qwen3next_eagle3.train.transformers_backend import TransformersRunner

        return TransformersRunner(folder, selection, **options)
    from sglang_qwen3next_eagle3.overlay.prefill.runner import PrefillRunner

    options |= {"tp": arguments.tp, "max_length": arguments.max_length}
    return PrefillRunner(folder, selection, **options, extra=arguments.sglang, log=log)
