"""The gated delta rule of Qwen3-Next's linear attention, in float32.

Per value head, with state S [V, K], key k and query q [K], value v [V], decay g <= 0, rate beta:

    S <- exp(g) S
    S <- S + beta (v - S k) k^T
    o  = S q / sqrt(K)

Shapes are written with B requests, T tokens of each, L tokens in all, H key heads, HV value heads
(HV is a multiple of H; value head i uses key head i // (HV / H)), K and V the head sizes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

L2_NORM_EPS = 1e-6  # as in transformers' Qwen3-Next
CHUNK = 64


def gating(A_log: Tensor, a: Tensor, b: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Log-decay and rate of every token and head, in float32.

    Args:
        A_log, dt_bias: [HV].
        a, b: [L, HV], projections of the hidden states.

    Returns:
        g = -exp(A_log) softplus(a + dt_bias) and beta = sigmoid(b), each [1, L, HV].
    """
    return _decay(A_log, a, dt_bias).unsqueeze(0), b.float().sigmoid().unsqueeze(0)


def prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor,
    output_final_state: bool,
    cu_seqlens: Tensor,
    head_first: bool,
    use_qk_l2norm_in_kernel: bool,
    initial_state_indices: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run whole sequences, each from the state in its slot.

    Args:
        q, k: [1, L, H, K]; v: [1, L, HV, V]; g, beta: [1, L, HV].
        initial_state: [slots, HV, V, K]; the slots of the sequences are overwritten.
        output_final_state: always as if true.
        cu_seqlens: [B + 1], where each sequence starts among the L tokens.
        head_first: must be false.
        initial_state_indices: [B], the slot of each sequence; a negative one marks padding, which
            is skipped.

    Returns:
        Outputs [1, L, HV, V] in v's dtype (zeros for padding), and `initial_state`.
    """
    if head_first:
        raise NotImplementedError("the CPU gated delta rule takes tokens before heads")
    query, key = _queries_and_keys(q[0], k[0], v.shape[2], use_qk_l2norm_in_kernel)
    value, decay, rate = v[0].float(), g[0].float(), beta[0].float()
    out = torch.zeros_like(value)
    bounds = cu_seqlens.tolist()
    for slot, start, end in zip(initial_state_indices.tolist(), bounds, bounds[1:], strict=False):
        if slot < 0 or start == end:
            continue
        tokens = slice(start, end)
        out[tokens], state = chunked_delta_rule(
            query[tokens],
            key[tokens],
            value[tokens],
            decay[tokens],
            rate[tokens],
            initial_state[slot].float(),
        )
        initial_state[slot] = state.to(initial_state.dtype)
    return out.unsqueeze(0).to(v.dtype), initial_state


def chunked_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One sequence by chunks: the state advances once a chunk, the rest is matrix products.

    Inside a chunk that starts from state S0, let G_t be the sum of g up to and including token t.
    Then S_t = exp(G_t) S0 + sum_{j<=t} exp(G_t - G_j) u_j k_j^T, where the corrections u solve the
    unit lower triangular system (the chunk form of "Gated Delta Networks", arXiv:2412.06464)

        u_t + beta_t sum_{j<t} exp(G_t - G_j) (k_t . k_j) u_j = beta_t (v_t - exp(G_t) S0 k_t).

    It is linear in S0, so that all chunks are solved at once, each half of the right-hand side
    apart.

    Args:
        q, k: [T, HV, K], q already scaled; v: [T, HV, V]; g, beta: [T, HV]; state: [HV, V, K].

    Returns:
        Outputs [T, HV, V] and the state after the last token [HV, V, K].
    """
    length = q.shape[0]
    size = min(CHUNK, length)
    # A padding token with beta = 0 and g = 0 leaves the state as it is.
    q, k, v, g, beta = (_to_chunks(x, size) for x in (q, k, v, g, beta))

    total = g.cumsum(-1)
    decay = (total.unsqueeze(-1) - total.unsqueeze(-2)).tril().exp().tril()
    overlap = (k @ k.mT) * decay * beta.unsqueeze(-1)
    targets = torch.cat((v, k * total.exp().unsqueeze(-1)), -1) * beta.unsqueeze(-1)
    solved = torch.linalg.solve_triangular(
        overlap.tril(-1), targets, upper=False, unitriangular=True
    )
    from_values, from_state = solved.split((v.shape[-1], k.shape[-1]), -1)

    scores = (q @ k.mT) * decay
    decayed_q = q * total.exp().unsqueeze(-1)
    remaining = (total[..., -1:] - total).exp().unsqueeze(-1)
    decayed_k = k * remaining
    chunk_decay = total[..., -1].exp()[..., None, None]

    outputs = []
    for chunk in range(q.shape[0]):
        corrections = from_values[chunk] - from_state[chunk] @ state.mT
        outputs.append(decayed_q[chunk] @ state.mT + scores[chunk] @ corrections)
        state = chunk_decay[chunk] * state + corrections.mT @ decayed_k[chunk]
    return torch.stack(outputs).transpose(1, 2).flatten(0, 1)[:length], state


