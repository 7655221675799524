"""Sampling at a temperature above 0, with and without drafts, and with seeds.

Verification by sampling goes down the tree from the root. At each node one uniform number decides
among the children and all other tokens: the children divide the front of [0, 1) by the target's
probability of their tokens, and the number's place is the child that is accepted. Where it falls
behind them all, the last token is drawn from what the rejected children leave of the target's
distribution. Every token is thus distributed as the target's own, whatever was drafted.
"""

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

NONE = -1
_WORD = 0xFFFFFFFF


def top_k_renorm_prob(probs: Tensor, top_ks: Tensor) -> Tensor:
    """Probabilities of each row's k likeliest tokens, renormalized; [R, V] and [R].

    Tokens as likely as the k-th stay, too.
    """
    vocabulary = probs.shape[-1]
    k = top_ks.long().clamp(1, vocabulary).unsqueeze(-1)
    ordered = probs.sort(dim=-1, descending=True).values
    return _normalized(probs.where(probs >= ordered.gather(-1, k - 1), 0.0))


def top_p_renorm_prob(probs: Tensor, top_ps: Tensor) -> Tensor:
    """Probabilities of each row's likeliest tokens that reach the mass p together, renormalized.

    probs: [R, V]; top_ps: [R].
    """
    ordered = probs.sort(dim=-1, descending=True)
    before = ordered.values.cumsum(-1) - ordered.values
    kept = ordered.values.where(before <= top_ps.unsqueeze(-1), 0.0)
    return _normalized(torch.zeros_like(probs).scatter_(-1, ordered.indices, kept))


def _normalized(probs: Tensor) -> Tensor:
    return probs / probs.sum(dim=-1, keepdim=True)


