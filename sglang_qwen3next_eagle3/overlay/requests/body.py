"""The largest body of a request that is read: 413 for what is larger.

SGLang reads a body to its end before it looks at it. Where its length is told, nothing of it is
read; where it comes in chunks of unknown number, no more than is allowed.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from sglang_qwen3next_eagle3.overlay.requests import bounds

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

WEIGHTS = ("/update_weights_from_tensor", "/load_lora_adapter_from_tensors")
"""Routes whose bodies are weights."""


class _TooLarge(Exception):
    pass


class LimitBody:
    """An ASGI application around another. most: bytes of a body."""

    def __init__(self, app: Callable[..., Awaitable[None]], most: int) -> None:
        self.app = app
        self.most = most

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in WEIGHTS:
            await self.app(scope, receive, send)
            return
        told = dict(scope["headers"]).get(b"content-length", b"")
        if told.isdigit() and int(told) > self.most:
            await self._refuse(scope, send)
            return
        read, large, answered = 0, False, False

        async def counted() -> Message:
            nonlocal read, large
            message = await receive()
            read += len(message.get("body", b""))
            if read > self.most:
                large = True
                raise _TooLarge
            return message

        async def forward(message: Message) -> None:
            nonlocal answered
            # What the application makes of a body that ends so is not the answer.
            if large and not answered:
                return
            answered = True
            await send(message)

        try:
            await self.app(scope, counted, forward)
        except _TooLarge:
            if answered:
                raise
        if large and not answered:
            await self._refuse(scope, send)

    async def _refuse(self, scope: Message, send: Send) -> None:
        message = (
            f"The body of the request is larger than {self.most:,} bytes, which is what this "
            "server takes."
        )
        body = json.dumps(_envelope(scope["path"], message)).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _envelope(path: str, message: str) -> dict[str, Any]:
    """As SGLang writes the errors of each API (0.5.17, entrypoints/http_server.py)."""
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": "request_too_large", "message": message}}
    error = {"message": message, "type": "Request Entity Too Large", "param": None, "code": 413}
    return {"error": error} if path.startswith("/v1/responses") else {"object": "error", **error}


def setup_and_run(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Around the start of the HTTP server, which then puts the check of keys in front of this."""
    from sglang.srt.entrypoints.http_server import app

    app.add_middleware(LimitBody, most=bounds.of_this_server().body)
    original(*args, **kwargs)
