"""The kernels around a verify and a draft extend of chains beside what torch makes of the same."""

from types import SimpleNamespace
from typing import Any

import torch

from sglang_qwen3next_eagle3.overlay import simulate
from sglang_qwen3next_eagle3.overlay.seams import chain_kernels

CONTEXT, POOL = 2100, 70


def compare(device: str, batches: tuple[int, ...], vocabulary: int, width: int) -> int:
    """How many cases were equal to the bit.

    Raises AssertionError: one was not.
    """
    chance = torch.Generator().manual_seed(5)
    cases = 0
    for batch in batches:
        # One token, as with 0 steps of adaptive drafting.
        for nodes in (1, 2, 4, 6):
            padded = batch + (batch * 3 + nodes) % 3
            for kind in (torch.float32, torch.bfloat16):
                made = _made(batch, nodes, padded, kind, vocabulary, width, chance, device)
                _compare_accept(made)
                _compare_leave(made)
                _compare_simulated(made)
                cases += 3
            _compare_prepare(made)
            _compare_keep(made)
            cases += 2
    return cases


def compare_long(device: str) -> int:
    """The same of what a draft extend reads, where a program goes over several parts of a request's
    keys, and where the batch is larger than the smallest vector over it."""
    chance = torch.Generator().manual_seed(6)
    lengths = ([4097, 40_000], [4096, 1], [1 + 31 * n for n in range(65)])
    for told in lengths:
        batch = len(told)
        context = max(told) + 9
        made = _made(batch, 4, batch + 1, torch.float32, 50, 48, chance, device, context)
        made.seq_lens = torch.tensor(told, device=device)
        _compare_prepare(made)
    return len(lengths)


