"""What a process does that imports, and waits."""

import os
import select
import signal
import socket
import sys
from typing import NoReturn

from sglang_qwen3next_eagle3.overlay.standby.handed import Handed
from sglang_qwen3next_eagle3.overlay.standby.imported import Imported, settled

_WAIT_SECONDS = 900.0
"""After which nobody will ask any more: this process is not of a server with the plugin."""


def main() -> NoReturn:
    """Of a process that waits: `-c CODE SOCKET NUMBER,... MODULE...`."""
    fd, kept, *modules = sys.argv[1:]
    numbers = [int(number) for number in kept.split(",")]
    channel = socket.socket(fileno=int(fd))
    for one in (channel.fileno(), *numbers):
        os.set_inheritable(one, False)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C is for the server, who says what there is to be said.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # What a fresh interpreter has before it knows anything.
    sys.argv[:] = ["-c", "--multiprocessing-fork"]
    imported = Imported.now(modules)
    if not select.select([channel], [], [], _WAIT_SECONDS)[0]:
        # Who hands over from now on is told so, and starts a fresh one. What has come is read.
        channel.shutdown(socket.SHUT_RD)
    handed = Handed.receive(channel, numbers)
    if handed is None:
        os._exit(0)
    channel.close()
    handed.inherit()
    if (reason := imported.why_not(handed)) is not None:
        _say(f"{modules[-1]} imports anew, for what has imported is not taken: {reason}")
        handed.anew()
    final = settled(imported.before, imported.after, handed.environment)
    for name in set(os.environ).difference(final):
        del os.environ[name]
    # And no others: by where its first variable lies a process finds its own title in memory.
    os.environ.update(dict(final.items() - os.environ.items()))
    sys.orig_argv[:] = handed.words
    _say(f"{modules[-1]} was imported before, in {imported.seconds:.1f} s")
    _run(handed)


def _run(handed: Handed) -> NoReturn:
    """What `spawn_main` of multiprocessing/spawn.py does with what it is given."""
    from multiprocessing import resource_tracker, spawn

    resource_tracker._resource_tracker._fd = handed.tracker  # type: ignore[attr-defined]
    sys.exit(spawn._main(handed.pipe, os.dup(handed.pipe)))


def _say(line: str) -> None:
    # SGLang's logger is set up later.
    print(f"sglang-qwen3next-eagle3: {line}", file=sys.stderr, flush=True)
