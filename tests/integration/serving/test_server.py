"""A server of our own: started, asked, ended, and what it leaves."""

import contextlib
import errno
import json
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base import files
from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError
from sglang_qwen3next_eagle3.base.processes import free_port, healthy
from sglang_qwen3next_eagle3.serving import server
from tests.support import fake_sglang

WORDS = ["--profile", "demo", "--port", "{port}"]
ARGUMENTS = "server_args=ServerArgs(model_path='demo', api_key='S3CRET', admin_api_key=None)"


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LAUNCHER", fake_sglang.__name__)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # It would say which it has.
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"say": ARGUMENTS}}))


def test_its_log_keeps_no_secret_once_it_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with server.started(WORDS, log, {}, 60):
        pass
    assert log.read_text() == ARGUMENTS.replace("'S3CRET'", "***") + "\n"
    assert list(tmp_path.iterdir()) == [log]


def test_neither_does_that_of_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    behaviour = {"demo": {"refuse": "no --api-key S3CRET here"}}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(behaviour))
    with pytest.raises(ServerFailed), server.started(WORDS, tmp_path / "server.log", {}, 60):
        pass
    assert (tmp_path / "server.log").read_text() == "error: no --api-key *** here\n"


def test_a_full_disk_does_not_stand_in_for_what_went_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_text", full)
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"refuse": "no room"}}))
    with (
        pytest.raises(ServerFailed, match="exit status 2"),
        server.started(WORDS, tmp_path / "server.log", {}, 60),
    ):
        pass


def test_ctrl_c_does_not_keep_the_secrets_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "server.log"
    written = files.write_text

    def interrupted(path: Path, text: str) -> None:
        signal.raise_signal(signal.SIGINT)
        written(path, text)

    monkeypatch.setattr(files, "write_text", interrupted)
    with server.started(WORDS, log, {}, 60):
        pass
    assert "S3CRET" not in log.read_text()


class Stranger(BaseHTTPRequestHandler):
    """Healthy, and not the server that was started."""

    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_who_took_the_port_while_it_started_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "stranger"
    behaviour = {"after": str(there), "start_seconds": 1}
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": behaviour}))
    port = free_port()
    with contextlib.ExitStack() as stack:

        def take(_elapsed: float) -> None:
            if port in taken:
                return
            taken.append(port)
            stranger = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", port), Stranger))
            stack.callback(stranger.shutdown)
            threading.Thread(target=stranger.serve_forever, daemon=True).start()
            there.touch()

        taken: list[int] = []
        with (
            pytest.raises(ServerFailed, match="the server ended"),
            server.started(WORDS, tmp_path / "log", {}, 60, port=port, waiting=take),
        ):
            pass
        assert taken, "somebody was there"
        assert healthy(f"http://127.0.0.1:{port}", seconds=120), "and would have answered"
        assert Stranger.asked == 1


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("given", [False, True])
def test_a_server_whose_port_was_taken_is_started_once_more_on_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int, given: bool
) -> None:
    """Also one that was told which, where another will do as well, as to the demo."""
    there = tmp_path / "others"
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"after": str(there)}}))
    ports = [free_port() for _ in range(3)]
    chosen = iter(ports)
    monkeypatch.setattr(server, "free_port", lambda: next(chosen))
    asked = {"port": next(chosen), "elsewhere": True} if given else {}
    with contextlib.ExitStack() as stack:

        def take(_elapsed: float) -> None:
            for port in set(ports[:lost]) - taken:
                taken.add(port)
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            there.touch()

        taken: set[int] = set()
        if lost == 2:
            stack.enter_context(pytest.raises(ServerFailed, match="the server ended"))
        started = server.started(WORDS, tmp_path / "log", {}, 60, waiting=take, **asked)
        ours = stack.enter_context(started)
        assert ours.url == f"http://127.0.0.1:{ports[1]}"
        assert healthy(ours.url, seconds=120)
    assert len(taken) == lost
    assert list(chosen) == ports[2:], "no third start"


def test_a_server_that_fails_otherwise_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps({"demo": {"refuse": "no such model"}}))
    chosen = iter([free_port()])
    monkeypatch.setattr(server, "free_port", lambda: next(chosen))
    with (
        pytest.raises(ServerFailed, match="exit status 2"),
        server.started(WORDS, tmp_path / "log", {}, 60),
    ):
        pass


def test_a_port_in_use_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port} .*--port"),
            server.started(WORDS, tmp_path / "log", {}, 60, port=port),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_it_is_asked_and_flushed(tmp_path: Path) -> None:
    with server.started(WORDS, tmp_path / "server.log", {}, 60) as ours:
        assert ours.info()["tokenizer_path"] == "demo"
        ours.flush()
        ours.check()
        assert ours.ready_seconds is not None
    with pytest.raises(ServerFailed, match="the server ended: SIGTERM"):
        ours.flush()
