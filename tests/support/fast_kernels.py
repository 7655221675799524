"""Kernels for the fast path on a CPU: the package's own in Triton's interpreter, or references.

What SGLang's CPU engine holds otherwise than its CUDA one is bridged here: the metadata of its
attention, the split of the projections, and the shared expert, which is not one of the fused ones.
"""

from types import SimpleNamespace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay.fast import layers
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels, _gdn_operands
from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    attention,
    experts,
    gdn_decode,
    gdn_verify,
    norm_quantize,
    router,
    skinny_gemm,
    tree,
)


def kv_metadata(at: Any) -> Any:
    """The places of every request's tokens, as the Triton backend prepares them."""
    batch = at.batch
    table = at.backend.linear_attn_backend.req_to_token_pool.req_to_token
    lengths = batch.seq_lens.tolist()
    places = [
        table[request, :length]
        for request, length in zip(batch.req_pool_indices.tolist(), lengths, strict=True)
    ]
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    return SimpleNamespace(kv_indptr=starts, kv_indices=torch.cat(places).long())


def split(gdn: Any, qkvz: torch.Tensor, ba: torch.Tensor) -> tuple[torch.Tensor, ...]:
    query, key, value, z, b, a = gdn.fix_query_key_value_ordering(qkvz, ba)
    rows = qkvz.shape[0]
    return torch.cat([part.reshape(rows, -1) for part in (query, key, value)], -1), z, b, a


def with_shared(block: Any) -> Any:
    """A sparse block whose shared expert stands behind the routed ones."""
    shared, routed = block.shared_expert, block.experts
    stacked = SimpleNamespace(
        w13_weight=torch.cat([routed.w13_weight.data, shared.gate_up_proj.weight.data[None]]),
        w2_weight=torch.cat([routed.w2_weight.data, shared.down_proj.weight.data[None]]),
    )
    return SimpleNamespace(
        gate=block.gate,
        topk=block.topk,
        shared_expert_gate=block.shared_expert_gate,
        num_fused_shared_experts=1,
        experts=stacked,
    )


def fuse_shared_experts() -> None:
    """Let the layers that are built from now on have their shared expert fused."""
    original = layers.Experts
    layers.Experts = lambda block, kernels: original(with_shared(block), kernels)  # type: ignore


class InterpretedKernels(Kernels):
    """The package's kernels in Triton's interpreter."""

    split = staticmethod(split)

    def attention(self, at: Any, layer: Any, qkv: torch.Tensor, quantize: bool) -> Any:
        keys, values = at.backend.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        metadata = kv_metadata(at)
        return attention.attention(
            *self._attention_operands(at, layer, qkv, keys, values, metadata),
            at.paths if at.verify else None,
            quantize,
            self.workspace,
        )

    def _attention_operands(
        self, at: Any, layer: Any, qkv: Any, keys: Any, values: Any, metadata: Any
    ) -> tuple[Any, ...]:
        return (
            qkv, layer.q_norm.weight, layer.k_norm.weight, layer.q_norm.variance_epsilon,
            at.batch.positions, layer.rotary_emb.cos_sin_cache, keys, values,
            at.batch.out_cache_loc, metadata.kv_indptr, metadata.kv_indices,
        )  # fmt: skip


class ReferenceKernels(InterpretedKernels):
    """References in plain torch. The inputs of a verify are kept for the commit, which decodes."""

    def __init__(self, model: Any, backend: Any, rows: int, device: Any) -> None:
        super().__init__(model, backend, rows, device)
        self._inputs: dict[int, tuple[Any, torch.Tensor, torch.Tensor]] = {}

    add_norm_quantize = staticmethod(norm_quantize.reference_add_norm_quantize)
    route = staticmethod(router.reference_route)
    experts = staticmethod(experts.reference_experts)

    def sum_norm(self, part: Any, *others: Any) -> Any:
        return self.add_norm_quantize(self.summed(part), *others)

    def skinny_gemm(self, rows: Any, weight: Any, scale: Any, extra: Any) -> Any:
        x = rows.plain if scale is None else (rows.codes, rows.scales)
        out = skinny_gemm.reference_skinny_gemm(x, weight, scale).bfloat16()
        if extra is None:
            return out, None
        return out, skinny_gemm.reference_skinny_gemm(rows.plain, extra).bfloat16()

    @staticmethod
    def lm_head(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return skinny_gemm.reference_skinny_gemm(x, weight).bfloat16()

    def tree_paths(self, next_token: Any, next_sibling: Any, out: torch.Tensor) -> None:
        parents = torch.full(next_token.shape, -1)
        for row in range(parents.shape[0]):
            for node in range(parents.shape[1]):
                if next_token[row, node] >= 0:
                    parents[row, next_token[row, node]] = node
                if next_sibling[row, node] >= 0:
                    parents[row, next_sibling[row, node]] = parents[row, node]
        out.copy_(tree.reference_tree_paths(parents))

    def gdn_decode(
        self, at: Any, gdn: Any, qkvz: Any, ba: Any, cache: Any, slots: Any, quantize: bool
    ) -> Any:
        assert not quantize
        operands = _gdn_operands(gdn, qkvz, ba, cache, slots)
        return gdn_decode.GdnOutput(gdn_decode.reference_gdn_decode(**operands), None)

    def gdn_verify(
        self, at: Any, gdn: Any, qkvz: Any, ba: Any, cache: Any, slots: Any, quantize: bool,
        layer: int,
    ) -> Any:  # fmt: skip
        assert not quantize
        self._inputs[layer] = gdn, qkvz, ba
        operands = _gdn_operands(gdn, qkvz, ba, cache, slots)
        out = gdn_verify.reference_gdn_verify(**operands, paths=at.paths)
        return gdn_decode.GdnOutput(out, None)

    def gdn_commit(
        self, at: Any, states: Any, slots: Any, last_nodes: Any, track_slots: Any, track_nodes: Any
    ) -> None:
        assert track_slots is None
        for layer, (gdn, qkvz, ba) in self._inputs.items():
            cache = SimpleNamespace(conv=[states.conv[0][layer]], temporal=states.temporal[layer])
            for request, last in enumerate(last_nodes.tolist()):
                depth, _, *path = at.paths[request * at.nodes + last].tolist()
                for node in path[: depth + 1]:
                    row = request * at.nodes + node
                    operands = _gdn_operands(
                        gdn,
                        qkvz[row : row + 1],
                        ba[row : row + 1],
                        cache,
                        slots[request : request + 1],
                    )
                    gdn_decode.reference_gdn_decode(**operands)

    def attention(self, at: Any, layer: Any, qkv: torch.Tensor, quantize: bool) -> Any:
        keys, values = at.backend.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        operands = self._attention_operands(at, layer, qkv, keys, values, kv_metadata(at))
        paths = at.paths if at.verify else None
        return attention.AttentionOutput(attention.reference_attention(*operands, paths), None)
