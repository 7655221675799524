"""Where the fast path is on without being asked for: a line for each kind of server that was proved
(docs/fast-path.md says how).

Importing this loads neither torch nor sglang.
"""

from collections.abc import Mapping
from typing import Final

from sglang_qwen3next_eagle3.overlay import sources
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET
from sglang_qwen3next_eagle3.overlay.proofs import Proof

SHAPES: Final[Mapping[str, int]] = {
    "hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
    "linear_num_value_heads": 32, "linear_num_key_heads": 16, "linear_key_head_dim": 128,
    "linear_value_head_dim": 128, "num_experts": 512, "num_experts_per_tok": 10,
    "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
}  # fmt: skip
"""Of the published targets, by the names of their config; however many layers."""
PROVED: Final = (
    Proof(
        "0.5.17",
        (9, 0),
        1,
        (*OF_TARGET, "head"),
        ("NVIDIA H200",),
        (
            "h200x2-auto/said.txt",
            "h200x2-auto/text-fast.json",
            "h200x2-auto/check-kernels.json",
            "h200x2-auto/sanitizer.txt",
        ),
        shapes=tuple(SHAPES.items()),
        code="ea90060b3172",
    ),
)
APART: Final = frozenset({
    "proved", "stages", "exclusions", "trials", "conditions",  # where it is on, and what is
    "selfcheck", "head_check", "made_up", "reference", "rehearsal",  # at start, beside stock's
    "cuda_modules", "prefill_products", "prefill_rehearsal",  # what compiles SGLang's kernels
    "updates",
})  # fmt: skip
"""The modules that a proof is not of: they compute nothing of what is served."""


def code() -> sources.Code:
    """What computes, as it is installed."""
    return sources.installed("fast", APART)
