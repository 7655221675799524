"""Penalties along a draft tree against the same penalties token by token."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sglang_qwen3next_eagle3.overlay.requests import penalties
from sglang_qwen3next_eagle3.overlay.requests.penalties import Step

VOCABULARY = 23
END = 5


def request(said: list[int], **asked: float) -> Any:
    sampling = {
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_new_tokens": 0,
        "stop_token_ids": None,
        **asked,
    }
    tokenizer = SimpleNamespace(eos_token_id=END, additional_stop_token_ids=None)
    made = SimpleNamespace(
        sampling_params=SimpleNamespace(**sampling), tokenizer=tokenizer, output_ids=list(said)
    )
    setattr(made, penalties._SAID, len(said))
    return made


def by_hand(logits: Tensor, said: list[int], sampling: Any) -> Tensor:
    """One row of logits, penalized for what was said."""
    row = logits.clone()
    for token in said:
        row[token] -= sampling.frequency_penalty
    for token in set(said):
        row[token] -= sampling.presence_penalty
    if len(said) < sampling.min_new_tokens:
        row[END] = float("-inf")
    for token in set(said):
        factor = sampling.repetition_penalty
        row[token] = row[token] * factor if row[token] < 0 else row[token] / factor
    return row


ASKED = [
    {"presence_penalty": 1.5},
    {"frequency_penalty": 1.2},
    {"repetition_penalty": 1.3},
    {"min_new_tokens": 4},
    {},
    {
        "presence_penalty": -0.5,
        "frequency_penalty": 0.75,
        "repetition_penalty": 0.5,
        "min_new_tokens": 6,
    },
]
# root -> 1, 2; 1 -> 3, 4; 3 -> 5; a tree of six with two branches.
NEXT = torch.tensor([1, 3, -1, 5, -1, -1])
SIBLING = torch.tensor([-1, 2, -1, 4, -1, -1])
PATHS = [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 1, 3, 5]]


def test_the_parent_of_a_draft_follows_from_the_links() -> None:
    assert penalties.parents(NEXT[None], SIBLING[None]).tolist() == [[0, 0, 0, 1, 1, 3]]
    chain = torch.tensor([[1, 2, 3, -1]])
    assert penalties.parents(chain, torch.full_like(chain, -1)).tolist() == [[0, 0, 1, 2]]


@pytest.mark.parametrize("elements", [1, 1 << 26], ids=["one by one", "together"])
def test_every_draft_is_penalized_for_its_own_branch_over_several_steps(
    monkeypatch: pytest.MonkeyPatch, elements: int
) -> None:
    monkeypatch.setattr(penalties, "_ELEMENTS_AT_ONCE", elements)
    generator = torch.Generator().manual_seed(1)
    said = [[], [3], [3, 3, 7], [], [1], [2, 2, 9]]
    requests = [request(tokens, **asked) for tokens, asked in zip(said, ASKED, strict=True)]
    count = len(PATHS)
    for _ in range(3):
        tokens = torch.randint(0, 6, (len(requests), count), generator=generator)
        parent = penalties.parents(
            NEXT.expand(len(requests), -1), SIBLING.expand(len(requests), -1)
        )
        logits = torch.randn(len(requests), count, VOCABULARY, generator=generator)
        expected = torch.stack(
            [
                torch.stack(
                    [
                        by_hand(
                            logits[i, node],
                            said[i] + [int(tokens[i, k]) for k in PATHS[node]],
                            requests[i].sampling_params,
                        )
                        for node in range(count)
                    ]
                )
                for i in range(len(requests))
            ]
        )
        step = Step(requests, tokens, parent)
        changed = logits.flatten(0, 1).clone()
        step.apply(changed, VOCABULARY)
        torch.testing.assert_close(changed.view_as(logits), expected)
        last = torch.randint(0, count, (len(requests),), generator=generator)
        step.commit(last)
        for i, node in enumerate(last.tolist()):
            said[i] += [int(tokens[i, k]) for k in PATHS[node]]


def test_without_a_tree_the_sums_round_as_sglang_s_do() -> None:
    """0.1 a hundred times is not ten in float32, and a near tie of logits hangs on that."""
    asked = request([], frequency_penalty=0.1)
    total = torch.zeros(())
    for _ in range(100):
        total += 0.1
        step = Step([asked], torch.tensor([[4]]), torch.zeros(1, 1, dtype=torch.long))
        logits = torch.zeros(1, VOCABULARY)
        step.apply(logits, VOCABULARY)
        step.commit(torch.tensor([0]))
        assert logits[0, 4] == -total
    assert total != 10.0


def test_logits_beyond_the_vocabulary_stay() -> None:
    """The LM head may be padded."""
    asked = request([], presence_penalty=1.0)
    logits = torch.zeros(1, VOCABULARY + 9)
    Step([asked], torch.tensor([[4]]), torch.zeros(1, 1, dtype=torch.long)).apply(
        logits, VOCABULARY
    )
    assert logits[0].nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("asked", [{"presence_penalty": 1.0}, {"min_new_tokens": 3}])
def test_a_request_that_was_retracted_goes_on_from_what_it_had_said(
    asked: dict[str, float],
) -> None:
    """The new prefill's own token is not yet in; the step that begins with it adds it."""
    again = request([7, 8], **asked)
    logits = torch.zeros(1, VOCABULARY)
    Step([again], torch.tensor([[9]]), torch.zeros(1, 1, dtype=torch.long)).apply(
        logits, VOCABULARY
    )
    expected = by_hand(torch.zeros(VOCABULARY), [7, 8, 9], again.sampling_params)
    assert logits[0].tolist() == expected.tolist()
