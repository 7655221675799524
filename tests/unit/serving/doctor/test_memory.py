"""The memory plan against what was recorded on GPUs, and what it says of flags."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3.demo import demo_pair
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model import published, shards
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.seams import sizes as of_cycles
from sglang_qwen3next_eagle3.serving import flags
from sglang_qwen3next_eagle3.serving.doctor import (
    checkpoint,
    examine,
    findings,
    memory,
    settings,
    weights,
)
from sglang_qwen3next_eagle3.serving.doctor.memory import GIB, MIB

RECORDED = yaml.safe_load((Path(__file__).parent / "recorded.yaml").read_text(encoding="utf-8"))
RESULTS = Path(__file__).resolve().parents[4] / "benchmarks" / "results"
H200 = examine.KNOWN_GPUS["H200"]
CONFIGS = {"bf16": published.CODER_NEXT, "fp8": published.CODER_NEXT_FP8}
HEAD = Head(Path("head"), published.HEAD, {})


def inputs(
    words: str, precision: str = "bf16", algorithm: Any = "eagle3", mib: int = H200
) -> memory.Inputs:
    target = Target.from_config(CONFIGS[precision])
    resolved = settings.resolve(flags.parse(words.split()), {}, target, algorithm, mib)
    tensors = weights.of_config(target, mtp=True)
    tp = resolved.tp
    own = weights.target_bytes(tensors, target, tp, 2)
    draft = {
        "none": 0,
        "eagle3": weights.head_bytes(HEAD, tp, 2),
        "nextn": weights.mtp_bytes(tensors, target, tp, 2),
    }[algorithm]
    taken = examine.RESERVED_MIB + examine.CONTEXT_MIB + (examine.RANKS_MIB if tp > 1 else 0)
    # As examine counts it: an MTP layer loads an lm_head beside the embedding.
    embedding = weights.embedding_bytes(target.config, tp, 2) * (2 if algorithm == "nextn" else 1)
    loaded = memory.Weights(own, draft, embedding)
    config = published.HEAD if algorithm == "eagle3" else None
    return memory.Inputs(resolved, target, loaded, (mib - taken) * MIB, config)


def tree_flags(algorithm: str, tree: list[int] | None) -> str:
    if tree is None:
        return ""
    steps, topk, drafts = tree
    return (
        f" --speculative-algorithm {algorithm.upper()} --speculative-num-steps {steps}"
        f" --speculative-eagle-topk {topk} --speculative-num-draft-tokens {drafts}"
    )


def pools_of(plan: memory.Plan) -> memory.Pools:
    assert isinstance(plan.pools, memory.Pools), plan.pools
    return plan.pools


@pytest.mark.parametrize("row", RECORDED["weights"])
def test_weights_take_what_sglang_counted(row: dict[str, Any]) -> None:
    target = Target.from_config(CONFIGS[row["precision"]])
    size = weights.target_bytes(weights.of_config(target), target, row["tp"], 2)
    assert size / GIB == pytest.approx(row["gib"], rel=0.01)


@pytest.mark.parametrize("row", RECORDED["states"])
def test_states_take_what_sglang_allocated(row: dict[str, Any]) -> None:
    words = f"--tp {row['tp']} --disable-radix-cache --max-running-requests {row['requests']}"
    words += tree_flags("EAGLE3", row["tree"])
    plan = memory.plan(inputs(words, row["precision"]))
    assert pools_of(plan).requests == row["requests"]
    assert plan.states / GIB == pytest.approx(row["states"], rel=0.05)
    assert plan.verification / GIB == pytest.approx(row["verification"], rel=0.05)


@pytest.mark.parametrize("row", RECORDED["free"])
def test_what_is_free_before_the_weights(row: dict[str, Any]) -> None:
    before = inputs(f"--tp {row['tp']}").before
    assert before / GIB == pytest.approx(row["gib"], rel=0.005)


@pytest.mark.parametrize("row", RECORDED["drafts"])
def test_drafts_take_what_sglang_counted(row: dict[str, Any]) -> None:
    words = "--tp 4" + tree_flags(row["algorithm"], [3, 1, 4])
    loaded = inputs(words, "bf16", row["algorithm"]).weights
    # torch takes memory in blocks of 2 and 20 MiB, which so small a model notices.
    assert (loaded.draft + loaded.loading) / GIB == pytest.approx(row["gib"], abs=0.05)


@pytest.mark.parametrize("row", RECORDED["kv"])
def test_kv_takes_what_sglang_allocated(row: dict[str, Any]) -> None:
    words = "--tp 4 --disable-radix-cache --max-running-requests 32 --max-total-tokens 40000"
    words += tree_flags(row["algorithm"], row.get("tree"))
    plan = memory.plan(inputs(words, "bf16", row["algorithm"]))
    assert pools_of(plan).tokens == 40000
    # Two figures of two digits each.
    assert plan.kv / GIB == pytest.approx(row["target"], abs=0.01)
    assert plan.draft_kv / GIB == pytest.approx(row["draft"], abs=0.01)


@pytest.mark.parametrize("row", RECORDED["requests"]["servers"])
def test_four_h200_serve_as_many_requests_as_they_did(row: dict[str, Any]) -> None:
    words = RECORDED["requests"]["flags"] + tree_flags(row["algorithm"], row.get("tree"))
    plan = memory.plan(inputs(words, "bf16", row["algorithm"]))
    assert pools_of(plan).requests == row["requests"]
    assert plan.rest > 0


def recorded_servers() -> list[Any]:
    found = []
    for folder, precision in (
        ("h200x1-speed", "fp8"),
        ("h200x2-tp", "bf16"),
        ("h200x4-tp/bf16", "bf16"),
        ("h200x4-tp/fp8", "fp8"),
    ):
        result = json.loads((RESULTS / folder / "result.json").read_text(encoding="utf-8"))
        found += [
            pytest.param(precision, row, id=f"{folder}-{row['name']}")
            for row in result["configurations"]
            if row["status"] == "ok"
        ]
    return found


@pytest.mark.parametrize(("precision", "row"), recorded_servers())
def test_the_recorded_servers_fit_and_serve_as_many(precision: str, row: dict[str, Any]) -> None:
    words = " ".join(row["argv"][5:])
    plan = memory.plan(inputs(words, precision, row["algorithm"]))
    assert pools_of(plan).requests == row["max_running_requests"]
    assert plan.rest > 0


def test_the_demo_s_headers_and_its_config_tell_the_same() -> None:
    folder = demo_pair().target
    target = Target.from_path(folder)
    tensors, _ = checkpoint.weights(folder)
    assert tensors is not None
    for tp in (1, 2):
        by_headers = weights.target_bytes(tensors, target, tp, 4)
        by_config = weights.target_bytes(weights.of_config(target), target, tp, 4)
        assert by_headers == pytest.approx(by_config, rel=0.001), tp
    stored = sum(place.stop - place.start for _, place in shards.headers(Folder(folder)).values())
    assert weights.target_bytes(tensors, target, 1, 2) == pytest.approx(stored, rel=0.001)


def test_the_demo_serves_what_its_server_said() -> None:
    """As `launch --profile demo -- --max-total-tokens 200000 --max-running-requests 24` logged on
    2 cores: max_total_num_tokens=200000, max_running_requests=24, max_mamba_cache_size: 24, KV of
    0.572 GiB (/server_info, memory_usage.kvcache) and K and V of the draft of 0.10 GB each."""
    pair = demo_pair()
    target, head = Target.from_path(pair.target), Head.from_path(pair.head)
    words = (
        "--device cpu --dtype float32 --disable-radix-cache --mem-fraction-static 0.2 "
        "--max-total-tokens 200000 --max-running-requests 24" + tree_flags("EAGLE3", [3, 4, 8])
    )
    environment = {"SGLANG_MAMBA_CONV_DTYPE": "float32"}
    resolved = settings.resolve(flags.parse(words.split()), environment, target, "eagle3", 24000)
    size = memory.Weights(weights.target_bytes(weights.of_config(target), target, 1, 4))
    plan = memory.plan(memory.Inputs(resolved, target, size, 19 * GIB, head.config))
    pools = pools_of(plan)
    assert (pools.tokens, pools.requests, pools.slots) == (200000, 24, 24)
    assert plan.kv / GIB == pytest.approx(0.572, rel=0.01)
    assert plan.draft_kv / GIB == pytest.approx(0.20, rel=0.06)


def test_an_h100_does_not_hold_the_fp8_checkpoint() -> None:
    plan = memory.plan(inputs("--tp 1", "fp8", "none", examine.KNOWN_GPUS["H100"]))
    assert isinstance(plan.pools, memory.DoesNotFit)
    (finding,) = findings.of_plan(plan, ())
    assert finding.level == "error"
    assert "weights leave no room" in finding.text
    assert "--tp" in finding.remedy


def test_states_that_cap_the_requests_are_a_warning_with_the_way_out() -> None:
    given = inputs("--tp 1 --max-running-requests 256", "fp8")
    plan = memory.plan(given)
    pools = pools_of(plan)
    assert pools.capped_by == "states"
    choices = tuple(memory.choices(given))
    (finding,) = [f for f in findings.of_plan(plan, choices) if "at once of 256" in f.text]
    assert finding.level == "warning"
    assert "`-- --mamba-ssm-dtype bfloat16`" in finding.remedy


def test_fewer_requests_than_nobody_asked_for_are_no_warning() -> None:
    given = inputs("--tp 1" + tree_flags("EAGLE3", [3, 4, 8]), "fp8")
    plan = memory.plan(given)
    assert pools_of(plan).requests < 48
    (finding,) = findings.of_plan(plan, tuple(memory.choices(given)))
    assert finding.level == "note"
    assert "of 48 that SGLang would take" in finding.text


def test_a_context_that_no_request_can_fill_is_a_warning() -> None:
    given = inputs("--tp 4 --max-total-tokens 100000" + tree_flags("EAGLE3", [3, 4, 8]))
    plan = memory.plan(given)
    assert plan.longest == 100_000 - 2 * 12
    assert any("longest request has 99,976 tokens" in str(f) for f in findings.of_plan(plan, ()))


def test_flags_buy_what_they_are_said_to() -> None:
    given = inputs("--tp 4" + tree_flags("EAGLE3", [3, 4, 8]))
    now = pools_of(memory.plan(given))
    bought = {choice.flag: pools_of(choice.plan) for choice in memory.choices(given)}
    assert bought["--kv-cache-dtype fp8_e4m3"].tokens == pytest.approx(2 * now.tokens, rel=0.001)
    assert bought["--mamba-ssm-dtype bfloat16"].slots > 1.5 * now.slots
    assert bought["--disable-radix-cache"].tokens > now.tokens
    assert bought["--max-running-requests 24"].requests == 24
    more = next(flag for flag in bought if flag.startswith("--mem-fraction-static"))
    assert bought[more].tokens > now.tokens


def ours(words: str, names: str, algorithm: str = "eagle3") -> memory.Plan:
    told = inputs(words + tree_flags("EAGLE3", [3, 1, 4]), "fp8", algorithm)
    return memory.plan(replace(told, ours=frozenset(names.split())))


def test_what_is_ours_comes_out_of_what_is_kept_free() -> None:
    stock, fast = ours("", ""), ours("", "gdn attention head cycle")
    assert (stock.fast, stock.recorded) == (0, 0)
    assert fast.pools == stock.pools
    assert fast.rest == stock.rest - fast.fast - fast.recorded
    # 128 rows of GDN, 32 of attention at 262,144 tokens; the head works in their space.
    assert fast.fast / 1e6 == pytest.approx(152 + 304, rel=0.01)
    assert fast.recorded == 32 * of_cycles.RECORDED_BYTES
    assert ours("", "gdn attention head head_w8").fast - fast.fast == fast.weights.draft // 2
    few = ours("--context-length 8192 --cuda-graph-max-bs-decode 1", "gdn attention cycle")
    # 8 rows, as the check at start has two requests.
    assert few.fast / 1e6 == pytest.approx(8 * (1.19 + 80 * 0.0165), rel=0.02)
    assert few.recorded == of_cycles.RECORDED_BYTES
    few = ours("--context-length 8192 --cuda-graph-max-bs-decode 1", "cycle sampled")
    assert few.recorded == 2 * of_cycles.RECORDED_BYTES, "sampled batches have cycles of their own"
    few = ours("--tp 2 --cuda-graph-max-bs-decode 1", "cycle sampled")
    assert few.recorded == of_cycles.RECORDED_BYTES, "but on one GPU only"
    halves = ours("--tp 2", "gdn attention").fast
    assert fast.fast * 0.5 < halves < fast.fast


@pytest.mark.parametrize(
    "words", ["--disable-cuda-graph", "--kv-cache-dtype fp8_e4m3", "--mamba-ssm-dtype bfloat16"]
)
def test_where_the_fast_path_cannot_serve_it_takes_nothing(words: str) -> None:
    assert ours(words, "gdn attention head").fast == 0


def test_as_many_cycles_are_counted_as_are_made() -> None:
    assert of_cycles.recorded(4) == 4
    assert of_cycles.recorded(4, sampled=True, states=5) == 40
    assert of_cycles.recorded(48, sampled=True, states=5) == 5 * 32


def test_cycles_are_recorded_of_drafts_only() -> None:
    told = replace(inputs("", "fp8", "none"), ours=frozenset({"cycle"}))
    assert memory.plan(told).recorded == 0


def test_another_layout_is_not_calculated() -> None:
    for words in (
        "--enable-hierarchical-cache", "--pp-size 2", "--kv-cache-dtype mxfp8",
        "--quantization fp8", "--json-model-override-args {}", "--lora-paths a=b",
    ):  # fmt: skip
        with pytest.raises(settings.Unplanned, match="not calculated"):
            inputs(words)
    for words in (
        "--mamba-full-memory-ratio -1", "--mamba-full-memory-ratio inf",
        "--mem-fraction-static nan", "--mem-fraction-static x", "--mem-fraction-static 1.5",
        "--cuda-graph-config x", "--cuda-graph-config []",
        '--cuda-graph-config {"decode":"full"}', '--cuda-graph-config {"decode":{"bs":["a"]}}',
    ):  # fmt: skip
        with pytest.raises(settings.Unplanned, match="no plan"):
            inputs(words)
    assert inputs("--pp-size 1").settings.tp == 1
    assert inputs("--quantization fp8", "fp8").settings.tp == 1, "which it is already"


@pytest.mark.parametrize(
    "words",
    [
        "--disable-prefill-cuda-graph",
        "--disable-piecewise-cuda-graph",
        "--cuda-graph-backend-prefill disabled",
    ],
)
def test_prefill_graphs_are_off_under_each_of_their_names(words: str) -> None:
    assert inputs("").settings.graphs.prefills > 0
    graphs = inputs(words).settings.graphs
    assert graphs.prefills == 0
    assert graphs.decode_max
