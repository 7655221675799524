"""The buffers of the fast path, sized by the passes that a server captures, and whether there is
memory for them.

They are allocated after SGLang has sized its pools, so out of what it keeps for graphs and
activations.
"""

from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels
from sglang_qwen3next_eagle3.overlay.fast.sizes import LEFT


def captured_rows(runner: Any, nodes: int, most: int) -> int:
    """Rows of the largest pass that a target's `ModelRunner` captures, at most `most`.

    nodes: tokens that it verifies of a request. Where the runner does not say what it captures, or
    the tokens change while it serves, `most`.
    """
    arguments = variants.arguments_of(runner)
    decode = getattr(getattr(arguments, "cuda_graph_config", None), "decode", None)
    batches, pool = getattr(decode, "bs", None), getattr(runner, "req_to_token_pool", None)
    if not batches or pool is None or getattr(arguments, "speculative_adaptive", False):
        return most
    # The check at start has two requests.
    requests: int = max(2, min(max(batches), pool.size))
    return min(most, requests * nodes)


def too_little(runner: Any, rows: int, nodes: int) -> str | None:
    """Why there is no memory for the buffers, or None."""
    if not torch.cuda.is_available():
        return None
    there = Kernels(runner.model.model, runner.attn_backend, rows, "meta", nodes)
    free, _ = torch.cuda.mem_get_info()
    if free >= there.nbytes + LEFT:
        return None
    return (
        f"its buffers take {there.nbytes / 1e6:,.0f} MB and {LEFT / 1e6:,.0f} MB have to stay "
        f"free, {free / 1e6:,.0f} MB are (a lower --mem-fraction-static leaves more)"
    )
