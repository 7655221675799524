"""The demo pair on one GPU: its drafts are accepted, and its text with and without speculation.

In bf16, because SGLang's CUDA norms take no fp32. There the verify pass may round otherwise than
the decode pass, so the share of equal answers is printed and not asserted; tests/e2e asserts
equality in fp32 on the CPU. The accept
length needs every captured stream, the last layer's output under CUDA graphs included. Figures on
HumanEval: `bench run --target demo --head demo`.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from tests.support.server import Server, free_port, generate, running

pytestmark = pytest.mark.gpu

NEW_TOKENS = 96
FLAGS = (
    "--dtype bfloat16 --mem-fraction-static 0.2 --max-running-requests 8 --skip-server-warmup "
    "--cuda-graph-bs-decode 1 8 --cuda-graph-bs-prefill 64 --disable-radix-cache "
    "--max-total-tokens 32768 --attention-backend triton"
).split()
TREES = {"wide": (3, 4, 8), "chain": (3, 1, 4)}
QUESTIONS = [f"Write a Python function, number {n}, to merge two sorted lists." for n in range(8)]


def ask(server: Server, question: str) -> dict[str, Any]:
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return generate(server, NEW_TOKENS, text=prompt)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By configuration ("none", "wide", "chain"): the answers, 8 at once."""
    folder = tmp_path_factory.mktemp("demo")
    pair = demo_pair()
    commands: dict[str, list[str]] = {}
    plain = ["-m", "sglang.launch_server", "--model-path", str(pair.target), *FLAGS]
    commands["none"] = plain
    for name, (steps, topk, draft) in TREES.items():
        profile = yaml.safe_load((data_dir("launch") / "h200-fp8.yaml").read_text())
        profile["tree"] = {"steps": steps, "topk": topk, "draft-tokens": draft}
        own = folder / f"{name}.yaml"
        own.write_text(yaml.safe_dump(profile, sort_keys=False))
        launcher = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", str(own)]
        launcher += ["--target", str(pair.target), "--head", str(pair.head), "--", *FLAGS]
        commands[name] = launcher
    collected = {}
    with ExitStack() as stack:
        for name, command in commands.items():
            port = free_port()
            log = Path(folder / f"{name}.log")
            server = stack.enter_context(running([*command, "--port", str(port)], port, log))
            with ThreadPoolExecutor(8) as pool:
                collected[name] = list(pool.map(lambda q: ask(server, q), QUESTIONS))  # noqa: B023
    return collected


@pytest.mark.parametrize("tree", TREES)
def test_drafts_are_accepted(answers: dict[str, list[dict[str, Any]]], tree: str) -> None:
    figures = [reply["meta_info"] for reply in answers[tree]]
    tokens = sum(meta["completion_tokens"] for meta in figures)
    steps = sum(meta["spec_verify_ct"] for meta in figures)
    pairs = list(zip(answers[tree], answers["none"], strict=True))
    same = [_common(ours["output_ids"], plain["output_ids"]) for ours, plain in pairs]
    equal = same.count(NEW_TOKENS)
    shares = {"equal": equal, "of": len(pairs), "equal_tokens": same}
    print(json.dumps({"tree": tree, "accept_length": round(tokens / steps, 3), **shares}))
    assert tokens / steps > {"wide": 2.3, "chain": 1.9}[tree]


def _common(one: list[int], other: list[int]) -> int:
    """How many tokens two answers share from their beginning."""
    pairs = zip(one, other, strict=True)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(one))
