"""The fast path in stock SGLang's model, on the CPU with references in place of its kernels.

What a GPU is not needed for: how weights, states, caches and batches lie in SGLang's objects, the
contract between layers, captured streams, the commit of accepted drafts, and the check at start.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.processes import free_port
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET
from tests.support.demo_server import cpu_environment
from tests.support.parts import elsewhere

LAYERS = 8
ATTENTION = (3, 7)
TREES = {"none": None, "chain": (3, 1, 4), "tree": (3, 4, 8)}
MODES = ("none", "tree") if elsewhere() else tuple(TREES)
FLAGS = (
    "--load-format dummy --skip-tokenizer-init --device cpu --attention-backend intel_amx "
    "--dtype bfloat16 --disable-cuda-graph --skip-server-warmup --mem-fraction-static 0.2 "
    "--max-total-tokens 8192 --max-running-requests 8"
).split()


def write_target(folder: Path, layers: int) -> Path:
    config = json.loads((demo_pair().target / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "layer_types": config["layer_types"][:layers]}
    # Only a shared expert as wide as the others is fused with them.
    config["shared_expert_intermediate_size"] = config["moe_intermediate_size"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def started(
    out: Path, target: Path, flags: list[str], rank: int = 0, **environment: str
) -> "subprocess.Popen[bytes]":
    script = Path(__file__).parents[1] / "support" / "check_fast.py"
    command = [sys.executable, str(script), str(out), "reference", str(target), str(rank)]
    merged = {**os.environ, **cpu_environment(), **environment}
    return subprocess.Popen([*command, "--", *flags], env=merged)


@pytest.fixture(scope="module", params=MODES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What tests/support/check_fast.py found, for decoding and for verifying chains and trees."""
    folder = tmp_path_factory.mktemp(request.param)
    flags, tree, selection = list(FLAGS), TREES[request.param], {}
    if tree is not None:
        steps, topk, nodes = map(str, tree)
        flags += ["--speculative-algorithm", "EAGLE3", "--speculative-num-steps", steps]
        flags += ["--speculative-eagle-topk", topk, "--speculative-num-draft-tokens", nodes]
        flags += ["--speculative-draft-model-path", str(demo_pair().head)]
        # The head's own selection is of a target with more layers.
        selection = {"SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS": "input:3,output:3,output:7"}
    out = folder / "out.json"
    assert started(out, write_target(folder / "target", LAYERS), flags, **selection).wait() == 0
    return {"mode": request.param, **json.loads(out.read_text())}


def test_every_step_of_every_layer_is_stocks(report: Any) -> None:
    found = {(finding["layer"], finding["stage"]) for finding in report["findings"]}
    layers = {
        (layer, stage)
        for layer in range(LAYERS)
        for stage in ("dense", "moe", "attention" if layer in ATTENTION else "gdn")
    }
    assert found == {*layers, (-1, "lm_head")}
    # Beside two requests, or as many as there is room for: up to 32 rows.
    more = {finding["requests"] for finding in report["findings"]} - {0}
    assert more == {"none": {1, 4, 8}, "chain": {1, 4, 8}, "tree": {1, 4}}[report["mode"]]
    assert not [finding for finding in report["findings"] if finding["off"]]
    # References round where stock does: far below what is let pass.
    assert max(finding["typical"] for finding in report["findings"]) < 0.015


def test_there_is_room_for_drafts_behind_the_longest_context(report: Any) -> None:
    assert report["room"]


def test_the_check_leaves_the_states_as_they_were(report: Any) -> None:
    assert report["clean"]


def test_what_is_built_ahead_is_told_of_stocks_model(report: Any) -> None:
    """A rotary embedding of the target, and with drafts the head's, which turns more of a key."""
    ropes = 1 if report["mode"] == "none" else 2
    assert report["builds"].count("_jit_fused_rope_module") == ropes
    assert report["builds"].count("_jit_kvcache_module") == 1


def test_a_prefill_is_gone_through_in_all_lengths(report: Any) -> None:
    """The norm, the sparse block, its router and the mixer, of a layer of each kind."""
    assert report["prefills"] == 3 * 2 * 4


def test_what_is_off_goes_back_to_stock(report: Any) -> None:
    if "spoilt" not in report:
        pytest.skip("spoilt kernels: CI tries them with the default release; here by hand")
    spoilt = report["spoilt"]
    everything = set(OF_TARGET)
    gdn = "gdn_decode" if report["mode"] == "none" else "gdn_verify"
    for kernel, stage in ((gdn, "gdn"), ("attention", "attention"), ("lm_head", "lm_head")):
        assert set(spoilt[kernel]["stages"]) == everything - {stage}, kernel
    assert set(spoilt["experts"]["stages"]) == everything - {"moe"}
    for kernel in ("add_norm_quantize", "skinny_gemm"):
        assert set(spoilt[kernel]["stages"]) == everything - {"dense"}, kernel
    if report["mode"] != "none":
        assert set(spoilt["gdn_commit"]["stages"]) == everything - {"gdn"}
    (line,) = spoilt["attention"]["described"]
    assert line.startswith("attention stays with stock in layers 3, 7: ")


def test_whole_passes_keep_the_streams(report: Any) -> None:
    if report["mode"] != "none":
        pytest.skip("the target alone does not draft")
    streams = report["streams"]
    # The prefill is stock's, every decode step ours.
    assert streams["taken"] == [False, True, True, True, True]
    assert streams["off"][0] == 0
    assert 0 < max(streams["off"]) < 0.03


def test_a_verify_is_the_decode_steps_that_it_stands_for(report: Any) -> None:
    """Bit for bit, through stock's whole model: logits, committed states and KV cache."""
    if report["mode"] != "none":
        pytest.skip("stock's metadata of verification is made up here")
    assert report["unequal"] == {"1 chain of 4": [], "2 chains of 4": [], "1 tree of 8": []}


@pytest.mark.skipif(elsewhere(), reason="CI runs it with the default release; here by hand")
def test_ranks_of_tensor_parallelism_add_up_as_stock_does(tmp_path: Path) -> None:
    """Two processes with half the heads and half of every expert each: step by step, and through
    whole passes, in which a sum that is missing or too much would not stay unseen."""
    target = write_target(tmp_path / "target", 4)
    port = str(free_port())
    flags = [*FLAGS, "--tp-size", "2", "--nccl-port", port, "--disable-custom-all-reduce"]
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    # SGLang binds the ranks of a CPU to cores of their own.
    cores = {"SGLANG_CPU_OMP_THREADS_BIND": "0|0"}
    processes = [started(out, target, flags, rank, **cores) for rank, out in enumerate(outs)]
    assert [process.wait() for process in processes] == [0, 0]
    for out in outs:
        found = json.loads(out.read_text())
        assert not [finding for finding in found["findings"] if finding["off"]]
        assert max(finding["typical"] for finding in found["findings"]) < 0.015
        assert found["streams"]["taken"] == [False, True, True, True, True]
        assert 0 < max(found["streams"]["off"]) < 0.03
        assert not any(found["unequal"].values())
        # With the sums in one launch with what follows, which a reference adds up as SGLang does.
        fused = found["fused"]
        assert "allreduce" in fused["stages"]
        assert max(finding["typical"] for finding in fused["findings"]) < 0.015
        assert fused["streams"]["taken"] == found["streams"]["taken"]
        assert fused["streams"]["off"] == found["streams"]["off"]
