"""nest.py SOCKET: a process that has imported SGLang and forks; see tests/support/warm.py.

It imports nothing of this project but what SGLang's own imports bring.
"""

import array
import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

SERVER = "sglang.launch_server"
MODULES = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.models.registry",
    "sglang.srt.models.qwen3_next",
    "sglang.srt.speculative.eagle_worker_v2",
)
"""What servers and the tests' own programs come to import, with all that these import."""
UNREAD = (
    *("PWD", "OLDPWD", "SHLVL", "_", "COLUMNS", "LINES"),
    *("PYTHONPATH", "PYTEST_CURRENT_TEST"),
)
"""Variables that change nothing of what is imported, although they are read: a shell's own, the
path, which a fork has anew, and which test it is."""
OURS = "SGLANG_QWEN3NEXT_EAGLE3_"
"""How those begin that nobody reads before the plugin is loaded."""
READ_BY_LIBRARIES = (
    *("CUDA_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "PYTHON", "TORCH", "TRITON_"),
)
"""How those begin that count, too, where no Python code read them."""
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_FIRST, _LAST = 200, 456
"""Numbers of descriptors that are out of the way of those that a fork gets."""


def prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def send(channel: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    text = json.dumps(message).encode()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([len(text).to_bytes(4, "big")], rights)
    channel.sendall(text)


def receive(channel: socket.socket) -> tuple[Any, list[int]] | None:
    """A message and its descriptors; None at the end."""
    fds = array.array("i")
    head, rights, _, _ = channel.recvmsg(4, socket.CMSG_SPACE(64 * fds.itemsize))
    if not head:
        return None
    for _, _, data in rights:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    length, text = int.from_bytes(head, "big"), b""
    while len(text) < length:
        text += channel.recv(length - len(text))
    return json.loads(text), list(fds)


Read = Mapping[str, Sequence[str | None]]
"""By name, the value of each variable that was asked for, and of all that count anyway: before
modules were imported and afterwards, since some set what is not set."""


def unlike(environment: Mapping[str, str], read: Read) -> list[str]:
    """The variables that have another value here than SGLang was imported with."""
    named = {name for name in {*environment, *read} if name.startswith(READ_BY_LIBRARIES)}
    return sorted(
        name
        for name in {*named, *read}.difference(UNREAD)
        if not name.startswith(OURS) and environment.get(name) not in read.get(name, (None,))
    )


class _Recording(os._Environ):  # type: ignore[type-arg]
    """An environment that knows which of its variables were asked for."""

    asked: set[str]

    def __getitem__(self, name: Any) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: Any) -> bool:
        self.asked.add(name)
        return super().__contains__(name)


def warm_up() -> Read:
    """Import, and tell what of the environment that depended on."""
    before, plain = dict(os.environ), type(os.environ)
    asked: set[str] = set()
    _Recording.asked = asked
    os.environ.__class__ = _Recording
    try:
        for name in MODULES:
            importlib.import_module(name)
    finally:
        os.environ.__class__ = plain
    asked.update(name for name in {*before, *os.environ} if name.startswith(READ_BY_LIBRARIES))
    return {name: (before.get(name), os.environ.get(name)) for name in asked}


def fork_for(channel: socket.socket) -> dict[str, Any] | None:
    """Returns in each fork, with what it is to become, and None when nobody asks any more.

    The process between ends at once: the fork becomes a child of whoever asked.
    """
    while (request := receive(channel)) is not None:
        wanted, fds = request
        reads, writes = os.pipe()
        between = os.fork()
        if between == 0:
            child = os.fork()
            if child == 0:
                _arrange(wanted, fds)
                return dict(wanted)
            os.write(writes, str(child).encode())
            os._exit(0)
        for fd in (writes, *fds):
            os.close(fd)
        # It ends when the fork is arranged, and with it what else it had open here is closed.
        with open(reads) as told:
            child = int(told.read())
        os.waitpid(between, 0)
        send(channel, child)
    return None


def _arrange(wanted: Mapping[str, Any], fds: Sequence[int]) -> None:
    """Parent, session and descriptors, as the command's caller wants them."""
    until = time.monotonic() + 60
    while os.getppid() != wanted["parent"]:
        if time.monotonic() > until:
            os._exit(70)
        time.sleep(0.001)
    if wanted["session"]:
        os.setsid()
    if wanted["ends"]:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != wanted["parent"]:
            os.kill(os.getpid(), signal.SIGTERM)
    aside = [fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST) for fd in fds]
    os.closerange(3, _FIRST)
    for fd, number in zip(aside, (0, 1, 2, *wanted["keep"]), strict=True):
        os.dup2(fd, number)
    os.closerange(_FIRST, _LAST)
    import multiprocessing

    import numpy

    # What else each process draws anew when it imports.
    numpy.random.seed()
    multiprocessing.current_process().authkey = os.urandom(32)


def become(words: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
    """Run a command of Python as its interpreter does; returns, or raises, as the program does.

    words: `python -m NAME ...`, `python -c CODE ...` or `python FILE ...`.
    """
    os.chdir(folder)
    before, after = (
        [part for part in each.get("PYTHONPATH", "").split(os.pathsep) if part]
        for each in (os.environ, environment)
    )
    os.environ.clear()
    os.environ.update(environment)
    kind, rest = words[1], [part for part in sys.path[1:] if part not in before]
    first = {"-m": os.getcwd(), "-c": ""}.get(kind, os.path.dirname(os.path.abspath(kind)))
    sys.path[:] = [first, *after, *rest]
    sys.path_importer_cache.clear()
    sys.orig_argv[:] = words
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    if kind == "-m":
        sys.argv[:] = ["-m", *words[3:]]
        runpy._run_module_as_main(words[2])  # type: ignore[attr-defined]
    elif kind == "-c":
        sys.argv[:] = ["-c", *words[3:]]
        exec(compile(words[2], "<string>", "exec"), main.__dict__)
    else:
        sys.argv[:] = words[1:]
        main.__file__ = kind
        exec(compile(Path(kind).read_bytes(), kind, "exec"), main.__dict__)


def replacing(read: Read) -> Callable[..., NoReturn]:
    """An os.execvpe with which a server begins in place, since what it imports is there."""
    execvpe: Any = os.execvpe
    imported = frozenset(sys.modules)

    def replace(file: str, words: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
        if [file, *words[1:3]] != [sys.executable, "-m", SERVER] or unlike(environment, read):
            execvpe(file, words, environment)
        for number in signal.valid_signals() - {signal.SIGINT}:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if int(name) > 2 and not os.get_inheritable(int(name)):
                    os.close(int(name))
        for name in set(sys.modules) - imported:
            if name.partition(".")[0] == "sglang_qwen3next_eagle3":
                del sys.modules[name]
        become([file, *words[1:]], environment, os.getcwd())
        raise SystemExit

    return replace


def end_with(program: Callable[[], None]) -> NoReturn:
    """Run a program and end with its status, as Python does, but that nobody takes apart a million
    objects first, which takes seconds."""
    status: object = 0
    try:
        program()
    except SystemExit as ended:
        status = ended.code
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((status or 0) & 0xFF)


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    read = warm_up()
    # The collector would touch, and so copy, what all forks share.
    gc.freeze()
    send(channel, read)
    wanted = fork_for(channel)
    if wanted is None:
        return
    channel.detach()  # closed with all that a fork does not keep
    os.execvpe = replacing(read)
    end_with(partial(become, wanted["words"], wanted["environment"], wanted["folder"]))


if __name__ == "__main__":
    main()