def _made(
    batch: int,
    nodes: int,
    padded: int,
    kind: torch.dtype,
    vocabulary: int,
    width: int,
    chance: torch.Generator,
    device: str,
    context: int = CONTEXT,
) -> Any:
    rows = batch * nodes
    # Few values: many of them are the largest.
    logits = torch.randint(-9, 4, (rows, vocabulary), generator=chance).to(kind)
    logits[0, vocabulary // 2] = float("nan")
    logits[-1] = float("-inf")
    best = logits.argmax(-1)
    candidates = torch.randint(vocabulary, (batch, nodes), generator=chance)
    # A draft is the target's choice in two of three.
    taken = torch.rand(batch, nodes - 1, generator=chance) < 0.66
    chosen = best.view(batch, nodes)[:, :-1]
    candidates[:, 1:] = torch.where(taken, chosen, candidates[:, 1:])
    made = {
        "logits": logits, "candidates": candidates,
        "accept_lens": torch.randint(1, nodes + 1, (batch,), generator=chance).int(),
        "hidden": torch.randn(rows, width, generator=chance).bfloat16(),
        "tokens": torch.randint(vocabulary, (rows,), generator=chance).int(),
        "slots": torch.randint(9000, (rows,), generator=chance),
        "seq_lens": torch.randint(1, context - 9, (batch,), generator=chance),
        "requests": torch.randperm(POOL, generator=chance)[:batch],
        "table": torch.randint(9000, (POOL, context), generator=chance).int(),
    }  # fmt: skip
    on_device = {name: tensor.to(device) for name, tensor in made.items()}
    return SimpleNamespace(batch=batch, nodes=nodes, padded=padded, **on_device)


def _equal(found: Any, expected: Any, *what: Any) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype, what
        assert torch.equal(one, other), (what, one, other)


def _compare_accept(of: Any) -> None:
    best = of.logits.argmax(-1).int().view(of.batch, of.nodes)
    same = (of.candidates[:, 1:] == best[:, :-1]).int().cumprod(-1).sum(-1)
    lens = (same + 1).int()
    step = torch.arange(of.nodes, device=lens.device)[None]
    inside = step < lens[:, None]
    place = torch.arange(of.batch * of.nodes, device=lens.device).int().view(of.batch, of.nodes)
    expected = (
        torch.where(inside, best, 0).flatten(),
        lens,
        torch.where(inside, place, -1),
    )
    found = chain_kernels.accept(of.logits, of.candidates)
    _equal(found, expected, "accept", of.batch, of.nodes)


def _compare_leave(of: Any) -> None:
    rows = torch.arange(of.batch, device=of.logits.device) * of.nodes + of.accept_lens - 1
    index = of.logits[rows].argmax(-1, keepdim=True)
    expected = torch.ones_like(index).float(), index, of.hidden[rows]
    found = chain_kernels.leave(of.logits, of.hidden, of.accept_lens)
    _equal(found, expected, "leave", of.batch, of.nodes)


def _compare_simulated(of: Any) -> None:
    given = chain_kernels.accept(of.logits, of.candidates)
    for wanted in (0, 1, 3, 9):
        length = torch.full((1,), wanted, dtype=torch.int32, device=of.logits.device)
        expected = simulate.taken_by(length, *given)
        _equal(chain_kernels.simulated(length, *given, 100), expected, "simulated", wanted)


def _compare_keep(of: Any) -> None:
    outs = torch.zeros(4, of.batch * (of.nodes + 1), dtype=torch.int32, device=of.logits.device)
    expected = outs.clone()
    expected[2] = torch.cat([of.tokens, of.accept_lens])
    place = torch.full((1,), 2, device=of.logits.device)
    chain_kernels.keep(place, of.tokens, of.accept_lens, outs)
    _equal([outs], [expected], "keep", of.batch, of.nodes)


def _compare_prepare(of: Any) -> None:
    """Written as SGLang 0.5.17 does: `prepare_for_draft_extend`, `execute` and the backend's
    buffers; tests/support/check_chains.py compares with these themselves."""
    device, fill = of.logits.device, 1
    most = (of.padded + 2) * of.nodes

    def places(size: int, kind: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.full((size,), 77, dtype=kind, device=device)

    def empty() -> tuple[Any, Any]:
        counts = {name: places(of.padded + 2, torch.int32) for name in (
            "extend_seq_lens", "num_correct_drafts", "num_accept_tokens"
        )}  # fmt: skip
        buffers = SimpleNamespace(
            req_pool_indices=places(of.padded + 2), seq_lens=places(of.padded + 2),
            input_ids=places(most), positions=places(most), out_cache_loc=places(most),
            hidden_states=torch.zeros(most, of.hidden.shape[1], device=device).bfloat16(), **counts,
        )  # fmt: skip
        backend = SimpleNamespace(
            req_to_token=of.table, qo_indptr=places(of.padded + 3, torch.int32),
            kv_indptr=places(of.padded + 3, torch.int32),
            cuda_graph_kv_indices=places(of.batch * of.table.shape[1]),
        )  # fmt: skip
        return buffers, backend

    (found, at), (expected, there) = empty(), empty()
    chain_kernels.prepare(
        at, found, of.padded, fill, of.seq_lens, of.requests, of.accept_lens, of.tokens, of.slots,
        of.hidden,
    )  # fmt: skip
    every, rows = slice(0, of.padded), slice(0, of.padded * of.nodes)
    expected.seq_lens[every], expected.req_pool_indices[every] = fill, 0
    for name in ("num_correct_drafts", "num_accept_tokens", "extend_seq_lens"):
        vars(expected)[name][every] = of.nodes
    expected.positions[rows] = expected.out_cache_loc[rows] = 0
    real, rows = slice(0, of.batch), slice(0, of.batch * of.nodes)
    step = torch.arange(of.nodes, device=device)
    expected.input_ids[rows], expected.out_cache_loc[rows] = of.tokens.long(), of.slots
    expected.seq_lens[real] = of.seq_lens + of.nodes
    expected.positions[rows] = (of.seq_lens[:, None] + step).flatten()
    expected.req_pool_indices[real] = of.requests
    expected.num_correct_drafts[real] = of.accept_lens - 1
    expected.num_accept_tokens[real] = of.accept_lens
    expected.hidden_states[rows] = of.hidden
    kept = (expected.seq_lens[every] - expected.extend_seq_lens[every]).clamp(min=0)
    there.qo_indptr[: of.padded + 1] = torch.arange(of.padded + 1, device=device).int() * of.nodes
    there.kv_indptr[0] = 77  # SGLang leaves the first one, which is 0, alone
    there.kv_indptr[1 : of.padded + 1] = kept.cumsum(0)
    keys = [of.table[row, :length] for row, length in zip(of.requests, of.seq_lens, strict=True)]
    there.cuda_graph_kv_indices[: int(of.seq_lens.sum())] = torch.cat(keys).long()
    for name, tensor in (*vars(expected).items(), *vars(there).items()):
        one = vars(found).get(name)
        one = vars(at)[name] if one is None else one
        assert torch.equal(one, tensor), (name, of.batch, of.nodes, one, tensor)
