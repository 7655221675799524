"""Accept length, equality and speed of the demo pair on HumanEval's prompts.

    python -m tests.support.measure_demo --prompts HumanEval.jsonl.gz --device cuda --out OUT.json \
        --run none --run chain=3,1,4 --run wide=3,4,8 [--run wrong=3,1,4@HEAD@SELECTION]

Every run is a server of its own, one after the other (--together: all at once, one asked at a
time), asked with all prompts (--concurrency at a time, greedy, 128 new tokens) and then, for speed,
with --speed of them one at a time, repeated, in alternating order with --together. The runs'
answers are compared with those of `none`. A prompt is a chat turn, as the target was taught:
"Complete the following Python function:" and HumanEval's prompt.
"""

import argparse
import contextlib
import gzip
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.overlay import cpu_engine
from sglang_qwen3next_eagle3.resources import data_dir
from tests.support.server import Server, free_port, generate, running

NEW_TOKENS = 128
QUESTION = "Complete the following Python function:\n\n"
CUDA_FLAGS = (
    "--attention-backend triton --dtype bfloat16 --skip-server-warmup "
    "--max-running-requests 16 --cuda-graph-bs-decode 1 16 --disable-prefill-cuda-graph "
    "--disable-radix-cache --max-total-tokens 65536"
)


@dataclass(frozen=True)
class Run:
    """tree: (steps, topk, draft tokens), or None for no speculation."""

    name: str
    tree: tuple[int, int, int] | None
    head: str
    selection: str | None

    @classmethod
    def parse(cls, text: str, head: str) -> "Run":
        name, _, rest = text.partition("=")
        if not rest:
            return cls(name, None, head, None)
        tree, *more = rest.split("@")
        steps, topk, draft = map(int, tree.split(","))
        other, selection = [*more, "", ""][:2]
        return cls(name, (steps, topk, draft), other or head, selection or None)


