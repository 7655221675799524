"""Python processes that have imported SGLang before they begin.

To import SGLang takes a process fifteen seconds of a core, its models five more, and most tests
that start one ask what it does afterwards. Here one process for each worker, the nest, imports them
once; `Popen` has it fork, and the fork becomes what the command says, as a fresh interpreter would:
with the command's words, environment, working folder, descriptors, session and parent, and with a
`__main__` of its own. It is a child of whoever asked, who waits for it, signals it and reads from
it as from any other. Where the launcher replaces itself by a server, so does the fork, in place.

What a fork has not: a command line and an environment of its own in /proc, and modules that are
imported after the plugin was loaded. Tests of how processes start and end, and of what others see
of them, start real ones: `pytest.mark.cold`. So does a command with another PYTHONPATH, or with
another value of a variable that was read while SGLang was imported.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.overlay.cpu_engine import SHIM_DIR
from tests.support import nest
from tests.support.demo_server import cpu_environment

ROOT = Path(__file__).parents[2]
LAUNCHER = "sglang_qwen3next_eagle3.launch"
MODULES = (nest.SERVER, LAUNCHER, "tests.support.tp_streams")
"""What is run warm as `python -m`; any script of tests/support is, too."""
CODES = {"from sglang_qwen3next_eagle3.overlay.prefill.rank import main; main()"}
"""And these, as `python -c`: what loads a target without a server, and what tests add."""


class _Nest:
    """The process that forks, from here."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._channel, theirs = socket.socketpair()
        command = [sys.executable, nest.__file__, str(theirs.fileno())]
        with theirs, tempfile.TemporaryFile() as said:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=ROOT,
                env=dict(environment), pass_fds=[theirs.fileno()],
            )  # fmt: skip
            theirs.close()
            told = nest.receive(self._channel)
            said.seek(0)
            assert told is not None, f"SGLang is not imported: {said.read()[-4000:].decode()}"
        self.read: nest.Read = told[0]

    def fork(self, wanted: dict[str, Any], fds: Sequence[int]) -> int:
        # The fork's own parent ends at once, and leaves it to this process.
        nest.prctl(nest.PR_SET_CHILD_SUBREAPER, 1)
        try:
            nest.send(self._channel, wanted, fds)
            told = nest.receive(self._channel)
        finally:
            nest.prctl(nest.PR_SET_CHILD_SUBREAPER, 0)
        assert told is not None, "the nest has ended"
        return int(told[0])

    def close(self) -> None:
        self._channel.close()
        self._process.wait()


_asking = threading.RLock()
_nests: list[_Nest] = []
"""One, once it is needed."""
_cold = 0


def _the_nest() -> _Nest:
    with _asking, cold():
        if not _nests:
            _nests.append(_Nest({**os.environ, **cpu_environment()}))
        return _nests[0]


@contextlib.contextmanager
def cold() -> Iterator[None]:
    """Commands within the block are started as everybody starts them."""
    global _cold
    _cold += 1
    try:
        yield
    finally:
        _cold -= 1


def _is_warm(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    if _cold or len(words) < 3 or words[0] != sys.executable:
        return False
    known = {"-m": words[2] in MODULES, "-c": words[2] in CODES}
    if not known.get(words[1], Path(words[1]).parent == ROOT / "tests" / "support"):
        return False
    paths = (each.get("PYTHONPATH", "").split(os.pathsep) for each in (environment, os.environ))
    theirs, ours = ([part for part in path if part and part != str(SHIM_DIR)] for path in paths)
    if theirs != ours:
        return False
    # The launcher imports nothing of SGLang, and says itself what the server's environment is.
    return words[2] == LAUNCHER or not nest.unlike(environment, _the_nest().read)


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """subprocess's own, but that the commands which `_is_warm` names are forked."""

    def _execute_child(  # type: ignore[no-untyped-def]
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others,
    ):  # fmt: skip
        environment = {os.fsdecode(k): os.fsdecode(v) for k, v in (env or os.environ).items()}
        words = [] if shell or isinstance(args, str | bytes) else [os.fsdecode(a) for a in args]
        ends = getattr(preexec_fn, "__qualname__", "") == "end_with_parent.<locals>.arrange"
        plain = executable in (None, sys.executable) and (preexec_fn is None or ends)
        if not plain or not _is_warm(words, environment):
            super()._execute_child(  # type: ignore[misc]
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
                creationflags, shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite,
                *others,
            )  # fmt: skip
            return
        wanted = {
            "words": words, "environment": environment, "folder": os.fspath(cwd or os.getcwd()),
            "session": bool(others[-2]), "ends": ends, "parent": os.getpid(),
            "keep": list(pass_fds),
        }  # fmt: skip
        given = enumerate((p2cread, c2pwrite, errwrite))
        fds = [number if fd == -1 else fd for number, fd in given]
        with _asking:
            self.pid = _the_nest().fork(wanted, [*fds, *pass_fds])
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite
        )


@contextlib.contextmanager
def starts() -> Iterator[None]:
    """Within the block subprocess starts what it can by `Popen`."""
    before = subprocess.Popen
    subprocess.Popen = Popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]
        while _nests:
            _nests.pop().close()
