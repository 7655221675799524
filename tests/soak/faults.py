"""What can go wrong around a demo server while it serves, and that its answers stay right.

    python -m tests.soak.faults --out benchmarks/results/cpu2-soak [--only NAME ...]

Slots that are exhausted are held by tests/e2e/test_exactness_under_pressure.py, and a scheduler
that dies by tests/e2e/test_ends.py, too.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from sglang_qwen3next_eagle3.base.processes import Child, child, free_port, healthy
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from tests.soak.asked import Asked, Came, alone, ask, key_of, made_with, new_client, write

START_SECONDS = 600.0
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
IDLE, SLOW = 1000, 8
Figures = dict[str, Any]


class Demo:
    """A demo server, and what it answers when nothing is wrong."""

    def __init__(self, started: Child, port: int) -> None:
        self.child, self.port = started, port
        self.url = f"http://127.0.0.1:{port}"
        self.asked = [one for one in alone(12) if one.kind == "plain"][:6]
        self.expected: dict[str, str] = {}

    def learn(self) -> None:
        self.expected = {key_of(one): came.said for one, came in self.answers()}

    def answers(self) -> list[tuple[Asked, Came]]:
        with new_client() as client, ThreadPoolExecutor(3) as pool:
            came = pool.map(lambda one: ask(client, self.url, one, {}), self.asked)
            return list(zip(self.asked, came, strict=True))

    def is_right(self) -> bool:
        """Whether it answers everything as it did before."""
        return all(
            came.whole and came.said == self.expected[key_of(one)] for one, came in self.answers()
        )

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def long(self, tokens: int = 400) -> Asked:
        body = {**self.asked[0].body, "max_tokens": tokens, "ignore_eos": True}
        return Asked(0, "plain", body, streamed=True)

    def scheduler(self) -> int:
        """Its process, which takes that name when it runs."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                words = (folder / "cmdline").read_text()
                if int(fields[2]) == self.child.process.pid and "sglang::sched" in words:
                    return int(folder.name)
        raise AssertionError("there is no scheduler")


@contextlib.contextmanager
def demo(
    folder: Path, *words: str, port: int | None = None, environment: dict[str, str] | None = None
) -> Iterator[Demo]:
    port = port or free_port()
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
    command += ["--port", str(port), *words]
    with child(command, folder / f"{time.time_ns()}.log", environment=environment) as started:
        server = Demo(started, port)
        started.wait_until(lambda: healthy(server.url, seconds=30), START_SECONDS)
        server.learn()
        yield server


def idle_connections(server: Demo) -> Figures:
    """Connections on which nothing is asked."""
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            stack.enter_context(server.connect())
        right = server.is_right()
    return {"connections": IDLE, "passed": right}


def half_requests(server: Demo) -> Figures:
    """Connections that stop within a header or a body and never go on; others that are reset in
    the middle of an answer."""
    body = b'{"model": "demo", "stream": true, "max_tokens": 200, "ignore_eos": true, "messages": ['
    whole = body + b'{"role": "user", "content": "hi"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    length = f"Content-Length: {len(whole)}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for sent in (b"POST /v1/ch", head, head + length, head + length + body) * 25:
            stack.enter_context(server.connect()).sendall(sent)
        for _ in range(4):
            opened = server.connect()
            opened.sendall(head + length + whole)
            opened.recv(200)
            # What close() sends then is a reset.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            opened.close()
        right = server.is_right()
    return {"half_open": 100, "reset": 4, "idle_afterwards": idles(server), "passed": right}


def slow_readers(server: Demo) -> Figures:
    """Streams of which nobody reads, beside others that are read."""
    asked = server.long()
    with contextlib.ExitStack() as stack, new_client() as client:
        for _ in range(SLOW):
            body = {**asked.body, "stream": True}
            request = client.build_request("POST", f"{server.url}/v1/chat/completions", json=body)
            reply = client.send(request, stream=True)
            stack.callback(reply.close)
        right = server.is_right()
    return {"slow": SLOW, "idle_afterwards": idles(server), "passed": right}


