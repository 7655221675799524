"""Is a verify bit for bit the decode steps that it stands for? Whole passes of a loaded target.

Drafts are verified from made-up states and one path of them committed; then the same tokens are
decoded one by one from the same states. Logits of the path, states and KV cache are compared.
"""

from dataclasses import dataclass
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast.dispatch import FastPath
from sglang_qwen3next_eagle3.overlay.fast.layers import FastGdnLayer, SmallPass

ROOM = 512
"""Places in the KV cache that a request has."""


@dataclass(frozen=True)
class Drafts:
    """Trees of one shape: requests, and the parent of every node, -1 at the root."""

    requests: int
    parents: tuple[int, ...]

    @classmethod
    def chain(cls, requests: int, nodes: int) -> "Drafts":
        return cls(requests, tuple(range(-1, nodes - 1)))

    @classmethod
    def tree(cls, requests: int, nodes: int) -> "Drafts":
        return cls(requests, (-1, *((node - 1) // 2 for node in range(1, nodes))))

    @property
    def nodes(self) -> int:
        return len(self.parents)

    @property
    def links(self) -> tuple[list[int], list[int]] | None:
        """First child and next sibling of every node; None of a chain."""
        if self.parents == tuple(range(-1, self.nodes - 1)):
            return None
        child, sibling, last = [-1] * self.nodes, [-1] * self.nodes, dict[int, int]()
        for node in range(1, self.nodes):
            parent = self.parents[node]
            if parent in last:
                sibling[last[parent]] = node
            else:
                child[parent] = node
            last[parent] = node
        return child, sibling

    def route(self, node: int) -> list[int]:
        """The nodes from the root to this one."""
        parent = self.parents[node]
        return [node] if parent < 0 else [*self.route(parent), node]


class Passes:
    """Passes of a target by our kernels, with caches that are made up anew by `fresh`."""

    def __init__(self, runner: Any, path: FastPath) -> None:
        self.runner, self.path = runner, path
        self.backend, self.device = runner.attn_backend, runner.device
        self.pool = self.backend.linear_attn_backend.req_to_token_pool
        self.states = self.pool.mamba_pool.mamba_cache
        self.live = [self.states.conv[0], self.states.temporal]
        self.cache = [
            part
            for layer in path.layers.values()
            if not isinstance(layer, FastGdnLayer)
            for part in runner.token_to_kv_pool.get_kv_buffer(layer.layer.layer_id)
        ]

    def fresh(self, requests: int) -> None:
        generator = torch.Generator(self.device).manual_seed(5)
        for part in [*self.live, *self.cache]:
            drawn = torch.randn(part.shape, generator=generator, device=self.device)
            part.copy_(drawn.mul_(0.5))
        for request in range(requests):
            self.pool.req_to_token[request, :ROOM] = 1 + request * ROOM + torch.arange(ROOM)
            self.pool.req_index_to_mamba_index_mapping[request] = request + 1

    def places(self, request: int, first: int, count: int) -> torch.Tensor:
        table: torch.Tensor = self.pool.req_to_token
        return table[request, first : first + count].long()

    @torch.no_grad()
    def run(
        self, tokens: list[list[int]], lengths: list[int], drafts: Drafts | None = None
    ) -> tuple[torch.Tensor, SmallPass]:
        """Logits [B, n, V] of n tokens for each request behind its context, and the pass."""
        from sglang.srt.model_executor.forward_batch_info import (
            CaptureHiddenMode,
            ForwardBatch,
            ForwardMode,
        )
        from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
        from sglang.srt.speculative.eagle_info import EagleVerifyInput

        requests, nodes = len(tokens), len(tokens[0])
        depths = [len(drafts.route(n)) - 1 for n in range(nodes)] if drafts else [0]
        whole = lengths if drafts else [length + 1 for length in lengths]

        def longs(values: list[int]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int64, device=self.device)

        own = [self.places(r, length, nodes) for r, length in enumerate(lengths)]
        batch = ForwardBatch(
            forward_mode=ForwardMode.TARGET_VERIFY if drafts else ForwardMode.DECODE,
            batch_size=requests,
            input_ids=longs([token for row in tokens for token in row]),
            req_pool_indices=longs(list(range(requests))),
            seq_lens=longs(whole),
            seq_lens_cpu=torch.tensor(whole),
            orig_seq_lens=longs(whole),
            out_cache_loc=torch.cat(own),
            seq_lens_sum=sum(whole),
            positions=longs([length + depth for length in lengths for depth in depths]),
            return_logprob=False,
            spec_algorithm=self.runner.spec_algorithm,
            capture_hidden_mode=CaptureHiddenMode.NULL,
        )
        if drafts:
            ones = [torch.ones(nodes * (length + nodes), dtype=torch.bool) for length in lengths]
            batch.spec_info = EagleVerifyInput(
                draft_token=None, custom_mask=torch.cat(ones).to(self.device), positions=None,
                retrieve_index=None, retrieve_next_token=None, retrieve_next_sibling=None,
                retrieve_cum_len=None, spec_steps=nodes - 1, topk=1, draft_token_num=nodes,
                capture_hidden_mode=CaptureHiddenMode.NULL, seq_lens_sum=sum(lengths),
                seq_lens_cpu=torch.tensor(lengths),
            )  # fmt: skip
        with forward_context(ForwardContext(attn_backend=self.backend)):
            self.backend.init_forward_metadata(batch)
            metadata = self.backend.linear_attn_backend.forward_metadata
            if drafts and drafts.links:
                links = [
                    torch.tensor([part] * requests, dtype=torch.int32, device=self.device)
                    for part in drafts.links
                ]
                metadata.retrieve_next_token, metadata.retrieve_next_sibling = links
            model = self.runner.model
            hidden = model.model(batch.input_ids, batch.positions, batch)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            logits = self.path.kernels.lm_head(hidden, model.lm_head.weight.data)
        assert self.path.current is not None
        return logits.view(requests, nodes, -1).clone(), self.path.current


def asked(passes: Passes, drafts: Drafts, apart: int) -> tuple[list[list[int]], list[int]]:
    """Tokens of every node, and the contexts' lengths, of which each is `apart` more."""
    generator = torch.Generator().manual_seed(drafts.nodes)
    vocabulary = passes.runner.model_config.vocab_size * 98 // 100
    shape = drafts.requests, drafts.nodes
    tokens = torch.randint(0, vocabulary, shape, generator=generator).tolist()
    return tokens, [60 + apart * request for request in range(drafts.requests)]


def verified(passes: Passes, drafts: Drafts, apart: int = 17) -> tuple[torch.Tensor, SmallPass]:
    """Logits [B, n, V] of a verify from fresh caches, and its pass."""
    passes.fresh(drafts.requests)
    return passes.run(*asked(passes, drafts, apart), drafts)


def differs(passes: Passes, drafts: Drafts, apart: int = 17) -> list[str]:
    """What of a verify is not what decoding its last node's path gives; nothing if all is."""
    tokens, lengths = asked(passes, drafts, apart)
    requests, leaf = range(drafts.requests), drafts.nodes - 1
    route = drafts.route(leaf)
    logits, at = verified(passes, drafts, apart)
    last = torch.full((drafts.requests,), leaf, dtype=torch.int64, device=passes.device)
    slots = passes.pool.req_index_to_mamba_index_mapping[: drafts.requests].clone()
    passes.path.kernels.gdn_commit(at, passes.states, slots, last, None, None)
    states = [part[:, 1 : drafts.requests + 1].clone() for part in passes.live]
    path = torch.tensor(route, device=passes.device)
    stored = [
        torch.cat([part[passes.places(r, lengths[r], drafts.nodes)[path]] for r in requests])
        for part in passes.cache
    ]
    found = []
    passes.fresh(drafts.requests)
    for step, node in enumerate(route):
        behind = [length + step for length in lengths]
        decoded, _ = passes.run([[row[node]] for row in tokens], behind)
        if not torch.equal(decoded[:, 0], logits[:, node]):
            found.append(f"logits of node {node}")
    for name, part, kept in zip(("window", "state"), passes.live, states, strict=True):
        if not torch.equal(part[:, 1 : drafts.requests + 1], kept):
            found.append(name)
    for part, kept in zip(passes.cache, stored, strict=True):
        again = [part[passes.places(r, lengths[r], len(route))] for r in requests]
        if not torch.equal(torch.cat(again), kept):
            found.append("KV cache")
    passes.fresh(drafts.requests)
    for step, node in enumerate(route):
        alone, _ = passes.run([[tokens[0][node]]], [lengths[0] + step])
        if not torch.equal(alone[0, 0], logits[0, node]):
            found.append(f"logits of node {node} alone")
    return found
