"""The demo pair on the CPU by the plain command of the card, and what its answers are held to."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.demo.pair import DemoPair
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.serving.preflight import Options, plan
from sglang_qwen3next_eagle3.serving.profile import load
from tests.support.server import Server

NEW_TOKENS = 96


class Oracle:
    """Greedy continuations by transformers in fp32, without speculation.

    prompts: token ids of each question in the chat format. shared: a folder in which the answers
    of all workers are, since to make them takes each half a minute.
    """

    def __init__(self, target: Path, questions: Sequence[str], shared: Path) -> None:
        import torch
        from transformers import AutoTokenizer, Qwen3NextForCausalLM

        self.tokenizer: Any = AutoTokenizer.from_pretrained(target)
        self._model = Qwen3NextForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None  # the servers are told to ignore it, too
        self.prompts: list[list[int]] = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                return_dict=True,
            )["input_ids"]
            for question in questions
        ]
        self._shared = shared
        self._answers: dict[int, list[int]] = {}

    def answer(self, index: int) -> list[int]:
        """The NEW_TOKENS tokens that follow a prompt; made when they are first asked for."""
        if index not in self._answers:
            file = self._shared / f"{index}.json"
            with file.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not file.exists():
                    file.write_text(json.dumps(self._generate(index)))
            self._answers[index] = json.loads(file.read_text())
        return self._answers[index]

    def _generate(self, index: int) -> list[int]:
        import torch

        ids = torch.tensor([self.prompts[index]])
        with torch.no_grad():
            whole = self._model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False)
        answer: list[int] = whole[0, ids.shape[1] :].tolist()
        return answer


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


POOL, GDN_SLOTS, PIECE = 400, 6, 61
RETRACT = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "13"}


def scarce(command: list[str]) -> list[str]:
    """The same where everything is scarce: a KV pool of 400 tokens, GDN slots for two requests
    beside the prefixes that it caches, prompts in pieces of 61 tokens. With `RETRACT` SGLang takes
    a request its place every 13 steps, as it does where the pool runs out."""
    words = [word for word in command if word != "--disable-radix-cache"]
    words += ["--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"]
    words += ["--max-mamba-cache-size", str(GDN_SLOTS)]
    return [*words, "--max-total-tokens", str(POOL), "--chunked-prefill-size", str(PIECE)]


def with_ids(pair: DemoPair, folder: Path, ids: list[int] | None) -> Path:
    """A copy of the demo's head whose config names these auxiliary layers, or none."""
    shutil.copytree(pair.head, folder)
    config = json.loads((folder / "config.json").read_text())
    config["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": ids} if ids else {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def captures(server: Server) -> list[str]:
    """What its scheduler says that it captures: not what the launcher says before it."""
    said = "sglang-qwen3next-eagle3: auxiliary hidden states: "
    lines = server.printed().splitlines()
    return [line.split(said)[1] for line in lines if said in line and "[20" in line]


@cache
def refused(*command: str) -> "subprocess.CompletedProcess[str]":
    """A command that is expected to end by itself, with what it printed."""
    environment = {**os.environ, **cpu_environment()}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=600, env=environment
    )
