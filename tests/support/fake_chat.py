"""A stand-in for a server's /v1/chat/completions, which does what the last message says.

"too long", "busy" and a number such as "401": refused with that status; "moved": sent elsewhere;
"page", "page 404": a web page; "cut": the connection ends in the middle; "cut in a chunk": in the
middle of a chunk; "error": an error comes in the stream, or instead of an answer; "stall": it says
no more; "stall at once": nothing at all; "endless": it goes on until the client hangs up;
"nonsense": no JSON; "odd": JSON of another kind; "call": two tool calls; "logprobs": them; "lines":
characters at which Python, but not JSON, ends a line; anything else is answered.
"""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

STALL_SECONDS = 60.0
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
    {"id": "c2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
]
# As they are streamed: the name first, then the arguments in pieces; the calls may alternate.
CALL_PIECES: list[dict[str, Any]] = [
    {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}},
    {"index": 1, "id": "c2", "type": "function", "function": {"name": "now", "arguments": None}},
    {"index": 0, "id": None, "function": {"name": None, "arguments": '{"a"'}},
    {"index": 1, "function": {"arguments": "{}"}},
    {"index": 0, "function": {"arguments": ": 1}"}},
]
BREAKS = ("cut", "cut in a chunk", "error", "stall", "nonsense", "odd")
LOGPROBS = [{"token": f"{i}", "logprob": -i / 2, "top_logprobs": []} for i in range(4)]
LINES = "a\u2028b\u2029c\x85d"


@dataclass
class FakeChat:
    """counts: tokens that the chunks of a stream report, the prefill's token first; hung_up: a
    client did so while an endless answer came."""

    url: str = ""
    counts: tuple[int, ...] = (1, 3, 6, 7)
    requests: list[dict[str, Any]] = field(default_factory=list)
    hung_up: threading.Event = field(default_factory=threading.Event)
    stall_seconds: float = STALL_SECONDS

    def wait_for_requests(self, count: int, seconds: float = 120.0) -> None:
        end = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < end, f"{len(self.requests)} of {count} requests came"
            time.sleep(0.01)


@contextmanager
def serving(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[FakeChat]:
    """port: 0 for any; tls: serve https with this certificate."""
    fake = FakeChat()

    class Handler(_Handler):
        chat = fake

    server = _Server(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
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
        elif what.isdecimal():
            self._send(int(what), {"object": "error", "message": f"status {what}"})
        elif what == "moved":
            self._send(307, {}, {"Location": "http://elsewhere/v1"})
        elif what.startswith("page"):
            self._page(404 if what == "page 404" else 200)
        elif what == "stall at once":
            time.sleep(self.chat.stall_seconds)
        elif body.get("stream"):
            self._stream(what)
        else:
            self._whole(what, body)

    def end_headers(self) -> None:
        # Said, so that a client does not ask again on a connection that is about to end.
        self.send_header("Connection", "close")
        super().end_headers()

    def _whole(self, what: str, body: dict[str, Any]) -> None:
        if what == "cut":
            return
        if what == "stall":
            time.sleep(self.chat.stall_seconds)
        if what in ("nonsense", "odd"):
            self._send(200, ["nonsense"] if what == "nonsense" else {"choices": ["odd"]})
            return
        message: dict[str, Any] = {"role": "assistant", "content": "def merge"}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "message": message}
        if what == "call":
            message |= {"content": None, "tool_calls": CALLS}
            choice["finish_reason"] = "tool_calls"
        if what == "logprobs":
            choice["logprobs"] = {"content": LOGPROBS}
        if what == "error":
            self._send(200, {"error": {"message": "out of\nmemory", "code": 500}})
            return
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
        counts = list(self.chat.counts)
        if what == "call":
            deltas = [{"tool_calls": [piece]} for piece in CALL_PIECES] + [{}]
            counts = list(range(1, len(deltas) + 1))
        if what == "lines":
            deltas[0] = {"content": LINES}
        if what == "endless":
            self._go_on()
            return
        usage = {}
        for index, (count, delta) in enumerate(zip(counts, deltas, strict=True)):
            if index == 2 and what in BREAKS:
                self._break(what)
                return
            last = index == len(deltas) - 1
            finish = ("tool_calls" if what == "call" else "stop") if last else None
            usage = {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            if what == "logprobs":
                choice["logprobs"] = {"content": [LOGPROBS[index]]}
            self._event({"choices": [choice], "usage": usage})
        self._event({"choices": [], "usage": usage})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _go_on(self) -> None:
        try:
            for index in range(12_000):
                delta = {"content": f"{index} "}
                self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                time.sleep(0.01)
        except OSError:
            self.chat.hung_up.set()

    def _page(self, status: int) -> None:
        content = b"<!doctype html><title>Something else</title>"
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _break(self, what: str) -> None:
        if what == "cut in a chunk":
            self.wfile.write(b"ff\r\ndata: {")
        elif what == "error":
            self._event({"error": {"message": "out of\nmemory", "code": 500}})
        elif what == "stall":
            time.sleep(self.chat.stall_seconds)
        elif what == "nonsense":
            self._chunk(b"data: nonsense\n\n")
        elif what == "odd":
            self._event(["odd"])

    def _event(self, data: Any) -> None:
        self._chunk(f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode())

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, data: Any, headers: dict[str, str] | None = None) -> None:
        payload = json.dumps(data).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        with suppress(BrokenPipeError):
            self.wfile.write(payload)

    def log_message(self, *_: object) -> None: ...
