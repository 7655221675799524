"""Who may do what with a server that has both keys, and how much one request may ask for.

`deploy/routes.yaml` says of every route whose it is; what the server does is held to it.
"""

import itertools
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sglang_qwen3next_eagle3.overlay import contract
from tests.support.server import PATIENCE, Server, free_port, running

# What others see of a process is looked at, too.
pytestmark = pytest.mark.cold
KEY, ADMIN_KEY = "a5k-by-test", "ru1e-by-test"
LIMITS = "body=64Ki,prompt=100,answer=24,choices=2,depth=20"
TABLE = Path(__file__).parents[2] / "deploy" / "routes.yaml"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "key").write_text(KEY)
    (folder / "admin").write_text(f"{ADMIN_KEY}\n")
    port = free_port()
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    command += ["--api-key-file", str(folder / "key")]
    command += ["--admin-api-key-file", str(folder / "admin"), "--limits", LIMITS]
    with running(command, port, folder / "log") as server:
        yield server


def routes() -> set[tuple[str, str]]:
    """Every method and path of the installed release. `/metrics` is mounted when it starts."""
    from sglang.srt.entrypoints import http_server

    found = {("GET", "/metrics")}
    for route in flat(http_server.app.routes):
        methods = getattr(route, "methods", None) or {"WEBSOCKET"}
        found |= {(method, route.path) for method in methods}
    return found


def flat(found: Any) -> Iterator[Any]:
    for route in found:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from flat(router.routes)


def table() -> dict[str, set[tuple[str, str]]]:
    data = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    installed = contract.installed_sglang()
    assert installed is not None
    release, others = data.pop("release"), data.pop("others")
    other = {} if installed.release == release else others[installed.release]
    gone = set(other.get("gone", ()))
    return {
        whose: {tuple(line.split()) for line in {*lines, *other.get(whose, ())} - gone}  # type: ignore[misc]
        for whose, lines in data.items()
    }


def asked(server: Server, method: str, path: str, key: str | None) -> int:
    """The status of an answer. What is asked for means nothing anywhere."""
    path = re.sub(r"\{[^}]*\}", "none", path)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    if method == "WEBSOCKET":
        return handshake(server, path, headers)
    content = None if method in ("GET", "HEAD") else b"{}"
    headers["Content-Type"] = "application/json"
    with httpx.stream(
        method, f"{server.url}{path}", content=content, headers=headers, timeout=PATIENCE
    ) as reply:
        return reply.status_code


def handshake(server: Server, path: str, headers: dict[str, str]) -> int:
    host, port = server.url.removeprefix("http://").split(":")
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as opened:
        opened.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(opened.recv(4096).split()[1])


def test_the_table_names_every_route_once() -> None:
    named = [route for lines in table().values() for route in lines]
    assert len(named) == len(set(named))
    assert set(named) == routes()


def test_every_route_answers_whom_the_table_says_and_nobody_else(guarded: Server) -> None:
    """Without a key, with a wrong one, and with the first; the admin key is used by none of its
    routes here, since they would do what they are for."""
    of = table()
    found: dict[str, set[tuple[str, str]]] = {whose: set() for whose in of}
    for method, path in sorted(routes()):
        refused = [asked(guarded, method, path, key) in (401, 403) for key in (None, "wrong", KEY)]
        whose = {
            (False, False, False): "anybody",
            (True, True, False): "key",
            (True, True, True): "admin",
        }[tuple(refused)]  # type: ignore[index]
        found[whose].add((method, path))
    assert found == of
    assert guarded.process.poll() is None


def test_other_spellings_of_a_route_are_no_way_around(guarded: Server) -> None:
    paths = ["/metrics/../generate", "//generate", "/health/../flush_cache", "/%67enerate"]
    paths += ["/generate/", "/health/../server_info", "/metrics%2f..%2fserver_info", "/nothing"]
    host, port = guarded.url.removeprefix("http://").split(":")
    for path, method in itertools.product(paths, ("GET", "POST", "HEAD", "OPTIONS", "PUT")):
        # Not a client's way to write a path, but as it stands here.
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as opened:
            opened.sendall(
                f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                "Content-Length: 2\r\nContent-Type: application/json\r\n\r\n{}".encode()
            )
            said = b"".join(iter(lambda: opened.recv(65536), b""))
        status = int(said.split()[1])
        exported = path.startswith("/metrics") and status == 200 and b"# HELP" in said
        assert exported or status in (401, 403, 404, 405, 307) or method == "HEAD", (method, path)
        assert b"server_args" not in said
        assert b"output_ids" not in said


