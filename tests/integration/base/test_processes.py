"""Real processes: started, waited for, ended with all that they started."""

import contextlib
import itertools
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_qwen3next_eagle3.base import processes
from sglang_qwen3next_eagle3.base.errors import ServerFailed
from sglang_qwen3next_eagle3.base.processes import (
    Child,
    child,
    ending,
    free_port,
    healthy,
    last_line,
    tail,
)
from tests.support import fake_sglang
from tests.support.processes import gone

# Ignores SIGTERM if told to, and starts a child of its own that sleeps on.
PARENT = """
import signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(inner.pid, flush=True)
time.sleep(60)
"""


def first_line(log: Path) -> str:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if log.is_file() and log.read_text().endswith("\n"):
            return log.read_text().split("\n")[0]
        time.sleep(0.02)
    raise AssertionError(f"nothing in {log}")


@pytest.mark.parametrize("stubborn", [False, True])
def test_the_end_takes_the_whole_group(tmp_path: Path, stubborn: bool) -> None:
    log = tmp_path / "logs" / "child.log"
    words = ["stubborn"] if stubborn else []
    started = Child.start([sys.executable, "-c", PARENT, *words], log)
    inner = int(first_line(log))
    # However long a busy machine takes to end the one that listens.
    started.stop(seconds=0.5 if stubborn else 120)
    assert started.ended() == (-signal.SIGKILL if stubborn else -signal.SIGTERM)
    assert gone(inner)


def test_what_it_started_is_not_asked_beside_it(tmp_path: Path) -> None:
    """A server whose children end before it does takes that for a crash."""
    log = tmp_path / "child.log"
    code = (
        "import signal, subprocess, sys, time\n"
        "inner = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "def leave(*_):\n"
        "    time.sleep(0.5)\n"
        "    raise SystemExit(7 if inner.poll() is None else 8)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print(inner.pid, flush=True)\ntime.sleep(60)\n"
    )
    started = Child.start([sys.executable, "-c", code], log)
    inner = int(first_line(log))
    started.stop()
    assert started.ended() == 7
    assert gone(inner)


def test_a_child_is_ended_when_the_block_is_left_by_an_error(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    with pytest.raises(KeyError), child([sys.executable, "-c", PARENT], log) as started:
        raise KeyError
    assert started.ended() is not None


def test_a_child_does_not_outlive_the_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from sglang_qwen3next_eagle3.base.processes import Child\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        f"print(Child.start(sleep, Path({str(log)!r})).process.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as ours:
        assert ours.stdout is not None
        pid = int(ours.stdout.readline())
        ours.kill()
    assert gone(pid)


def test_an_early_end_is_told_with_the_log(tmp_path: Path) -> None:
    code = "print('out of luck'); raise SystemExit(3)"
    with (
        child([sys.executable, "-c", code], tmp_path / "log", name="SGLang") as started,
        pytest.raises(ServerFailed, match="^SGLang ended: exit status 3$") as failed,
    ):
        started.wait_until(lambda: False, 120)
    assert failed.value.log_tail == ("out of luck",)


def test_who_is_never_ready_is_told_so(tmp_path: Path) -> None:
    seen: list[float] = []
    clock = SimpleNamespace(monotonic=itertools.count().__next__, sleep=lambda seconds: None)
    with (
        child([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log") as started,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(processes, "time", clock)
        with pytest.raises(ServerFailed, match="not healthy in time"):
            started.wait_until(lambda: False, 3, waiting=seen.append)
    assert seen == [1, 2]


def test_a_crash_that_breaks_a_connection_is_seen_when_it_is_waited_for(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    code = (
        "import os, sys, time\n"
        "while not os.path.exists(sys.argv[1]): time.sleep(0.02)\n"
        "time.sleep(0.3); raise SystemExit(3)"
    )
    with child([sys.executable, "-c", code, str(seen)], tmp_path / "log") as started:
        started.check()
        seen.touch()
        with pytest.raises(ServerFailed, match="exit status 3"):
            started.check(120)


def test_a_server_is_healthy_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the environment names a proxy, which knows nothing of this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with fake_sglang.serving() as fake:
        assert healthy(fake.url, seconds=120)
    assert not healthy(fake.url)


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, "exit status 0"), (3, "exit status 3"), (-9, "SIGKILL, out of memory?"), (143, "SIGTERM")],
)
def test_an_end_is_spelled(status: int, said: str) -> None:
    assert ending(status) == said


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == []
    log.write_text("".join(f"{n}\n" for n in range(40)) + "x" * 1000 + "\n\n", encoding="utf-8")
    assert tail(log, 3) == ["39", "x" * 400, ""]
    assert last_line(log) == "x" * 400
    log.write_text("\n")
    assert last_line(log) == "it said nothing"


@pytest.mark.skipif(not Path("/proc/net").is_dir(), reason="only /proc tells who listens")
def test_who_listens_is_known(tmp_path: Path) -> None:
    port = free_port()
    # The grandchild, as with SGLang's tokenizer workers.
    listening = f"""
import socket, subprocess, sys, time
s = socket.create_server(("127.0.0.1", {port}))
s.set_inheritable(True)
inner = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
subprocess.Popen(inner, close_fds=False)
s.close()
time.sleep(60)
"""
    with child([sys.executable, "-c", listening], tmp_path / "log") as ours:
        ours.wait_until(lambda: bool(tail(tmp_path / "log")), 60)
        assert ours.listens(port)
        assert not ours.listens(free_port())
        with socket.socket() as stranger:
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            assert not ours.listens(stranger.getsockname()[1])


def test_a_port_that_is_taken_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port() > 0


def chosen_by_the_system(only: int) -> int:
    """What it gives to one who leaves the port to it, and has room for this one alone."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("HH", only, only))
        except OSError:
            pytest.skip("Linux before 6.3 gives nobody a range of his own")
        other.bind(("", 0))
        return int(other.getsockname()[1])


IP_LOCAL_PORT_RANGE = 51


@pytest.mark.skipif(sys.platform != "linux", reason="a socket's own range is Linux's")
def test_a_port_that_was_given_is_given_to_nobody_else() -> None:
    with socket.socket() as left:
        left.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        left.bind(("127.0.0.1", 0))
        port = int(left.getsockname()[1])
    assert chosen_by_the_system(port) == port, "the port of one who let go of it"
    assert free_port(port) == port
    with pytest.raises(OSError, match="in use"):
        chosen_by_the_system(port)


def test_a_server_can_listen_on_a_port_that_was_given() -> None:
    port = free_port()
    for host in ("127.0.0.1", ""):
        with socket.create_server((host, port)), socket.create_connection(("127.0.0.1", port)):
            pass
    assert free_port(port) == port


def test_processes_that_ask_at_once_get_ports_of_their_own() -> None:
    asks = (
        "from sglang_qwen3next_eagle3.base.processes import free_port\n"
        "print(*(free_port() for _ in range(40)), flush=True); input()"
    )
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        asked = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", asks], stdin=pipe, stdout=pipe, text=True)
            )
            for _ in range(3)
        ]
        given = []
        for process in asked:
            assert process.stdout is not None
            given += process.stdout.readline().split()
        assert len(set(given)) == len(given) == 120
        for process in asked:
            process.communicate("\n")


def test_only_the_last_ports_are_kept() -> None:
    for _ in range(2 * processes._MAX_HELD):
        free_port()
    assert len(processes._HELD) == processes._MAX_HELD
