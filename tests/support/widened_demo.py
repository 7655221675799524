"""The demo target as the fast path takes it: its routed experts as wide as the shared one.

SGLang computes a shared expert together with the routed ones only if all are of one width, and the
fast path knows no other. What is added is zero and contributes nothing: the function is the same.
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def widened_demo(source: Path, folder: Path) -> Path:
    """A copy of the checkpoint in `source` with wider experts; folder: is made."""
    folder.mkdir(parents=True)
    config = json.loads((source / "config.json").read_text())
    width = config["shared_expert_intermediate_size"]
    config["moe_intermediate_size"] = width
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for path in source.glob("*.json"):
        if path.name != "config.json":
            shutil.copy(path, folder)
    weights = load_file(source / "model.safetensors")
    for name, weight in weights.items():
        if ".experts." in name:
            wider = (weight.shape[0], width) if "down_proj" in name else (width, weight.shape[1])
            weights[name] = torch.zeros(wider, dtype=weight.dtype)
            weights[name][: weight.shape[0], : weight.shape[1]] = weight
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
