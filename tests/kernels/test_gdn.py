"""Gated DeltaNet in the interpreter: against plain torch and float64, and verify against decode."""

from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_commit import gdn_commit, reference_gdn_commit
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_decode import (
    GdnOutput,
    gdn_arrivals,
    gdn_decode,
    reference_gdn_decode,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.gdn_verify import (
    GdnKept,
    gdn_verify,
    reference_gdn_verify,
)
from sglang_qwen3next_eagle3.overlay.fast.kernels.quantize import reference_quantize
from sglang_qwen3next_eagle3.overlay.fast.kernels.tree import chain_paths, tree_paths

Inputs = dict[str, Any]
SMALL = (1, 2, 32, 32)  # key heads, value heads, their sizes
REAL = (1, 2, 128, 128)  # a key head of the target


def inputs(
    rows: int, shape: tuple[int, int, int, int], slots: int = 6, bias: bool = False
) -> Inputs:
    key_heads, value_heads, dk, dv = shape
    generator = torch.Generator().manual_seed(rows + dk)

    def normal(*size: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*size, generator=generator) * scale

    channels = 2 * key_heads * dk + value_heads * dv
    return {
        "qkvz": normal(rows, channels + value_heads * dv).bfloat16(),
        "ba": normal(rows, 2 * value_heads).bfloat16(),
        "conv_state": normal(slots, channels, 3).bfloat16(),
        "conv_weight": normal(channels, 4, scale=0.5).bfloat16(),
        "conv_bias": normal(channels).bfloat16() if bias else None,
        "A_log": normal(value_heads),
        "dt_bias": normal(value_heads).bfloat16(),
        "ssm_state": normal(slots, value_heads, dv, dk, scale=0.1),
        "norm_weight": 1 + normal(dv, scale=0.1).bfloat16(),
        "eps": 1e-6,
    }


def copied(layer: Inputs) -> Inputs:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in layer.items()}


def decode(layer: Inputs, slots: torch.Tensor, quantize: bool = False) -> GdnOutput:
    return gdn_decode(slots=slots, quantize=quantize, arrivals=gdn_arrivals(8, 16, "cpu"), **layer)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def row_of(layer: Inputs, row: int) -> Inputs:
    """The same layer and states with one row of inputs."""
    return {**layer, "qkvz": layer["qkvz"][row : row + 1], "ba": layer["ba"][row : row + 1]}


@pytest.mark.parametrize(
    ("shape", "bias"), [(SMALL, True), ((2, 2, 64, 32), False), ((1, 1, 16, 64), False)]
)
def test_decode_is_its_reference(shape: tuple[int, int, int, int], bias: bool) -> None:
    layer = inputs(2, shape, bias=bias)
    slots = torch.tensor([4, -1], dtype=torch.int32)
    expected = copied(layer)
    for _ in range(2):
        out = decode(layer, slots).out
        wanted = reference_gdn_decode(slots=slots, **expected)
        torch.testing.assert_close(out, wanted, rtol=2**-7, atol=1e-6)
        assert same_bits(layer["conv_state"], expected["conv_state"])
        torch.testing.assert_close(layer["ssm_state"], expected["ssm_state"], rtol=0, atol=1e-6)


def test_reference_is_the_recurrence_in_float64() -> None:
    """The reference's states after a few steps, from the definition and in float64."""
    key_heads, value_heads, dk, dv = shape = (2, 4, 32, 32)
    layer = inputs(1, shape)
    slots = torch.tensor([2])
    state = layer["ssm_state"][2].double()
    window = layer["conv_state"][2].double()
    for _ in range(3):
        q, k, v, _ = layer["qkvz"].double().view(key_heads, -1).split([dk, dk, 2 * dv, 2 * dv], 1)
        window = torch.cat([window, torch.cat([q.ravel(), k.ravel(), v.ravel()])[:, None]], 1)
        mixed = (window * layer["conv_weight"].double()).sum(1)
        window = window[:, 1:]
        mixed = mixed * torch.sigmoid(mixed)
        key = mixed[key_heads * dk : 2 * key_heads * dk].view(key_heads, dk)
        key = torch.nn.functional.normalize(key, dim=1).repeat_interleave(2, 0)
        value = mixed[2 * key_heads * dk :].view(value_heads, dv)
        b, a = layer["ba"].double().view(key_heads, 2, 2).unbind(1)
        step = torch.nn.functional.softplus(a.ravel() + layer["dt_bias"].double())
        state = state * torch.exp(-layer["A_log"].double().exp() * step)[:, None, None]
        error = value - torch.einsum("hvk,hk->hv", state, key)
        error = error * torch.sigmoid(b.ravel())[:, None]
        state = state + torch.einsum("hv,hk->hvk", error, key)
        reference_gdn_decode(slots=slots, **layer)
    scale = float(state.abs().max())
    # bf16 in the convolution and in beta.
    torch.testing.assert_close(layer["ssm_state"][2].double(), state, rtol=0, atol=scale * 0.02)
    assert same_bits(layer["conv_state"][2], window.bfloat16())


