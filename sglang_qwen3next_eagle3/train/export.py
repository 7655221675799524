"""`train export`: a checkpoint of `train run` to a head that SGLang serves, checked.

SpecForge's own export writes the tensors; what it leaves out is added here: the auxiliary layers
in the form that SGLang reads, the target's context, and where the head comes from.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base import files
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.provenance import DISTRIBUTION
from sglang_qwen3next_eagle3.base.redact import without_paths
from sglang_qwen3next_eagle3.head.check import check
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.trainer import runlog, specforge
from sglang_qwen3next_eagle3.train.trainer import supervise as runs

WEIGHTS, HEAD_CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
# Of what transformers writes beside our own keys; the rest are defaults of other model classes.
_KEPT = ("transformers_version", "initializer_range", "use_cache", "rope_parameters")


@dataclass(frozen=True)
class ExportedHead:
    """What was made. bytes: of the weights; finished: whether its run was."""

    head: str
    bytes: int
    aux_layers: str
    checkpoint: str
    finished: bool


def export(
    run: Path, out: Path, *, checkpoint: Path | None = None, target: str | None = None
) -> ExportedHead:
    """A checkpoint of the run folder `run` as a head in the new folder `out`, whole or not at all.

    checkpoint: by default the newest. target: folder, hub name or `demo`; by default the run's.

    Raises:
        UserError: no run, no checkpoint, or a head that would not serve.
    """
    specforge.require()
    record = runs.read_record(run)
    checkpoint = checkpoint or runs.latest_checkpoint(run.absolute())
    if checkpoint is None or not (checkpoint / runs.STATE).is_file():
        raise UserError(f"{checkpoint or run} has no checkpoint: `train run` writes one")
    checkpoint = checkpoint.resolve()  # head-best is a link
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is not an empty folder: choose another with --out")
    name = target or record["config"]["model"]["target_model_path"]
    checked = Target.from_path(hub.resolve(name, what="target", only_config=True))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
            head = Path(scratch) / "head"
            _export(run.absolute(), checkpoint, record, checked, head)
            # Onto an empty folder too.
            head.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): make room there") from None
    return ExportedHead(
        head=str(out),
        bytes=(out / WEIGHTS).stat().st_size,
        aux_layers=record["aux_layers"],
        checkpoint=checkpoint.name,
        finished=bool(record.get("finished")),
    )


def _export(
    folder: Path, checkpoint: Path, record: Mapping[str, Any], target: Target, out: Path
) -> None:
    _specforge_export(folder, checkpoint, out)
    written = json.loads((out / HEAD_CONFIG).read_text(encoding="utf-8"))
    config = {key: written[key] for key in _KEPT if key in written} | record["draft"]
    files.write_json(out / HEAD_CONFIG, config)
    head = Head.from_path(out)
    if any("embed_tokens" in name for name in head.tensors):
        raise UserError(f"{checkpoint}: the export carries an embedding, the target's is shared")
    check(head, target)
    progress = _progress(checkpoint)
    progress["metrics"] = runlog.last_metrics(folder / runs.LOG, progress.get("step", 0))
    files.write_json(out / PROVENANCE, provenance_of(record, progress))
    for path in out.iterdir():
        if path.name not in (HEAD_CONFIG, WEIGHTS, PROVENANCE):
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


def provenance_of(record: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `PROVENANCE` for a checkpoint of a run.

    record: of run.json; checkpoint: its name, step and metrics.
    """
    config = record["config"]
    found = {
        "made_with": {
            DISTRIBUTION: __version__,
            "commit": record.get("commit"),
            "versions": record["versions"],
        },
        "recipe": record.get("recipe"),
        "target": record.get("target"),
        "aux_layers": record["aux_layers"],
        "data": record.get("data"),
        "training": {
            **config["training"],
            "max_length": config["data"].get("max_length"),
            "torch_dtype": config["model"].get("torch_dtype"),
            "processes": config["deployment"]["trainer"]["nproc_per_node"],
            "hardware": record.get("hardware"),
            "started": record.get("started"),
            "finished": record.get("finished"),
            "seconds": record.get("seconds"),
        },
        "checkpoint": checkpoint,
    }
    cleaned: dict[str, Any] = without_paths(found)
    return cleaned
