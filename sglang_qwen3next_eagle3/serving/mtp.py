"""The target's own MTP layer, which drafts under SGLang's algorithm NEXTN."""

from collections.abc import Sequence
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import files as head_files
from sglang_qwen3next_eagle3.serving.profile import last_value

PREFIX = "mtp."
"""Of its tensors' names (SGLang 0.5.17, models/qwen3_next.py, load_weights)."""


def check(target: Path, argv: Sequence[str]) -> None:
    """SGLang starts without the layer's weights, too, and then accepts next to nothing.

    A folder without weights, or one whose weights are not loaded, may be served with random ones.

    Raises:
        UserError: the target's safetensors files hold no such tensor, or one is damaged.
    """
    files = head_files.Folder(target)
    dummy = last_value(argv, "--load-format") == "dummy"
    if dummy or not any(name.endswith(".safetensors") for name in files.sizes):
        return
    if not any(name.startswith(PREFIX) for name in head_files.headers(files)):
        raise UserError(
            f"the target {target} has no MTP layer (no tensor {PREFIX}*): serve it with an EAGLE3 "
            "head, or with algorithm none (--no-speculation)"
        )