def verify_by_sampling(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """Accept drafts, and draw the token behind the last accepted one.

    Args:
        predicts: [B * N]; overwritten at the places of the path with the token behind each.
        accept_index: [B, depth + 1], its beginning overwritten with the places of the path.
        accept_token_num: [B], overwritten with the length of the path without the root.
        candidates: [B, N], draft tokens.
        retrive_index, retrive_next_token, retrive_next_sibling: [B, N], as `tree.build` writes
            them, under the names that the CUDA operator gives them.
        uniform_samples: [B, N], in [0, 1), one for each node; ..._final_sampling: [B].
        target_probs: [B, N, V], what the target says behind each draft token.
        draft_probs: [B, N, V], scratch space of the CUDA operator; not read.
        threshold_single, threshold_acc: a child is also accepted where its probability reaches the
            first, and the children's shares are divided by the second. Both are 1 for exactness.
        deterministic: not needed.
    """
    places = retrive_index.tolist()
    tables = zip(
        candidates.tolist(), retrive_next_token.tolist(), retrive_next_sibling.tolist(), strict=True
    )
    for row, (tokens, children, siblings) in enumerate(tables):
        path, left = [0], target_probs[row, 0]
        while len(path) < accept_index.shape[1]:
            node = path[-1]
            left = target_probs[row, node].clone()
            coin, reached = float(uniform_samples[row, node]), 0.0
            child = children[node]
            while child != NONE:
                share = float(target_probs[row, node, tokens[child]])
                reached += share
                # Strictly below, so that a coin of 0 accepts nothing of probability 0.
                if share > 0 and (coin < reached / threshold_acc or share >= threshold_single):
                    break
                left[tokens[child]] = 0.0
                child = siblings[child]
            if child == NONE:
                break
            predicts[places[row][node]] = tokens[child]
            path.append(child)
            left = target_probs[row, child]
        for step, node in enumerate(path):
            accept_index[row, step] = places[row][node]
        accept_token_num[row] = len(path) - 1
        predicts[places[row][path[-1]]] = _draw(
            left, float(uniform_samples_for_final_sampling[row])
        )


def _draw(weights: Tensor, coin: float) -> int:
    """The token at which the running sum of the weights passes the coin's share of their sum."""
    sums = weights.double().cumsum(-1)
    place = int(torch.searchsorted(sums, coin * sums[-1], right=True))
    if place < weights.shape[-1] and weights[place] > 0:
        return place
    # Rounding can put the coin behind the last token, or leave nothing: then the likeliest.
    return int(weights.argmax())


def murmur_hash32(seed: Tensor, positions: Tensor, col_indices: Tensor) -> Tensor:
    """MurmurHash3 (32 bits) of seed, position and column as four words: [R, C], uint32.

    SGLang's own is a Triton kernel; the numbers are the same.

    Args:
        seed: [R], 64 bits; positions: [R]; col_indices: [C].
    """
    words = seed.view(torch.int64) if seed.dtype == torch.uint64 else seed.long()
    places = positions.view(torch.int64) if positions.dtype == torch.uint64 else positions.long()
    hashed = torch.zeros_like(words)
    for word in (words & _WORD, (words >> 32) & _WORD, places & _WORD):
        hashed = _mixed(hashed, word)
    hashed = _mixed(hashed.unsqueeze(1), (col_indices.long() & _WORD).unsqueeze(0))
    hashed = hashed ^ 16
    hashed = _times(hashed ^ (hashed >> 16), 0x85EBCA6B)
    hashed = _times(hashed ^ (hashed >> 13), 0xC2B2AE35)
    return (hashed ^ (hashed >> 16)).to(torch.uint32)


def _mixed(hashed: Tensor, word: Tensor) -> Tensor:
    word = _times(_rotated(_times(word, 0xCC9E2D51), 15), 0x1B873593)
    return (_times(_rotated(hashed ^ word, 13), 5) + 0xE6546B64) & _WORD


def _rotated(value: Tensor, bits: int) -> Tensor:
    return ((value << bits) | (value >> (32 - bits))) & _WORD


def _times(value: Tensor, factor: int) -> Tensor:
    """The low 32 bits of the product, without a number above 48 bits on the way."""
    low = (value & 0xFFFF) * factor
    high = ((value >> 16) * factor & 0xFFFF) << 16
    return (low + high) & _WORD


def sample_or_verify(
    original: Callable[..., Any],
    verify_input: Any,
    batch: Any,
    logits_output: Any,
    *arguments: Any,
    **options: Any,
) -> Any:
    """Around SGLang's `eagle_sample`, which verifies greedily on a CPU whatever is asked for.

    Its branch for GPUs runs in its place, with the operators above for the CUDA ones.
    """
    if batch.forward_mode.is_idle() or batch.sampling_info.is_all_greedy:
        return original(verify_input, batch, logits_output, *arguments, **options)
    return _gpu_branch(original)(verify_input, batch, logits_output, *arguments, **options)


def _gpu_branch(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its module's `_is_cpu` false for it alone: the choice of a branch is the
    only thing it reads that from."""
    assert isinstance(function, types.FunctionType)
    assert "_is_cpu" in function.__globals__
    globals_ = {**function.__globals__, "_is_cpu": False}
    branch = types.FunctionType(
        function.__code__, globals_, function.__name__, function.__defaults__, function.__closure__
    )
    branch.__kwdefaults__ = function.__kwdefaults__
    return branch


def seeded(original: Callable[..., Any], batch: Any, vocab_size: int) -> Any:
    """Around `SamplingBatchInfo.from_schedule_batch`, which takes a request's seed only with
    `--enable-deterministic-inference`: here every request has one."""
    info = original(batch, vocab_size)
    if info.sampling_seed is None:
        seeds = [_seed_of(request) for request in batch.reqs]
        info.sampling_seed = torch.tensor(seeds, dtype=torch.int64)
    return info


def _seed_of(request: Any) -> int:
    seed = request.sampling_params.sampling_seed
    if seed is not None:
        return int(seed)
    if not hasattr(request, _OWN_SEED):
        setattr(request, _OWN_SEED, int(torch.randint(2**62, ())))
    return int(getattr(request, _OWN_SEED))


_OWN_SEED = "_qwen3next_eagle3_seed"


def sample_with_min_p(
    original: Callable[..., Any],
    probs: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    need_min_p_sampling: bool,
    sampling_seed: Tensor | None,
    positions: Tensor,
    **options: Any,
) -> Any:
    """Around SGLang's sampling in torch, which refuses `min_p` together with seeds.

    What `min_p` leaves out are a row's least likely tokens; without them the sums over the
    likelier ones, by which `top_p` goes, are the same.
    """
    if need_min_p_sampling:
        least = probs.amax(dim=-1, keepdim=True) * min_ps.unsqueeze(-1)
        probs = probs.where(probs >= least, 0.0)
    return original(probs, top_ks, top_ps, min_ps, False, sampling_seed, positions, **options)
