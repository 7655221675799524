"""The seams of a cycle under mixed load, beside a server without them, on one or more GPUs.

    python -m tests.gpu.soak_seams --out OUT [--seams cycle,requests,...] [--tp 2] [--seconds 400]

Two servers with the demo pair and 3,1,4 run side by side on the same GPUs, one with SGLang's own
cycles. Both are asked the same greedy questions one at a time: there every answer must be the same.
Then 200 mixed requests, 16 at once: greedy, sampled, with a grammar, with logprobs, with penalties,
and some that are given up. In bf16 the size of the batch, which depends on the time, moves greedy
answers; so under load the shares of equal answers of the two servers stand beside each other. A
table is printed last. `--profile demo` is for the CPU, where nothing is recorded.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import yaml

from sglang_qwen3next_eagle3.base.files import data_dir, write_json
from sglang_qwen3next_eagle3.base.processes import Child, child, free_port, healthy
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.overlay.environment import SEAMS
from sglang_qwen3next_eagle3.overlay.seams.seams import ALL

GPU_FLAGS = (
    "--dtype bfloat16 --mem-fraction-static 0.2 --max-running-requests 16 --skip-server-warmup "
    "--cuda-graph-bs-decode 1 2 4 8 16 --disable-prefill-cuda-graph --max-total-tokens 32768 "
    "--context-length 4096"
).split()
KINDS = (
    "greedy", "greedy", "sampled", "greedy", "grammar", "greedy", "logprobs", "greedy",
    "penalties", "given up",
)  # fmt: skip
SAME = ("greedy", "grammar", "logprobs", "penalties")
"""Kinds whose answer is known beforehand."""
_TASKS = ("Write a class for {}.", "Explain {}.", "Sort {} by its values.", "Test {}.")
_THINGS = ("a stack", "a heap", "a queue", "a trie", "a graph", "a matrix", "a date")


def body(number: int) -> dict[str, Any]:
    """Of /generate; the same number is the same request."""
    kind = KINDS[number % len(KINDS)]
    task = _TASKS[number % len(_TASKS)].format(_THINGS[number // 4 % len(_THINGS)])
    sampling: dict[str, Any] = {"temperature": 0, "max_new_tokens": 16 + number * 7 % 80}
    made = {"text": f"<|im_start|>user\n{task} Case {number}.<|im_end|>\n<|im_start|>assistant\n"}
    if kind == "sampled":
        sampling |= {"temperature": 0.8, "top_p": 0.9}
    elif kind == "grammar":
        sampling["regex"] = "(yes|no), because [a-z ]{1,40}"
    elif kind == "penalties":
        sampling |= {"frequency_penalty": 0.3, "min_new_tokens": 8}
    elif kind == "logprobs":
        made |= {"return_logprob": True, "top_logprobs_num": 2}  # type: ignore[dict-item]
    return {**made, "sampling_params": sampling}


def ask(client: httpx.Client, url: str, number: int) -> str:
    """Its text; of what is given up, what came until then.

    Raises:
        httpx.HTTPError: it was not answered.
    """
    asked = body(number)
    if KINDS[number % len(KINDS)] == "given up":
        with client.stream("POST", f"{url}/generate", json={**asked, "stream": True}) as reply:
            reply.raise_for_status()
            for count, line in enumerate(reply.iter_lines()):
                if count > 4:
                    return line
        return ""
    reply = client.post(f"{url}/generate", json=asked)
    reply.raise_for_status()
    return str(reply.json()["text"])


def load(client: httpx.Client, url: str, count: int, known: dict[int, str]) -> Counter[str]:
    """`count` requests, 16 at once."""

    def one(number: int) -> str:
        kind = KINDS[number % len(KINDS)]
        try:
            said = ask(client, url, number % len(known))
        except httpx.HTTPError as error:
            return f"lost: {type(error).__name__}"
        if kind not in SAME:
            return "other"
        return "equal" if said == known[number % len(known)] else "another text"

    with ThreadPoolExecutor(16) as pool:
        return Counter(pool.map(one, range(count)))


def command_of(arguments: argparse.Namespace, folder: Path, port: int) -> list[str]:
    words = ["-m", "sglang_qwen3next_eagle3.launch", "--port", str(port)]
    if arguments.profile == "demo":
        return [*words, "--profile", "demo"]
    pair = demo_pair()
    profile = yaml.safe_load((data_dir("launch") / "h200-fp8.yaml").read_text())
    profile["tree"] = {"steps": 3, "topk": 1, "draft-tokens": 4}
    own = folder / "chain.yaml"
    own.write_text(yaml.safe_dump(profile, sort_keys=False))
    words += ["--profile", str(own), "--target", str(pair.target), "--head", str(pair.head)]
    words += ["--tp", str(arguments.tp)] if arguments.tp > 1 else []
    return [*words, "--", *GPU_FLAGS, *arguments.flags]


def measured(
    arguments: argparse.Namespace, urls: dict[str, str], left: Callable[[], float]
) -> dict[str, Any]:
    distinct, found = arguments.distinct, {}
    with httpx.Client(timeout=120, trust_env=False) as client:
        # Twice: cycles are recorded at the first time.
        alone: dict[str, list[dict[int, str]]] = {name: [] for name in urls}
        for _ in range(2):
            for name, url in urls.items():
                answers = {number: ask(client, url, number) for number in range(distinct)}
                alone[name].append(answers)
        numbers = [n for n in range(distinct) if KINDS[n % len(KINDS)] in SAME]
        reference = alone["off"][0]
        found["alone"] = {
            f"{name} {turn + 1}": sum(answers[n] == reference[n] for n in numbers)
            for name, turns in alone.items()
            for turn, answers in enumerate(turns)
        } | {"of": len(numbers)}
        for name, url in urls.items():
            begun = time.monotonic()
            count = arguments.requests if left() > 60 else 0
            found[f"load {name}"] = dict(load(client, url, count, alone[name][0]))
            found[f"load {name}"]["seconds"] = round(time.monotonic() - begun, 1)
            again = {number: ask(client, url, number) for number in numbers[:5]}
            found[f"load {name}"]["the same afterwards"] = sum(
                again[number] == reference[number] for number in again
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seams", default=",".join(ALL))
    parser.add_argument("--profile", default="h200-fp8", choices=["h200-fp8", "demo"])
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--devices", nargs=2, help="CUDA_VISIBLE_DEVICES of each: start at once")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--distinct", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=400, help="for all of it")
    parser.add_argument("flags", nargs="*", help="further flags of SGLang, behind --")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + arguments.seconds
    with ExitStack() as stack:
        urls: dict[str, str] = {}
        logs = {name: arguments.out / f"{name}.log" for name in ("off", "on")}
        servers: dict[str, Child] = {}

        def wait(name: str) -> None:
            servers[name].wait_until(lambda: healthy(urls[name]), ends - time.monotonic())

        for place, name in enumerate(logs):
            port, environment = free_port(), {**os.environ}
            environment[SEAMS] = arguments.seams if name == "on" else "off"
            if arguments.devices:
                environment["CUDA_VISIBLE_DEVICES"] = arguments.devices[place]
            urls[name] = f"http://127.0.0.1:{port}"
            command = [sys.executable, *command_of(arguments, arguments.out, port)]
            servers[name] = stack.enter_context(child(command, logs[name], environment=environment))
            # Where they share a GPU, each measures what memory is left.
            if not arguments.devices and arguments.profile != "demo":
                wait(name)
        for name in logs:
            wait(name)
        found = measured(arguments, urls, lambda: ends - time.monotonic())
    said = re.findall(
        r"sglang-qwen3next-eagle3: (.*cycles.*|requests are .*)", logs["on"].read_text()
    )
    found["said"] = sorted(set(said))
    found["tracebacks"] = {name: log.read_text().count("Traceback") for name, log in logs.items()}
    write_json(arguments.out / "soak.json", {"seams": arguments.seams, **found})
    for name, figures in found.items():
        print(f"{name}: {json.dumps(figures)}")
    alone, of = found["alone"], found["alone"]["of"]
    load_on = found["load on"]
    passed = (
        all(count == of for count in alone.values())
        and not any(key.startswith("lost") for key in load_on)
        and load_on["the same afterwards"] == 5
        and not found["tracebacks"]["on"]
    )
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
