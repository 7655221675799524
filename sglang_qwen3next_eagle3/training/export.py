"""`train export`: a checkpoint of `train run` to a head that SGLang serves, checked.

SpecForge's own export writes the tensors; what it leaves out is added here: the auxiliary layers
in the form that SGLang reads, the target's context, and where the head comes from.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.errors import UserError
from sglang_qwen3next_eagle3.head import Head
from sglang_qwen3next_eagle3.target import Target
from sglang_qwen3next_eagle3.training import specforge
from sglang_qwen3next_eagle3.training import supervise as runs

PROVENANCE = "provenance.json"
WEIGHTS = "model.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--run", type=Path, required=True, metavar="DIR", help="the folder of `train run`")
    add("--out", type=Path, required=True, metavar="DIR", help="a new folder for the head")
    add("--checkpoint", type=Path, metavar="DIR", help="default: the newest of the run")
    add("--target", help="folder, hub name or `demo`; default: the run's")
    add("--json", action="store_true", help="print JSON for a script")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError: no run, no checkpoint, or a head that would not serve."""
    specforge.require()
    record = _read_record(arguments.run)
    checkpoint = arguments.checkpoint or runs.latest_checkpoint(arguments.run.absolute())
    if checkpoint is None or not (checkpoint / "training_state.pt").is_file():
        raise UserError(f"{checkpoint or arguments.run} has no checkpoint: `train run` writes one")
    if arguments.out.exists() and any(arguments.out.iterdir()):
        raise UserError(f"{arguments.out} is not empty: choose another folder with --out")
    name = arguments.target or record["config"]["model"]["target_model_path"]
    target = Target.from_path(specforge.target_folder(name))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent, prefix=".export-") as scratch:
        head = _export(arguments.run.absolute(), checkpoint, record, target, Path(scratch) / "head")
        if arguments.out.exists():
            arguments.out.rmdir()
        head.path.replace(arguments.out)
    size = (arguments.out / WEIGHTS).stat().st_size
    summary = {
        "head": str(arguments.out),
        "bytes": size,
        "aux_layers": record["aux_layers"],
        "checkpoint": checkpoint.name,
    }
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        print(
            f"{arguments.out}: {size / 2**20:.1f} MiB, auxiliary layers {record['aux_layers']}, "
            f"from {checkpoint.name}"
        )
    return 0


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / runs.RUN
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no folder of `train run`: it has no {runs.RUN}") from None
    except ValueError:
        raise UserError(f"{path} is damaged: not JSON") from None
    return record


def _export(
    folder: Path, checkpoint: Path, record: Mapping[str, Any], target: Target, out: Path
) -> Head:
    _specforge_export(folder, checkpoint, out)
    written = json.loads((out / "config.json").read_text(encoding="utf-8"))
    config = {**_only_known(written), **record["draft"]}
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in ("generation_config.json",):
        (out / name).unlink(missing_ok=True)
    head = Head.from_path(out)
    if any("embed_tokens" in name for name in head.tensors):
        raise UserError(f"{checkpoint}: the export carries an embedding, the target's is shared")
    head.check(target)
    provenance = {key: value for key, value in record.items() if key != "draft"}
    provenance |= {"checkpoint": checkpoint.name, "training_state": _progress(checkpoint)}
    (out / PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return head


def _specforge_export(folder: Path, checkpoint: Path, out: Path) -> None:
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3.training.cpu_trainer", "export"]
    command += ["--to", "sglang", "--checkpoint", str(checkpoint)]
    command += ["--draft-config", str(folder / runs.DRAFT), "--output-dir", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ}, check=False
    )
    if done.returncode or not (out / WEIGHTS).is_file():
        shutil.rmtree(out, ignore_errors=True)
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UserError(f"SpecForge could not export {checkpoint}: {''.join(last)}")


# Of what transformers writes beside our own keys: the rest are defaults of other model classes.
_KEPT = ("transformers_version", "initializer_range", "use_cache", "rope_parameters")


def _only_known(written: Mapping[str, Any]) -> dict[str, Any]:
    return {key: written[key] for key in _KEPT if key in written}


def _progress(checkpoint: Path) -> dict[str, Any]:
    import torch

    state = torch.load(checkpoint / "training_state.pt", map_location="cpu", weights_only=False)
    wanted = ("global_step", "epoch", "run_id", "strategy")
    return {key: state[key] for key in wanted if key in state}
