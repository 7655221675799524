"""Two demo servers behind SGLang's router, under load: one is killed, later each is restarted.

    python -m tests.soak.router --out benchmarks/results/cpu2-soak

No request that can be asked again may be lost: one that is not streamed, or whose stream has not
begun. A restart loses none at all, since a server finishes what it has begun.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.processes import Child, child, free_port, healthy
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

KEY = "soak-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
START_SECONDS = 600.0


@dataclass
class Replica:
    """A server on a port of its own, which can be ended and started again."""

    port: int
    folder: Path
    keyfile: Path
    child: Child | None = None
    starts: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
        command += ["--port", str(self.port), "--api-key-file", str(self.keyfile)]
        self.starts += 1
        self.child = Child.start(command, self.folder / f"{self.port}-{self.starts}.log")

    def wait(self) -> None:
        assert self.child is not None
        self.child.wait_until(lambda: healthy(self.url), START_SECONDS)

    def kill(self) -> None:
        """All of it at once, as when a machine loses its power."""
        assert self.child is not None
        os.killpg(self.child.process.pid, signal.SIGKILL)
        self.child.process.wait()

    def terminate(self) -> int:
        """As a supervisor does: ask the first process, and wait for it. Its exit status."""
        assert self.child is not None
        self.child.process.send_signal(signal.SIGTERM)
        return self.child.process.wait(300)

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop()


@dataclass
class Load:
    """Clients that ask without a pause until they are told to stop."""

    url: str
    expected: dict[str, str]
    clients: int
    phase: str = "steady"
    stopping: bool = False
    came: list[tuple[str, Asked, Came]] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        asked = [one for one in requests(100_000, len(self.expected)) if not one.cancelled]
        waiting, lock = iter(asked), threading.Lock()

        def work() -> None:
            with new_client() as client:
                while not self.stopping:
                    with lock:
                        one, phase = next(waiting), self.phase
                    came = ask(client, self.url, one, HEADERS)
                    self.came.append((phase, one, came))

        threads = [threading.Thread(target=work) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping = True
            for thread in threads:
                thread.join()

    def figures(self) -> dict[str, dict[str, Any]]:
        """By phase: what was asked when it was."""
        found: dict[str, dict[str, Any]] = {}
        for phase, asked, came in self.came:
            counts = found.setdefault(
                phase,
                {"asked": 0, "whole": 0, "equal": 0, "streams_broken": 0, "lost": 0, "why": []},
            )
            counts["asked"] += 1
            counts["whole"] += came.whole
            counts["equal"] += came.whole and came.said == self.expected[key_of(asked)]
            if not came.whole:
                begun = asked.streamed and came.status == 200
                counts["streams_broken" if begun else "lost"] += 1
                counts["why"].append(came.broken)
        for counts in found.values():
            counts["why"] = sorted(set(counts["why"]))[:5]
        return found


def run(clients: int, seconds: float, distinct: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        keyfile = folder / "key"
        keyfile.write_text(KEY)
        keyfile.chmod(0o600)
        replicas = [Replica(free_port(), folder, keyfile) for _ in range(2)]
        for replica in replicas:
            stack.callback(replica.stop)
            replica.start()
        for replica in replicas:
            replica.wait()
        url = stack.enter_context(router(folder, [replica.url for replica in replicas]))
        with new_client() as client:
            expected = {}
            for one in alone(distinct):
                came = ask(client, replicas[0].url, one, HEADERS)
                assert came.whole, came
                expected[key_of(one)] = came.said
            refused = client.post(f"{url}/v1/chat/completions", json=alone(1)[0].body)
        print(f"{distinct} answers alone; without a key {refused.status_code}", flush=True)
        load = Load(url, expected, clients)
        statuses = []
        with load.running():
            time.sleep(seconds)
            load.phase = "killed"
            replicas[0].kill()
            time.sleep(seconds)
            load.phase = "one again"
            replicas[0].start()
            replicas[0].wait()
            time.sleep(seconds)
            load.phase = "rolling"
            for replica in replicas:
                # It is back in the router's list before the other goes.
                wait_for_workers(url, 2)
                statuses.append(replica.terminate())
                replica.start()
                replica.wait()
            wait_for_workers(url, 2)
            load.phase = "after"
            time.sleep(seconds)
        figures = load.figures()
    lost = sum(counts["lost"] for counts in figures.values())
    unequal = sum(counts["whole"] - counts["equal"] for counts in figures.values())
    broken = {phase: counts["streams_broken"] for phase, counts in figures.items()}
    passed = (
        not lost
        and not unequal
        and all(not count for phase, count in broken.items() if phase not in ("steady", "killed"))
    )
    return {
        "clients": clients,
        "without_a_key": refused.status_code,
        "exit_statuses_of_restarts": statuses,
        "phases": figures,
        "lost": lost,
        "unequal": unequal,
        "passed": passed,
    }


def wait_for_workers(url: str, count: int) -> None:
    """Until the router takes so many for healthy."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        told = httpx.get(f"{url}/workers", headers=HEADERS, trust_env=False).json()
        if sum(worker["is_healthy"] for worker in told["workers"]) >= count:
            return
        time.sleep(1)
    raise AssertionError(f"not {count} healthy workers: {told}")


@contextlib.contextmanager
def router(folder: Path, workers: list[str]) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "sglang_router.launch_router", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--worker-urls", *workers]
    command += ["--health-check-interval-secs", "2", "--health-check-timeout-secs", "25"]
    command += ["--health-failure-threshold", "2", "--health-success-threshold", "1"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    with child(command, folder / "router.log", name="the router") as started:
        url = f"http://127.0.0.1:{port}"
        try:
            started.wait_until(lambda: ready(url), 120)
            yield url
        except Exception:
            print("\n".join(started.tail(40)), file=sys.stderr)
            raise


def ready(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/readiness", trust_env=False).status_code == 200
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=20, help="of each phase")
    parser.add_argument("--distinct", type=int, default=20, help="different requests")
    arguments = parser.parse_args()
    made = made_with(["tests.soak.router", *sys.argv[1:]])
    figures = run(arguments.clients, arguments.seconds, arguments.distinct)
    write(arguments.out, "router.json", made, figures)
    print(figures)
    return 0 if figures["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
