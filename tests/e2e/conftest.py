"""Real servers on the CPU, one for each draft tree, started once a session, and the oracle."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.serving.preflight import Options, plan
from sglang_qwen3next_eagle3.serving.profile import load
from tests.support.server import Server, free_port, running

NEW_TOKENS = 96
QUESTIONS = (
    "Write a Python function to merge two sorted lists.",
    "How do I read a file line by line?",
    "Explain what a list comprehension is.",
    "Write a class for a shopping cart.",
    "What does HTTP status 404 mean?",
    "Write a binary search.",
    "Give me a recipe for pancakes.",
    "def fibonacci(n):",
    "Sort a dictionary by its values.",
    "Why is the sky blue?",
    "Write a test for a stack.",
    "Parse a date in Python, please. It looks like 2024-05-01, sometimes with a time behind it.",
)


@dataclass(frozen=True)
class Oracle:
    """Greedy continuations by transformers in fp32, without speculation.

    prompts: token ids of each question in the chat format; answers: the tokens that follow.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    tokenizer: Any


@pytest.fixture(scope="session")
def pair() -> DemoPair:
    return demo_pair()


@pytest.fixture(scope="session")
def oracle(pair: DemoPair) -> Oracle:
    import torch
    from transformers import AutoTokenizer, Qwen3NextForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(pair.target)
    model = Qwen3NextForCausalLM.from_pretrained(pair.target, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # the servers are told to ignore it, too
    prompts, answers = [], []
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )["input_ids"]
        with torch.no_grad():
            whole = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        prompts.append(ids[0].tolist())
        answers.append(whole[0, ids.shape[1] :].tolist())
    return Oracle(prompts, answers, tokenizer)


Start = Callable[..., Server]


def cpu_environment() -> dict[str, str]:
    """The environment that `launch --profile demo --dry-run` prints, without a selection."""
    environment = plan(load("demo"), Options()).environment
    environment.pop(ENVIRONMENT_VARIABLE, None)
    return environment


def cpu_flags() -> list[str]:
    """The demo profile's SGLang flags, the port aside."""
    flags = load("demo").sglang
    words = []
    for name, value in flags.items():
        if name != "port" and value is not False:
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def tree_server(pair: DemoPair, logs: Path) -> Iterator[Server]:
    """Wide tree (3, 4, 8), as `launch --profile demo` starts it."""
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    with running(command, port, logs / "tree.log") as server:
        yield server


def plain_command(target: Path, head: Path, tree: tuple[int, int, int], port: int) -> list[str]:
    """The model card's own command with the demo's paths and the flags that a CPU needs."""
    steps, topk, draft = map(str, tree)
    card = (
        f"-m sglang.launch_server --model-path {shlex.quote(str(target))} "
        "--speculative-algorithm EAGLE3 "
        f"--speculative-draft-model-path {shlex.quote(str(head))} "
        f"--speculative-num-steps {steps} --speculative-num-draft-tokens {draft} "
        f"--speculative-eagle-topk {topk} --trust-remote-code --port {port}"
    )
    return [*shlex.split(card), *cpu_flags()]


def with_ids(pair: DemoPair, folder: Path, ids: list[int] | None) -> Path:
    """A copy of the demo's head whose config names these auxiliary layers, or none."""
    shutil.copytree(pair.head, folder)
    config = json.loads((folder / "config.json").read_text())
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": ids} if ids else {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def chain_server(pair: DemoPair, logs: Path) -> Iterator[Server]:
    """Chain (3, 1, 4) by the card's plain command; the head's config names no layers."""
    port = free_port()
    head = with_ids(pair, logs / "head-without-ids", None)
    command = plain_command(pair.target, head, (3, 1, 4), port)
    with running(command, port, logs / "chain.log", cpu_environment()) as server:
        yield server


@pytest.fixture(scope="session")
def narrow_server(pair: DemoPair, logs: Path) -> Iterator[Server]:
    """Chain (5, 1, 6) by the card's plain command; the head's ids include the last layer."""
    port = free_port()
    head = with_ids(pair, logs / "head-with-last-layer", [3, 7, 11])
    command = plain_command(pair.target, head, (5, 1, 6), port)
    with running(command, port, logs / "narrow.log", cpu_environment()) as server:
        yield server


@cache
def refused(*command: str) -> "subprocess.CompletedProcess[str]":
    """A command that is expected to end by itself, with what it printed."""
    environment = {**os.environ, **cpu_environment()}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=240, env=environment
    )
