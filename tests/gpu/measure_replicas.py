"""Two replicas behind SGLang's router: throughput against one, and what is lost when one is killed.

    python tests/gpu/measure_replicas.py OUT.json --tp 2 --precision fp8 [-- FLAGS OF SGLANG]

Needs `sglang-router` (a package of its own) and 2 x TP GPUs. The target is the full-size one with
dummy weights and random prompts; `--profile demo` serves the demo pair instead, on a machine
without GPUs. The three figures that count are printed last: the requests per second of one and of
two, the requests that failed when a replica was killed, and those that failed afterwards.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.files import write_json
from sglang_qwen3next_eagle3.base.processes import Child, child, free_port, healthy
from sglang_qwen3next_eagle3.bench.trees import synthetic

ANSWERED = 'POST /generate HTTP/1.1" 200'


@dataclass
class Replica:
    url: str
    log: Path
    child: Child

    def answered(self) -> int:
        """Its requests so far, by its own log."""
        return self.log.read_text(errors="replace").count(ANSWERED)


@contextlib.contextmanager
def replicas(arguments: argparse.Namespace, folder: Path) -> Iterator[list[Replica]]:
    """Two servers, started at the same time, both healthy."""
    words = ["--profile", arguments.profile]
    flags = ["--max-running-requests", str(arguments.batch), "--disable-radix-cache"]
    if arguments.profile != "demo":
        target = synthetic.write_target(folder / "target", arguments.precision)
        head = synthetic.write_head(folder / "head")
        words += ["--tp", str(arguments.tp), "--target", str(target), "--head", str(head)]
        flags += [*synthetic.FLAGS, *synthetic.HEAD_FLAGS, "--cuda-graph-bs-decode", "1", "8"]
        flags += [str(arguments.batch), "--disable-prefill-cuda-graph", "--skip-server-warmup"]
        flags += ["--context-length", "8192", *arguments.flags]
    with contextlib.ExitStack() as stack:
        found = []
        for place in range(2):
            port = free_port()
            log = arguments.out.with_suffix(f".replica-{place}.log")
            first = place * arguments.tp
            environment = {}
            if arguments.profile != "demo":
                gpus = ",".join(str(first + rank) for rank in range(arguments.tp))
                environment["CUDA_VISIBLE_DEVICES"] = gpus
            command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", *words]
            command += ["--port", str(port), "--", *flags]
            process = stack.enter_context(child(command, log, environment=environment))
            found.append(Replica(f"http://127.0.0.1:{port}", log, process))
        for replica in found:
            seconds = replica.child.wait_until(
                lambda url=replica.url: healthy(url), arguments.start_seconds
            )
            print(f"a replica is healthy after {seconds:.0f} s more", flush=True)
        yield found


@contextlib.contextmanager
def router(urls: list[str], log: Path) -> Iterator[str]:
    port, metrics = free_port(), free_port()
    command = [sys.executable, "-m", "sglang_router.launch_router", "--worker-urls", *urls]
    command += ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)]
    with child(command, log, name="the router") as process:
        url = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: healthy(url), 60)
        yield url


class Load:
    """`batch` requests at a time, prompts of random tokens."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._batch, self._tokens = arguments.batch, arguments.output_tokens
        self._inputs, self._vocabulary = arguments.input_tokens, arguments.vocabulary
        self._drawn = random.Random(0)

    def run(
        self, url: str, count: int, third_answered: threading.Event | None = None
    ) -> dict[str, Any]:
        """third_answered: set once a third of the requests are."""
        bodies = [self._body() for _ in range(count)]
        failures: list[str] = []
        done, tokens, lock = 0, 0, threading.Lock()
        limits = httpx.Limits(max_connections=self._batch)
        with (
            httpx.Client(timeout=300, trust_env=False, limits=limits) as http,
            ThreadPoolExecutor(self._batch) as pool,
        ):

            def ask(body: dict[str, Any]) -> None:
                nonlocal done, tokens
                try:
                    reply = http.post(f"{url}/generate", json=body)
                    reply.raise_for_status()
                    got = reply.json()["meta_info"]["completion_tokens"]
                    error = None if got == self._tokens else f"{got} tokens"
                except (httpx.HTTPError, ValueError, KeyError) as failure:
                    got, error = 0, f"{type(failure).__name__}: {failure}"[:200]
                with lock:
                    done, tokens = done + 1, tokens + got
                    if error is not None:
                        failures.append(error)
                    if third_answered is not None and done >= count // 3:
                        third_answered.set()

            begun = time.monotonic()
            list(pool.map(ask, bodies))
            seconds = time.monotonic() - begun
        return {
            "requests": count,
            "failed": len(failures),
            "failures": sorted(set(failures))[:4],
            "seconds": round(seconds, 2),
            "requests_per_second": round(count / seconds, 2),
            "output_tokens_per_second": round(tokens / seconds, 1),
        }

    def _body(self) -> dict[str, Any]:
        ids = [self._drawn.randrange(100, self._vocabulary) for _ in range(self._inputs)]
        sampling = {"max_new_tokens": self._tokens, "temperature": 0, "ignore_eos": True}
        return {"input_ids": ids, "sampling_params": sampling}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    load = Load(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="replicas-") as folder,
        replicas(arguments, Path(folder)) as pair,
    ):
        while arguments.after is not None and not arguments.after.exists():
            time.sleep(0.5)
        for replica in pair:
            load.run(replica.url, arguments.batch)  # kernels are compiled at first use
        figures["one"] = load.run(pair[0].url, arguments.requests)
        print(json.dumps({"one": figures["one"]}), flush=True)
        log = arguments.out.with_suffix(".router.log")
        with router([replica.url for replica in pair], log) as url:
            load.run(url, arguments.batch)
            before = [replica.answered() for replica in pair]
            # As many in flight at each replica as before.
            both = argparse.Namespace(**{**vars(arguments), "batch": 2 * arguments.batch})
            figures["two"] = Load(both).run(url, 2 * arguments.requests)
            served = zip(pair, before, strict=True)
            figures["two"]["answered_by"] = [found.answered() - was for found, was in served]
            print(json.dumps({"two": figures["two"]}), flush=True)
            third_answered = threading.Event()

            def kill() -> None:
                third_answered.wait(120)
                os.killpg(pair[1].child.process.pid, signal.SIGKILL)

            killer = threading.Thread(target=kill)
            killer.start()
            figures["one_killed"] = Load(both).run(url, 2 * arguments.requests, third_answered)
            killer.join()
            print(json.dumps({"one_killed": figures["one_killed"]}), flush=True)
            figures["afterwards"] = load.run(url, arguments.requests)
            print(json.dumps({"afterwards": figures["afterwards"]}), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", default="b32-wide")
    parser.add_argument("--tp", type=int, default=2)
    parser.add_argument("--precision", choices=("fp8", "bf16"), default="fp8")
    parser.add_argument("--batch", type=int, default=32, help="requests at once of a replica")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--input-tokens", type=int, default=256)
    parser.add_argument("--output-tokens", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--start-seconds", type=int, default=900)
    parser.add_argument("--after", type=Path, help="ask nothing before this file is there")
    # argparse takes no flags of somebody else's in the middle of its own.
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    arguments.flags = words[end + 1 :]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figures = measure(arguments)
    shown = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("out", "flags", "after")
    }
    described = provenance.describe(sys.argv[1:])
    write_json(arguments.out, {"provenance": described, "settings": shown, **figures})
    for name, found in figures.items():
        print(f"{name}: {json.dumps(found)}")


if __name__ == "__main__":
    main()
