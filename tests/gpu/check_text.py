"""Do servers give the same greedy text? On a GPU.

    python tests/gpu/check_text.py OUT.json --server none --server 3,1,4 --server 5,1,6 \\
        --set SGLANG_QWEN3NEXT_EAGLE3_FAST=require
    python tests/gpu/check_text.py OUT.json --server stock=3,1,4 \\
        --server seams=3,1,4:SGLANG_QWEN3NEXT_EAGLE3_SEAMS=on
    python tests/gpu/check_text.py OUT.json --tp 2 --in-turn --server none --server 3,1,4 \\
        --server none@1 -- --enforce-disable-flashinfer-allreduce-fusion

Every server answers the same prompts, one after the other and then several at once, twice, and its
tokens are compared with those of the first server of as many ranks, with its own second answers,
and with everybody else's. The servers start at the same time, on the same GPUs: with the demo pair
(the default) each takes two to three GB. Those of several ranks are best asked in turn: where two
share their GPUs, the ranks of one wait for each other while the other has one of the GPUs.
What fails is said and written down; the rest goes on. Exit code 0: every server answered all.

With --prefixes each answer is sent back behind its prompt, and what comes then counts, too: it is
computed from states that were tracked while the first answer was generated.

The demo target is served with its routed experts as wide as the shared one
(tests/support/widened_demo.py), as the fast path needs it, and can be divided among all ranks.
With --layers the target has the published widths in bf16, so many layers and random weights, the
prompts are random tokens, and the head, random too, is right by chance only: of every verified pass
the root alone is kept.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.bench.suites.prompts import select
from sglang_qwen3next_eagle3.bench.suites.suite import load_suite
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.model.published import VOCABULARY
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.serving import server as serving
from tests.support.turns import own_turn
from tests.support.widened_demo import widened_demo

FLAGS = (
    "--dtype bfloat16 --mem-fraction-static 0.9 --max-total-tokens 32768 --context-length 4096 "
    "--max-running-requests 8 --skip-server-warmup --cuda-graph-bs-decode 1 2 4 8 "
    "--disable-prefill-cuda-graph --disable-radix-cache --random-seed 1"
).split()
AUX_LAYERS = ("--aux-layers", "input:1,input:3,output:3", "--allow-gdn-aux")
"""Of a target with few layers, for a head that knows nothing anyway."""
NOUNS = (
    "two sorted lists", "a binary tree", "the words of a text", "a matrix", "a CSV file",
    "a linked list", "the digits of a number", "two dictionaries", "a queue of jobs",
    "a list of intervals", "a JSON document", "the lines of a log", "a graph's edges",
    "a string of brackets", "prime numbers", "dates", "a bit mask", "a cache", "a polynomial",
    "the paths of a folder",
)  # fmt: skip
VERBS = ("merge", "sort", "count", "print", "search", "reverse", "split", "compare", "check")
STATES = DraftStates(
    candidates={1: (0, 1, 2, 4)},
    cycle_ms={1: {0: 1.0, 1: 1.55, 2: 2.0, 4: 2.8}},
    shares=(0.7,) * 4,
    start=4,
)
"""Of a server that is `auto`: costs by which the demo pair's steps change often."""
began = time.monotonic()


@dataclass
class Contender:
    """name: in the tables. tree: None without speculation. tp: ranks. adaptive: its steps change
    while it serves. answers: by batch, of each repetition, of each prompt, the token ids. cached:
    of answers that were sent back, how many were found in part."""

    name: str
    tree: tuple[int, int, int] | None
    tp: int
    environment: dict[str, str]
    adaptive: bool = False
    answers: dict[int, list[list[list[int]]]] = field(default_factory=dict)
    cached: int | None = None
    accept_length: dict[int, float] = field(default_factory=dict)
    ready_seconds: float | None = None
    failure: str = ""
    said: list[str] = field(default_factory=list)


