"""`train export`: a checkpoint of `train run` to a head that SGLang serves, checked.

SpecForge's own export writes the tensors; what it leaves out is added here: the auxiliary layers
in the form that SGLang reads, the target's context, and where the head comes from.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import contract
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train import provenance
from sglang_qwen3next_eagle3.train.trainer import runlog, specforge
from sglang_qwen3next_eagle3.train.trainer import supervise as runs

WEIGHTS, HEAD_CONFIG = "model.safetensors", "config.json"
# Of what transformers writes beside our own keys; the rest are defaults of other model classes.
_KEPT = ("transformers_version", "initializer_range", "use_cache", "rope_parameters")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="DIR", help="the folder of `train run`")
    add("--out", type=Path, required=True, metavar="DIR", help="a new folder for the head")
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="default: the newest; RUN/checkpoints/head-best did best on the held-out features",
    )
    add("--target", help="folder, hub name or `demo`; default: the run's")
    add("--json", action="store_true", help="print JSON for a script")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError: no run, no checkpoint, or a head that would not serve."""
    specforge.require()
    record = runs.read_record(arguments.run)
    checkpoint = arguments.checkpoint or runs.latest_checkpoint(arguments.run.absolute())
    if checkpoint is None or not (checkpoint / runs.STATE).is_file():
        raise UserError(f"{checkpoint or arguments.run} has no checkpoint: `train run` writes one")
    checkpoint = checkpoint.resolve()  # head-best is a link
    out: Path = arguments.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose another with --out")
    name = arguments.target or record["config"]["model"]["target_model_path"]
    target = Target.from_path(specforge.target_folder(name))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
            head = Path(scratch) / "head"
            _export(arguments.run.absolute(), checkpoint, record, target, head)
            # Onto an empty folder too.
            head.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): make room there") from None
    summary = {
        "head": str(out),
        "bytes": (out / WEIGHTS).stat().st_size,
        "aux_layers": record["aux_layers"],
        "checkpoint": checkpoint.name,
        "finished": bool(record.get("finished")),
    }
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        unfinished = "" if summary["finished"] else " of a run that is not finished"
        print(
            f"{out}: {(out / WEIGHTS).stat().st_size / 2**20:.1f} MiB, auxiliary layers "
            f"{record['aux_layers']}, from {checkpoint.name}{unfinished}; next: launch --head {out}"
        )
    return 0


def _export(
    folder: Path, checkpoint: Path, record: Mapping[str, Any], target: Target, out: Path
) -> None:
    _specforge_export(folder, checkpoint, out)
    written = json.loads((out / HEAD_CONFIG).read_text(encoding="utf-8"))
    config = {key: written[key] for key in _KEPT if key in written} | record["draft"]
    _write_json(out / HEAD_CONFIG, config)
    head = Head.from_path(out)
    if any("embed_tokens" in name for name in head.tensors):
        raise UserError(f"{checkpoint}: the export carries an embedding, the target's is shared")
    contract.check(head, target)
    progress = _progress(checkpoint)
    progress["metrics"] = runlog.last_metrics(folder / runs.LOG, progress.get("step", 0))
    _write_json(out / provenance.FILE, provenance.describe(record, progress))
    for path in out.iterdir():
        if path.name not in (HEAD_CONFIG, WEIGHTS, provenance.FILE):
            path.unlink()
        else:
            path.chmod(0o644)  # transformers writes weights for their owner alone


def _specforge_export(folder: Path, checkpoint: Path, out: Path) -> None:
    # On the CPU whatever trained it: its Triton kernel is not needed for this.
    command = [sys.executable, "-m", runs.CPU_TRAINER, "export", "--to", "sglang"]
    command += ["--checkpoint", str(checkpoint), "--draft-config", str(folder / runs.DRAFT)]
    command += ["--output-dir", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ}, check=False
    )
    if done.returncode or not (out / WEIGHTS).is_file():
        why = runlog.reason([*done.stdout.splitlines(), *done.stderr.splitlines()])
        raise UserError(
            f"SpecForge could not export {checkpoint}: {why}; choose another with --checkpoint"
        )


def _progress(checkpoint: Path) -> dict[str, Any]:
    import torch

    state = torch.load(checkpoint / runs.STATE, map_location="cpu", weights_only=False, mmap=True)
    return {"name": checkpoint.name, "step": state["global_step"], "epoch": state["epoch"]}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
