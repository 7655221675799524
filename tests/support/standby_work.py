"""What processes of the tests of overlay/standby do; imported before where they are taken."""

import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

READ = os.environ.get("SGLANG_READ_AT_IMPORT")
"""Of a variable that Python code reads when it is imported."""
os.environ.setdefault("SET_AT_IMPORT", "here")
if "--multiprocessing-fork" in sys.argv:
    # Not in the server, which would be as late.
    time.sleep(float(os.environ.get("SLOW_TO_IMPORT", "0")))
IMPORTED = time.monotonic()


def tell(pipe: Connection, given: Any) -> None:
    """All that a process inherits, as far as it can tell."""
    umask = os.umask(0)
    process = multiprocessing.current_process()
    parent = multiprocessing.parent_process()
    pipe.send(
        {
            "given": given,
            "argv": sys.argv,
            "words": sys.orig_argv[-1],
            "path": sys.path,
            "folder": os.getcwd(),
            "environment": {k: v for k, v in os.environ.items() if k != "LC_CTYPE"},
            "umask": umask,
            "ignored": [n for n in range(1, 32) if signal.getsignal(n) is signal.SIG_IGN],
            "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
            "parent": [os.getppid(), parent and parent.pid],
            "group": os.getpgid(0),
            "main": sys.modules["__main__"].__name__,
            "method": multiprocessing.get_start_method(),
            "tracked": resource_tracker._resource_tracker._fd is not None,  # type: ignore[attr-defined]
            "threads": threading.active_count(),
            "key": bytes(process.authkey).hex(),
            "read": READ,
        }
    )
    # How long before it was asked: no part of what is compared.
    pipe.send(time.monotonic() - IMPORTED)


def end(pipe: Connection, status: int) -> None:
    pipe.close()
    sys.exit(status)


def wait(pipe: Connection, seconds: float) -> None:
    pipe.send("waiting")
    time.sleep(seconds)


def fail(pipe: Connection, given: Any) -> None:
    raise ValueError(given)