def contender(spelled: str, everyone: dict[str, str], tp: int) -> Contender:
    """`[NAME=]none|auto|S,K,N[@TP][:VARIABLE=VALUE ...]`."""
    words, _, settings = spelled.partition(":")
    name, _, shape = words.rpartition("=")
    shape, _, ranks = shape.partition("@")
    environment = everyone | dict(setting.split("=", 1) for setting in settings.split())
    of = f"@{ranks}" if ranks else ""
    if shape == "auto":
        longest = max(STATES.steps)
        chain = longest, 1, longest + 1
        return Contender(name or shape + of, chain, int(ranks or tp), environment, adaptive=True)
    steps = None if shape == "none" else tuple(int(n) for n in shape.split(","))
    if steps is not None and len(steps) != 3:
        raise SystemExit(f"--server {spelled}: none, auto or steps,topk,draft tokens")
    return Contender(name or shape + of, steps, int(ranks or tp), environment)


def questions(number: int, data: Path | None) -> list[str]:
    """HumanEval's, if its data is there."""
    if data is not None:
        chosen = select(load_suite("humaneval"), data, limit=number).prompts
        return [prompt.turns[0] for prompt in chosen]
    return [
        f"Write a Python function to {VERBS[n % len(VERBS)]} {NOUNS[n % len(NOUNS)]}"
        f"{', in variant ' + str(n // 180) if n >= 180 else ''}."
        for n in range(number)
    ]


def prompts(arguments: argparse.Namespace) -> list[list[int]]:
    """Token ids of so many different questions."""
    if arguments.layers:
        drawn = random.Random(0)
        return [
            [drawn.randrange(VOCABULARY - 2000) for _ in range(100)]
            for _ in range(arguments.prompts)
        ]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(demo_pair().target))
    wrapped = [
        f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        for question in questions(arguments.prompts, arguments.data_dir)
    ]
    return [list(tokenizer.encode(text, add_special_tokens=False)) for text in wrapped]


def say(text: str) -> None:
    print(f"{time.monotonic() - began:5.0f} s  {text}", flush=True)


