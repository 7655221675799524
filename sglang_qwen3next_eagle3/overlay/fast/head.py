"""The draft head, SGLang's `LlamaForCausalLMEagle3`, by our kernels: draft steps and draft extends.

A draft step reads the token and state of every row and leaves the next ones. A draft extend reads
the tokens of a verify, n a request, and the target's streams behind them. All of its rows leave
keys and values; but of every request one row's logits and state are read, those of the last
accepted token, so nothing behind attention is computed for the others. Their places in what stock's
forward would return keep what was in them.

Stock's contract holds around both: `LogitsProcessorOutput`, and what `draft_forward` returns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from sglang_qwen3next_eagle3.overlay.fast import ranks
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported, full_precision
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.dispatch import ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    attention,
    head_linear,
    head_steps,
    lm_head,
    tree,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_codes import Codes, head_codes
from sglang_qwen3next_eagle3.overlay.fast.kernels.head_linear import Largest


@dataclass(frozen=True)
class HeadPass:
    """One forward pass of the head.

    batch: SGLang's `ForwardBatch`. backend: the attention backend that has its metadata.
    requests: rows whose logits are read. nodes: rows of a request; 1 in a draft step.
    accepted: [requests] int32, of a draft extend: row accepted - 1 of a request is read.
    alone: whether the results are of these rows alone, [requests, ...] (0.5.23), or have a place
    for every row.
    """

    batch: Any
    backend: Any
    requests: int
    nodes: int = 1
    accepted: torch.Tensor | None = None
    paths: torch.Tensor | None = None
    alone: bool = False

    @property
    def fills(self) -> bool:
        """Whether it is for its keys and values alone: behind a verify of one token nothing was
        drafted (0 steps), and nobody drafts of what it leaves, but for the first cycle of more
        steps, whose drafts may be wrong."""
        return self.accepted is not None and self.nodes == 1

    @property
    def places(self) -> torch.Tensor | None:
        """`accepted` where it says in which rows of the results those that are read lie."""
        return None if self.alone else self.accepted


class HeadKernels:
    """The kernels that the head needs, and the space that its attention works in."""

    enter = staticmethod(head_steps.head_enter)
    norm = staticmethod(head_steps.head_norm)
    choose = staticmethod(head_steps.head_choose)
    linear = staticmethod(head_linear.head_linear)
    gated = staticmethod(head_linear.head_gated)
    logits = staticmethod(head_linear.head_logits)
    largest = staticmethod(head_linear.head_largest)
    argmax = staticmethod(lm_head.argmax_rows)

    def __init__(
        self,
        attn: Any,
        context: int,
        device: torch.device | str,
        targets: attention.AttentionWorkspace | None = None,
    ) -> None:
        """attn: `LlamaAttention`. context: the longest of a request. targets: the space of the
        target's attention, which is not at work when the head's is."""
        self.workspace = attention.attention_workspace(
            MAX_ROWS, attn.num_heads, attn.head_dim, context, device, targets
        )

    def attention(self, at: HeadPass, attn: Any, qkv: torch.Tensor) -> torch.Tensor:
        """[requests, heads * D]: of a draft extend only the rows that are read."""
        keys, values = at.backend.token_to_kv_pool.get_kv_buffer(attn.attn.layer_id)
        metadata = at.backend.forward_metadata
        return attention.attention(
            qkv,
            None,
            None,
            0.0,
            at.batch.positions,
            attn.rotary_emb.cos_sin_cache,
            keys,
            values,
            at.batch.out_cache_loc,
            metadata.kv_indptr,
            metadata.kv_indices,
            at.paths,
            False,
            self.workspace,
            accepted=at.accepted,
        ).out


@dataclass(frozen=True)
class HeadWeights:
    """The weights of the head's products, bf16 as loaded or `Codes`. loaded: modules by name."""

    loaded: dict[str, Any]
    codes: dict[str, Codes]

    @classmethod
    def of(cls, model: Any, rounded: bool) -> "HeadWeights":
        layer = model.model.layers[0]
        loaded = {
            "fc": model.model.fc,
            "qkv": layer.self_attn.qkv_proj,
            "o": layer.self_attn.o_proj,
            "gate_up": layer.mlp.gate_up_proj,
            "down": layer.mlp.down_proj,
            "lm_head": model.lm_head,
        }
        codes = {}
        if rounded:
            codes = {name: head_codes(m.weight.data) for name, m in loaded.items()}
        return cls(loaded, codes)

    def bf16(self, name: str) -> torch.Tensor:
        weight: torch.Tensor = self.loaded[name].weight.data
        return weight

    def __getitem__(self, name: str) -> torch.Tensor | Codes:
        return self.codes[name] if self.codes else self.bf16(name)

    def renew(self) -> None:
        """Codes of what is loaded by now, where graphs read them."""
        for name, codes in self.codes.items():
            codes.renew(self.bf16(name))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile stock computes with the rounded weights, too."""
        kept = {name: self.bf16(name) for name in self.codes}
        try:
            for name, codes in self.codes.items():
                self.loaded[name].weight.data = codes.bf16()
            yield
        finally:
            for name, weight in kept.items():
                self.loaded[name].weight.data = weight

    @property
    def extra_bytes(self) -> int:
        """What the codes take beside the loaded weights."""
        return sum(part.nbytes for codes in self.codes.values() for part in codes)


class FastHead:
    """A loaded head with what our kernels need of it.

    Weights are read where SGLang holds them, as those of a `Projection` of the target. rounded: its
    products have weights of 8 bits, made here of the loaded ones (and made anew after an update of
    them, `updates`), which stay: stock's passes (prefills, many requests) go on with them, and so
    do products of more rows than ours.
    The head only proposes, so what it rounds changes how many drafts are accepted, and no text.

    Raises (on construction):
        Unsupported: the head has something that these kernels do not know.
    """

    def __init__(
        self, model: Any, kernels: HeadKernels, ranks: int = 1, rounded: bool = False
    ) -> None:
        check(model)
        self.model, self.kernels, self.ranks = model, kernels, ranks
        self.layer = model.model.layers[0]
        self.attn, self.mlp = self.layer.self_attn, self.layer.mlp
        self.eps = self.layer.input_layernorm.variance_epsilon
        self.vocabulary = int(model.logits_processor.vocab_size)
        self.weights = HeadWeights.of(model, rounded)
        self._order = torch.arange(MAX_ROWS, device=self.embedding.device)
        self._paths: dict[int, torch.Tensor] = {}

    @property
    def embedding(self) -> torch.Tensor:
        weight: torch.Tensor = self.model.model.embed_tokens.weight.data
        return weight

    @property
    def lm_head(self) -> torch.Tensor | Codes:
        """Without the rows that fill it up."""
        weight = self.weights["lm_head"]
        if isinstance(weight, Codes):
            return Codes(*(part[: self.vocabulary] for part in weight))
        return weight[: self.vocabulary]

    def pass_of(self, batch: Any) -> HeadPass | None:
        """The pass of a batch whose metadata the backend in charge has; None if it is stock's."""
        from sglang.srt.model_executor.forward_context import get_attn_backend

        rows, requests, spec = batch.input_ids.shape[0], batch.batch_size, batch.spec_info
        if batch.forward_mode.is_decode():
            return HeadPass(batch, get_attn_backend(), rows) if rows <= ROWS["head"] else None
        if not batch.forward_mode.is_draft_extend_v2():
            return None
        if requests > (MAX_ROWS if spec.num_tokens_per_req == 1 else ROWS["head"]):
            return None
        nodes, logits = spec.num_tokens_per_req, batch.next_token_logits_buffer
        if rows != requests * nodes or rows > MAX_ROWS or spec.num_accept_tokens is None:
            return None
        read = rows if spec.select_index is None else requests
        if logits is None or tuple(logits.shape) != (read, self.vocabulary):
            return None
        if spec.num_front_tokens:
            return None
        return self.extending(batch, get_attn_backend(), requests, nodes)

    def drafts_chain(self, worker: Any, batch: Any) -> bool:
        """Whether `chain` stands in for `draft_forward` of the batch."""
        if worker.topk != 1 or batch.batch_size > ROWS["head"]:
            return False
        return bool(batch.batch_size <= worker._topk1_parents_prealloc.shape[0])

    def extending(self, batch: Any, backend: Any, requests: int, nodes: int) -> HeadPass:
        if nodes not in self._paths:
            # In a warm-up pass, which comes before every capture.
            device = self.embedding.device
            self._paths[nodes] = tree.chain_paths(MAX_ROWS // nodes, nodes, device)
        paths = self._paths[nodes][: requests * nodes]
        spec = batch.spec_info
        alone = spec.select_index is not None
        return HeadPass(batch, backend, requests, nodes, spec.num_accept_tokens, paths, alone)

    @torch.no_grad()
    def forward(self, at: HeadPass) -> Any:
        """What stock's model returns for the batch: `LogitsProcessorOutput`."""
        from sglang.srt.layers.logits_processor import LogitsProcessorOutput

        batch = at.batch
        if at.fills:
            state = self.filled(at, batch.input_ids, batch.spec_info.hidden_states)
            buffer = batch.next_token_logits_buffer
            return LogitsProcessorOutput(next_token_logits=buffer, hidden_states=state)
        normed, state = self.states(at, batch.input_ids, batch.spec_info.hidden_states)
        logits = batch.next_token_logits_buffer
        if at.accepted is None:
            shape = at.requests, self.vocabulary
            logits = torch.empty(shape, dtype=torch.float32, device=normed.device)
        self._logits(at, normed, logits)
        return LogitsProcessorOutput(next_token_logits=logits, hidden_states=state)

    @torch.no_grad()
    def chain(self, worker: Any, batch: Any) -> tuple[torch.Tensor, ...]:
        """What `EagleDraftWorker.draft_forward` returns where every step drafts one token.

        The batch is left as stock leaves it: its positions are those of the last step.
        """
        from sglang.srt.speculative.eagle_utils import per_step_draft_out_cache_loc

        spec, steps, rows = batch.spec_info, worker.speculative_num_steps, batch.batch_size
        table = worker.hot_token_id
        places = per_step_draft_out_cache_loc(batch.out_cache_loc, rows, 1, steps).contiguous()
        tokens, state = spec.topk_index[:, 0], spec.hidden_states
        drafts = torch.empty(rows, steps, dtype=torch.int64, device=tokens.device)
        if table is None:
            drafts[:, 0].copy_(tokens)
            tokens = drafts[:, 0]
        for step in range(steps - 1):
            batch.out_cache_loc = places[step]
            at = HeadPass(batch, worker.draft_attn_backend.attn_backends[step], rows)
            known = step > 0 or table is None
            normed, state = self.states(
                at, tokens, state, None if known else table, None if known else drafts[:, 0]
            )
            tokens = drafts[:, step + 1]
            self._choose(normed, table, tokens, batch.positions)
        parents, scores = worker._topk1_parents_prealloc, worker._topk1_score_indices_prealloc
        return parents[:rows], scores[:rows], drafts, None  # type: ignore[return-value]

    def states(
        self,
        at: HeadPass,
        tokens: torch.Tensor,
        hidden: torch.Tensor,
        table: torch.Tensor | None = None,
        first: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(what lm_head multiplies [requests, D], what the next step reads), both bf16.

        hidden: [T, D] or the target's streams. The second is [T, D]: of a draft extend, only the
        rows that are read are written, or it has only these. table, first: as for `head_enter`.
        """
        kernels, layer, norm = self.kernels, self.layer, self.model.model.norm
        if hidden.shape[1] != self.embedding.shape[1]:
            hidden = self._linear(hidden, "fc")
        tokens, embedding = self._embedded(tokens, table, first)
        both = kernels.enter(
            tokens, embedding, layer.input_layernorm.weight.data, hidden,
            layer.hidden_norm.weight.data, self.eps, *self._mapping(table, first),
        )  # fmt: skip
        qkv = self._linear(both, "qkv")
        mixed = kernels.attention(at, self.attn, qkv)
        read = at.nodes if at.accepted is not None else 0
        write = at.nodes if at.places is not None else 0
        mixed = self._summed(kernels.linear(mixed, self.weights["o"]))
        stream, normed = kernels.norm(
            mixed, hidden, layer.post_attention_layernorm.weight.data, self.eps,
            at.accepted, read, 0,
        )  # fmt: skip
        gated = kernels.gated(normed, self.weights["gate_up"])
        down = self._summed(kernels.linear(gated, self.weights["down"]))
        state, normed = kernels.norm(
            down, stream, norm.weight.data, norm.variance_epsilon, at.accepted, 0, write
        )
        return normed, state

    def filled(self, at: HeadPass, tokens: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Keys and values of the rows into the cache, and no more. A state that nobody reads,
        [T, D]."""
        layer = self.layer
        if hidden.shape[1] != self.embedding.shape[1]:
            hidden = self._linear(hidden, "fc")
        tokens, embedding = self._embedded(tokens, None, None)
        both = self.kernels.enter(
            tokens, embedding, layer.input_layernorm.weight.data, hidden,
            layer.hidden_norm.weight.data, self.eps, None, None,
        )  # fmt: skip
        self.kernels.attention(at, self.attn, self._linear(both, "qkv"))
        return hidden

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """Ours up to the rows at which it is faster; beyond them stock's."""
        if len(x) <= ROWS["head"]:
            return self.kernels.linear(x, self.weights[name])
        return F.linear(x, self.weights.bf16(name))

    def _embedded(
        self, tokens: torch.Tensor, table: torch.Tensor | None, first: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of rows and the rows: with several ranks each has a part of the vocabulary, and
        stock's embedding adds them up."""
        if self.ranks == 1:
            return tokens, self.embedding
        if table is not None and first is not None:
            tokens = torch.index_select(table, 0, tokens)
            first.copy_(tokens)
        return self._order[: len(tokens)], self.model.model.embed_tokens(tokens)

    def _mapping(
        self, table: torch.Tensor | None, first: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return (table, first) if self.ranks == 1 else (None, None)

    def _summed(self, part: torch.Tensor) -> torch.Tensor:
        return part if self.ranks == 1 else ranks.summed(part)

    def _gathered(self, normed: torch.Tensor) -> torch.Tensor:
        """Logits of all ranks, [R, V] bf16, as stock gathers them."""
        local = self.kernels.linear(normed, self.weights["lm_head"])
        whole: torch.Tensor = self.model.logits_processor._logits_gatherer(local)
        return whole[:, : self.vocabulary]

    def _logits(self, at: HeadPass, normed: torch.Tensor, logits: torch.Tensor) -> None:
        if self.ranks == 1:
            self.kernels.logits(normed, self.lm_head, logits, at.places)
            return
        whole = self._gathered(normed)
        if at.places is None:
            logits.copy_(whole)
        else:
            rows = self._order[: at.requests] * at.nodes + at.places - 1
            logits.index_copy_(0, rows, whole.float())

    def _choose(
        self,
        normed: torch.Tensor,
        table: torch.Tensor | None,
        out: torch.Tensor,
        positions: torch.Tensor,
    ) -> None:
        if self.ranks == 1:
            largest = self.kernels.largest(normed, self.lm_head)
        else:
            place = self.kernels.argmax(self._gathered(normed).contiguous())[:, None]
            largest = Largest(torch.zeros_like(place, dtype=torch.float32), place.int())
        self.kernels.choose(largest, table, out, positions)


def check(model: Any) -> None:
    """Raises Unsupported, in words that fit behind "head stays with stock: "."""
    from sglang.srt.models.llama_eagle3 import LlamaForCausalLMEagle3

    if type(model) is not LlamaForCausalLMEagle3:
        raise Unsupported("head", f"it is for EAGLE3 heads, the draft is {type(model).__name__}")
    inner = model.model
    if len(inner.layers) != 1:
        raise Unsupported("head", f"the head has {len(inner.layers)} layers")
    if inner.input_norm is not None or inner.fc_norm is not None or inner.norm_output:
        raise Unsupported("head", "the head norms its input or its output")
    if inner.is_mrope_enabled:
        raise Unsupported("head", "the head rotates by three positions")
    layer, processor = inner.layers[0], model.logits_processor
    attn, mlp = layer.self_attn, layer.mlp
    linear = inner.fc, attn.qkv_proj, attn.o_proj, mlp.gate_up_proj, mlp.down_proj, model.lm_head
    for module in (*linear, inner.embed_tokens, layer.input_layernorm):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.dtype != torch.bfloat16:
            raise Unsupported("head", "a weight of the head is not bfloat16")
        if not weight.is_contiguous() or getattr(module, "bias", None) is not None:
            raise Unsupported("head", "a layer of the head has a bias")
        if weight.dim() == 2 and (weight.shape[1] % 8 or weight.shape[0] % 8):
            raise Unsupported("head", "a width of the head is no multiple of 8")
    if full_precision(processor):
        raise Unsupported("head", "its logits are not a product in bfloat16")
    if processor.logit_scale is not None or processor.final_logit_softcapping is not None:
        raise Unsupported("head", "it scales or caps its logits")
    _check_attention(attn)


def _check_attention(attn: Any) -> None:
    radix, rope = attn.attn, attn.rotary_emb
    if radix.logit_cap or attn.scaling != attn.head_dim**-0.5:
        raise Unsupported("head", "its attention scales or caps its scores")
    if radix.sliding_window_size is not None and radix.sliding_window_size > -1:
        raise Unsupported("head", "its attention slides a window")
    if radix.k_scale is not None or radix.v_scale is not None:
        raise Unsupported("head", "it scales its KV cache")
    if not rope.is_neox_style or type(rope).__name__ != "RotaryEmbedding":
        raise Unsupported("head", f"it rotates by {type(rope).__name__}")
    group = attn.num_heads // attn.num_kv_heads
    powers = [n & (n - 1) == 0 for n in (group, attn.head_dim)]
    if not all(powers) or group > attention.QUERIES or attn.head_dim < 16:
        each = f"{attn.head_dim} values and {group} queries to a key"
        raise Unsupported("head", f"its attention heads have {each}, which are no powers of two")