def test_a_key_of_other_letters_is_refused(guarded: Server) -> None:
    for value in (b"Bearer \xe4\xf6", b"\xff", KEY.encode(), b"Basic " + KEY.encode()):
        reply = httpx.get(f"{guarded.url}/v1/models", headers={"Authorization": value})
        assert reply.status_code == 401


def test_the_admin_key_does_what_the_first_may_not(guarded: Server) -> None:
    for path, content in (("/flush_cache", b""), ("/abort_request", b'{"rid": "none"}')):
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
        reply = httpx.post(
            f"{guarded.url}{path}", content=content, headers=headers, timeout=PATIENCE
        )
        assert reply.status_code == 200


def test_the_keys_are_nowhere(guarded: Server) -> None:
    said = httpx.get(f"{guarded.url}/server_info", headers=bearer(), timeout=PATIENCE).text
    said += guarded.printed()
    assert re.search(r"server_args=(ServerArgs\(|\{)", said), "they are printed, all of them"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(guarded.process.pid) not in ancestors(process.name):
                continue
            said += (process / "cmdline").read_text() + (process / "environ").read_text()
        except (OSError, UnicodeDecodeError):
            continue
    assert "sglang::scheduler" in said, "its processes were looked at"
    assert KEY not in said
    assert ADMIN_KEY not in said


def ancestors(pid: str) -> set[str]:
    found = {pid}
    while pid not in ("0", "1"):
        pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        found.add(pid)
    return found


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def chat(server: Server, **more: Any) -> httpx.Response:
    body = {"model": "d", "messages": [{"role": "user", "content": "hi"}], **more}
    url = f"{server.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=bearer(), timeout=PATIENCE)


NESTED = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
for _ in range(21):
    NESTED["json_schema"]["schema"] = {"items": NESTED["json_schema"]["schema"]}  # type: ignore[index]


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ({"messages": [{"role": "user", "content": "a b " * 200}]}, 400, "takes at most 100"),
        ({"max_tokens": 25}, 400, "answers with at most 24"),
        ({"n": 3}, 400, "n must be a whole number from 1 to 2"),
        ({"response_format": NESTED}, 400, "at most 20 may be"),
        ({"user": "x" * (64 << 10)}, 413, "larger than 65,536 bytes"),
    ],
    ids=["prompt", "answer", "choices", "depth", "body"],
)
def test_what_is_beyond_a_limit_is_refused_with_the_number(
    guarded: Server, more: dict[str, Any], status: int, said: str
) -> None:
    reply = chat(guarded, **more)
    assert reply.status_code == status, reply.text
    assert said in reply.json()["message"]


def test_a_body_without_a_length_is_bounded_too(guarded: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(20):
            yield b"x" * 8192

    headers = {**bearer(), "Content-Type": "application/json"}
    reply = httpx.post(
        f"{guarded.url}/generate", content=chunks(), headers=headers, timeout=PATIENCE
    )
    assert reply.status_code == 413


def test_up_to_the_limits_it_serves(guarded: Server) -> None:
    reply = chat(guarded, n=2, max_tokens=24, temperature=0)
    assert reply.status_code == 200, reply.text
    assert len(reply.json()["choices"]) == 2


def test_an_answer_that_names_no_end_ends_at_the_limit(guarded: Server) -> None:
    body = json.dumps({"text": "def f(", "sampling_params": {"max_new_tokens": None}})
    reply = httpx.post(f"{guarded.url}/generate", content=body, headers={
        **bearer(), "Content-Type": "application/json"}, timeout=PATIENCE)  # fmt: skip
    assert reply.status_code == 200, reply.text
    assert reply.json()["meta_info"]["completion_tokens"] <= 24