class Check:
    def __init__(self, arguments: argparse.Namespace, folder: Path, logs: Path) -> None:
        self.arguments, self.folder, self.logs = arguments, folder, logs
        everyone = dict(setting.split("=", 1) for setting in arguments.set)
        self.contenders = [contender(words, everyone, arguments.tp) for words in arguments.server]
        self.ranks = max(one.tp for one in self.contenders)
        self.prompts: list[list[int]] = []
        self.target, self.head = "demo", "demo"
        self.flags = [*FLAGS, *arguments.flags]
        if arguments.prefixes:
            self.flags.remove("--disable-radix-cache")
            self.flags += ["--mamba-track-interval", "64"]

    def left(self) -> float:
        return float(self.arguments.seconds - (time.monotonic() - began))

    def run(self) -> None:
        self.prompts = prompts(self.arguments)
        if self.arguments.layers:
            self.flags += [*synthetic.FLAGS]
            folder = synthetic.write_target(self.folder / "target", "bf16")
            config = json.loads((folder / "config.json").read_text())
            config["num_hidden_layers"] = self.arguments.layers
            (folder / "config.json").write_text(json.dumps(config))
            self.target, self.head = str(folder), str(synthetic.write_head(self.folder / "head"))
        else:
            folder = widened_demo(demo_pair().target, self.folder / "target", self.ranks)
            self.target = str(folder)
        at_once = self.arguments.parallel or len(self.contenders)
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(self.serve, self.contenders))

    def serve(self, one: Contender) -> None:
        log = self.logs / f"{one.name.replace(',', '')}.log"
        try:
            words = ["--profile", str(self._profile(one)), "--target", self.target]
            words += ["--head", self.head] if one.tree else []
            words += ["--tp", str(one.tp)] if one.tp > 1 else []
            words += ["--port", "{port}", "--", *self.flags]
            if one.tree and self.arguments.layers:
                words = [*AUX_LAYERS, *words, *synthetic.HEAD_FLAGS]
            # Several servers share the GPUs, which SGLang takes for a fault.
            environment = {"SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "0"} | one.environment
            with serving.started(words, log, environment, self.left() - 15) as server:
                one.ready_seconds = server.ready_seconds
                say(f"{one.name}: ready after {one.ready_seconds} s")
                with self._turn(one):
                    for batch in self.arguments.batch:
                        self.ask(one, server, batch)
        except Exception as error:
            one.failure = f"{type(error).__name__}: {str(error)[:400]}"
            say(f"{one.name}: FAILED {one.failure}")
        with contextlib.suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            one.said = [
                line[-300:] for line in lines if "qwen3next-eagle3" in line and "-m" not in line
            ]
            if one.failure:
                one.said += lines[-self.arguments.tail :]
        self.write()

    @contextlib.contextmanager
    def _turn(self, one: Contender) -> Iterator[None]:
        """Nobody else is asked meanwhile, also of another run that names the same file."""
        if self.arguments.in_turn is None:
            yield
            return
        file = self.arguments.in_turn
        with own_turn(file if file.name else self.folder / "turn"):
            say(f"{one.name}: is asked")
            yield
            say(f"{one.name}: was asked")

    def _profile(self, one: Contender) -> Path:
        profile = yaml.safe_load((data_dir("launch") / "h200-fp8.yaml").read_text())
        profile.pop("environment", None)
        if one.tree:
            steps, topk, draft = one.tree
            profile["tree"] = {"steps": steps, "topk": topk, "draft-tokens": draft}
            if one.adaptive:
                path = self.folder / "states.json"
                path.write_text(STATES.text())
                profile["adaptive"] = str(path)
        else:
            for key in ("tree", "head"):
                profile.pop(key, None)
            profile["algorithm"] = "none"
        path = self.folder / f"{one.name.replace(',', '')}.yaml"
        path.write_text(yaml.safe_dump(profile, sort_keys=False))
        return path

    def ask(self, one: Contender, server: serving.Server, batch: int) -> None:
        """All prompts, `batch` at a time."""
        for _ in range(self.arguments.repeats):
            with ThreadPoolExecutor(batch) as pool:
                replies = list(pool.map(lambda ids: self.answer(server, ids), self.prompts))
                answers = [ids for ids, _, _ in replies]
                if self.arguments.prefixes:
                    # The last tokens are computed, whatever is found.
                    both = [a + b for a, b in zip(self.prompts, answers, strict=True)]
                    more = list(pool.map(lambda ids: self.answer(server, ids), both))
                    answers = [a + ids for a, (ids, _, _) in zip(answers, more, strict=True)]
                    found = zip(more, self.prompts, strict=True)
                    one.cached = sum(cached > len(ids) for (_, _, cached), ids in found)
            one.answers.setdefault(batch, []).append(answers)
            steps = sum(verified for _, verified, _ in replies)
            if steps:
                tokens = sum(len(ids) for ids, _, _ in replies)
                one.accept_length[batch] = round(tokens / steps, 3)

    def answer(self, server: serving.Server, ids: list[int]) -> tuple[list[int], int, int]:
        """Its token ids, how many verify passes they took, and of how many tokens of the prompt
        the states were there."""
        sampling = {"max_new_tokens": self.arguments.tokens, "temperature": 0, "ignore_eos": True}
        body = {"input_ids": ids, "sampling_params": sampling, "stream": True}
        last = {}
        seconds = max(5.0, self.left())
        with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=seconds) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    last = json.loads(line.removeprefix("data: "))
        found = last["output_ids"]
        if len(found) != self.arguments.tokens:
            raise RuntimeError(f"{len(found)} tokens of {self.arguments.tokens}: {last}")
        told = last["meta_info"]
        return found, told.get("spec_verify_ct") or 0, told.get("cached_tokens") or 0

    def compared(self) -> list[dict[str, Any]]:
        """Of each server and batch, against the first answers one at a time of the first server of
        as many ranks and of all the others, and against its own second ones."""
        rows = []
        batch = self.arguments.batch[0]
        first_of = {
            one.name: one.answers[batch][0] for one in self.contenders if batch in one.answers
        }
        for one in self.contenders:
            against = next(other.name for other in self.contenders if other.tp == one.tp)
            base = first_of.get(against)
            for at_once, repeated in one.answers.items():
                first, *again = repeated
                rows.append(
                    {
                        "server": one.name,
                        "ranks": one.tp,
                        "at_once": at_once,
                        "prompts": len(first),
                        "against": against,
                        "equal": base and _equal(first, base),
                        "differ_at": base and _differ_at(first, base),
                        "equal_to": {
                            name: _equal(first, answers)
                            for name, answers in first_of.items()
                            if name != one.name
                        },
                        "equal_to_itself": min((_equal(first, x) for x in again), default=None),
                        "accept_length": one.accept_length.get(at_once),
                        "cached": one.cached,
                        "different_tokens": len({t for ids in first for t in ids}),
                    }
                )
        return rows

    def write(self) -> None:
        result = {
            "target": f"{self.arguments.layers} layers" if self.arguments.layers else "demo",
            "ranks": sorted({one.tp for one in self.contenders}),
            "tokens": self.arguments.tokens,
            "against": self.contenders[0].name,
            "compared": self.compared(),
            "servers": [
                {
                    "name": one.name,
                    "ranks": one.tp,
                    "environment": one.environment,
                    "ready_seconds": one.ready_seconds,
                    "failure": one.failure,
                    "said": one.said,
                }
                for one in self.contenders
            ],
        }
        self.arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _equal(some: Sequence[list[int]], others: Sequence[list[int]]) -> int:
    return sum(a == b for a, b in zip(some, others, strict=True))