def prompts(path: Path) -> list[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        tasks = [json.loads(line) for line in stream]
    return [
        f"<|im_start|>user\n{QUESTION}{task['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        for task in tasks
    ]


def command(run: Run, target: str, device: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    profile = yaml.safe_load((data_dir("launch") / "demo.yaml").read_text())
    cpu = device == "cpu"
    flags = CUDA_FLAGS.split()
    if cpu:
        given = {k: v for k, v in profile["sglang"].items() if k != "port"}
        flags = [w for k, v in given.items() for w in ([f"--{k}"] if v is True else [f"--{k}", str(v)])]  # fmt: skip  # noqa: E501
    if run.tree is None:
        environment = {**cpu_engine.ENVIRONMENT, **profile["environment"]} if cpu else {}
        if cpu:
            environment |= {"SGLANG_QWEN3NEXT_EAGLE3_CPU_ENGINE": "1"}
            environment |= {"PYTHONPATH": str(cpu_engine.SHIM_DIR)}
        return ["-m", "sglang.launch_server", "--model-path", target, *flags], environment
    steps, topk, draft = run.tree
    source = "demo" if cpu else "h200-fp8"
    own = yaml.safe_load((data_dir("launch") / f"{source}.yaml").read_text())
    own["tree"] = {"steps": steps, "topk": topk, "draft-tokens": draft}
    path = folder / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(own, sort_keys=False))
    words = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", str(path)]
    words += ["--target", target, "--head", run.head]
    if run.selection:
        words += ["--aux-layers", run.selection, "--allow-gdn-aux"]
    return [*words, "--", *([] if cpu else flags)], {}


@contextlib.contextmanager
def serving(
    run: Run, arguments: argparse.Namespace, folder: Path, share: float
) -> Iterator[tuple[Server, float]]:
    """The run's server and the seconds until it was ready. share: of the GPU's memory."""
    words, environment = command(run, arguments.target, arguments.device, folder)
    if arguments.device == "cuda":
        words += ["--mem-fraction-static", str(share)]
    port = free_port()
    words += ["--port", str(port)]
    started = time.monotonic()
    log = folder / f"{run.name}.log"
    with running(words, port, log, environment, arguments.start_seconds) as server:
        yield server, round(time.monotonic() - started, 1)


@contextlib.contextmanager
def started(
    runs: list[Run], arguments: argparse.Namespace, folder: Path
) -> Iterator[list[tuple[Server, float]]]:
    """The runs' servers, started side by side."""
    with contextlib.ExitStack() as stack:
        # SGLang counts what the others hold as taken from its own share: each gets a larger one.
        managers = [
            serving(run, arguments, folder, round(0.3 + 0.15 * place, 2))
            for place, run in enumerate(runs)
        ]
        with ThreadPoolExecutor(len(runs)) as pool:
            entered = [pool.submit(manager.__enter__) for manager in managers]
        for manager, future in zip(managers, entered, strict=True):
            if future.exception() is None:
                stack.push(manager.__exit__)
        yield [future.result() for future in entered]


def answers_of(
    server: Server, texts: list[str], concurrency: int
) -> tuple[dict[str, Any], list[list[int]]]:
    with ThreadPoolExecutor(concurrency) as pool:
        replies = list(pool.map(lambda text: ask(server, text), texts))
    return accept_figures(replies), [reply["output_ids"] for reply in replies]


def ask(server: Server, text: str) -> dict[str, Any]:
    return generate(server, NEW_TOKENS, text=text)


def speed(server: Server, texts: list[str]) -> float:
    """Output tokens per second of requests one at a time, prefill included."""
    started = time.monotonic()
    tokens = sum(ask(server, text)["meta_info"]["completion_tokens"] for text in texts)
    return round(tokens / (time.monotonic() - started), 1)


def accept_figures(replies: list[dict[str, Any]]) -> dict[str, Any]:
    metas = [reply["meta_info"] for reply in replies]
    tokens = sum(meta["completion_tokens"] for meta in metas)
    figures: dict[str, Any] = {"answers": len(metas), "completion_tokens": tokens}
    steps = sum(meta.get("spec_verify_ct") or 0 for meta in metas)
    if steps:
        figures |= {"verifications": steps, "accept_length": round(tokens / steps, 4)}
    return figures


def compared(answers: list[list[int]], plain: list[list[int]]) -> dict[str, Any]:
    common = [
        len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))
        for a, b in zip(answers, plain, strict=True)
    ]
    differing = [at for at, a, b in zip(common, answers, plain, strict=True) if a != b]
    return {"equal": len(plain) - len(differing), "first_divergence": sorted(differing)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--prompts", type=Path, required=True)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, required=True)
    add("--run", action="append", required=True, dest="runs")
    add("--target", default="demo")
    add("--head", default="demo")
    add("--limit", type=int)
    add("--concurrency", type=int, default=8)
    add("--speed", type=int, default=0)
    add("--repeat", type=int, default=3)
    add("--together", action="store_true")
    add("--start-seconds", type=int, default=240)
    arguments = parser.parse_args()
    if arguments.target == "demo":
        from sglang_qwen3next_eagle3.training.specforge import target_folder

        arguments.target = str(target_folder("demo"))
    texts = prompts(arguments.prompts)[: arguments.limit]
    runs = [Run.parse(text, arguments.head) for text in arguments.runs]
    groups = [runs] if arguments.together else [[run] for run in runs]
    results: dict[str, Any] = {}
    plain: list[list[int]] | None = None
    with tempfile.TemporaryDirectory() as folder:
        for group in groups:
            with started(group, arguments, Path(folder)) as servers:
                for run, (server, ready) in zip(group, servers, strict=True):
                    figures, answers = answers_of(server, texts, arguments.concurrency)
                    if run.tree is None:
                        plain = answers
                    elif plain is not None:
                        figures |= compared(answers, plain)
                    results[run.name] = figures | {"ready_s": ready}
                speeds: dict[str, list[float]] = {run.name: [] for run in group}
                for _ in range(arguments.repeat if arguments.speed else 0):
                    for run, (server, _ready) in zip(group, servers, strict=True):
                        speeds[run.name].append(speed(server, texts[: arguments.speed]))
            for run in group:
                if arguments.speed:
                    median = round(statistics.median(speeds[run.name]), 1)
                    results[run.name] |= {"tok_per_s_b1": median, "speeds": speeds[run.name]}
                shown = {k: v for k, v in results[run.name].items() if k != "first_divergence"}
                print(run.name, json.dumps(shown), flush=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
