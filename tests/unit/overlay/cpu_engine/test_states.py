import torch

from sglang_qwen3next_eagle3.overlay.cpu_engine import states


def test_each_request_keeps_the_state_after_its_last_accepted_token():
    layers, steps = 2, 4
    committed = torch.zeros(layers, 6, 3)
    after = torch.randn(layers, 5, steps, 3)
    slots, last = [5, 0, -1, 2], [3, -1, 2, 0]

    states.commit_accepted(
        committed, after, torch.tensor(slots, dtype=torch.int32), torch.tensor(last)
    )

    for layer in range(layers):
        assert torch.equal(committed[layer, 5], after[layer, 0, 3])
        assert torch.equal(committed[layer, 2], after[layer, 3, 0])
        for untouched in (0, 1, 3, 4):
            assert not committed[layer, untouched].any()


def test_rows_of_the_source_can_be_named():
    committed, after = torch.zeros(1, 4, 2), torch.randn(1, 6, 3, 2)
    slots, last, rows = torch.tensor([3, 1, 2]), torch.tensor([0, -1, 2]), torch.tensor([5, 0, 4])
    states.commit_accepted(committed, after, slots, last, rows)
    assert torch.equal(committed[0, 3], after[0, 5, 0])
    assert torch.equal(committed[0, 2], after[0, 4, 2])
    assert not committed[0, :2].any()
