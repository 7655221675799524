"""Where a head comes from, as it is written beside the weights: nothing of the machine's paths."""

from collections.abc import Mapping
from typing import Any

from sglang_qwen3next_eagle3 import __version__
from sglang_qwen3next_eagle3.base.redact import without_paths

FILE = "provenance.json"


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
