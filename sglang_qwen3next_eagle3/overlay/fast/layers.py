"""One decoder layer of Qwen3-Next by our kernels, stage by stage, with stock's in between.

A layer takes and leaves (hidden, residual) as stock's does (`boundaries`) and appends the stream
that enters it where it is captured. So a layer, and every stage of a layer, can be stock's or ours
without its neighbours knowing.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import ranks
from sglang_qwen3next_eagle3.overlay.fast.boundaries import Left
from sglang_qwen3next_eagle3.overlay.fast.conditions import Unsupported, block_scaled, weight_of
from sglang_qwen3next_eagle3.overlay.fast.kernel_table import Kernels
from sglang_qwen3next_eagle3.overlay.fast.stages import Stage


@dataclass(frozen=True)
class SmallPass:
    """What all layers of one forward pass share.

    batch: SGLang's `ForwardBatch`. backend: its `HybridLinearAttnBackend`.
    requests: B, padding included. nodes: n, the draft tokens of a request; 1 for decode.
    verify: whether states wait for the accepted path. paths: [B * n, 2 + n] int32, kernels/tree.py.
    tree: whether a node of them may have several children.
    """

    batch: Any
    backend: Any
    requests: int
    nodes: int
    verify: bool
    paths: torch.Tensor
    tree: bool


class Rows(NamedTuple):
    """Activations of a pass: bf16 [T, K], or e4m3 [T, K] with fp32 [T, K / 128], or both."""

    plain: torch.Tensor | None
    codes: torch.Tensor | None = None
    scales: torch.Tensor | None = None


class Projection:
    """A linear layer of stock's; with `fast` by our kernel.

    Weights are read where SGLang holds them, whenever a pass is captured: what is captured anew
    after an update has the new ones.
    """

    def __init__(self, module: Any, kernels: Kernels, fast: bool) -> None:
        self._module, self._kernels, self._fast = module, kernels, fast
        self.quantized = fast and weight_of(module, "dense")[1] is not None
        """Whether it takes e4m3 from the kernel before it."""

    def __call__(self, rows: Rows) -> torch.Tensor:
        """[T, K] -> [T, N] bf16."""
        if not self._fast:
            output: torch.Tensor = self._module(rows.plain)[0]
            return output
        return self.beside(rows, None)[0]

    def beside(
        self, rows: Rows, extra: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The same, and the product of the plain rows with another weight [M, K] bf16."""
        if self.quantized and rows.codes is None:
            assert rows.plain is not None
            rows = Rows(rows.plain, *self._kernels.quantize(rows.plain))
        return self._kernels.skinny_gemm(rows, *weight_of(self._module, "dense"), extra)


