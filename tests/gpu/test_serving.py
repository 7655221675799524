"""Profile `h200-fp8` with dummy target weights and a random head on one GPU, through the launcher.

Prints one line a measurement; `-s` shows them.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.bench.trees import synthetic
from tests.support import memory_plans
from tests.support.server import Server, free_port, generate, running

pytestmark = pytest.mark.gpu

TREES = {"wide": (3, 4, 8), "chain": (3, 1, 4)}
# A first start captures graphs for every batch size; these are the ones that are measured. Without
# a load format of its own the head would be filled with dummy weights like the target.
FLAGS = (
    "--load-format dummy --speculative-draft-load-format auto --skip-tokenizer-init "
    "--context-length 8192 --max-running-requests 8 --mem-fraction-static 0.85 "
    "--cuda-graph-bs-decode 1 8 --disable-prefill-cuda-graph --disable-radix-cache --random-seed 1"
).split()
NEW_TOKENS = 256


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "target": synthetic.write_target(folder / "target", "fp8"),
        "head": synthetic.write_head(folder / "head"),
    }


@pytest.fixture(scope="module", params=TREES)
def server(
    request: pytest.FixtureRequest,
    models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    steps, topk, draft = TREES[request.param]
    profile = yaml.safe_load((data_dir("launch") / "h200-fp8.yaml").read_text())
    profile["tree"] = {"steps": steps, "topk": topk, "draft-tokens": draft}
    own = folder / "profile.yaml"
    own.write_text(yaml.safe_dump(profile, sort_keys=False))
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", str(own), "--port", str(port)]
    command += ["--target", str(models["target"]), "--head", str(models["head"]), "--", *FLAGS]
    started = time.monotonic()
    with running(command, port, folder / "server.log", start_seconds=480) as up:
        print(f"\n[{request.param}] ready after {time.monotonic() - started:.0f} s")
        yield up
    if "SERVER_LOGS" in os.environ:
        shutil.copy(folder / "server.log", Path(os.environ["SERVER_LOGS"]) / f"{request.param}.log")


def test_the_memory_plan_is_what_the_server_allocated(
    server: Server, models: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    """For the idle GPU: another process would take from what is free when `doctor` is asked."""
    tree = ",".join(map(str, TREES[request.node.callspec.params["server"]]))
    words = ["--profile", "h200-fp8", "--gpu", "H200", "--tree", tree]
    words += ["--target", str(models["target"]), "--head", str(models["head"]), "--", *FLAGS]
    said = memory_plans.figures(memory_plans.planned(*words), server)
    print(json.dumps({name: [round(value, 3) for value in pair] for name, pair in said.items()}))
    for name, (planned, allocated) in said.items():
        assert planned == pytest.approx(allocated, rel=0.05), name


def answer(server: Server, seed: int) -> dict[str, Any]:
    prompt = [(7919 * (i + seed)) % 150000 for i in range(1, 257)]
    return generate(server, NEW_TOKENS, input_ids=prompt)


def test_the_plugin_captures_the_card_s_layers_and_the_traps_are_sprung(server: Server) -> None:
    log = server.printed()
    (line,) = [
        text for text in log.splitlines() if "auxiliary hidden states" in text and "[20" in text
    ]
    assert "output:3,23,47 (card)" in line
    assert "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN=1 is set" in log
    print(line)


@pytest.mark.parametrize("at_once", [1, 8])
def test_requests_are_answered(server: Server, at_once: int) -> None:
    answer(server, 100)
    started = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        replies = list(pool.map(lambda seed: answer(server, seed), range(at_once)))
    seconds = time.monotonic() - started
    assert all(len(reply["output_ids"]) == NEW_TOKENS for reply in replies)
    tokens = sum(reply["meta_info"]["completion_tokens"] for reply in replies)
    steps = sum(reply["meta_info"]["spec_verify_ct"] for reply in replies)
    figures = {"batch": at_once, "tok_s": round(tokens / seconds, 1)}
    print(json.dumps({**figures, "accept_length": round(tokens / steps, 3)}))
    assert tokens / steps >= 1.0


def test_the_same_prompt_gives_the_same_answer(server: Server) -> None:
    assert answer(server, 1)["output_ids"] == answer(server, 1)["output_ids"]
