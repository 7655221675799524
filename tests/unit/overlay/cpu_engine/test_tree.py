"""Trees of drafts, built as the draft worker does, against a dictionary of nodes walked by hand."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sglang_qwen3next_eagle3.overlay.cpu_engine import tree

ROOT = "root"


@dataclass
class Draft:
    """One request's draft: which candidate descends from which, and which ones were selected."""

    topk: int
    parent_of: dict[int, int | str]
    parent_list: list[int]
    selected: list[int]
    seq_len: int

    def __post_init__(self):
        self.nodes = [ROOT, *self.selected]

    def children(self, node):
        return [n for n in self.selected if self.parent_of[n] == node]

    def lineage(self, node):
        """From the node up, as long as the parent was selected; without the root."""
        if node not in self.selected:
            return []
        return [node, *self.lineage(self.parent_of[node])]

    def number(self, node):
        return self.nodes.index(node)


@st.composite
def drafts(draw, topk, steps, tokens):
    """What `topk` beams over `steps` steps leave behind, whatever the scores were."""
    parent_of = dict.fromkeys(range(topk), ROOT)
    beams, expanded = list(range(topk)), []
    for _ in range(steps - 1):
        expanded += beams
        first = len(parent_of)
        parent_of |= {first + i: beams[i // topk] for i in range(topk * topk)}
        beams = draw(
            st.lists(
                st.integers(first, len(parent_of) - 1), min_size=topk, max_size=topk, unique=True
            )
        )
    chosen = draw(
        st.lists(
            st.sampled_from(sorted(parent_of)),
            min_size=tokens - 1,
            max_size=tokens - 1,
            unique=True,
        )
    )
    return Draft(topk, parent_of, [-1, *expanded], sorted(chosen), draw(st.integers(1, 100)))


@st.composite
def batches(draw):
    topk, steps = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    candidates = topk + (steps - 1) * topk * topk
    tokens = draw(st.integers(2, min(candidates, 12) + 1))
    batch = draw(st.lists(drafts(topk, steps, tokens), min_size=1, max_size=3))
    return batch, steps, tokens


def build(batch, steps, tokens):
    links = torch.full((3, len(batch), tokens), -1)
    mask = torch.ones(len(batch) * tokens * tokens, dtype=torch.bool)
    positions = torch.full((len(batch) * tokens,), -1)
    # A draft of one step expands nothing; SGLang then passes no parents at all.
    parents = [draft.parent_list if steps > 1 else [] for draft in batch]
    tree.build(
        torch.tensor(parents), torch.tensor([draft.selected for draft in batch]),
        torch.tensor([draft.seq_len for draft in batch]), mask, positions, *links,
        batch[0].topk, steps, tokens, tree.QLEN_ONLY,
    )  # fmt: skip
    return mask.view(-1, tokens, tokens), positions.view(-1, tokens), *links


def children_by_links(next_token, next_sibling, token):
    child = next_token[token]
    while child != -1:
        yield child
        child = next_sibling[child]


@given(batches())
def test_links_lead_from_every_token_to_its_selected_children_in_order(case):
    batch, steps, tokens = case
    _, _, index, next_token, next_sibling = build(batch, steps, tokens)
    assert index.flatten().tolist() == list(range(len(batch) * tokens))
    for row, draft in enumerate(batch):
        first, then = next_token[row].tolist(), next_sibling[row].tolist()
        for node in draft.nodes:
            expected = [draft.number(child) for child in draft.children(node)]
            assert list(children_by_links(first, then, draft.number(node))) == expected


@given(batches())
def test_a_token_sees_its_lineage_and_the_root_and_stands_at_its_depth(case):
    batch, steps, tokens = case
    mask, positions, *_ = build(batch, steps, tokens)
    for row, draft in enumerate(batch):
        for node in draft.nodes:
            lineage = draft.lineage(node)
            seen = {0, *map(draft.number, lineage)}
            token = draft.number(node)
            assert set(mask[row, token].nonzero().flatten().tolist()) == seen
            assert positions[row, token] == draft.seq_len + len(lineage)


def test_a_worked_example_of_three_steps_with_two_beams():
    # Step 1: candidates 0, 1. Step 2: 2, 3 under 0 and 4, 5 under 1; beams 2 and 5.
    # Step 3: 6, 7 under 2 and 8, 9 under 5. Candidate 9's parent 5 is not selected.
    draft = Draft(2, {}, [-1, 0, 1, 2, 5], [0, 1, 2, 7, 9], seq_len=10)
    mask, positions, _, next_token, next_sibling = build([draft], 3, 6)
    assert next_token.tolist() == [[1, 3, -1, 4, -1, -1]]
    assert next_sibling.tolist() == [[-1, 2, -1, -1, -1, -1]]
    assert positions.tolist() == [[10, 11, 11, 12, 13, 11]]
    assert mask[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 0, 0, 0, 0, 1],
    ]


def test_other_modes_of_the_mask_are_refused():
    empty = torch.empty(0, 0, dtype=torch.long)
    with pytest.raises(NotImplementedError, match="mode 0"):
        tree.build(empty, empty, empty, empty, empty, empty, empty, empty, 1, 1, 2, 0)


@given(batches(), st.data())
def test_greedy_verification_follows_the_target_down_the_tree(case, data):
    batch, steps, tokens = case
    _, _, index, next_token, next_sibling = build(batch, steps, tokens)
    # Two tokens in the vocabulary make long paths and equal siblings likely.
    table = st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens)
    drawn = [data.draw(table) for _ in batch]
    predicted = [data.draw(table) for _ in batch]
    untouched = -7
    predicts = torch.full((len(batch) * tokens,), untouched, dtype=torch.int32)
    accepted = torch.full((len(batch), steps + 1), -1, dtype=torch.int32)
    count = torch.empty(len(batch), dtype=torch.int32)

    tree.verify_greedy(
        predicts, accepted, count, torch.tensor(drawn), index, next_token, next_sibling,
        torch.tensor(predicted),
    )  # fmt: skip

    expected_predicts = [untouched] * len(predicts)
    for row, draft in enumerate(batch):

        def walk(node, row=row, draft=draft):
            token = draft.number(node)
            for child in draft.children(node):
                if drawn[row][draft.number(child)] == predicted[row][token]:
                    return [token, *walk(child)]
            return [token]

        path = walk(ROOT)
        places = [row * tokens + token for token in path]
        assert count[row] == len(path) - 1
        assert accepted[row].tolist() == places + [-1] * (steps + 1 - len(path))
        for place, token in zip(places, path, strict=True):
            expected_predicts[place] = predicted[row][token]
    assert predicts.tolist() == expected_predicts


def test_verification_stops_at_the_width_of_the_accepted_path():
    chain = Draft(1, {}, [-1, 0, 1], [0, 1, 2], seq_len=5)
    _, _, index, next_token, next_sibling = build([chain], 3, 4)
    predicts, accepted, count = torch.zeros(4).int(), torch.full((1, 3), -1), torch.zeros(1).int()
    agreed = torch.full((1, 4), 9)
    tree.verify_greedy(predicts, accepted, count, agreed, index, next_token, next_sibling, agreed)
    assert accepted.tolist() == [[0, 1, 2]]
    assert count.tolist() == [2]
    assert predicts.tolist() == [9, 9, 9, 0]