class Experts:
    """The sparse block of stock's with its shared expert as the last one. Of its weights there
    holds what holds of a `Projection`."""

    def __init__(self, block: Any, kernels: Kernels) -> None:
        self._block, self._kernels = block, kernels
        config = block.topk.topk_config
        if block.num_fused_shared_experts != 1 or block.shared_expert_gate is None:
            raise Unsupported("moe", "the shared expert is not one of the fused experts")
        if config.use_grouped_topk or config.correction_bias is not None:
            raise Unsupported("moe", "experts are chosen in groups or with a bias")
        self.top_k, self.renormalize = config.top_k, bool(config.renormalize)
        self.quantized = self._weights()[1] is not None

    def _weights(
        self,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]:
        """Of both products, each with its scales or None."""
        experts = self._block.experts
        up, down = (getattr(experts, name, None) for name in ("w13_weight", "w2_weight"))
        return (
            *block_scaled(up, getattr(experts, "w13_weight_scale_inv", None), "moe"),
            *block_scaled(down, getattr(experts, "w2_weight_scale_inv", None), "moe"),
        )

    def fast(
        self, hidden: torch.Tensor, residual: torch.Tensor, norm: Any, later: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden: this rank's part of what was mixed. The result is whole on every rank, or with
        `later` again a part, marked as stock does it: whoever takes it adds it up."""
        kernels = self._kernels
        fused = kernels.peers is not None
        how: dict[str, Any] = {"norm": kernels.sum_norm} if fused else {}
        routed = kernels.route(
            hidden if fused else kernels.summed(hidden),
            residual,
            norm.weight.data,
            norm.variance_epsilon,
            self._block.gate.weight.data,
            self._block.shared_expert_gate.weight.data,
            self.top_k,
            self.renormalize,
            self.quantized,
            **how,
        )
        out = kernels.experts(routed, *self._weights())
        if later:
            setattr(out, ranks.LATER, True)
            return out, routed.residual
        return kernels.summed(out), routed.residual


class FastLayer:
    """A decoder layer of stock's with what our kernels need of it.

    stages: which of its stages are ours. mixer: the one between the projections.

    Raises (on construction):
        Unsupported: a stage that is asked for does not fit this layer's weights.
    """

    mixer: Stage
    entry: Projection
    exit: Projection

    def __init__(self, layer: Any, kernels: Kernels, stages: frozenset[Stage]) -> None:
        self.layer, self.kernels = layer, kernels
        self.boundaries = variants.boundaries()
        self.stages = stages & {"dense", "moe", self.mixer}
        self.norm = layer.input_layernorm
        self.last = layer.layer_id == layer.config.num_hidden_layers - 1
        self.experts = Experts(layer.mlp, kernels) if "moe" in stages else None

    def with_stages(self, stages: frozenset[Stage]) -> "FastLayer":
        """The same layer with other stages."""
        raise NotImplementedError

    def stock_mix(self, at: SmallPass, plain: torch.Tensor) -> torch.Tensor:
        """`mix` as stock's model does it."""
        raise NotImplementedError

    def forward(
        self,
        at: SmallPass,
        hidden: Any,
        residual: torch.Tensor | None,
        captured: list[torch.Tensor] | None,
    ) -> Left:
        """hidden [T, D] and residual [T, D] or None -> the same of the next layer."""
        rows, stream = self.enter(at, hidden, residual, captured)
        return self.leave(at, self.mix(at, rows), stream)

    def enter(
        self,
        at: SmallPass,
        hidden: Any,
        residual: torch.Tensor | None,
        captured: list[torch.Tensor] | None,
    ) -> tuple[Rows, torch.Tensor]:
        """The normed rows, and the stream that enters this layer."""
        if "dense" not in self.stages:
            plain, stream = self.boundaries.stock_enter(
                at.batch, self.layer, hidden, residual, captured
            )
            return Rows(plain), stream
        norm = self.norm.weight.data, self.norm.variance_epsilon, self.entry.quantized
        if self.kernels.peers is not None and getattr(hidden, ranks.LATER, False):
            assert residual is not None
            normed = self.kernels.sum_norm(hidden, residual, *norm)
        else:
            whole, before = self.boundaries.whole(at.batch, hidden, residual)
            normed = self.kernels.add_norm_quantize(whole, before, *norm)
        if captured is not None:
            # Stock's MoE block adds to the stream in place.
            kept = normed.residual if "moe" in self.stages else normed.residual.clone()
            captured.append(kept)
        return Rows(normed.normed, normed.codes, normed.scales), normed.residual

    def leave(self, at: SmallPass, hidden: torch.Tensor, residual: torch.Tensor) -> Left:
        """The experts: what was mixed and the stream -> (hidden, residual) of the next layer."""
        if self.experts is not None:
            later = self.kernels.peers is not None and self.boundaries.parts and not self.last
            norm = self.layer.post_attention_layernorm
            out = self.experts.fast(hidden, residual, norm, later)
            return self.boundaries.left(at.batch, *out)
        return self.boundaries.stock_leave(at.batch, self.layer, hidden, residual)

    def mix(self, at: SmallPass, rows: Rows) -> torch.Tensor:
        """Normed rows -> what attention or the Gated DeltaNet adds to the stream, [T, D] bf16."""
        raise NotImplementedError


class FastGdnLayer(FastLayer):
    """`Qwen3HybridLinearDecoderLayer`. index: its place among the GDN layers' states."""

    mixer: Stage = "gdn"

    def __init__(self, layer: Any, kernels: Kernels, stages: frozenset[Stage], index: int) -> None:
        super().__init__(layer, kernels, stages)
        self.gdn, self.index = layer.linear_attn, index
        dense = "dense" in stages
        self.entry = Projection(self.gdn.in_proj_qkvz, kernels, dense)
        self.exit = Projection(self.gdn.out_proj, kernels, dense)
        if dense and weight_of(self.gdn.in_proj_ba, "dense")[1] is not None:
            raise Unsupported("dense", "in_proj_ba is not bfloat16")
        attn = self.gdn.attn
        if "gdn" in stages and (attn.bias is not None or attn.activation != "silu"):
            raise Unsupported("gdn", "the convolution has a bias or another activation than SiLU")
        if "gdn" in stages and self.gdn.norm.activation not in ("silu", "swish"):
            raise Unsupported("gdn", "its output gate is not SiLU")

    def with_stages(self, stages: frozenset[Stage]) -> "FastLayer":
        return FastGdnLayer(self.layer, self.kernels, stages, self.index)

    def stock_mix(self, at: SmallPass, plain: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.gdn(plain, at.batch)
        return out

    def mix(self, at: SmallPass, rows: Rows) -> torch.Tensor:
        if "dense" in self.stages:
            qkvz, ba = self.entry.beside(rows, self.gdn.in_proj_ba.weight.data)
            assert ba is not None
        else:
            qkvz, ba = self.gdn._forward_input_proj(rows.plain)
        return self.exit(
            self._fast(at, qkvz, ba) if "gdn" in self.stages else self._stock(at, qkvz, ba)
        )

    def _fast(self, at: SmallPass, qkvz: torch.Tensor, ba: torch.Tensor) -> Rows:
        backend, layer_id = at.backend.linear_attn_backend, self.layer.layer_id
        slots = backend.forward_metadata.mamba_cache_indices
        cache = backend.req_to_token_pool.mamba2_layer_cache(layer_id)
        if at.verify:
            out = self.kernels.gdn_verify(
                at, self.gdn, qkvz, ba, cache, slots, self.exit.quantized, self.index
            )
        else:
            out = self.kernels.gdn_decode(at, self.gdn, qkvz, ba, cache, slots, self.exit.quantized)
            backend._track_mamba_state_decode(
                at.batch, cache.conv[0], cache.temporal, slots, layer_id
            )
        return _rows(*out)

    def _stock(self, at: SmallPass, qkvz: torch.Tensor, ba: torch.Tensor) -> Rows:
        gdn = self.gdn
        mixed, z, b, a = self.kernels.split(gdn, qkvz, ba)
        core = gdn.attn(at.batch, mixed_qkv=mixed, a=a, b=b)
        out = gdn.norm(core.reshape(-1, gdn.head_v_dim), z.reshape(-1, gdn.head_v_dim))
        return Rows(out.reshape(qkvz.shape[0], -1))


class FastAttentionLayer(FastLayer):
    """`Qwen3HybridAttentionDecoderLayer`."""

    mixer: Stage = "attention"

    def __init__(self, layer: Any, kernels: Kernels, stages: frozenset[Stage]) -> None:
        super().__init__(layer, kernels, stages)
        dense = "dense" in stages
        self.entry = Projection(layer.qkv_proj, kernels, dense)
        self.exit = Projection(layer.o_proj, kernels, dense)
        if "attention" in stages:
            _check_attention(layer)

    def with_stages(self, stages: frozenset[Stage]) -> "FastLayer":
        return FastAttentionLayer(self.layer, self.kernels, stages)

    def stock_mix(self, at: SmallPass, plain: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer.self_attention(at.batch.positions, plain, at.batch)
        return out

    def mix(self, at: SmallPass, rows: Rows) -> torch.Tensor:
        qkv = self.entry(rows)
        return self.exit(
            self._fast(at, qkv) if "attention" in self.stages else self._stock(at, qkv)
        )

    def _fast(self, at: SmallPass, qkv: torch.Tensor) -> Rows:
        return _rows(*self.kernels.attention(at, self.layer, qkv, self.exit.quantized))

    def _stock(self, at: SmallPass, qkv: torch.Tensor) -> Rows:
        layer = self.layer
        q_gate, k, v = torch.split(qkv, [2 * layer.q_size, layer.kv_size, layer.kv_size], dim=-1)
        q, gate = q_gate.view(len(qkv), layer.num_heads, -1).chunk(2, dim=-1)
        q, k = layer._apply_qk_norm(q.flatten(-2), k)
        q, k = layer.rotary_emb(at.batch.positions, q, k)
        out = layer.attn(q, k, v, at.batch)
        return Rows(out * torch.sigmoid(gate.flatten(-2)))


def _rows(out: torch.Tensor, scales: torch.Tensor | None) -> Rows:
    return Rows(out) if scales is None else Rows(None, out, scales)


def _check_attention(layer: Any) -> None:
    """Raises Unsupported."""
    attn = layer.attn
    if not layer.attn_output_gate:
        raise Unsupported("attention", "it has no output gate")
    if attn.logit_cap:
        raise Unsupported("attention", "it caps its logits")
    # SGLang gives every FP8 model scales of its KV cache: 1, if the checkpoint has none.
    scales = [getattr(attn, f"{name}_scale_float", None) or 1.0 for name in "kv"]
    if scales != [1.0, 1.0]:
        raise Unsupported("attention", f"it scales its KV cache by {scales[0]}, {scales[1]}")
    if attn.sliding_window_size is not None and attn.sliding_window_size > -1:
        raise Unsupported("attention", "it slides a window")
    rope = layer.rotary_emb
    if not rope.is_neox_style or type(rope).__name__ != "RotaryEmbedding":
        raise Unsupported("attention", f"it rotates by {type(rope).__name__}")