def _differ_at(some: Sequence[list[int]], others: Sequence[list[int]]) -> list[int]:
    """The first token that differs, of each answer that does."""
    return [
        next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
        for a, b in zip(some, others, strict=True)
        if a != b
    ]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--server",
        action="append",
        required=True,
        metavar="[NAME=]none|auto|S,K,N[@TP][:VARIABLE=VALUE ...]",
        help="repeatable; the first of as many ranks is what the others are compared with",
    )
    parser.add_argument("--set", action="append", default=[], metavar="VARIABLE=VALUE")
    parser.add_argument("--tp", type=int, default=1, help="ranks of who says nothing else: 1, 2, 4")
    parser.add_argument("--layers", type=int, help="of a target of the published widths")
    parser.add_argument("--data-dir", type=Path, help="with HumanEval.jsonl.gz, for its prompts")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=96, help="of an answer")
    parser.add_argument("--batch", default="1,8", help="requests at once")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--prefixes", action="store_true", help="send answers back, with a cache")
    parser.add_argument("--seconds", type=float, default=300, help="for all of it")
    parser.add_argument("--tail", type=int, default=40, help="lines of a failed server's log")
    parser.add_argument("--logs", type=Path, help="folder of the servers' logs, which are kept")
    parser.add_argument("--parallel", type=int, help="servers up at the same time (default: all)")
    parser.add_argument(
        "--in-turn",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="ask one server after the other, and none of another run with the same file",
    )
    parser.epilog = "behind --: flags of SGLang"
    # argparse takes what comes last for nothing where another word stands first.
    words, flags = sys.argv[1:], []
    if "--" in words:
        place = words.index("--")
        words, flags = words[:place], words[place + 1 :]
    arguments = parser.parse_args(words)
    arguments.flags = flags
    arguments.batch = [int(word) for word in arguments.batch.split(",")]
    return arguments


def main() -> int:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as folder:
        logs = arguments.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        check = Check(arguments, Path(folder), logs)
        check.run()
    check.write()
    for row in check.compared():
        itself = "" if row["equal_to_itself"] is None else f", to itself {row['equal_to_itself']}"
        length = f", accept length {row['accept_length']}" if row["accept_length"] else ""
        length += "" if row["cached"] is None else f", {row['cached']} found when sent back"
        places = f", first difference at {row['differ_at']}" if row["differ_at"] else ""
        others = ", ".join(f"{name} {count}" for name, count in row["equal_to"].items())
        places += f"; equal to others: {others}" if others else ""
        print(
            f"{row['server']:16} {row['at_once']:2} at once: {row['equal']} of {row['prompts']} "
            f"equal to {row['against']}{itself}{length}{places}"
        )
    failed = [one for one in check.contenders if one.failure]
    for one in failed:
        print(f"{one.name}: FAILED {one.failure}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
