"""What SGLang's objects are to the kernels: one method a kernel, and the buffers they share.

The layers call these and nothing in `kernels/` directly, so that a test can put references in
their place.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch

from sglang_qwen3next_eagle3.overlay.fast import ranks, sizes
from sglang_qwen3next_eagle3.overlay.fast.device import MAX_ROWS
from sglang_qwen3next_eagle3.overlay.fast.kernels import (
    attention,
    experts,
    gdn_commit,
    gdn_decode,
    gdn_trees,
    gdn_verify,
    lm_head,
    norm_quantize,
    peer_sum,
    router,
    tree,
    wide_gemm,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.attention import AttentionOutput
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_decode import GdnOutput
from sglang_qwen3next_eagle3.overlay.fast.kernels.norm_quantize import Normed
from sglang_qwen3next_eagle3.overlay.fast.kernels.peer_sum import Peers
from sglang_qwen3next_eagle3.overlay.fast.stages import Stage

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.overlay.fast.layers import Rows, SmallPass


class Kernels:
    """The package's own kernels, and the buffers that all layers share.

    peers: the ranks' memory, where sums over them are ours (`allreduce`).
    """

    def __init__(
        self,
        model: Any,
        backend: Any,
        rows: int,
        device: torch.device | str,
        nodes: int = 1,
    ) -> None:
        """model: `Qwen3NextModel`. backend: its `HybridLinearAttnBackend`. rows: the most of a
        pass. nodes: draft tokens of a request, of which attention has room for two requests, or
        for one where two have more than 32 rows."""
        gdn = next(layer.linear_attn for layer in model.layers if hasattr(layer, "linear_attn"))
        full = next(layer for layer in model.layers if not hasattr(layer, "linear_attn"))
        states = backend.linear_attn_backend.req_to_token_pool.mamba_pool.mamba_cache
        heads = gdn.attn.num_k_heads, gdn.attn.num_v_heads
        self.ranks = int(full.attn_tp_size)
        self.peers: Peers | None = None
        self.arrivals = gdn_decode.gdn_arrivals(rows, heads[0], device)
        self.kept = gdn_verify.GdnKept.empty(
            states.temporal.shape[0], rows, *heads, gdn.head_k_dim, gdn.head_v_dim, device
        )
        # Drafts stand behind the last token of a context.
        context = backend.linear_attn_backend.req_to_token_pool.req_to_token.shape[1]
        within = sizes.attention_rows(rows, nodes, full.num_heads, full.head_dim, context)
        self.workspace = attention.attention_workspace(
            within, full.num_heads, full.head_dim, context, device
        )
        self.room: dict[Stage, int] = {"gdn": rows, "attention": within}
        """Rows that the buffers hold, of the stages that have some; and of the others those that
        were measured, where that was with other weights or one rank only."""
        weight = getattr(getattr(gdn, "in_proj_qkvz", None), "weight", None)
        if self.ranks > 1 or getattr(weight, "dtype", None) != torch.float8_e4m3fn:
            self.room |= {"dense": MAX_ROWS, "moe": MAX_ROWS}

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        kept = (getattr(self.kept, field.name) for field in fields(self.kept))
        return sum(part.nbytes for part in (self.arrivals, *kept, *self.workspace))

    add_norm_quantize = staticmethod(norm_quantize.add_norm_quantize)
    chain_paths = staticmethod(tree.chain_paths)
    route = staticmethod(router.route)
    experts = staticmethod(experts.experts)
    lm_head = staticmethod(lm_head.lm_head)

    def sum_norm(
        self,
        part: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        quantize: bool,
        gate: torch.Tensor | None = None,
        gated: torch.Tensor | None = None,
    ) -> Normed:
        """`add_norm_quantize` of the sum over all ranks, where `peers` are there."""
        assert self.peers is not None
        return peer_sum.sum_norm_quantize(
            self.peers, part, residual, weight, eps, quantize, gate, gated
        )

    def summed(self, part: torch.Tensor) -> torch.Tensor:
        """A rank's part of a sum -> the sum over all ranks, as SGLang adds it."""
        return part if self.ranks == 1 else ranks.summed(part)

    def quantize(self, plain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Stock's own quantization, of what stock's kernels computed: e4m3 [T, K], [T, K / 128]."""
        from sglang.kernels.ops.quantization.fp8_kernel import sglang_per_token_group_quant_fp8

        codes, scales = sglang_per_token_group_quant_fp8(plain.contiguous(), 128)
        return codes, scales

    def split(self, gdn: Any, qkvz: torch.Tensor, ba: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Stock's way from the projections to (q k v, z, b, a)."""
        from sglang.kernels.ops.attention.triton_gdn_fused_proj import (
            fused_qkvzba_split_reshape_cat,
        )

        own = gdn.num_k_heads // self.ranks, gdn.num_v_heads // self.ranks
        heads = *own, gdn.head_k_dim, gdn.head_v_dim
        parts: tuple[torch.Tensor, ...] = fused_qkvzba_split_reshape_cat(qkvz, ba, *heads)
        return parts

    def skinny_gemm(
        self,
        rows: "Rows",
        weight: torch.Tensor,
        scale: torch.Tensor | None,
        extra: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        x = rows.plain if scale is None else (rows.codes, rows.scales)
        beside = None if extra is None else (rows.plain, extra)
        return wide_gemm.linear(x, weight, scale, beside)  # type: ignore[arg-type]

    def tree_paths(
        self, next_token: torch.Tensor, next_sibling: torch.Tensor, out: torch.Tensor
    ) -> None:
        tree.tree_paths(next_token=next_token, next_sibling=next_sibling, out=out)

    def gdn_decode(
        self, at: "SmallPass", gdn: Any, qkvz: torch.Tensor, ba: torch.Tensor, cache: Any,
        slots: torch.Tensor, quantize: bool,
    ) -> GdnOutput:  # fmt: skip
        operands = _gdn_operands(gdn, qkvz, ba, cache, slots)
        return gdn_decode.gdn_decode(
            **operands,
            quantize=quantize,
            arrivals=self.arrivals,
            early_state=_in_one_graph(),
        )

    def gdn_verify(
        self, at: "SmallPass", gdn: Any, qkvz: torch.Tensor, ba: torch.Tensor, cache: Any,
        slots: torch.Tensor, quantize: bool, layer: int,
    ) -> GdnOutput:  # fmt: skip
        operands = _gdn_operands(gdn, qkvz, ba, cache, slots)
        # Chains have nothing to share, and one launch is faster for them.
        several = at.tree and at.requests > 1
        run = gdn_trees.gdn_trees if several else gdn_verify.gdn_verify
        return run(
            **operands,
            quantize=quantize,
            paths=at.paths,
            kept=self.kept,
            layer=layer,
            early_state=_in_one_graph(),
        )

    def attention(
        self, at: "SmallPass", layer: Any, qkv: torch.Tensor, quantize: bool
    ) -> AttentionOutput:
        metadata = at.backend.full_attn_backend.forward_metadata
        keys, values = at.backend.token_to_kv_pool.get_kv_buffer(layer.layer_id)
        return attention.attention(
            qkv,
            layer.q_norm.weight,
            layer.k_norm.weight,
            layer.q_norm.variance_epsilon,
            at.batch.positions,
            layer.rotary_emb.cos_sin_cache,
            keys,
            values,
            at.batch.out_cache_loc,
            metadata.kv_indptr,
            metadata.kv_indices,
            at.paths if at.verify else None,
            quantize,
            self.workspace,
            early_cache=_in_one_graph(),
        )

    def gdn_commit(
        self,
        at: "SmallPass",
        states: Any,
        slots: torch.Tensor,
        last_nodes: torch.Tensor,
        track_slots: torch.Tensor | None,
        track_nodes: torch.Tensor | None,
    ) -> None:
        """The accepted path of every request into the states of all layers."""
        gdn_commit.gdn_commit(
            states.conv[0],
            states.temporal,
            slots,
            at.paths,
            last_nodes,
            self.kept,
            track_slots,
            track_nodes,
        )


def _gdn_operands(
    gdn: Any, qkvz: torch.Tensor, ba: torch.Tensor, cache: Any, slots: torch.Tensor
) -> dict[str, Any]:
    """What decode and verify have in common."""
    return {
        "qkvz": qkvz,
        "ba": ba,
        "conv_state": cache.conv[0],
        "conv_weight": gdn.attn.conv_weights,
        "conv_bias": gdn.attn.bias,
        "A_log": gdn.attn.A_log,
        "dt_bias": gdn.attn.dt_bias,
        "ssm_state": cache.temporal,
        "slots": slots,
        "norm_weight": gdn.norm.weight,
        "eps": gdn.norm.eps,
    }


_as_captured = False


@contextmanager
def as_captured() -> Iterator[None]:
    """Kernels are taken as in a capture, for who compiles them, or has waited for the GPU."""
    global _as_captured
    _as_captured = True
    try:
        yield
    finally:
        _as_captured = False


def _in_one_graph() -> bool:
    """Whether what runs before is of the same pass: then no kernel of it writes this layer's
    states or what its cache holds of earlier passes, nor which rows of the cache these are, and
    they may be read before those kernels have ended."""
    if _as_captured:
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
