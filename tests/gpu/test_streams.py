"""The plugin's captured streams against stock SGLang's own capture, full-size FP8 on one GPU.

Dummy weights: this compares two ways to read the same streams, not what is in them.
"""

import pytest
import torch

from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.overlay import capture
from tests.support.streams import StreamRunner

pytestmark = pytest.mark.gpu

FLAGS = (
    "--load-format dummy --skip-tokenizer-init --attention-backend triton --disable-cuda-graph "
    "--mem-fraction-static 0.8 --max-running-requests 4 --context-length 8192 --random-seed 1"
).split()
PROMPT = [(7919 * i) % 150000 for i in range(1, 258)]
DECODE_STEPS = 8


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> StreamRunner:
    target = synthetic.write_target(tmp_path_factory.mktemp("models") / "fp8", "fp8")
    runner = StreamRunner(target, FLAGS)
    runner.spread_dummy_weights()
    return runner


def by_plugin(runner: StreamRunner, text: str) -> torch.Tensor:
    """[streams, T, hidden] over prefill and decode."""
    target = capture.target_of(runner.model.config)
    selection = aux_layers.on_target(text, target, count=None, allow_gdn=True)
    capture.install(runner.model, selection)
    return torch.cat(runner.capture(PROMPT, DECODE_STEPS)[1], dim=1)


def by_stock(runner: StreamRunner, ids: list[int] | None) -> torch.Tensor:
    """The same by SGLang's own setter, which the plugin's hook wraps."""
    capture.install(runner.model, aux_layers.AuxSelection(()))
    stock = type(runner.model).set_eagle3_layers_to_capture.__wrapped__
    stock(runner.model, ids)
    return torch.cat(runner.capture(PROMPT, DECODE_STEPS)[1], dim=1)


def report(name: str, difference: torch.Tensor, scale: torch.Tensor) -> None:
    print(
        f"{name}: largest difference {difference.abs().max():.3g}, "
        f"equal elements {(difference == 0).float().mean():.6f}, "
        f"streams' largest element {scale.abs().max():.3g}"
    )


@pytest.mark.parametrize(
    ("text", "ids"), [("sglang", None), ("output:3,23,43", [3, 23, 43]), ("fork", [2, 26, 46])]
)
def test_plugin_and_stock_capture_the_same_streams(
    runner: StreamRunner, text: str, ids: list[int] | None
) -> None:
    ours, stock, again = by_plugin(runner, text), by_stock(runner, ids), by_stock(runner, ids)
    assert ours.shape == (3, len(PROMPT) + DECODE_STEPS, 2048)
    report(f"{text} plugin - stock", ours - stock, stock)
    report(f"{text} stock - stock", again - stock, stock)
    noise = (again - stock).abs().max()
    assert (ours - stock).abs().max() <= noise, "no further apart than two runs of stock itself"


def test_every_layer_changes_the_stream(runner: StreamRunner) -> None:
    """What makes the other tests mean something: no depth would pass for its neighbour."""
    every = "input:" + ",".join(map(str, range(48))) + ",output:47"
    streams = by_plugin(runner, every)
    assert streams.isfinite().all()
    steps = (streams[1:] - streams[:-1]).norm(dim=(1, 2)) / streams[:-1].norm(dim=(1, 2))
    unequal = (streams[1:] != streams[:-1]).float().mean(dim=(1, 2))
    print(f"relative change from depth to depth: {steps.min():.4f} to {steps.max():.4f}")
    print(f"elements that change from depth to depth: {unequal.min():.3f} to {unequal.max():.3f}")
    # Plugin and stock are compared bit by bit, so a change of most elements tells depths apart.
    assert unequal.min() > 0.5


def test_the_last_layer_s_output_is_what_the_final_norm_reads(runner: StreamRunner) -> None:
    normed: list[torch.Tensor] = []
    norm = runner.model.model.norm
    handle = norm.register_forward_hook(lambda _m, _a, output: normed.append(output[0].clone()))
    try:
        streams = by_plugin(runner, "card")
    finally:
        handle.remove()
    assert streams.shape[0] == 3
    last = streams[2].to("cuda", norm.weight.dtype)
    expected = torch.cat(normed)
    difference = (norm(last) - expected).float()
    report("norm(output@47) - final hidden states", difference, expected.float())
    # The stream was rounded to bf16 once, which the fused add-and-norm kernel does not see.
    assert difference.norm() / expected.float().norm() < 1e-2
    wrong = (norm(streams[1].to(last)) - expected).float()
    assert wrong.norm() / expected.float().norm() > 0.1, "another stream would not pass"


def test_streams_of_one_depth_are_the_same_in_every_selection(runner: StreamRunner) -> None:
    card, mixed = by_plugin(runner, "card"), by_plugin(runner, "input:4,input:24,output:47")
    assert torch.equal(card, mixed)


@pytest.fixture(autouse=True)
def _needs_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here")
