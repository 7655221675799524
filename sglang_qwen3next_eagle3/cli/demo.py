"""`demo`: serve the small pair on this machine, ask it the model card's question, stop."""

import argparse
import contextlib
import json
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import ServerFailed, Terminated, UserError
from sglang_qwen3next_eagle3.base.processes import free_port
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.cli.arguments import add_sglang_flags, positive
from sglang_qwen3next_eagle3.head.captured_layers import DESCRIBED, SOURCE
from sglang_qwen3next_eagle3.serving import flags, preflight, profile
from sglang_qwen3next_eagle3.serving import server as servers
from sglang_qwen3next_eagle3.serving.client import Answer, Client
from sglang_qwen3next_eagle3.serving.command_line import DEFAULT_PORT
from sglang_qwen3next_eagle3.serving.server import GONE_SECONDS, Server

QUESTION = "Write a Python function to merge two sorted lists."
START_SECONDS = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--serve", action="store_true", help="keep the server until Ctrl-C")
    parser.add_argument("--port", type=int, help="default: 30000, or a free one if that is taken")
    parser.add_argument("--question", default=QUESTION, help="default: %(default)s")
    parser.add_argument("--max-tokens", type=positive, default=96, help="default: %(default)s")
    add_sglang_flags(parser, "more flags for SGLang")


def run(arguments: argparse.Namespace) -> int:
    """Exit status 0 when the question was answered. Raises UserError or ServerFailed."""
    if not arguments.question.strip():
        raise UserError("nothing to ask: --question is empty")
    key = _key(arguments.sglang)
    port = free_port(DEFAULT_PORT) if arguments.port is None else arguments.port
    # What `launch` would refuse is refused here, before it is started and in its words.
    served = profile.load("demo").override(sglang={"port": port})
    preflight.plan(served, preflight.Options(extra=tuple(arguments.sglang)))
    words = ["--profile", "demo", "--port", "{port}", "--", *arguments.sglang]
    with _log() as log, contextlib.ExitStack() as stack:
        with Progress("starting SGLang", None) as progress:

            def waiting(elapsed: float) -> None:
                progress.status(f"{elapsed:.0f} s, log in {log}")

            elsewhere = arguments.port is None
            started = servers.started(
                words, log, {}, START_SECONDS, key, port=port, elsewhere=elsewhere, waiting=waiting
            )
            server = stack.enter_context(started)
            progress.say(f"ready after {server.ready_seconds:.0f} s at {server.url}")
            progress.say(f"> {arguments.question}")
        if (states := _captured(log)) is not None:
            print(states)
        answer = _answer(server, arguments, key)
        print(answer.text)
        print(f"[{answer.figures()}]")
        _how_to_go_on(server.url, arguments.question, arguments.serve, key is not None)
        if arguments.serve:
            _serve(server)
    return 0


def _key(words: Sequence[str]) -> str | None:
    """Of the server's flags, the key that it will want. Raises UserError: its address is ours."""
    given = flags.parse(words)
    for entry in given.of("--port"):
        raise UserError(f"{entry.word} after -- is not where it is asked: use --port before the --")
    for entry in given.of("--host"):
        raise UserError(
            f"{entry.word} after --: the demo is for this machine; to serve it elsewhere, use "
            "`sglang-qwen3next-eagle3 launch --profile demo --host ADDRESS`"
        )
    return given.value("--api-key") or None


def _answer(server: Server, arguments: argparse.Namespace, key: str | None) -> Answer:
    client = Client(server.url, api_key=key)
    try:
        return client.chat(arguments.question, max_tokens=arguments.max_tokens)
    except UserError:
        # A server that crashed looks like a broken connection from here; its log tells why.
        server.check(GONE_SECONDS)
        raise


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
    """What the server's log says of the states that it captures, and who decided that."""
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line[line.index(DESCRIBED) :] for line in text if DESCRIBED in line]
    # The last is the server's own, of what it does capture; it was told by a variable. The first is
    # the launcher's, which knows who decided; it counts where both name the same states.
    same = [line for line in lines if _states(line) == _states(lines[-1])]
    return same[0] if same else None


def _states(line: str) -> str:
    return line.partition(SOURCE)[0]


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


def _how_to_go_on(url: str, question: str, serve: bool, keyed: bool) -> None:
    messages = [{"role": "user", "content": question}]
    asked = {"model": "default", "max_tokens": 96, "temperature": 0, "messages": messages}
    body = json.dumps(asked, ensure_ascii=False)
    option, header = (" --api-key KEY", " -H 'Authorization: Bearer KEY'") if keyed else ("", "")
    print(f"\nOpenAI-compatible: {url}/v1")
    if serve:
        print(
            f"  sglang-qwen3next-eagle3 chat --base-url {url}{option} 'Sort a dict by its values.'"
        )
    else:
        print("Keep it running with `sglang-qwen3next-eagle3 demo --serve`; then")
    print(f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{header} \\")
    print(f"    -d {shlex.quote(body)}")
