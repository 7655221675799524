"""Keys and values of a head of one layer, of any number of tokens at once, without its attention.

What the layer leaves of a token is of this token, of where it stands and of the target's hidden
states alone: the first half of `LlamaForCausalLMEagle3`'s forward pass (SGLang 0.5.17,
models/llama_eagle3.py and models/llama.py). Here it is gone through with the head's own modules, so
that weights, ranks and their sums are as in every other pass. Nothing is captured and nothing
compiled: the tokens may be of as many requests and cycles as there is memory for.
"""

from typing import Any

import torch


class HeadCache:
    """The cache that a draft model's runner has."""

    def __init__(self, runner: Any) -> None:
        """runner: SGLang's `ModelRunner` of the head. Ask `hindrance` before."""
        self._model = runner.model.model
        self._attn = self._model.layers[0].self_attn
        self._pool = runner.token_to_kv_pool

    @torch.no_grad()
    def fill(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        hidden: torch.Tensor,
    ) -> None:
        """tokens, positions, places: [T] int64, a token, where it stands in its request, and where
        its keys and values go. hidden: [T, streams * D], the target's states of the token before,
        or [T, D] of the head's own. On the stream that the cache is read on."""
        model, layer, attn = self._model, self._model.layers[0], self._attn
        embeds = model.embed_tokens(tokens)
        if hidden.shape[-1] != embeds.shape[-1]:
            if model.input_norm is not None:
                hidden = model.input_norm(hidden)
            if model.fc_norm is not None:
                parts = hidden.chunk(model.num_aux_hidden_states, dim=-1)
                normed = [norm(part) for norm, part in zip(model.fc_norm, parts, strict=True)]
                hidden = torch.cat(normed, dim=-1)
            hidden = model.fc(hidden)
        both = torch.cat([layer.input_layernorm(embeds), layer.hidden_norm(hidden)], dim=-1)
        _, keys, values = attn.forward_prepare_native(positions, both)
        shape = -1, attn.num_kv_heads, attn.head_dim
        self._pool.set_kv_buffer(attn.attn, places, keys.view(shape), values.view(shape))


def hindrance(worker: Any) -> str | None:
    """With what a worker's head cannot be filled so, or None. worker: SGLang's `EAGLEWorkerV2`."""
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
    from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3

    runner = worker.draft_worker.draft_runner
    # MTP's config tells the target's layers, and its one was not looked at.
    if type(runner.model) is not LlamaForCausalLMEagle3:
        return "a head that is not EAGLE3's"
    model = runner.model.model
    if len(model.layers) != 1:
        return "more layers of the head than one"
    attn = model.layers[0].self_attn.attn
    reasons = {
        "a head that rotates by three positions": model.is_mrope_enabled,
        "a head whose attention slides a window": (attn.sliding_window_size or -1) > -1,
        "a scaled cache of the head": attn.k_scale is not None or attn.v_scale is not None,
        f"{type(runner.token_to_kv_pool).__name__}": (
            type(runner.token_to_kv_pool) is not MHATokenToKVPool
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