def decode_or_verify(
    A_log: Tensor,
    dt_bias: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    initial_state_source: Tensor,
    initial_state_indices: Tensor,
    cu_seqlens: Tensor,
    use_qk_l2norm_in_kernel: bool,
    softplus_beta: float = 1.0,
    softplus_threshold: float = 20.0,
    is_kda: bool = False,
    disable_state_update: bool = False,
    intermediate_states_buffer: Tensor | None = None,
    intermediate_state_indices: Tensor | None = None,
    cache_steps: int | None = None,
    retrieve_parent_token: Tensor | None = None,
) -> Tensor:
    """Gating and delta rule for T tokens a request: one when decoding, a draft when verifying.

    Args:
        A_log, dt_bias: [HV].
        q, k: [1, B*T, H, K]; v: [1, B*T, HV, V]; a, b: B*T rows of HV.
        initial_state_source: [slots, HV, V, K]; unless `disable_state_update`, the slots of the
            requests receive the state after the last token.
        initial_state_indices: [>= B], slots; a negative one marks padding, whose state is not kept.
        cu_seqlens: [B + 1], evenly spaced.
        intermediate_states_buffer: [rows, >= T, HV, V, K], receives the state after every token.
        intermediate_state_indices: [>= B], the row of that buffer for each request.
        cache_steps: the T that the caller has in mind; not needed.
        retrieve_parent_token: [>= B, T], for a draft tree: the token whose state each token starts
            from; the first token's entry is not read. None for a chain.

    Returns:
        [1, B*T, HV, V] in v's dtype.
    """
    if is_kda:
        raise NotImplementedError("the CPU gated delta rule has one decay a head, not a key")
    batch, heads = cu_seqlens.shape[0] - 1, v.shape[2]
    steps = v.shape[1] // max(batch, 1)
    if v.shape[1] != batch * steps:
        raise NotImplementedError("the CPU engine verifies the same number of tokens per request")

    def by_request(x: Tensor) -> Tensor:
        return x.reshape(batch, steps, *x.shape[1:])

    query, key = map(by_request, _queries_and_keys(q[0], k[0], heads, use_qk_l2norm_in_kernel))
    value = by_request(v[0].float())
    log_decay = _decay(A_log, a.reshape(-1, heads), dt_bias, softplus_beta, softplus_threshold)
    decay = by_request(log_decay.exp())
    beta = by_request(b.reshape(-1, heads).float().sigmoid())

    slots = initial_state_indices[:batch].long()
    state = initial_state_source[slots.clamp(min=0)].float()
    requests = torch.arange(batch)
    after = state.new_empty(batch, steps, *state.shape[1:])
    out = torch.empty_like(value)
    for t in range(steps):
        if retrieve_parent_token is not None and t > 0:
            state = after[requests, retrieve_parent_token[:batch, t].long()]
        state = state * decay[:, t, :, None, None]
        error = value[:, t] - _apply(state, key[:, t])
        state = state + (beta[:, t].unsqueeze(-1) * error).unsqueeze(-1) * key[:, t].unsqueeze(-2)
        out[:, t] = _apply(state, query[:, t])
        after[:, t] = state

    if intermediate_states_buffer is not None:
        assert intermediate_state_indices is not None
        rows = intermediate_state_indices[:batch].long()
        intermediate_states_buffer[rows, :steps] = after.to(intermediate_states_buffer.dtype)
    if not disable_state_update:
        real = slots >= 0
        initial_state_source[slots[real]] = state[real].to(initial_state_source.dtype)
    return out.reshape(1, batch * steps, heads, -1).to(v.dtype)


def l2_normalize(x: Tensor) -> Tensor:
    """x / sqrt(|x|^2 + eps) along the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + L2_NORM_EPS)


def _decay(
    A_log: Tensor, a: Tensor, dt_bias: Tensor, beta: float = 1.0, threshold: float = 20.0
) -> Tensor:
    return -A_log.float().exp() * F.softplus(a.float() + dt_bias.float(), beta, threshold)


def _queries_and_keys(
    q: Tensor, k: Tensor, value_heads: int, normalize: bool
) -> tuple[Tensor, Tensor]:
    """[L, H, K] each -> [L, HV, K] in float32, normalized if asked, the queries scaled."""
    q, k = q.float(), k.float()
    if normalize:
        q, k = l2_normalize(q), l2_normalize(k)
    group = value_heads // q.shape[-2]
    q, k = q.repeat_interleave(group, -2), k.repeat_interleave(group, -2)
    return q * q.shape[-1] ** -0.5, k


def _to_chunks(x: Tensor, size: int) -> Tensor:
    """[T, HV, ...] -> [ceil(T / size), HV, size, ...], zeros at the end."""
    padding = -x.shape[0] % size
    x = F.pad(x, (0, 0) * (x.dim() - 1) + (0, padding))
    return x.reshape(-1, size, *x.shape[1:]).transpose(1, 2).contiguous()


def _apply(state: Tensor, x: Tensor) -> Tensor:
    """[B, HV, V, K] times [B, HV, K] -> [B, HV, V]."""
    return (state @ x.unsqueeze(-1)).squeeze(-1)
