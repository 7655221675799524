"""Python imports this before all else where a test puts its folder on PYTHONPATH: processes of the
CPU engine's server, which forks them, are started as a GPU's server starts them."""

import gc
import multiprocessing
from typing import Any

# As tests/support/starts has it, whose place this takes.
gc.set_threshold(20_000, 20, 20)
_set: Any = multiprocessing.set_start_method


def _spawn(method: str | None, force: bool = False) -> None:
    _set("spawn" if method == "fork" else method, force)


multiprocessing.set_start_method = _spawn
