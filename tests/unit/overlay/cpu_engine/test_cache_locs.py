"""Bookkeeping of slots, by hand-made tables: request r's position p is slot 100 r + p."""

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.cpu_engine import cache_locs

ROWS = torch.tensor([2, 0])


@pytest.fixture
def req_to_token():
    return (100 * torch.arange(4).unsqueeze(1) + torch.arange(20)).int()


def test_new_slots_go_to_the_positions_of_their_requests(req_to_token):
    before = req_to_token.clone()
    cache_locs.assign_req_to_token_pool(
        ROWS, req_to_token, torch.tensor([3, 7]), torch.tensor([5, 10]),
        torch.tensor([51, 52, 61, 62, 63]), 20,
    )  # fmt: skip
    assert req_to_token[2, 2:6].tolist() == [202, 51, 52, 205]
    assert req_to_token[0, 6:11].tolist() == [6, 61, 62, 63, 10]
    assert torch.equal(req_to_token[[1, 3]], before[[1, 3]])


def test_a_request_without_new_positions_takes_no_slot(req_to_token):
    cache_locs.assign_req_to_token_pool(
        ROWS, req_to_token, torch.tensor([3, 7]), torch.tensor([3, 8]), torch.tensor([51]), 20
    )
    assert req_to_token[2, 3] == 203
    assert req_to_token[0, 7] == 51


def test_slots_of_spans_are_read_one_request_after_the_other(req_to_token):
    out = torch.full((7,), -1)
    cache_locs.assign_extend_cache_locs(
        ROWS, req_to_token, torch.tensor([3, 7]), torch.tensor([5, 10]), out, 20
    )
    assert out.tolist() == [203, 204, 7, 8, 9, -1, -1]


def test_draft_slots_are_those_after_the_request(req_to_token):
    out = torch.empty(2 * 2 * 3, dtype=torch.long)
    cache_locs.assign_draft_cache_locs_contiguous(
        ROWS, req_to_token, torch.tensor([4, 9]), out, 20, 2, 3
    )
    assert out.tolist() == [*range(204, 210), *range(9, 15)]


def test_every_branch_of_the_draft_sees_the_request_and_its_own_slots(req_to_token):
    lengths, topk, steps = [4, 9], 3, 2
    before = req_to_token.clone()
    table = cache_locs.build_draft_decode_metadata(
        req_to_token, ROWS, torch.tensor(lengths, dtype=torch.int32), topk, steps, 20
    )
    assert torch.equal(req_to_token, before)
    for request, (row, length) in enumerate(zip(ROWS.tolist(), lengths, strict=True)):
        for branch in range(topk):
            slots = table[request * topk + branch].tolist()
            first = 100 * row + length + branch * steps
            assert slots[:length] == [100 * row + position for position in range(length)]
            assert slots[length : length + steps] == [first, first + 1]


@pytest.mark.parametrize("shape", [(2, 4), (8,)])
def test_the_bonus_token_is_the_last_accepted_one(shape):
    accepted = torch.tensor([11, 12, 13, 0, 21, 0, 0, 0], dtype=torch.int32).view(shape)
    bonus = torch.empty(2, dtype=torch.int32)
    cache_locs.fill_bonus_tokens(accepted, torch.tensor([3, 1], dtype=torch.int32), bonus, 4)
    assert bonus.tolist() == [13, 21]


def test_slots_of_accepted_tokens_close_ranks():
    accept_index = torch.tensor([[0, 2, -1], [4, -1, -1], [8, 9, 10]], dtype=torch.int32)
    out = torch.zeros(9, dtype=torch.long)
    cache_locs.fill_accept_out_cache_loc(accept_index, torch.arange(50, 62), out)
    assert out.tolist() == [50, 52, 54, 58, 59, 60, 0, 0, 0]


def test_an_empty_batch_passes_through_every_helper(req_to_token):
    none = torch.empty(0, dtype=torch.long)
    before = req_to_token.clone()
    cache_locs.assign_req_to_token_pool(none, req_to_token, none, none, none, 20)
    cache_locs.assign_extend_cache_locs(none, req_to_token, none, none, none, 20)
    cache_locs.assign_draft_cache_locs_contiguous(none, req_to_token, none, none, 20, 2, 3)
    cache_locs.fill_bonus_tokens(none, none, none, 4)
    cache_locs.fill_accept_out_cache_loc(none, none, none)
    table = cache_locs.build_draft_decode_metadata(req_to_token, none, none, 2, 3, 20)
    assert table.shape == (0, 20)
    assert torch.equal(req_to_token, before)
