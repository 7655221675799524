"""A demo server under mixed load: no answer is lost or another's, and nothing grows.

    python -m tests.soak.load --out benchmarks/results/cpu2-soak --requests 2000

Every request is greedy, so its answer is known: that of the same request asked alone before.
"""

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.processes import free_port
from tests.soak.asked import (
    Asked,
    Came,
    alone,
    ask,
    key_of,
    made_with,
    new_client,
    requests,
    write,
)
from tests.support.server import Server, running

FLAT, STEADY = 0.03, 0.05
"""How much memory may grow and the accept length change, from the second quarter to the last."""
_VERIFICATIONS = "sglang_qwen3next_eagle3_verifications_total"
_ACCEPTED = "sglang_qwen3next_eagle3_drafts_accepted_total"


def memory(leader: int) -> int:
    """Bytes of a server's processes, what they share counted once."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader:
                told = re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)
                total += int(told[1]) * 1024 if told else 0
        except OSError:
            continue
    return total


def counters(server: Server) -> dict[str, float]:
    """The sums of the two counters of speculation."""
    text = httpx.get(f"{server.url}/metrics", timeout=60, follow_redirects=True).text
    return {
        name: sum(map(float, re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.M)))
        for name in (_VERIFICATIONS, _ACCEPTED)
    }


class Quarters:
    """Memory, and what speculation accepted, in each quarter of the load."""

    def __init__(self, server: Server, count: int) -> None:
        self.server, self.count = server, count
        self.done = 0
        self.memory: list[list[int]] = [[], [], [], []]
        self.marks: list[dict[str, float]] = [counters(server)]
        self.stopping = threading.Event()

    def watch(self) -> None:
        while not self.stopping.wait(2):
            quarter = min(3, self.done * 4 // self.count)
            self.memory[quarter].append(memory(self.server.process.pid))
            while len(self.marks) <= quarter:
                self.marks.append(counters(self.server))

    def figures(self) -> dict[str, Any]:
        self.marks.append(counters(self.server))
        lengths = []
        for before, behind in zip(self.marks, self.marks[1:], strict=False):
            verified = behind[_VERIFICATIONS] - before[_VERIFICATIONS]
            accepted = behind[_ACCEPTED] - before[_ACCEPTED]
            lengths.append(round(1 + accepted / verified, 3) if verified else None)
        means = [round(sum(of) / len(of) / 2**20, 1) if of else None for of in self.memory]
        return {"memory_mib": means, "accept_length": lengths}


def run(count: int, at_once: int, distinct: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
        command += ["--port", str(port)]
        with running(command, port, Path(folder) / "log") as server:
            return measured(server, count, at_once, distinct)


def measured(server: Server, count: int, at_once: int, distinct: int) -> dict[str, Any]:
    with new_client() as client:
        expected: dict[str, str] = {}
        for one in alone(distinct):
            came = ask(client, server.url, one, {})
            assert came.whole, came
            expected[key_of(one)] = came.said
        print(f"{distinct} answers alone", flush=True)
        quarters = Quarters(server, count)
        watching = threading.Thread(target=quarters.watch)
        watching.start()
        begun = time.monotonic()

        def one_by_one(asked: Asked) -> Came:
            came = ask(client, server.url, asked, {})
            quarters.done += 1
            return came

        # One client for all, with as many connections as there are requests at once.
        with ThreadPoolExecutor(at_once) as pool:
            all_asked = requests(count, distinct)
            all_came = list(pool.map(one_by_one, all_asked))
        seconds = time.monotonic() - begun
        quarters.stopping.set()
        watching.join()
        again = ask(client, server.url, alone(1)[0], {})
        idle = client.get(f"{server.url}/v1/loads").json()
    found: Counter[str] = Counter()
    why = []
    for asked, came in zip(all_asked, all_came, strict=True):
        wanted = expected[key_of(asked)]
        found[asked.kind] += 1
        found["streamed"] += asked.streamed
        if came.whole:
            found["whole"] += 1
            found["equal"] += came.said == wanted
        elif asked.cancelled and asked.streamed and not came.broken:
            found["cancelled"] += 1
            found["cancelled_equal"] += wanted.startswith(came.said)
        else:
            found["lost"] += 1
            why.append(came.broken)
    figures = quarters.figures()
    _, second, _, last = figures["memory_mib"]
    lengths = figures["accept_length"]
    verdict = {
        "none_lost": not found["lost"],
        "none_mixed_up": found["equal"] == found["whole"]
        and found["cancelled_equal"] == found["cancelled"],
        "memory_flat": bool(second and last) and last <= second * (1 + FLAT),
        "accept_length_steady": len(lengths) == 4
        and abs(lengths[3] - lengths[1]) <= STEADY * lengths[1],
        "the_first_answer_again": again.said == expected[key_of(alone(1)[0])],
    }
    return {
        "requests": count,
        "at_once": at_once,
        "distinct": distinct,
        "seconds": round(seconds, 1),
        "found": dict(found),
        "why": sorted(set(why))[:5],
        **figures,
        "afterwards": idle,
        "verdict": verdict,
        "passed": all(verdict.values()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--distinct", type=int, default=40, help="different requests")
    arguments = parser.parse_args()
    made = made_with(["tests.soak.load", *sys.argv[1:]])
    figures = run(arguments.requests, arguments.at_once, arguments.distinct)
    write(arguments.out, "load.json", made, figures)
    print(figures)
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
