"""Where a head comes from, as it is written beside the weights: nothing of the machine's paths."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.redact import without_paths

FILE = "provenance.json"
COMMIT_VARIABLE = "GIT_COMMIT"


def commit() -> str | None:
    """The commit of this package's repository, with `-dirty` behind it where files differ.

    The variable GIT_COMMIT says it where the repository cannot (a wheel, a copied folder), and
    wins. None if nobody knows.
    """
    if told := os.environ.get(COMMIT_VARIABLE):
        return told
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def describe(record: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The content of provenance.json for a checkpoint of a run.

    record: of run.json; checkpoint: its name, step and metrics.
    """
    config = record["config"]
    found = {
        "made_with": {
            "sglang-qwen3next-eagle3": __version__,
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