def test_padding_touches_nothing() -> None:
    layer = inputs(2, SMALL)
    before = copied(layer)
    out = decode(layer, torch.tensor([-1, -1], dtype=torch.int32)).out
    assert bool((out == 0).all())
    assert same_bits(layer["ssm_state"], before["ssm_state"])
    assert same_bits(layer["conv_state"], before["conv_state"])


def test_counters_are_left_at_zero() -> None:
    """The last of the value heads to have read a window resets its key head's counter."""
    layer = inputs(2, SMALL)
    arrivals = gdn_arrivals(4, 1, "cpu")
    slots = torch.tensor([1, -1], dtype=torch.int32)
    gdn_decode(slots=slots, quantize=False, arrivals=arrivals, **layer)
    assert bool((arrivals == 0).all())


def test_codes_are_those_of_the_rounded_output() -> None:
    """Heads as large as the target's, whose four parts of a state are those of its reference."""
    layer = inputs(2, REAL)
    slots = torch.tensor([1, -1], dtype=torch.int32)
    expected = copied(layer)
    wanted = reference_gdn_decode(slots=slots, **expected)
    plain = decode(copied(layer), slots)
    quantized = decode(layer, slots, quantize=True)
    torch.testing.assert_close(plain.out, wanted, rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(layer["ssm_state"], expected["ssm_state"], rtol=0, atol=1e-6)
    codes, scales = reference_quantize(plain.out)
    assert quantized.scales is not None
    assert same_bits(quantized.out, codes)
    assert same_bits(quantized.scales, scales)
    with pytest.raises(ValueError, match="quantization group"):
        decode(inputs(1, SMALL), slots[:1], quantize=True)


def test_a_row_does_not_know_its_neighbours() -> None:
    layer = inputs(3, SMALL)
    slots = torch.tensor([5, 0, 2], dtype=torch.int32)
    alone = copied(layer)
    together = decode(layer, slots)
    for row in range(3):
        assert same_bits(decode(row_of(alone, row), slots[row : row + 1]).out[0], together.out[row])
    assert same_bits(alone["ssm_state"], layer["ssm_state"])
    assert same_bits(alone["conv_state"], layer["conv_state"])


def test_verify_and_commit_are_sequential_decoding() -> None:
    """A tree and a chain in one batch."""
    nodes, slots = 4, torch.tensor([3, 0], dtype=torch.int32)
    tree = tree_paths(torch.tensor([[-1, 0, 0, 1]]))
    paths = torch.cat([tree, chain_paths(1, nodes, "cpu")])
    layer = inputs(2 * nodes, SMALL, bias=True)
    start = copied(layer)
    kept = GdnKept.empty(1, 16, *SMALL, "cpu")
    out = gdn_verify(slots=slots, quantize=False, paths=paths, kept=kept, layer=0, **layer).out
    assert same_bits(layer["ssm_state"], start["ssm_state"])
    assert same_bits(layer["conv_state"], start["conv_state"])
    wanted = reference_gdn_verify(slots=slots, paths=paths, **start)
    torch.testing.assert_close(out, wanted, rtol=2**-7, atol=1e-6)

    leaves = [row for row in range(2 * nodes) if paths[row, 1] == row % nodes]
    for row in leaves:
        request, slot = row // nodes, slots[row // nodes : row // nodes + 1]
        depth, _, *path = paths[row].tolist()
        sequential = copied(start)
        states = []
        for node in path[: depth + 1]:
            stepped = decode(row_of(sequential, request * nodes + node), slot).out[0]
            assert same_bits(stepped, out[request * nodes + node])
            states.append((sequential["conv_state"][slot], sequential["ssm_state"][slot]))

        conv, ssm = start["conv_state"].clone()[None], start["ssm_state"].clone()[None]
        last, tracked = torch.full((2,), -1), torch.full((2,), -1)
        last[request], tracked[request] = row % nodes, path[depth // 2]
        gdn_commit(conv, ssm, slots, paths, last, kept, torch.tensor([4, 5]), tracked)
        for at, (window, state) in ((slot, states[-1]), (4 + request, states[depth // 2])):
            assert same_bits(conv[0, at].view_as(window), window)
            assert same_bits(ssm[0, at].view_as(state), state)
        untouched = [s for s in range(6) if s not in (int(slot), 4 + request)]
        assert same_bits(ssm[0, untouched], start["ssm_state"][untouched])
        assert same_bits(conv[0, untouched], start["conv_state"][untouched])


def test_a_verify_of_one_token_is_a_decode() -> None:
    """What adaptive drafting runs with 0 steps."""
    slots, paths = torch.tensor([3, 0], dtype=torch.int32), chain_paths(2, 1, "cpu")
    layer = inputs(2, SMALL, bias=True)
    decoded = copied(layer)
    kept = GdnKept.empty(1, 16, *SMALL, "cpu")
    out = gdn_verify(slots=slots, quantize=False, paths=paths, kept=kept, layer=0, **layer).out
    assert same_bits(out, decode(decoded, slots).out)
    conv, ssm = layer["conv_state"][None], layer["ssm_state"][None]
    gdn_commit(conv, ssm, slots, paths, torch.zeros(2, dtype=torch.int64), kept)
    assert same_bits(conv[0], decoded["conv_state"])
    assert same_bits(ssm[0], decoded["ssm_state"])


def test_more_rows_than_the_dense_layers_have_room_for() -> None:
    """Ten chains of four, their commit, and a decode step of forty requests."""
    shape, nodes, requests = (1, 1, 16, 32), 4, 10
    layer = inputs(requests * nodes, shape, slots=requests)
    paths, slots = chain_paths(requests, nodes, "cpu"), torch.arange(requests).int()
    kept = GdnKept.empty(1, requests * nodes, *shape, "cpu")
    out = gdn_verify(slots=slots, quantize=False, paths=paths, kept=kept, layer=0, **layer).out
    wanted = reference_gdn_verify(slots=slots, paths=paths, **layer)
    torch.testing.assert_close(out, wanted, rtol=2**-7, atol=1e-6)
    last = torch.arange(requests) % nodes
    live = [layer["conv_state"][None], layer["ssm_state"][None]]
    expected = [part.clone() for part in live]
    gdn_commit(*live, slots, paths, last, kept)
    reference_gdn_commit(*expected, slots, paths, last, kept)
    assert same_bits(live[0], expected[0])
    torch.testing.assert_close(live[1], expected[1], rtol=0, atol=1e-6)

    layer = inputs(40, shape, slots=40)
    again, slots = copied(layer), torch.arange(40).int()
    arrivals = gdn_arrivals(40, 1, "cpu")
    out = gdn_decode(slots=slots, quantize=False, arrivals=arrivals, **layer).out
    wanted = reference_gdn_decode(slots=slots, **again)
    torch.testing.assert_close(out, wanted, rtol=2**-7, atol=1e-6)
    torch.testing.assert_close(layer["ssm_state"], again["ssm_state"], rtol=0, atol=1e-6)


def test_commit_is_its_reference_over_layers() -> None:
    nodes, layers = 2, 2
    slots = torch.tensor([1, -1, 5], dtype=torch.int32)
    paths = chain_paths(3, nodes, "cpu")
    kept = GdnKept.empty(layers, 8, *SMALL, "cpu")
    pools = [inputs(3 * nodes, SMALL) for _ in range(layers)]
    for index, layer in enumerate(pools):
        gdn_verify(slots=slots, quantize=False, paths=paths, kept=kept, layer=index, **layer)
    for field in (kept.raw, kept.key, kept.value, kept.decay, kept.beta):
        field[:, nodes : 2 * nodes] = 0  # of the request of padding nothing is kept
    conv = torch.stack([layer["conv_state"] for layer in pools])
    ssm = torch.stack([layer["ssm_state"] for layer in pools])
    last = torch.tensor([1, 1, 0])
    wanted = conv.clone(), ssm.clone()
    gdn_commit(conv, ssm, slots, paths, last, kept)
    reference_gdn_commit(*wanted, slots, paths, last, kept)
    assert same_bits(conv, wanted[0])
    torch.testing.assert_close(ssm, wanted[1], rtol=0, atol=1e-6)


def test_arguments_that_do_not_fit_are_refused() -> None:
    layer = inputs(4, SMALL)
    kept = GdnKept.empty(1, 4, *SMALL, "cpu")
    slots = torch.tensor([0], dtype=torch.int32)
    with pytest.raises(ValueError, match="4 rows are not 1 trees of 3 nodes"):
        gdn_verify(
            slots=slots,
            quantize=False,
            paths=chain_paths(1, 3, "cpu"),
            kept=kept,
            layer=0,
            **layer,
        )
    with pytest.raises(ValueError, match="together or not at all"):
        gdn_commit(
            layer["conv_state"][None],
            layer["ssm_state"][None],
            slots,
            chain_paths(1, 4, "cpu"),
            slots,
            kept,
            track_slots=slots,
        )
