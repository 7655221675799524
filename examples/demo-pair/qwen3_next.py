"""Qwen3-Next in plain torch, made to be trained small: every shape static, few kernel launches.

The computation is that of transformers' `Qwen3NextForCausalLM` (a test compares logits and
gradients); what differs is how it is arranged. The gated delta rule solves a chunk's triangular
system in one call, and all experts compute every token, which at this size costs less than
routing does.
"""

import torch
import torch.nn.functional as F
from sizes import Sizes
from torch import Tensor, nn

CHUNK = 64


def delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor) -> Tensor:
    """Gated delta rule from a zero state, in chunks.

    q, k: [B, H, T, K], v: [B, H, T, V], decay (log) and beta: [B, H, T]; T a multiple of CHUNK.
    Returns [B, H, T, V]. In a chunk, the values that each token really writes solve
    (I + tril(beta k k^T * decay, -1)) u = beta v - (what the state before the chunk recalls).
    """
    batch, heads, length, width = k.shape
    chunks = length // CHUNK
    shape = (batch, heads, chunks, CHUNK)
    q, k = (F.normalize(x.float(), dim=-1, eps=1e-6).view(*shape, width) for x in (q, k))
    q, v = q * width**-0.5, v.float().view(*shape, v.shape[-1])
    since_start = decay.float().view(shape).cumsum(-1)
    beta = beta.float().view(shape)[..., None]
    gap = since_start[..., :, None] - since_start[..., None, :]
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    fade = gap.masked_fill(~causal, float("-inf")).exp()
    system = ((beta * k) @ k.mT * fade).tril(-1)
    from_start = since_start.exp()[..., None]
    right = torch.cat([beta * v, beta * k * from_start], dim=-1)
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    written, recalled = torch.split(solved, [v.shape[-1], width], dim=-1)
    within = q @ k.mT * fade
    reach = q * from_start
    to_end = k * (since_start[..., -1:] - since_start).exp()[..., None]
    whole = since_start[..., -1].exp()[..., None, None]
    state = torch.zeros(batch, heads, width, v.shape[-1], device=q.device)
    out = []
    for i in range(chunks):
        new = written[:, :, i] - recalled[:, :, i] @ state
        out.append(reach[:, :, i] @ state + within[:, :, i] @ new)
        state = state * whole[:, :, i] + to_end[:, :, i].mT @ new
    return torch.stack(out, dim=2).view(batch, heads, length, v.shape[-1])


