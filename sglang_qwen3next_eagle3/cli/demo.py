"""`demo`: serve the small pair on this machine, ask it the model card's question, stop."""

import argparse
import contextlib
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import ServerFailed, Terminated
from sglang_qwen3next_eagle3.base.processes import free_port
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.model.aux_layers import DESCRIBED
from sglang_qwen3next_eagle3.serving import server as servers
from sglang_qwen3next_eagle3.serving.client import Client
from sglang_qwen3next_eagle3.serving.preflight import DEFAULT_PORT
from sglang_qwen3next_eagle3.serving.server import Server

QUESTION = "Write a Python function to merge two sorted lists."
START_SECONDS = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serve", action="store_true", help="keep the server until Ctrl-C")
    parser.add_argument("--port", type=int, help="default: 30000, or a free one if that is taken")
    parser.add_argument("--question", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--max-tokens", type=int, default=96, help="default: %(default)s")
    parser.add_argument("sglang", nargs="*", metavar="-- FLAGS", help="more flags for SGLang")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the question was answered. Raises UserError or ServerFailed."""
    port = arguments.port or free_port(DEFAULT_PORT)
    words = ["--profile", "demo", "--port", "{port}", "--", *arguments.sglang]
    with _log() as log, contextlib.ExitStack() as stack:
        with Progress("starting SGLang", None) as progress:

            def waiting(elapsed: float) -> None:
                progress.status(f"{elapsed:.0f} s, log in {log}")

            started = servers.started(words, log, {}, START_SECONDS, port=port, waiting=waiting)
            server = stack.enter_context(started)
            progress.say(f"ready after {server.ready_seconds:.0f} s at {server.url}")
            progress.say(f"> {arguments.question}")
        if (states := _captured(log)) is not None:
            print(states)
        answer = Client(server.url).chat(arguments.question, max_tokens=arguments.max_tokens)
        print(answer.text)
        print(f"[{answer.figures()}]")
        _how_to_go_on(server.url, arguments.question, arguments.serve)
        if arguments.serve:
            _serve(server)
    return 0


@contextlib.contextmanager
def _log() -> Iterator[Path]:
    """A file for what the server prints: gone in the end, unless the server failed."""
    folder = Path(tempfile.mkdtemp(prefix="sglang-qwen3next-eagle3-"))
    try:
        yield folder / "server.log"
    except ServerFailed as error:
        raise ServerFailed(f"{error} (log: {folder / 'server.log'})", error.log_tail) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _captured(log: Path) -> str | None:
    """What the server's log says of the states that it captures."""
    text = log.read_text(encoding="utf-8", errors="replace")
    # The last one: before it stands what the launcher decided.
    lines = [line for line in text.splitlines() if DESCRIBED in line]
    return lines[-1][lines[-1].index(DESCRIBED) :] if lines else None


def _serve(server: Server) -> None:
    assert server.child is not None
    try:
        print("Ctrl-C stops it.", flush=True)
        server.child.process.wait()
    except Terminated:
        raise
    except KeyboardInterrupt:
        return  # The way that it is meant to end.
    server.check()


def _how_to_go_on(url: str, question: str, serve: bool) -> None:
    body = (
        '{"model": "default", "max_tokens": 96, "temperature": 0, '
        f'"messages": [{{"role": "user", "content": "{question}"}}]}}'
    )
    print(f"\nOpenAI-compatible: {url}/v1")
    if serve:
        print(f"  sglang-qwen3next-eagle3 chat --base-url {url} 'Sort a dict by its values.'")
    else:
        print("Keep it running with `make serve`; then")
    print(f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\")
    print(f"    -d {shlex.quote(body)}")
