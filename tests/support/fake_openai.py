"""A stand-in for a served target: an OpenAI server whose answers are those of a function."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]


@dataclass
class Reply:
    """status other than 200: `text` is the error's message."""

    text: str
    status: int = 200
    finish: str = "stop"


@dataclass
class FakeTarget:
    """answer: what to say to the messages so far; asked: those of every request, as they came."""

    answer: Callable[[Messages], Reply]
    url: str = ""
    model: str = "target"
    asked: list[Messages] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


@contextmanager
def serving(answer: Callable[[Messages], Reply], *, model: str = "target") -> Iterator[FakeTarget]:
    target = FakeTarget(answer, model=model)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": target.model, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                target.asked.append(body["messages"])
                target.bodies.append(body)
                target.keys.add(self.headers["Authorization"])
            reply = target.answer(body["messages"])
            if reply.status != 200:
                self._send(reply.status, {"object": "error", "message": reply.text})
                return
            message = {"role": "assistant", "content": reply.text}
            choice = {"index": 0, "finish_reason": reply.finish, "message": message}
            usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
            head = {"id": "1", "object": "chat.completion", "created": 0, "model": target.model}
            self._send(200, {**head, "choices": [choice], "usage": usage})

        def _send(self, status: int, data: dict[str, Any]) -> None:
            payload = json.dumps(data).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                # The client's backoff is not what is tested.
                self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(payload)
            except BrokenPipeError:
                pass

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    target.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield target
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
