"""The target's embedding and lm_head: what a head shares of it, and what its drafts are of."""

from pathlib import Path
from typing import TYPE_CHECKING

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import Target

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"


def vocabulary_rows(folder: Path, target: Target) -> "tuple[Tensor, Tensor]":
    """The target's embedding and lm_head, [vocab, hidden] each, as stored; the same one twice where
    the target ties them.

    Raises:
        UserError: the checkpoint has none, or is damaged.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in {EMBEDDING, LM_HEAD} & set(opened.keys()):
                    found[name] = opened.get_tensor(name)
        except SafetensorError as error:
            raise UserError(f"{file} cannot be read ({error}): download it again") from None
    if target.config.get("tie_word_embeddings") and EMBEDDING in found:
        found.setdefault(LM_HEAD, found[EMBEDDING])
    for name in (EMBEDDING, LM_HEAD):
        if name not in found:
            raise UserError(
                f"the target {folder} has no {name}: give a whole checkpoint, or pass "
                "--load-format dummy to try the command without weights"
            )
    return found[EMBEDDING], found[LM_HEAD]
