"""A stand-in for a server's /v1/chat/completions, which does what the last message says.

"too long", "busy": refused; "cut": the connection ends in the middle; "cut in a chunk": in the
middle of a chunk; "error": an error comes in the stream; "stall": it says no more; "nonsense": no
JSON; "call": a tool call; anything else is answered.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL_SECONDS = 1.5
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
# As it is streamed: the name first, then the arguments in pieces.
CALL_PIECES = [
    {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}},
    {"index": 0, "function": {"arguments": '{"a"'}},
    {"index": 0, "function": {"arguments": ": 1}"}},
]


@dataclass
class FakeChat:
    """counts: tokens that the chunks of a stream report, the prefill's token first."""

    url: str = ""
    counts: tuple[int, ...] = (1, 3, 6, 7)
    requests: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[FakeChat]:
    fake = FakeChat()

    class Handler(_Handler):
        chat = fake

    server = _Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hung up is what is tested."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    chat: FakeChat

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"]
        self.chat.requests.append({**body, "path": self.path, "key": key})
        self.close_connection = True
        what = str(body["messages"][-1]["content"])
        if what == "too long":
            self._send(400, {"object": "error", "message": "longer than\nthe context"})
        elif what == "busy":
            self._send(503, {"error": {"message": "busy"}})
        elif body.get("stream"):
            self._stream(what)
        else:
            self._whole(what, body)

    def _whole(self, what: str, body: dict[str, Any]) -> None:
        if what == "cut":
            return
        if what == "stall":
            time.sleep(STALL_SECONDS)
        if what == "nonsense":
            self._send(200, ["nonsense"])
            return
        message: dict[str, Any] = {"role": "assistant", "content": "def merge"}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "message": message}
        if what == "call":
            message |= {"content": None, "tool_calls": [CALL]}
            choice["finish_reason"] = "tool_calls"
        if body.get("return_meta_info"):
            choice["meta_info"] = {"spec_verify_ct": 4}
        usage = {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
        self._send(200, {"id": "1", "choices": [choice], "usage": usage})

    def _stream(self, what: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deltas: list[dict[str, Any]] = [{"content": f"{count} "} for count in self.chat.counts]
        if what == "call":
            deltas = [{"tool_calls": [piece]} for piece in CALL_PIECES] + [{}]
        usage = {}
        for index, (count, delta) in enumerate(zip(self.chat.counts, deltas, strict=True)):
            if index == 2 and what in {"cut", "cut in a chunk", "error", "stall", "nonsense"}:
                self._break(what)
                return
            last = index == len(deltas) - 1
            finish = ("tool_calls" if what == "call" else "stop") if last else None
            usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            self._event({"choices": [choice], "usage": usage})
        self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _break(self, what: str) -> None:
        if what == "cut in a chunk":
            self.wfile.write(b"ff\r\ndata: {")
        elif what == "error":
            self._event({"error": {"message": "out of\nmemory", "code": 500}})
        elif what == "stall":
            time.sleep(STALL_SECONDS)
        elif what == "nonsense":
            self._chunk(b"data: nonsense\n\n")

    def _event(self, data: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(data)}\n\n".encode())

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, data: Any) -> None:
        payload = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(payload)

    def log_message(self, *_: object) -> None: ...
