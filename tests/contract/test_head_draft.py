"""The head's own forward in torch against the draft model of a running SGLang, fp32.

SGLang drafts a chain (3, 1, 4) behind each prompt; its draft model's inputs and outputs are kept.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sglang_qwen3next_eagle3.calibrate import prompts
from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.head.forward import HeadModel
from sglang_qwen3next_eagle3.model.embeddings import vocabulary_rows
from sglang_qwen3next_eagle3.model.target import Target
from tests.support import dump_draft
from tests.support.demo_server import cpu_environment, plain_command
from tests.support.server import free_port, generate, running

PROMPTS, LENGTH = 8, 200
DRAFTS = 3


@dataclass(frozen=True)
class Call:
    """One forward pass of SGLang's draft model over N tokens.

    states: [N, width], the target's in the first draft step, else the head's own.
    normed: [N, hidden], what lm_head reads; next: [N, hidden], what the next step reads.
    """

    input_ids: Tensor
    positions: Tensor
    states: Tensor
    normed: Tensor
    next: Tensor


@pytest.fixture(scope="module")
def pair() -> DemoPair:
    return demo_pair()


@pytest.fixture(scope="module")
def model(pair: DemoPair) -> HeadModel:
    embedding, lm_head = vocabulary_rows(pair.target, Target.from_path(pair.target))
    return HeadModel.load(pair.head, embedding, target_lm_head=lm_head)


@pytest.fixture(scope="module")
def ids(pair: DemoPair) -> list[list[int]]:
    """Texts of different lengths."""
    found = prompts.tokenize(prompts.built_in(), pair.target, LENGTH)
    whole = [row for row in found if len(row) == LENGTH]
    return [row[: LENGTH - 7 * i] for i, row in enumerate(whole[:PROMPTS])]


@pytest.fixture(scope="module")
def chains(
    pair: DemoPair, ids: list[list[int]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[list[Call]]]:
    """For every prompt the passes of its first chain: over the prompt, then one a draft."""
    folder = tmp_path_factory.mktemp("draft")
    calls, port = folder / "calls", free_port()
    dump = dump_draft.install(folder / "site", calls)
    environment = cpu_environment()
    path = os.pathsep.join([environment["PYTHONPATH"], dump["PYTHONPATH"]])
    command = plain_command(pair.target, pair.head, (DRAFTS, 1, DRAFTS + 1), port)
    environment |= {**dump, "PYTHONPATH": path}
    with running(command, port, folder / "server.log", environment) as server:
        found = []
        for row in ids:
            seen = set(calls.glob("*.pt"))
            generate(server, 2, input_ids=row)
            made = sorted(set(calls.glob("*.pt")) - seen)
            found.append([Call(**torch.load(path)) for path in made[:DRAFTS]])
        yield found


def test_the_draft_model_was_seen_at_work(chains: list[list[Call]], ids: list[list[int]]) -> None:
    for row, (first, *drafts) in zip(ids, chains, strict=True):
        assert first.input_ids[:-1].tolist() == row[1:], "tokens are one ahead of the states"
        assert first.positions.tolist() == list(range(len(row)))
        assert len(drafts) == DRAFTS - 1, "the first draft comes with the pass over the prompt"
        for k, draft in enumerate(drafts):
            assert draft.positions.tolist() == [len(row) + k]


def test_the_first_draft_is_sglang_s_at_every_position(
    model: HeadModel, chains: list[list[Call]], ids: list[list[int]]
) -> None:
    lm_head = model.tensors["lm_head.weight"]
    same, positions = 0, 0
    for row, (first, *_) in zip(ids, chains, strict=True):
        whole = torch.tensor([row[0], *first.input_ids.tolist()])
        (logits,) = model.predict(first.states, whole, 1)
        theirs = first.normed @ lm_head.T
        assert (logits - theirs).abs().max() < 1e-3 * theirs.abs().max()
        same += int((logits.argmax(-1) == theirs.argmax(-1)).sum())
        positions += len(row)
    assert positions == sum(map(len, ids)) > 1000
    assert same >= 0.99 * positions


def test_the_drafts_of_a_chain_are_sglang_s(
    model: HeadModel, chains: list[list[Call]], ids: list[list[int]]
) -> None:
    """The tokens that SGLang goes on with, and the states that it feeds back."""
    lm_head = model.tensors["lm_head.weight"]
    for row, (first, *drafts) in zip(ids, chains, strict=True):
        drafted = [int(draft.input_ids) for draft in drafts]
        whole = torch.tensor([row[0], *first.input_ids.tolist(), *drafted])
        # The last root's chain reads no state behind it.
        states = torch.cat([first.states, torch.zeros(len(drafted), first.states.shape[1])])
        steps = model.predict(states, whole, DRAFTS)
        root = len(row) - 1
        for k, token in enumerate(drafted):
            assert int(model.target_ids[steps[k][root].argmax()]) == token
            theirs = drafts[k].normed[0] @ lm_head.T
            difference = (steps[k + 1][root] - theirs).abs().max()
            assert difference < 1e-3 * theirs.abs().max()


def test_states_of_another_place_are_told_apart(
    model: HeadModel, chains: list[list[Call]], ids: list[list[int]]
) -> None:
    """What makes the agreement above mean something."""
    first = chains[0][0]
    whole = torch.tensor([ids[0][0], *first.input_ids.tolist()])
    right, wrong = (
        model.predict(states, whole, 1)[0].argmax(-1)
        for states in (first.states, first.states.roll(50, dims=0))
    )
    assert (right == wrong).float().mean() < 0.9
