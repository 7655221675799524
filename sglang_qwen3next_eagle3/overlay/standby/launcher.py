"""What the launcher does: it begins them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.processes import end_with_parent
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.standby.handed import NUMBERS

PROCESSES = f"{variables.STANDBY}_PROCESSES"
"""The variable that says which these are. Only the launcher sets it, for the server that replaces
it: nobody else may."""
RELEASE = "0.5.17"
"""Of SGLang, of which all that follows was read. 0.5.23 sets other variables, and no process that
has imported would be taken."""
Modules = tuple[str, ...]
_FIRST = "sglang.srt.server_args"
"""Of what the server's own module imports, which a fresh process runs before all else."""
SCHEDULER: Modules = (_FIRST, "sglang.srt.managers.scheduler")
DETOKENIZER: Modules = (_FIRST, "sglang.srt.managers.detokenizer_manager")
"""What is imported, in this order; the last is where the function lies that the process is for."""

EXPECTED: Mapping[str, str] = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "8",
    "CUDA_MODULE_LOADING": "AUTO",
    "CUTE_DSL_LOG_LEVEL": "30",
    "CUTE_DSL_LOG_TO_CONSOLE": "1",
    "NCCL_CUMEM_ENABLE": "0",
    "NCCL_NVLS_ENABLE": "0",
    "TRTLLM_ENABLE_PDL": "1",
}
"""What SGLang sets before it starts processes (0.5.17, entrypoints/engine.py,
_set_envs_and_config), so that what is read while modules are imported, or when the driver begins,
is the same. These two are set whatever was there before:"""
_OVERRULING = ("CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_MODULE_LOADING")

_BIND = "SGLANG_NUMA_BIND_V2"
_SECOND_NODE = Path("/sys/devices/system/node/node1")

_STACK = 1024 * 65535
_FILES = 65535
"""SGLang's limits (0.5.17, utils/common.py, set_ulimit). How large a thread's stack is, a process
reads when it begins."""
_CODE = "from sglang_qwen3next_eagle3.overlay.standby.process import main; main()"


def parse(text: str | None) -> int | None:
    """For how many schedulers processes import beside the server; None: as many as there will be.

    Raises:
        UserError: it is no number, and neither auto nor off.
    """
    word = (text or "").strip().lower()
    if word in ("", "auto"):
        return None
    if word == "off":
        return 0
    if word.isdecimal() and len(word) < 9 and int(word) <= 64:
        return int(word)
    raise UserError(
        f"{variables.STANDBY}={text}: say auto, off, or for how many schedulers, from 0 to 64"
    )


def is_bound(environment: Mapping[str, str]) -> bool:
    """Whether SGLang starts schedulers by `numactl`, to keep each near its GPU's memory, as far as
    that is known here: it asks for permission, too (utils/numa_utils.py)."""
    wanted = environment.get(_BIND)
    if wanted is not None and not variables.is_on(wanted):
        return False
    path = environment.get("PATH")
    return _SECOND_NODE.is_dir() and shutil.which("numactl", path=path) is not None


def begin(
    python: str, imports: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> dict[str, str]:
    """Begin a process for each of the lists of modules. What is to be set, beyond `environment`,
    for the program that replaces this one; nothing where there are none: that is no error.

    python: which runs this program and will run that one.
    """
    begun: list[Waiting] = []
    numbers: list[int] = []
    try:
        if sys.platform != "linux" or not imports:
            return {}
        numbers = [os.open(os.devnull, os.O_RDONLY) for _ in range(NUMBERS)]
        for modules in imports:
            begun.append(_begin(python, modules, environment, numbers))
        for one in begun:
            os.set_inheritable(one.channel, True)
        told = {
            "python": python,
            "numbers": numbers,
            "processes": [[one.pid, one.channel, one.module] for one in begun],
        }
        return {PROCESSES: json.dumps(told)}
    except Exception as error:
        for one in begun:
            one.end()
        print(
            f"sglang-qwen3next-eagle3: no process imports beside the server: {error}",
            file=sys.stderr,
        )
        return {}
    finally:
        for number in numbers:
            os.close(number)


def _begin(
    python: str, modules: Sequence[str], environment: Mapping[str, str], numbers: Sequence[int]
) -> "Waiting":
    ends = end_with_parent()

    def arrange() -> None:
        if ends is not None:
            ends()
        raise_limits()

    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [python, "-c", _CODE, str(theirs.fileno()), ",".join(map(str, numbers)), *modules],
            env=_expected(environment),
            pass_fds=(theirs.fileno(), *numbers),
            preexec_fn=arrange,
            restore_signals=False,
        )
    process.returncode = 0  # It is not for this program, which is about to be another, to wait.
    return Waiting(process.pid, ours.detach(), modules[-1])


def _expected(environment: Mapping[str, str]) -> dict[str, str]:
    """What the server's environment will be when it starts processes, as far as that is known.

    Without the keys, which the plugin takes out of it.
    """
    keys = {name + end for name in variables.KEYS.values() for end in ("", variables.FILE)}
    internal = {*keys, PROCESSES}
    kept = {name: value for name, value in environment.items() if name not in internal}
    overruling = {name: EXPECTED[name] for name in _OVERRULING}
    return {**EXPECTED, **kept, **overruling}


def raise_limits() -> None:
    """As SGLang does before it starts processes."""
    import resource

    for kind, wanted in ((resource.RLIMIT_NOFILE, _FILES), (resource.RLIMIT_STACK, _STACK)):
        soft, hard = resource.getrlimit(kind)
        if soft < wanted:  # So is no limit at all, which is -1, there and here.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (wanted, hard))


@dataclass(frozen=True)
class Waiting:
    """A process that imports, or has. channel: a socket to it; module: where what it is for is."""

    pid: int
    channel: int
    module: str

    def end(self) -> None:
        """It ends by itself, once it has imported, where it finds that nobody asks any more."""
        with contextlib.suppress(OSError):
            os.close(self.channel)
        if self.lives():
            os.kill(self.pid, signal.SIGTERM)
        # Nobody waits for what else would stay as a zombie as long as the server.
        threading.Thread(target=self._reap, daemon=True).start()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def lives(self) -> bool:
        """Whether it is a child of this process, and has not ended."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        except ChildProcessError:
            return False
