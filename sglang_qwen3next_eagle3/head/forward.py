"""The head's own forward pass in torch: the network that SGLang runs, without SGLang.

At position t the head reads the embedding of token t + 1 and the target's auxiliary states of t,
and predicts token t + 2. Further drafts of the same chain read the token drafted before and, in
place of the target's states, what the head's last layer put out before its final norm.

`predict` runs all chains of a text at once, one for each root t, teacher-forced: every draft so far
is taken to have been right. At step k a chain's query stands at position t + k and sees

    the keys of step 0 at positions 0 .. t      (the target's states: shared by all chains)
    its own keys of steps 1 .. k                (its drafts: no other chain sees them)

which is EAGLE-3's training-time test (arXiv 2503.01840), and what SGLang's draft worker computes
for a chain. Network: SGLang 0.5.17, models/llama_eagle3.py; SpecForge 0.2.0 trains the same one
unless `norm_output` is set in the head's config, which the two read differently.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sglang_qwen3next_eagle3.base.accept_length import of_chain
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import files
from sglang_qwen3next_eagle3.head.head import Head

QUERY_BLOCK = 512
"""Queries whose attention scores are in memory at a time."""


class HeadModel:
    """An EAGLE3 head with its weights on one device.

    tensors: by the published names, with `embed_tokens.weight` (the target's, [vocab, hidden]).
    """

    def __init__(self, head: Head, tensors: Mapping[str, Tensor]) -> None:
        config = head.config
        self.head = head
        self.eps = float(config.get("rms_norm_eps", 1e-6))
        self.head_dim = head.head_dim
        self.layers = [f"layers.{i}" if i else "midlayer" for i in range(head.num_layers)]
        self.norm_output = bool(config.get("norm_output", False))
        self.tensors = dict(tensors)
        self._rotary = _rotary(head, self.tensors["fc.weight"].device)
        self._turned: dict[int, tuple[Tensor, Tensor]] = {}

        rows = len(self.tensors["lm_head.weight"])
        offsets = self.tensors.get("d2t", torch.zeros(rows, dtype=torch.int64))
        device = self.tensors["fc.weight"].device
        self.target_ids = (torch.arange(rows) + offsets.cpu()).to(device)
        """The target's token of each token of the draft vocabulary, [draft_vocab]."""

    @classmethod
    def load(
        cls,
        folder: Path,
        target_embedding: Tensor,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        target_lm_head: Tensor | None = None,
    ) -> "HeadModel":
        """Read a head's folder. `Head.check` tells beforehand whether it is whole.

        target_embedding: the target's `embed_tokens.weight`, [vocab, hidden], which SGLang shares
            with the head whatever the head's own file says.
        target_lm_head: the target's, [vocab, hidden]; for heads without a draft vocabulary only.

        Raises:
            UserError: not an EAGLE3 head, or one that needs what was not given.
        """
        head = Head.from_path(folder)
        tensors = files.tensors(folder, dtype, device)
        if head.target_hidden_size == head.hidden_size:
            tensors["embed_tokens.weight"] = target_embedding.to(device, dtype)
        if head.config.get("tie_word_embeddings"):
            tensors["lm_head.weight"] = tensors["embed_tokens.weight"]
        elif head.config.get("draft_vocab_size") is None and target_lm_head is not None:
            tensors["lm_head.weight"] = target_lm_head.to(device, dtype)
        for name in ("embed_tokens.weight", "lm_head.weight"):
            if name not in tensors:
                raise UserError(f"the head {folder} has no {name}, and no target lends it one")
        return cls(head, tensors)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensors["fc.weight"].dtype

    @property
    def device(self) -> torch.device:
        return self.tensors["fc.weight"].device

    @torch.no_grad()
    def project(self, aux: Tensor) -> Tensor:
        """fc over the auxiliary states, [T, count * target_hidden] to [T, hidden]."""
        aux = aux.to(self.device, self.dtype)
        if "input_norm.weight" in self.tensors:
            aux = self._norm(aux, "input_norm")
        if "fc_norm.0.weight" in self.tensors:
            slots = aux.chunk(self.head.aux_count, dim=-1)
            aux = torch.cat([self._norm(s, f"fc_norm.{i}") for i, s in enumerate(slots)], dim=-1)
        return F.linear(aux, self.tensors["fc.weight"], self.tensors.get("fc.bias"))

    def predict(self, aux: Tensor, ids: Tensor, steps: int) -> list[Tensor]:
        """Logits of every chain's drafts over one text, teacher-forced.

        Args:
            aux: the target's auxiliary states, [T, count * target_hidden].
            ids: the text's tokens, [T].
            steps: drafts in a chain.

        Returns:
            for each step k the logits over the draft vocabulary, [T - 1 - k, draft_vocab]; row t is
            the chain with root t and predicts token t + 2 + k.
        """
        return list(self.steps(self.project(aux), ids, steps))

    @torch.no_grad()
    def steps(self, projected: Tensor, ids: Tensor, steps: int) -> Iterator[Tensor]:
        """As `predict`, one step at a time, from `project`'s result, [T, hidden]."""
        if not 0 < steps < len(ids):
            raise ValueError(f"{steps} steps need a text of more than {steps} tokens")
        embedded = F.embedding(ids.to(self.device), self.tensors["embed_tokens.weight"])
        cos, sin = self._cos_sin(len(ids))
        caches: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self.layers]
        hidden = projected
        for k in range(steps):
            roots = len(ids) - 1 - k
            place = slice(k, k + roots)
            hidden = hidden[:roots]
            residual = hidden
            for layer, cache in zip(self.layers, caches, strict=True):
                normed = self._norm(residual, f"{layer}.hidden_norm")
                if layer == self.layers[0]:
                    tokens = self._norm(embedded[k + 1 :], f"{layer}.input_layernorm")
                    normed = torch.cat([tokens, normed], dim=-1)
                attended = self._attention(layer, normed, cos[place], sin[place], cache)
                residual = residual + attended
                normed = self._norm(residual, f"{layer}.post_attention_layernorm")
                residual = residual + self._mlp(layer, normed)
            normed = self._norm(residual, "norm")
            hidden = normed if self.norm_output else residual
            yield F.linear(normed, self.tensors["lm_head.weight"])

    def _attention(
        self,
        layer: str,
        normed: Tensor,
        cos: Tensor,
        sin: Tensor,
        cache: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Attention of one step, [roots, width] to [roots, hidden]; appends its keys, values."""
        project = {
            kind: self._linear(normed, f"{layer}.self_attn.{kind}_proj").view(
                len(normed), -1, self.head_dim
            )
            for kind in "qkv"
        }
        query, key = _rotate(project["q"], cos, sin), _rotate(project["k"], cos, sin)
        cache.append((key, project["v"]))
        blocks = [
            _attend(query[start : start + QUERY_BLOCK], cache, start)
            for start in range(0, len(query), QUERY_BLOCK)
        ]
        return self._linear(torch.cat(blocks), f"{layer}.self_attn.o_proj")

    def _mlp(self, layer: str, normed: Tensor) -> Tensor:
        gate = self._linear(normed, f"{layer}.mlp.gate_proj")
        up = self._linear(normed, f"{layer}.mlp.up_proj")
        return self._linear(F.silu(gate) * up, f"{layer}.mlp.down_proj")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return rms_norm(x, self.tensors[f"{name}.weight"], self.eps)

    def _cos_sin(self, length: int) -> tuple[Tensor, Tensor]:
        """[length, 1, rotary width] each, float32; of the last length that was asked for, since a
        text is gone through again and again."""
        if length not in self._turned:
            positions = torch.arange(length, device=self.device)[None]
            cos, sin = self._rotary(torch.empty(0, device=self.device), positions)
            self._turned = {length: (cos[0][:, None], sin[0][:, None])}
        return self._turned[length]


def greedy_of(last_hidden: Tensor, lm_head: Tensor, block: int = 512) -> Tensor:
    """The target's greedy next token at every position, [T].

    last_hidden: the target's last hidden states behind its final norm, [T, hidden].
    lm_head: [vocab, hidden]; the logits are made `block` positions at a time.
    """
    starts = range(0, len(last_hidden), block)
    parts = (last_hidden[start : start + block].to(lm_head) for start in starts)
    return torch.cat([(part @ lm_head.T).argmax(-1) for part in parts])


def conditional_accuracies(hits: Tensor) -> list[float]:
    """Accuracy at each step among the chains that were right until then; hits: [roots, steps].

    With these, `predicted_accept_length` is exactly one plus the mean run of hits.
    """
    alive = torch.ones(len(hits), dtype=torch.bool, device=hits.device)
    accuracies = []
    for k in range(hits.shape[1]):
        chains = int(alive.sum())
        alive = alive & hits[:, k]
        accuracies.append(int(alive.sum()) / chains if chains else 0.0)
    return accuracies


def predicted_accept_length(accuracies: Sequence[float]) -> float:
    """Tokens that a verification yields for a chain of len(accuracies) drafts: 1 + a0 + a0 a1 + ...

    accuracies: of each draft, given that those before it were right. What a server gives per cycle
    (base/accept_length.py) compares with it.
    """
    return of_chain(list(accumulate(accuracies, operator.mul)))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _attend(query: Tensor, cache: Sequence[tuple[Tensor, Tensor]], start: int) -> Tensor:
    """Attention of the chains with roots start .. start + n, [n, heads, dim] to [n, heads * dim].

    cache: keys and values by step, each [roots of that step, KV heads, dim].
    """
    n, heads, dim = query.shape
    own = slice(start, start + n)
    keys, values = cache[0][0][: own.stop], cache[0][1][: own.stop]
    grouped = query.float().view(n, keys.shape[1], -1, dim) * dim**-0.5
    shared = torch.einsum("ngqd,tgd->ngqt", grouped, keys.float())
    roots = torch.arange(start, own.stop, device=query.device)
    seen = torch.arange(own.stop, device=query.device)[None] <= roots[:, None]
    shared = shared.masked_fill(~seen[:, None, None], float("-inf"))
    drafts = [torch.einsum("ngqd,ngd->ngq", grouped, key[own].float()) for key, _ in cache[1:]]
    weights = torch.cat([shared, *(score[..., None] for score in drafts)], dim=-1).softmax(-1)
    out = torch.einsum("ngqt,tgd->ngqd", weights[..., : own.stop], values.float())
    for i, (_, value) in enumerate(cache[1:]):
        out = out + weights[..., own.stop + i, None] * value[own].float()[:, :, None]
    return out.reshape(n, heads * dim).to(query.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [n, heads, dim]; where it is partial the leading part is rotated."""
    turned, kept = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    low, high = turned.float().chunk(2, dim=-1)
    rotated = turned.float() * cos + torch.cat([-high, low], dim=-1) * sin
    return torch.cat([rotated.to(x.dtype), kept], dim=-1)


def _rotary(head: Head, device: torch.device) -> torch.nn.Module:
    """Positions [1, n] to cos and sin: theta and scaling as the head's config says."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rotary: torch.nn.Module = LlamaRotaryEmbedding(LlamaConfig.from_dict(dict(head.config)), device)
    return rotary
