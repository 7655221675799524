"""Who may use a server: what SGLang's check of keys leaves open.

It asks nobody who opens a WebSocket, answers a key that is no ASCII with 500, and takes some routes
that are an administrator's for ordinary ones: two that are not marked as such, and those of a
router that is included in another, where it does not find the mark.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from sglang_qwen3next_eagle3.overlay.requests.body import Message, Receive, Send

ADMINISTRATORS = (
    "/is_scaling_elastic_ep",
    "/load_lora_adapter_from_tensors",
    "/scale_elastic_ep",
    "/set_trace_level",
)
"""Routes that change how everybody is served, beside those that SGLang marks itself."""
_POLICY_VIOLATION = 1008


def auth_level(original: Callable[..., Any], app: Any, scope: Message) -> Any:
    """Around what finds out whose a route is."""
    from sglang.srt.utils.auth import AuthLevel

    if scope["path"] in ADMINISTRATORS:
        return AuthLevel.ADMIN_OPTIONAL
    return original(app, scope)


def decide(original: Callable[..., Any], *, authorization_header: str | None, **asked: Any) -> Any:
    """Around the comparison of keys, which raises where one has letters that no key may have."""
    if authorization_header is not None and not authorization_header.isascii():
        authorization_header = None
    return original(authorization_header=authorization_header, **asked)


class GuardSockets:
    """An ASGI application around another, which takes WebSockets from those with the key alone."""

    def __init__(self, app: Callable[..., Awaitable[None]], api_key: str) -> None:
        self.app = app
        self.api_key = api_key

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket" and not self._allowed(scope):
            await receive()
            # Before it is accepted, a server answers this with 403.
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            return
        await self.app(scope, receive, send)

    def _allowed(self, scope: Message) -> bool:
        from sglang.srt.utils.auth import AuthLevel, decide_request_auth

        given = dict(scope["headers"]).get(b"authorization")
        decision = decide(
            decide_request_auth,
            authorization_header=given.decode("latin-1") if given else None,
            method="GET",
            path="/websocket",
            api_key=self.api_key,
            admin_api_key=None,
            auth_level=AuthLevel.NORMAL,
        )
        return bool(decision.allowed)


def setup_and_run(
    original: Callable[..., None], server_args: Any, *args: Any, **kwargs: Any
) -> None:
    """Around the start of the HTTP server."""
    from sglang.srt.entrypoints.http_server import app

    if server_args.api_key:
        app.add_middleware(GuardSockets, api_key=server_args.api_key)
    original(server_args, *args, **kwargs)