def idles(server: Demo) -> bool:
    """Whether nothing runs any more, after a while: who is gone is not answered to the end."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        loads = httpx.get(f"{server.url}/v1/loads", timeout=60).json()["loads"]
        if not any(load["num_running_reqs"] + load["num_waiting_reqs"] for load in loads):
            return True
        time.sleep(1)
    return False


def connections(folder: Path) -> Figures:
    with demo(folder) as server:
        faults = (idle_connections, half_requests, slow_readers)
        found = {fault.__name__: fault(server) for fault in faults}
        right = server.is_right()
    return {**found, "passed": right and all(one["passed"] for one in found.values())}


def sigterm_while_streaming(folder: Path) -> Figures:
    """It finishes what it has begun, and then ends."""
    with demo(folder) as server, new_client() as client, ThreadPoolExecutor(4) as pool:
        asked = server.long(150)
        wanted = ask(client, server.url, asked, {})
        streams = [pool.submit(ask, client, server.url, asked, {}) for _ in range(4)]
        time.sleep(1)
        under_way = sum(not stream.done() for stream in streams)
        server.child.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        late = ask(client, server.url, server.asked[0], {})
        came = [stream.result() for stream in streams]
        status = server.child.process.wait(300)
    return {
        "streams_under_way": under_way,
        "whole_and_equal": sum(one.whole and one.said == wanted.said for one in came),
        "why": sorted({one.broken for one in came}),
        "asked_afterwards": late.status or late.broken,
        "exit_status": status,
        "passed": under_way > 0 and all(one.whole and one.said == wanted.said for one in came),
    }


def scheduler_killed(folder: Path) -> Figures:
    """The server ends itself with the status of a failure, so its supervisor starts it again."""
    port = free_port()
    with demo(folder, port=port) as server:
        expected = server.expected
        begun = time.monotonic()
        os.kill(server.scheduler(), signal.SIGKILL)
        unhealthy = None
        while server.child.ended() is None and time.monotonic() - begun < 120:
            if unhealthy is None and not healthy(server.url, seconds=2):
                unhealthy = round(time.monotonic() - begun, 1)
            time.sleep(0.2)
        status = server.child.ended()
        seconds = round(time.monotonic() - begun, 1)
    with demo(folder, port=port) as server:
        right = server.expected == expected
    return {
        "exit_status": status,
        "ended_after_seconds": seconds,
        "unhealthy_after_seconds": unhealthy,
        "right_after_a_new_start": right,
        "passed": status not in (0, None) and right,
    }


def caches_full(folder: Path) -> Figures:
    """A disk without room where what is compiled would be kept."""
    disk = folder / "caches"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        (disk / "full").write_bytes(b"")
        with contextlib.suppress(OSError), (disk / "full").open("wb", 0) as full:
            while True:
                full.write(b"x" * 4096)
        names = ("XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "HF_HOME")
        environment = {name: str(disk / name.lower()) for name in names}
        with demo(folder, environment=environment) as server:
            right = server.is_right()
            said = "No space left" in server.child.log.read_text()  # type: ignore[union-attr]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return {"told_in_the_log": said, "passed": right}


def head_replaced(folder: Path) -> Figures:
    """The head's files become others while it serves: it goes on; a new start looks at them."""
    head = folder / "head"
    shutil.copytree(demo_pair().head, head)
    with demo(folder, "--head", str(head)) as server:
        weights = head / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
        right = server.is_right()
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
    command += ["--head", str(head), "--port", str(free_port())]
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return {
        "right_while_it_serves": right,
        "exit_status_of_a_new_start": again.returncode,
        "said": again.stderr.strip().splitlines()[-1].replace(str(folder), "FOLDER")[:300],
        "passed": right and again.returncode == 2,
    }


def clock_jumps(folder: Path) -> Figures:
    """The wall clock goes a day forward and two back while it serves; the monotonic one goes on."""
    clock = folder / "clock"
    clock.write_text("+0\n")
    environment = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    right = {}
    with demo(folder, environment=environment) as server:
        for jump in ("+1d", "-1d", "+0"):
            answers: list[bool] = []
            # The clock jumps while it answers, too.
            asking = threading.Thread(target=lambda to=answers: to.append(server.is_right()))
            asking.start()
            time.sleep(0.5)
            clock.write_text(f"{jump}\n")
            asking.join()
            right[jump] = (
                answers == [True] and server.is_right() and healthy(server.url, seconds=30)
            )
        printed = server.child.log.read_text()  # type: ignore[union-attr]
    days = {line[1:11] for line in printed.splitlines() if line.startswith("[20")}
    return {
        "right": right,
        "days_in_the_log": len(days),
        "passed": all(right.values()) and len(days) > 1,
    }


FAULTS: dict[str, Callable[[Path], Figures]] = {
    fault.__name__: fault
    for fault in (
        connections,
        sigterm_while_streaming,
        scheduler_killed,
        caches_full,
        head_replaced,
        clock_jumps,
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    arguments = parser.parse_args()
    passed = True
    made = made_with(["tests.soak.faults", *sys.argv[1:]])
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            try:
                figures = FAULTS[name](Path(folder))
            except Exception as error:
                figures = {"passed": False, "error": f"{type(error).__name__}: {error}"[:2000]}
        print(name, figures, flush=True)
        write(arguments.out, f"fault-{name}.json", made, figures)
        passed &= figures["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
