"""The head's fast path in stock SGLang's draft worker, on the CPU with references in place of its
kernels: how weights, caches and batches lie in SGLang's objects, what its forward and its drafting
return, and the check at start."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.processes import free_port
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from tests.contract.test_fast import FLAGS, LAYERS, write_target
from tests.support.demo_server import cpu_environment
from tests.support.parts import elsewhere

WIDE = {
    "num_attention_heads": 8,
    "head_dim": 128,
    "intermediate_size": 1024,
    "draft_vocab_size": 1000,
}
"""Query heads in fours, and a vocabulary that ends within a tile."""
CASES = {
    "demo, 3,1,4": ({}, (3, 1, 4)),
    "wide, 5,1,6": (WIDE, (5, 1, 6)),
    "demo, 3,4,8": ({}, (3, 4, 8)),
}


def command(folder: Path, head: dict[str, Any], tree: tuple[int, int, int]) -> list[str]:
    """Flags of a target and a head of dummy weights."""
    config = json.loads((demo_pair().head / "config.json").read_text()) | head
    (folder / "head").mkdir()
    (folder / "head" / "config.json").write_text(json.dumps(config))
    steps, topk, nodes = map(str, tree)
    return [
        *FLAGS, "--speculative-algorithm", "EAGLE3", "--speculative-num-steps", steps,
        "--speculative-eagle-topk", topk, "--speculative-num-draft-tokens", nodes,
        "--speculative-draft-model-path", str(folder / "head"),
    ]  # fmt: skip


def started(out: Path, target: Path, flags: list[str], rank: int = 0, **more: str) -> Any:
    script = Path(__file__).parents[1] / "support" / "check_head.py"
    words = [sys.executable, str(script), str(out), str(target), str(rank), "--", *flags]
    # The head's own selection is of a target with more layers.
    selection = {"SGLANG_QWEN3NEXT_EAGLE3_AUX_LAYERS": "input:3,output:3,output:7"}
    return subprocess.Popen(words, env={**os.environ, **cpu_environment(), **selection, **more})


SERVED = tuple(CASES)[:1] if elsewhere() else tuple(CASES)


@pytest.fixture(scope="module", params=SERVED)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("head")
    head, tree = CASES[request.param]
    flags = command(folder, head, tree)
    target = write_target(folder / "target", LAYERS)
    assert started(folder / "out.json", target, flags).wait() == 0
    return {"tree": tree, **json.loads((folder / "out.json").read_text())}


def stocks(report: Any) -> None:
    kinds = ("state", "logits")
    named = [*(f"extended_{kind}" for kind in kinds), "keys", "values"]
    named += [*(f"drafted_{kind}" for kind in kinds), "keys", "values"]
    # With as many requests as there is room for, with one, with two, and of short drafts with four.
    found = [finding["what"] for finding in report["findings"]]
    assert found in (named * 3, named * 4)
    assert not [finding for finding in report["findings"] if finding["off"]]
    # References round where stock does: far below what is let pass.
    assert max(finding["worst"] for finding in report["findings"]) < 0.015


def same_drafts(report: Any) -> None:
    for case in ("without_table", "with_table"):
        found = report[case]
        assert found["stock"] == found["ours"]
        assert 0 < found["off"] < 0.01
    assert report["with_table"]["ours"]["drafts"] != report["without_table"]["ours"]["drafts"]


def test_a_draft_extend_and_a_draft_step_are_stocks(report: Any) -> None:
    stocks(report)
    assert report["unread"]


def test_other_numbers_of_steps_are_checked_too(report: Any) -> None:
    if report["tree"][1] == 1:
        assert report["further"] == {str(tokens): [True, False] for tokens in (1, 2, 3)}


def test_there_is_room_for_drafts_behind_the_longest_context(report: Any) -> None:
    assert report["room"]


def test_the_check_leaves_the_cache_as_it_was(report: Any) -> None:
    assert report["clean"]


def test_a_kernel_that_errs_is_found(report: Any) -> None:
    spoilt = report["spoilt"]
    assert all(spoilt.values())
    assert set(spoilt["logits"]) == {"extended_logits", "drafted_logits"}
    assert {"keys", "values"} <= set(spoilt["enter"])
    assert set(spoilt["gated"]) & {"extended_state", "drafted_state"}
    assert "keys" not in spoilt["gated"]


def test_heads_that_the_kernels_do_not_know_stay_with_stock(report: Any) -> None:
    assert report["refused"] == {
        "worker": "it lives in CUDA graphs of decoding, which are off",
        "output": "the head norms its input or its output",
        "window": "its attention slides a window",
        "cap": "its attention scales or caps its scores",
        "caches": "it scales its KV cache",
        "logits": "it scales or caps its logits",
        "heads": report["refused"]["heads"],  # the width of a head is the case's
        "weights": "a weight of the head is not bfloat16",
        "layers": "the head has 2 layers",
        "model": "it is for EAGLE3 heads, the draft is Qwen3NextForCausalLM",
    }
    assert "and 3 queries to a key" in report["refused"]["heads"]


def test_what_the_log_says_of_a_head_and_that_stock_serves_what_is_not_right(report: Any) -> None:
    prepared, prefix = report["prepared"], "sglang-qwen3next-eagle3: fast path"
    whole, rounded = prepared["right"]
    assert whole.startswith(f"{prefix} on: head up to 8 rows; checked in ")
    assert rounded.startswith(
        f"{prefix} on: head up to 8 rows, its weights in 8 bits beside the loaded ones ("
    )
    # References are no kernels, and where Triton interprets nothing is compiled.
    ready = [line for line in prepared["all of it"] if "made ready" in line]
    assert all(line.startswith(f"{prefix}: head: 0 kernels made ready in ") for line in ready)
    assert ready or os.environ.get("TRITON_INTERPRET") == "1"
    reasons = {
        "wrong": "it differs from stock in extended state by ",
        "raising": "it differs from stock in all, where it raised ValueError: of a kernel",
        "broken": "ValueError: of the check",
    }
    for name, reason in reasons.items():
        lines = prepared[name]
        assert lines[0].startswith(f"{prefix}: head stays with stock: {reason}")
        required = f"ended: {prefix}: head stays with stock, but it is required: {reason}"
        assert lines[1].startswith(required)


def test_weights_in_8_bits_are_checked_against_stock_with_the_same_and_with_the_loaded_ones(
    report: Any,
) -> None:
    rounded = report["rounded"]
    names = ("fc", "qkv", "o", "gate_up", "down", "lm_head")
    assert list(rounded["weights"]) == [f"weights of {name}" for name in names]
    assert all(0.004 < off < 0.016 for off in rounded["weights"].values())
    assert rounded["worst"] < 0.015
    assert rounded["kept"]
    extra, loaded = rounded["bytes"]
    assert 0.5 < extra / loaded < 0.53
    assert not rounded["findings"]["right"]
    for name in names:
        said = f"weights of {name.replace('_', ' ')} by"
        assert any(said in line for line in rounded["findings"][name])


def test_drafts_are_those_of_stock(report: Any) -> None:
    same_drafts(report)


@pytest.mark.skipif(elsewhere(), reason="CI runs it with the default release; here by hand")
def test_ranks_of_tensor_parallelism_draft_as_stock_does(tmp_path: Path) -> None:
    flags = command(tmp_path, {}, (3, 1, 4))
    target = write_target(tmp_path / "target", LAYERS)
    port = str(free_port())
    flags += ["--tp-size", "2", "--nccl-port", port, "--disable-custom-all-reduce"]
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    # SGLang binds the ranks of a CPU to cores of their own.
    cores = {"SGLANG_CPU_OMP_THREADS_BIND": "0|0"}
    ranks = [started(out, target, flags, rank, **cores) for rank, out in enumerate(outs)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    for out in outs:
        found = json.loads(out.read_text())
        stocks(found)
        same_drafts(found)
