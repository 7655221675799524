"""`demo`: serve the small pair on this machine, ask it the model card's question, stop."""

import argparse
import contextlib
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from rich.console import Console

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.serving.client import Client

QUESTION = "Write a Python function to merge two sorted lists."
START_SECONDS = 300
STOP_SECONDS = 20


@dataclass(frozen=True)
class Server:
    """A server started by this process. log: where it writes."""

    process: "subprocess.Popen[bytes]"
    url: str
    log: Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serve", action="store_true", help="keep the server until Ctrl-C")
    parser.add_argument("--port", type=int, help="default: 30000, or a free one if that is taken")
    parser.add_argument("--question", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=96, help="default: %(default)s")
    parser.add_argument("sglang", nargs="*", metavar="-- FLAGS", help="more flags for SGLang")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the question was answered. Raises UserError."""
    console = Console(stderr=True, highlight=False)
    started = time.monotonic()
    with serving(arguments.port or _free_port(), arguments.sglang, console) as server:
        console.print(f"ready after {time.monotonic() - started:.0f} s at {server.url}")
        console.print(f"[bold]> {arguments.question}")
        answer = Client(server.url).chat(arguments.question, max_tokens=arguments.max_tokens)
        print(answer.text)
        print(f"[{answer.figures()}]")
        _how_to_go_on(server, arguments.question, arguments.serve)
        if arguments.serve:
            with contextlib.suppress(KeyboardInterrupt):
                server.process.wait()
                raise UserError(f"the server stopped by itself; its log: {server.log}")
    return 0


@contextlib.contextmanager
def serving(port: int, flags: list[str], console: Console) -> Iterator[Server]:
    """The demo profile's server, ready to answer; it is stopped at the end.

    Raises:
        UserError: it does not start; the message ends with the last lines of its log.
    """
    log = Path(tempfile.mkdtemp(prefix="sglang-qwen3next-eagle3-")) / "server.log"
    command = [sys.executable, "-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
    command += ["--port", str(port), "--", *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait_until_healthy(server, console)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_healthy(server: Server, console: Console) -> None:
    started = time.monotonic()
    with console.status("starting SGLang") as status:
        while (elapsed := time.monotonic() - started) < START_SECONDS:
            if server.process.poll() is not None:
                raise UserError(
                    f"the server did not start; the end of {server.log}:\n{_tail(server)}"
                )
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                    return
            status.update(f"starting SGLang: {elapsed:.0f} s, log in {server.log}")
            time.sleep(0.5)
    raise UserError(f"no answer after {START_SECONDS} s; the end of {server.log}:\n{_tail(server)}")


def _tail(server: Server, lines: int = 15) -> str:
    with server.log.open(encoding="utf-8", errors="replace") as stream:
        return "".join(deque(stream, maxlen=lines)).rstrip()


def _how_to_go_on(server: Server, question: str, serve: bool) -> None:
    body = (
        '{"model": "default", "max_tokens": 96, "temperature": 0, '
        f'"messages": [{{"role": "user", "content": "{question}"}}]}}'
    )
    print(f"\nOpenAI-compatible: {server.url}/v1")
    if serve:
        print(
            f"  sglang-qwen3next-eagle3 chat --base-url {server.url} 'Sort a dict by its values.'"
        )
    else:
        print("Keep it running with `make serve`; then")
    print(f"  curl {server.url}/v1/chat/completions -H 'Content-Type: application/json' \\")
    print(f"    -d {shlex.quote(body)}")
    if serve:
        print("Ctrl-C stops it.", flush=True)


def _free_port(preferred: int = 30000) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise UserError("no free port on 127.0.0.1")
