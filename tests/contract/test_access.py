"""What SGLang's check of keys leaves open, and that it still does."""

import asyncio
import importlib.metadata
from typing import Any

import pytest
from sglang.srt.entrypoints import http_server
from sglang.srt.utils import auth
from sglang.srt.utils.auth import AuthLevel

from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.requests import access
from sglang_qwen3next_eagle3.overlay.requests.access import GuardSockets, auth_level

ORIGINAL = auth._get_auth_level_from_app_and_scope

MENDED = {
    ("/load_lora_adapter_from_tensors", "POST"),
    ("/set_trace_level", "GET"),
    ("/set_trace_level", "POST"),
}
"""An administrator's in SGLang itself, from 0.5.23 on."""


def scope(path: str, method: str = "POST", **more: Any) -> dict[str, Any]:
    return {"type": "http", "path": path, "method": method, "headers": [], "root_path": "", **more}


@pytest.mark.parametrize("path", access.ADMINISTRATORS)
def test_what_is_an_administrator_s_is_so_under_the_plugin_alone(path: str) -> None:
    mended = MENDED if contract.at_least(importlib.metadata.version("sglang"), "0.5.23") else set()
    for method in ("GET", "POST"):
        asked = scope(path, method)
        stock = AuthLevel.ADMIN_OPTIONAL if (path, method) in mended else AuthLevel.NORMAL
        assert ORIGINAL(http_server.app, asked) == stock, "mended by now?"
        assert auth_level(ORIGINAL, http_server.app, asked) == AuthLevel.ADMIN_OPTIONAL


@pytest.mark.parametrize(
    ("path", "level"),
    [("/flush_cache", AuthLevel.ADMIN_OPTIONAL), ("/generate", AuthLevel.NORMAL)],
)
def test_all_others_are_as_sglang_says(path: str, level: AuthLevel) -> None:
    assert auth_level(ORIGINAL, http_server.app, scope(path)) == level


@pytest.mark.parametrize(
    ("header", "opens"),
    [
        (None, False),
        (b"Bearer other", False),
        (b"ask", False),
        (b"Bearer \xff", False),
        (b"Bearer ask", True),
    ],
)
def test_a_socket_is_opened_with_the_key(header: bytes | None, opens: bool) -> None:
    reached: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [] if header is None else [(b"authorization", header)]
    opened = scope("/v1/realtime", type="websocket", headers=headers)
    asyncio.run(GuardSockets(app, "ask")(opened, receive, send))
    assert reached == (["/v1/realtime"] if opens else [])
    assert sent == ([] if opens else [{"type": "websocket.close", "code": 1008}])


def test_what_is_no_socket_is_left_to_sglang() -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    asyncio.run(GuardSockets(app, "ask")(scope("/generate"), None, None))  # type: ignore[arg-type]
    assert reached == ["/generate"]
