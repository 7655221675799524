"""The gated delta rule against transformers' token by token recurrence."""

import math

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.cpu_engine import gdn
from tests.support.transformers_model import modeling

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
HEADS = [(2, 2, 32, 32), (2, 4, 16, 24), (1, 2, 64, 64)]  # key heads, value heads, K, V
UNTOUCHED = 7.0


def random_inputs(tokens, key_heads, value_heads, key_size, value_size, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return {
        "q": torch.randn(1, tokens, key_heads, key_size, generator=draw),
        "k": torch.randn(1, tokens, key_heads, key_size, generator=draw),
        "v": torch.randn(1, tokens, value_heads, value_size, generator=draw),
        "a": torch.randn(tokens, value_heads, generator=draw),
        "b": torch.randn(tokens, value_heads, generator=draw),
        "A_log": torch.randn(value_heads, generator=draw),
        "dt_bias": torch.randn(value_heads, generator=draw),
    }


def random_states(slots, value_heads, key_size, value_size, seed=1):
    shape = (slots, value_heads, value_size, key_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recurrence(inputs, tokens, state, kind="recurrent"):
    """Outputs and final state of the tokens with these numbers, in this order."""
    g, beta = gdn.gating(inputs["A_log"], inputs["a"], inputs["b"], inputs["dt_bias"])
    group = inputs["v"].shape[2] // inputs["q"].shape[2]
    rule = getattr(modeling(), f"torch_{kind}_gated_delta_rule")
    out, final = rule(
        inputs["q"][:, tokens].repeat_interleave(group, 2),
        inputs["k"][:, tokens].repeat_interleave(group, 2),
        inputs["v"][:, tokens],
        g[:, tokens],
        beta[:, tokens],
        initial_state=state[None].mT.contiguous(),
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )
    return out[0], final[0].mT


def run_prefill(inputs, states, bounds, slots):
    g, beta = gdn.gating(inputs["A_log"], inputs["a"], inputs["b"], inputs["dt_bias"])
    out, returned = gdn.prefill(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        g,
        beta,
        states,
        True,
        torch.tensor(bounds, dtype=torch.int32),
        False,
        True,
        torch.tensor(slots, dtype=torch.int32),
    )
    assert returned is states
    return out[0]


def run_steps(inputs, states, slots, steps, **verify):
    return gdn.decode_or_verify(
        **inputs,
        initial_state_source=states,
        initial_state_indices=torch.tensor(slots, dtype=torch.int32),
        cu_seqlens=torch.arange(0, len(slots) * steps + 1, steps, dtype=torch.int32),
        use_qk_l2norm_in_kernel=True,
        **verify,
    )[0]


def test_gating_follows_its_formula():
    g, beta = gdn.gating(
        torch.tensor([0.5]), torch.tensor([[2.0]]), torch.tensor([[-1.0]]), torch.tensor([0.25])
    )
    assert g.shape == beta.shape == (1, 1, 1)
    assert g.item() == pytest.approx(-math.exp(0.5) * math.log(1 + math.exp(2.25)))
    assert beta.item() == pytest.approx(1 / (1 + math.e))


@pytest.mark.parametrize("heads", HEADS)
def test_prefill_equals_the_recurrence_for_sequences_of_any_length(heads):
    lengths = [1, 5, 63, 64, 65, 130]
    slots = [4, 0, 7, 2, 1, 5]
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    inputs = random_inputs(bounds[-1], *heads)
    before = random_states(9, *heads[1:])
    states = before.clone()

    out = run_prefill(inputs, states, bounds, slots)

    for slot, start, end in zip(slots, bounds, bounds[1:], strict=False):
        tokens = list(range(start, end))
        expected, final = recurrence(inputs, tokens, before[slot])
        torch.testing.assert_close(out[start:end], expected, **CLOSE)
        torch.testing.assert_close(states[slot], final, **CLOSE)
    for slot in {3, 6, 8}:
        assert torch.equal(states[slot], before[slot])


def test_prefill_equals_the_chunk_form_of_transformers():
    inputs, states = random_inputs(200, 2, 4, 32, 32), random_states(1, 4, 32, 32)
    tokens = list(range(200))
    expected, final = recurrence(inputs, tokens, states[0], "chunk")
    torch.testing.assert_close(run_prefill(inputs, states, [0, 200], [0]), expected, **CLOSE)
    torch.testing.assert_close(states[0], final, **CLOSE)


@pytest.mark.parametrize("cut", [1, 64, 100])
def test_a_prefill_in_two_parts_equals_one_in_a_single_part(cut):
    inputs = random_inputs(150, 2, 4, 16, 16)
    at_once, in_parts = (random_states(1, 4, 16, 16) for _ in range(2))
    expected = run_prefill(inputs, at_once, [0, 150], [0])

    parts = []
    for tokens in (slice(0, cut), slice(cut, 150)):
        part = {name: inputs[name][:, tokens] for name in "qkv"}
        part |= {name: inputs[name][tokens] for name in "ab"}
        parts.append(run_prefill(inputs | part, in_parts, [0, part["q"].shape[1]], [0]))

    torch.testing.assert_close(torch.cat(parts), expected, **CLOSE)
    torch.testing.assert_close(in_parts, at_once, **CLOSE)


def test_prefill_skips_padding_and_empty_sequences():
    inputs = random_inputs(10, 2, 2, 8, 8)
    before = random_states(3, 2, 8, 8)
    states = before.clone()
    out = run_prefill(inputs, states, [0, 4, 4, 10], [-1, 1, 2])
    assert torch.equal(out[:4], torch.zeros(4, 2, 8))
    assert torch.equal(states[:2], before[:2])
    torch.testing.assert_close(
        out[4:], recurrence(inputs, list(range(4, 10)), before[2])[0], **CLOSE
    )


def test_prefill_of_no_sequence_returns_nothing():
    states = random_states(1, 2, 8, 8)
    assert run_prefill(random_inputs(0, 2, 2, 8, 8), states, [0], []).shape == (0, 2, 8)


def test_prefill_forgets_without_overflow_when_the_decay_is_strong():
    inputs = random_inputs(64, 1, 1, 8, 8) | {"A_log": torch.tensor([6.0])}
    states = random_states(1, 1, 8, 8)
    expected, final = recurrence(inputs, list(range(64)), states[0])
    torch.testing.assert_close(run_prefill(inputs, states, [0, 64], [0]), expected, **CLOSE)
    torch.testing.assert_close(states[0], final, **CLOSE)


def test_prefill_keeps_the_dtypes_of_outputs_and_states():
    inputs = random_inputs(10, 2, 2, 8, 8)
    inputs |= {name: inputs[name].bfloat16() for name in "qkv"}
    states = torch.zeros(1, 2, 8, 8, dtype=torch.bfloat16)
    assert run_prefill(inputs, states, [0, 10], [0]).dtype == torch.bfloat16
    assert states.dtype == torch.bfloat16
    assert states.abs().sum() > 0


@pytest.mark.parametrize("heads", HEADS)
def test_decoding_moves_every_request_on_by_one_token(heads):
    slots = [3, 0, -1, 2]
    inputs = random_inputs(len(slots), *heads)
    before = random_states(5, *heads[1:])
    states = before.clone()

    out = run_steps(inputs, states, slots, 1)

    for request, slot in enumerate(slots):
        if slot < 0:
            continue
        expected, final = recurrence(inputs, [request], before[slot])
        torch.testing.assert_close(out[request : request + 1], expected, **CLOSE)
        torch.testing.assert_close(states[slot], final, **CLOSE)
    for slot in (1, 4):
        assert torch.equal(states[slot], before[slot])


@pytest.mark.parametrize("heads", HEADS)
def test_verifying_a_chain_records_the_state_after_every_token(heads):
    slots, rows, steps = [4, 1], [2, 0], 4
    inputs = random_inputs(len(slots) * steps, *heads)
    before = random_states(5, *heads[1:])
    states = before.clone()
    buffer = torch.full((3, steps + 1, *states.shape[1:]), UNTOUCHED)

    out = run_steps(
        inputs,
        states,
        slots,
        steps,
        disable_state_update=True,
        intermediate_states_buffer=buffer,
        intermediate_state_indices=torch.tensor(rows, dtype=torch.int32),
    )

    assert torch.equal(states, before)
    for request, (slot, row) in enumerate(zip(slots, rows, strict=True)):
        for step in range(steps):
            path = [request * steps + t for t in range(step + 1)]
            expected, final = recurrence(inputs, path, before[slot])
            torch.testing.assert_close(out[path[-1]], expected[-1], **CLOSE)
            torch.testing.assert_close(buffer[row, step], final, **CLOSE)
    assert (buffer[1] == UNTOUCHED).all()
    assert (buffer[:, steps] == UNTOUCHED).all()


def test_verifying_a_tree_equals_running_every_path_from_the_root():
    parents = [[0, 0, 0, 1, 1, 2, 3], [0, 0, 1, 2, 0, 4, 4]]
    slots, steps = [2, 0, -1], 7
    inputs = random_inputs(len(slots) * steps, 2, 4, 16, 16)
    before = random_states(3, 4, 16, 16)
    buffer = torch.zeros(3, steps, 4, 16, 16)

    out = run_steps(
        inputs,
        before.clone(),
        slots,
        steps,
        disable_state_update=True,
        intermediate_states_buffer=buffer,
        # Longer than the batch, as the backend passes it.
        intermediate_state_indices=torch.arange(8),
        retrieve_parent_token=torch.tensor([*parents, parents[0]]),
    )

    for request, tree in enumerate(parents):
        for token in range(steps):
            path = [token]
            while path[0] != 0:
                path.insert(0, tree[path[0]])
            path = [request * steps + node for node in path]
            expected, final = recurrence(inputs, path, before[slots[request]])
            torch.testing.assert_close(out[path[-1]], expected[-1], **CLOSE)
            torch.testing.assert_close(buffer[request, token], final, **CLOSE)


def test_what_the_engine_lacks_is_refused():
    inputs, states = random_inputs(3, 1, 1, 4, 4), random_states(2, 1, 4, 4)
    with pytest.raises(NotImplementedError, match="decay a head"):
        run_steps(inputs, states, [0, 1, 1], 1, is_kda=True)
    with pytest.raises(NotImplementedError, match="same number of tokens"):
        gdn.decode_or_verify(
            **inputs,
            initial_state_source=states,
            initial_state_indices=torch.tensor([0, 1]),
            cu_seqlens=torch.tensor([0, 1, 3]),
            use_qk_l2norm_in_kernel=True,
        )
