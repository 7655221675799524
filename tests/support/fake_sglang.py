"""A stand-in for a served target as `bench` sees it: /generate as a stream, and what goes with it.

In a thread (`serving`) or as a process that takes our launcher's arguments (`python -m`), then with
its behaviour in the variable FAKE_SGLANG as JSON.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

from sglang_qwen3next_eagle3.overlay import environment

VARIABLE = "FAKE_SGLANG"
STALL_SECONDS = 120


@dataclass
class Behaviour:
    """per_chunk: tokens a chunk; 1 is a server without speculation.

    length: tokens of an answer, if the request allows them. differs_at: from this token on the
    answers are others than a server's without speculation.
    key: that requests have to bring. flushes: after so many it refuses to empty its cache.
    info: what it says of itself at /server_info. pid_file: written first; after: it starts once
    this file is there, another's pid_file or a test's, and start_seconds later.
    ranks: schedulers that record their time for `bench cycle`, if it asks for that.
    Requests count from 1: fail_at gets HTTP 500, stall_at never ends, crash_at ends the process,
    crash_seconds after it broke the connection; chat_crash: so does every chat.
    """

    per_chunk: int = 1
    length: int = 1000
    differs_at: int | None = None
    fail_at: tuple[int, ...] = ()
    stall_at: int | None = None
    crash_at: int | None = None
    crash_seconds: float = 0.0
    chat_crash: bool = False
    abort_at: int | None = None
    start_seconds: float = 0.0
    refuse: str = ""
    running: int = 48
    chunk_seconds: float = 0.0
    say: str = "fake server ready"
    key: str | None = None
    flushes: int | None = None
    info: dict[str, Any] = field(default_factory=dict)
    pid_file: str = ""
    after: str = ""
    ranks: int = 0


@dataclass
class Fake:
    """bodies: of every /generate; flushes: how often the cache was emptied."""

    behaviour: Behaviour
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    flushes: int = 0
    at_once: int = 0
    most_at_once: int = 0


def answer(ids: list[int], length: int, differs_at: int | None = None) -> list[int]:
    """The token ids of an answer: a function of the prompt."""
    first = sum(ids) % 1000
    plain = [(first + place) % 1000 for place in range(length)]
    if differs_at is None:
        return plain
    return [token if place < differs_at else 999 - token for place, token in enumerate(plain)]


def _chat(asked: dict[str, Any]) -> dict[str, Any]:
    text = f"an answer to {asked['messages'][-1]['content']}"
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 5, "completion_tokens": 10}
    return {"choices": [{**choice, "meta_info": {"spec_verify_ct": 4}}], "usage": usage}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    """Requests that come at the same time."""


def server_of(fake: Fake, port: int = 0) -> ThreadingHTTPServer:
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/server_info":
                state = {"effective_max_running_requests_per_dp": fake.behaviour.running}
                said = {"internal_states": [state], "tokenizer_path": "demo"}
                self._send(200, {**said, **fake.behaviour.info})
            else:
                self._send(200, {"data": [{"id": "fake"}]})

        def do_POST(self) -> None:
            wanted = fake.behaviour.key
            if wanted is not None and self.headers.get("Authorization") != f"Bearer {wanted}":
                self._send(401, {})
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path == "/flush_cache":
                fake.flushes += 1
                most = fake.behaviour.flushes
                self._send(200 if most is None or fake.flushes <= most else 500, {})
                return
            asked = json.loads(body)
            if self.path == "/v1/chat/completions":
                if fake.behaviour.chat_crash:
                    self._crash()
                self._send(200, _chat(asked))
                return
            with lock:
                fake.bodies.append(asked)
                number = len(fake.bodies)
                fake.at_once += 1
                fake.most_at_once = max(fake.most_at_once, fake.at_once)
            try:
                self._generate(asked, number)
            except (BrokenPipeError, ConnectionResetError):
                pass
            finally:
                with lock:
                    fake.at_once -= 1

        def _generate(self, asked: dict[str, Any], number: int) -> None:
            its = fake.behaviour
            if number in its.fail_at:
                self._send(500, {"error": {"message": "out of luck"}})
                return
            if number == its.crash_at:
                self._crash()
            print("answering", flush=True)
            length = min(its.length, asked["sampling_params"]["max_new_tokens"])
            ids = answer(asked["input_ids"], length, its.differs_at)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            # The first token is the prefill's.
            ends = [1, *range(1 + its.per_chunk, length, its.per_chunk), length]
            for steps, end in enumerate(dict.fromkeys(ends)):
                if number == its.stall_at and steps == 2:
                    time.sleep(STALL_SECONDS)
                time.sleep(its.chunk_seconds)
                self._event(ids[:end], len(asked["input_ids"]), steps, end == length, number)
            self.wfile.write(b"data: [DONE]\n\n")

        def _crash(self) -> NoReturn:
            print("the scheduler hit an exception", flush=True)
            self.connection.shutdown(socket.SHUT_RDWR)
            time.sleep(fake.behaviour.crash_seconds)
            os._exit(3)

        def _event(
            self, ids: list[int], prompt_tokens: int, steps: int, last: bool, number: int
        ) -> None:
            its = fake.behaviour
            finish = {"type": "length"} if last else None
            if last and number == its.abort_at:
                finish = {"type": "abort", "message": "out of memory"}
            meta: dict[str, Any] = {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": len(ids),
                "finish_reason": finish,
            }
            if its.per_chunk > 1 and steps:
                accepted = len(ids) - 1 - steps
                meta |= {
                    "spec_verify_ct": steps,
                    "spec_num_correct_drafts": accepted,
                    "spec_num_proposed_drafts": 7 * steps,
                    "spec_correct_drafts_histogram": [0, steps],
                }
            event = {"output_ids": ids, "meta_info": meta}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()

        def _send(self, status: int, data: dict[str, Any]) -> None:
            payload = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: object) -> None: ...

    server = _Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_port}"
    return server


@contextmanager
def serving(**behaviour: Any) -> Iterator[Fake]:
    fake = Fake(Behaviour(**behaviour))
    server = server_of(fake)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _schedule(fake: Fake, rank: str) -> None:
    """Turns of a loop that receives, and runs a batch of the requests that are answered."""
    from sglang_qwen3next_eagle3.overlay.cycle import phases
    from sglang_qwen3next_eagle3.overlay.cycle.recorder import Recorder

    recorder = Recorder(Path(os.environ[environment.CYCLE]), rank)
    receive = recorder.timed(phases.RECEIVE.name)
    run, sampling = recorder.timed(phases.RUN.name), recorder.timed("sampling")
    recorder.announce()
    while True:
        recorder.turn()
        receive(time.sleep, 0.0001)
        if fake.at_once:
            recorder.batch(fake.at_once, True)
            run(sampling, time.sleep, 0.0005)


def main() -> None:
    words = sys.argv[1:]
    profile = words[words.index("--profile") + 1]
    # FAKE_SGLANG: behaviour by the profile's name, or for all.
    asked = json.loads(os.environ.get(VARIABLE, "{}"))
    name = os.path.basename(profile).removesuffix(".yaml")
    behaviour = Behaviour(**asked.get(name, {}))
    if behaviour.refuse:
        print(f"error: {behaviour.refuse}", flush=True)
        sys.exit(2)
    if behaviour.pid_file:
        with open(behaviour.pid_file, "w") as stream:
            stream.write(str(os.getpid()))
    while behaviour.after and not os.path.exists(behaviour.after):
        time.sleep(0.05)
    time.sleep(behaviour.start_seconds)
    fake = Fake(behaviour)
    server = server_of(fake, int(words[words.index("--port") + 1]))
    for rank in range(behaviour.ranks):
        threading.Thread(target=_schedule, args=(fake, f"tp{rank}"), daemon=True).start()
    print(behaviour.say, flush=True)
    if gpus := os.environ.get("CUDA_VISIBLE_DEVICES"):
        print(f"on GPUs {gpus}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
