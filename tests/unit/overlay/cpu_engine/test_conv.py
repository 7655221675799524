"""The causal convolution against torch's own and transformers' update."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from sglang_qwen3next_eagle3.overlay.cpu_engine import conv
from tests.support.transformers_model import modeling

CHANNELS, TAPS = 6, 4
PAD = -1
UNTOUCHED = 7.0


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def bias(request):
    return torch.randn(CHANNELS) if request.param else None


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def weight():
    return torch.randn(CHANNELS, TAPS)


@pytest.fixture
def states():
    return torch.randn(5, CHANNELS, TAPS - 1)


def reference(x, past, weight, bias):
    """x [D, T] after past [D, W - 1]: outputs [D, T] and the new past, by a padded convolution."""
    history = torch.cat((past, x), 1)
    padded = F.pad(history, (TAPS - 1, 0))[None]
    out = F.silu(F.conv1d(padded, weight[:, None], bias, groups=CHANNELS))[0]
    return out[:, past.shape[1] :], history[:, -(TAPS - 1) :]


def run_prefill(x, weight, bias, states, bounds, slots, continues):
    return conv.prefill(
        x, weight, bias, states, torch.tensor(bounds), torch.tensor(slots),
        torch.tensor(continues), True, PAD, True,
    )  # fmt: skip


def test_prefill_starts_from_zeros_or_continues_from_the_slot(weight, bias, states):
    bounds, slots, continues = [0, 1, 3, 11, 20], [3, 0, 4, 1], [False, True, False, True]
    x, before = torch.randn(20, CHANNELS).mT, states.clone()

    out = run_prefill(x, weight, bias, states, bounds, slots, continues)

    for i, slot in enumerate(slots):
        tokens = slice(bounds[i], bounds[i + 1])
        past = before[slot] * continues[i]
        expected, after = reference(x[:, tokens], past, weight, bias)
        torch.testing.assert_close(out[:, tokens], expected)
        torch.testing.assert_close(states[slot], after)
    assert torch.equal(states[2], before[2])


def test_a_prefill_in_two_parts_equals_one_in_a_single_part(weight, bias, states):
    x, in_parts = torch.randn(CHANNELS, 9), states.clone()
    expected = run_prefill(x, weight, bias, states, [0, 9], [0], [False])
    first = run_prefill(x[:, :2], weight, bias, in_parts, [0, 2], [0], [False])
    second = run_prefill(x[:, 2:], weight, bias, in_parts, [0, 7], [0], [True])
    torch.testing.assert_close(torch.cat((first, second), 1), expected)
    torch.testing.assert_close(in_parts[0], states[0])


def test_prefill_skips_padding(weight, states):
    before = states.clone()
    out = run_prefill(torch.randn(CHANNELS, 4), weight, None, states, [0, 4], [PAD], [True])
    assert torch.equal(out, torch.zeros(CHANNELS, 4))
    assert torch.equal(states, before)


def test_decoding_equals_the_update_of_transformers(weight, bias, states):
    update = modeling().torch_causal_conv1d_update
    slots, x, before = [2, PAD, 0], torch.randn(3, CHANNELS), states.clone()
    out = conv.decode_or_verify(
        x, states, weight, bias, "silu", conv_state_indices=torch.tensor(slots)
    )
    for request in (0, 2):
        past = before[slots[request]][None].clone()
        expected = update(x[request][None, :, None], past, weight, bias)
        torch.testing.assert_close(out[request], expected[0, :, 0])
        torch.testing.assert_close(states[slots[request]], past[0])
    for slot in (1, 3, 4):
        assert torch.equal(states[slot], before[slot])


def test_without_an_activation_the_sum_comes_out_as_it_is(states):
    weight = torch.zeros(CHANNELS, TAPS)
    weight[:, -1] = 2.0
    x = torch.randn(1, CHANNELS)
    out = conv.decode_or_verify(x, states, weight, conv_state_indices=torch.tensor([0]))
    torch.testing.assert_close(out, 2 * x)


def test_verifying_a_chain_records_every_window_and_leaves_the_state(weight, bias, states):
    slots, rows, steps = [4, 1], [2, 0], 5
    x, before = torch.randn(2, steps, CHANNELS).mT, states.clone()
    windows = torch.full((3, steps + 1, CHANNELS, TAPS - 1), UNTOUCHED)

    out = conv.decode_or_verify(
        x, states, weight, bias, "silu",
        conv_state_indices=torch.tensor(slots),
        intermediate_conv_window=windows,
        intermediate_state_indices=torch.tensor(rows),
    )  # fmt: skip

    assert torch.equal(states, before)
    for request, (slot, row) in enumerate(zip(slots, rows, strict=True)):
        for step in range(steps):
            expected, after = reference(x[request, :, : step + 1], before[slot], weight, bias)
            torch.testing.assert_close(out[request, :, step], expected[:, -1])
            torch.testing.assert_close(windows[row, step], after)
    assert (windows[1] == UNTOUCHED).all()
    assert (windows[:, steps] == UNTOUCHED).all()


def test_verifying_a_tree_equals_running_every_path_from_the_root(weight, bias, states):
    # Two trees as lists of children; token 6 of the second is linked to by nothing.
    trees = [{0: [1, 2], 1: [3, 4], 2: [5], 3: [6]}, {0: [1, 4], 1: [2], 2: [3], 4: [5]}]
    slots, steps = [3, 0], 7
    next_token, next_sibling = torch.full((2, 2, steps), -1)
    for request, tree in enumerate(trees):
        for parent, children in tree.items():
            next_token[request, parent] = children[0]
            for child, sibling in pairwise(children):
                next_sibling[request, child] = sibling
    parents = torch.full((2, steps), -5)
    x, before = torch.randn(2, steps, CHANNELS).mT, states.clone()
    windows = torch.zeros(2, steps, CHANNELS, TAPS - 1)

    out = conv.decode_or_verify(
        x, states, weight, bias, "silu",
        conv_state_indices=torch.tensor(slots),
        intermediate_conv_window=windows,
        intermediate_state_indices=torch.arange(2),
        retrieve_next_token=next_token,
        retrieve_next_sibling=next_sibling,
        retrieve_parent_token=parents,
    )  # fmt: skip

    assert parents.tolist() == [[0, 0, 0, 1, 1, 2, 3], [0, 0, 1, 2, 0, 4, 0]]

    def check(request, tree, path):
        expected, after = reference(x[request][:, path], before[slots[request]], weight, bias)
        torch.testing.assert_close(out[request, :, path[-1]], expected[:, -1])
        torch.testing.assert_close(windows[request, path[-1]], after)
        for child in tree.get(path[-1], []):
            check(request, tree, [*path, child])

    for request, tree in enumerate(trees):
        check(request, tree, [0])
    assert torch.equal(states, before)