class Norm(nn.Module):
    """RMS norm whose weight is stored less one."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], 1.0 + self.weight, self.eps).to(x.dtype)


class GatedNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight, self.eps) * F.silu(gate.float())


class DeltaNet(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        keys = s.linear_num_key_heads * s.linear_key_head_dim
        values = s.linear_num_value_heads * s.linear_value_head_dim
        self.widths = [keys, keys, values]
        mixed, taps = sum(self.widths), s.linear_conv_kernel_dim
        self.in_proj_qkvz = nn.Linear(s.hidden_size, mixed + values, bias=False)
        self.in_proj_ba = nn.Linear(s.hidden_size, 2 * s.linear_num_value_heads, bias=False)
        self.conv1d = nn.Conv1d(mixed, mixed, taps, groups=mixed, padding=taps - 1, bias=False)
        steps = torch.empty(s.linear_num_value_heads).uniform_(-6.9, -2.3).exp()
        self.dt_bias = nn.Parameter(steps + torch.log(-torch.expm1(-steps)))
        self.A_log = nn.Parameter(torch.empty(s.linear_num_value_heads).uniform_(1, 16).log())
        self.norm = GatedNorm(s.linear_value_head_dim, s.rms_norm_eps)
        self.out_proj = nn.Linear(values, s.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        s, (batch, length, _) = self.s, x.shape
        group = s.linear_num_value_heads // s.linear_num_key_heads
        wide, tall = s.linear_key_head_dim, s.linear_value_head_dim
        # A key head's q, k and its group's v and z lie side by side in the projection.
        by_head = self.in_proj_qkvz(x).view(batch, length, s.linear_num_key_heads, -1)
        q, k, v, z = by_head.split([wide, wide, group * tall, group * tall], dim=-1)
        ba = self.in_proj_ba(x).view(batch, length, s.linear_num_key_heads, -1)
        b, a = (part.flatten(2).float() for part in ba.split([group, group], dim=-1))
        mixed = torch.cat([part.flatten(2) for part in (q, k, v)], dim=-1)
        mixed = F.silu(self.conv1d(mixed.mT)[..., :length]).mT
        q, k, v = (
            part.reshape(batch, length, -1, width).transpose(1, 2)
            for part, width in zip(
                torch.split(mixed, self.widths, dim=-1), (wide, wide, tall), strict=True
            )
        )
        q, k = (part.repeat_interleave(group, dim=1) for part in (q, k))
        decay = -self.A_log.exp() * F.softplus(a + self.dt_bias)
        with torch.autocast(x.device.type, enabled=False):
            read = delta_rule(q, k, v, decay.mT, b.sigmoid().mT).transpose(1, 2)
        gated = self.norm(read, z.reshape(batch, length, -1, tall))
        return self.out_proj(gated.flatten(2).to(x.dtype))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        kv = s.num_key_value_heads * s.head_dim
        heads = s.num_attention_heads * s.head_dim
        self.q_proj = nn.Linear(s.hidden_size, 2 * heads, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(heads, s.hidden_size, bias=False)
        self.q_norm = Norm(s.head_dim, s.rms_norm_eps)
        self.k_norm = Norm(s.head_dim, s.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        s = self.s
        q, gate = self.q_proj(x).unflatten(-1, (-1, 2 * s.head_dim)).chunk(2, dim=-1)
        k = self.k_proj(x).unflatten(-1, (-1, s.head_dim))
        v = self.v_proj(x).unflatten(-1, (-1, s.head_dim)).transpose(1, 2)
        q, k = (self._rotated(y.transpose(1, 2)) for y in (self.q_norm(q), self.k_norm(k)))
        out = F.scaled_dot_product_attention(q, k.to(q.dtype), v, is_causal=True, enable_gqa=True)
        out = out.transpose(1, 2) * gate.sigmoid()
        return self.o_proj(out.flatten(2))  # type: ignore[no-any-return]

    def _rotated(self, x: Tensor) -> Tensor:
        width = int(self.s.head_dim * self.s.partial_rotary_factor)
        exponents = torch.arange(0, width, 2, device=x.device) / width
        angles = torch.arange(x.shape[-2], device=x.device)[:, None] * (
            self.s.rope_theta**-exponents
        )
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        left, right, rest = torch.split(x, [width // 2, width // 2, x.shape[-1] - width], dim=-1)
        turned = (left * cos - right * sin, right * cos + left * sin, rest)
        return torch.cat(turned, dim=-1)


class Experts(nn.Module):
    """The mixture of experts, its shared expert included."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        hidden, width, shared = (
            s.hidden_size,
            s.moe_intermediate_size,
            s.shared_expert_intermediate_size,
        )
        self.gate = nn.Linear(hidden, s.num_experts, bias=False)
        self.gate_proj = nn.Linear(hidden, s.num_experts * width, bias=False)
        self.up_proj = nn.Linear(hidden, s.num_experts * width, bias=False)
        # [hidden, experts * width]: column block e is expert e's down projection.
        self.down_proj = nn.Linear(s.num_experts * width, hidden, bias=False)
        self.shared_gate_proj = nn.Linear(hidden, shared, bias=False)
        self.shared_up_proj = nn.Linear(hidden, shared, bias=False)
        self.shared_down_proj = nn.Linear(shared, hidden, bias=False)
        self.shared_expert_gate = nn.Linear(hidden, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and the load-balancing loss of Switch Transformers: experts times the sum
        of (share of tokens) times (mean probability), 1 when balanced."""
        probabilities = self.gate(x).float().softmax(-1)
        top, index = probabilities.topk(self.s.num_experts_per_tok, dim=-1)
        share = torch.zeros_like(probabilities).scatter(-1, index, top / top.sum(-1, keepdim=True))
        inner = F.silu(self.gate_proj(x)) * self.up_proj(x)
        inner = inner.unflatten(-1, (self.s.num_experts, -1)) * share[..., None].to(inner.dtype)
        shared = self.shared_down_proj(F.silu(self.shared_gate_proj(x)) * self.shared_up_proj(x))
        out = self.down_proj(inner.flatten(-2)) + self.shared_expert_gate(x).sigmoid() * shared
        used = (share > 0).float().flatten(0, -2).mean(0) / self.s.num_experts_per_tok
        balance = self.s.num_experts * (used * probabilities.flatten(0, -2).mean(0)).sum()
        return out, balance


class Layer(nn.Module):
    def __init__(self, s: Sizes, index: int) -> None:
        super().__init__()
        attends = (index + 1) % s.full_attention_interval == 0
        self.mixer = Attention(s) if attends else DeltaNet(s)
        self.mlp = Experts(s)
        self.input_layernorm = Norm(s.hidden_size, s.rms_norm_eps)
        self.post_attention_layernorm = Norm(s.hidden_size, s.rms_norm_eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x + self.mixer(self.input_layernorm(x))
        out, balance = self.mlp(self.post_attention_layernorm(x))
        return x + out, balance


class Qwen3Next(nn.Module):
    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.s = s
        self.embed_tokens = nn.Embedding(s.vocab_size, s.hidden_size)
        self.layers = nn.ModuleList(Layer(s, i) for i in range(s.num_hidden_layers))
        self.norm = Norm(s.hidden_size, s.rms_norm_eps)
        self.lm_head = nn.Linear(s.hidden_size, s.vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2 and "conv" not in name:
                out = name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight"))
                depth = 2 * s.num_hidden_layers if out else 1
                nn.init.normal_(parameter, std=(parameter.shape[1] * depth) ** -0.5)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, T, vocabulary] and the mean load-balancing loss; T a multiple of CHUNK."""
        x = self.embed_tokens(ids)
        balance = torch.zeros((), device=ids.device)
        for layer in self.layers:
            x, cost = layer(x)
            balance = balance + cost
        return self.lm_head(self.norm(x)), balance / len(self.layers)

    def checkpoint(self) -> dict[str, Tensor]:
        """The state under the names that a Qwen3-Next checkpoint has on disk."""
        named: dict[str, Tensor] = {}
        for name, value in self.state_dict().items():
            if name == "lm_head.weight":
                named[name] = value
                continue
            head, dot, expert = name.partition(".mlp.")
            for part in ("gate_proj", "up_proj", "down_proj") if dot else ():
                if expert == f"shared_{part}.weight":
                    named[f"model.{head}.mlp.shared_expert.{part}.weight"] = value
                elif expert == f"{part}.weight":
                    axis = 1 if part == "down_proj" else 0
                    for e, piece in enumerate(value.chunk(self.s.num_experts, dim=axis)):
                        named[f"model.{head}.mlp.experts.{e}.{part}.weight"] = piece
            if not expert.endswith(("gate_proj.weight", "up_proj.weight", "down_proj.weight")):
                named[f"model.{self._on_disk(name)}"] = value
        return {name: value.contiguous().clone() for name, value in named.items()}

    def _on_disk(self, name: str) -> str:
        if ".mixer." not in name:
            return name
        index = int(name.split(".")[1])
        attends = (index + 1) % self.s.full_attention_interval == 0
        return name.replace(".mixer.", ".self_attn." if attends else ".linear_attn.")
