"""What all tests share: small checkpoints that are there."""

import contextlib
import os
import random
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from sglang_qwen3next_eagle3.overlay.environment import STANDBY
from tests.support import warm
from tests.support.checkpoints import write_head, write_target

# The same examples in every run, however slow the machine is: a failure is of the change that was
# tested. `pytest --hypothesis-profile=default` looks for others.
settings.register_profile("same", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("same")
# What is printed into no terminal is as wide as tests expect it, and has no colours; and a proxy
# knows nothing of the servers of tests, which are on this machine.
TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
for name in (*TERMINAL, *PROXIES, *map(str.lower, PROXIES)):
    os.environ.pop(name, None)
# Nothing imports beside a server but where that is what is tested: cores are few.
os.environ[STANDBY] = "off"
# Under nohup, or as a background job, children would ignore these, as they should, and tests
# that send them would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The same random numbers in every run, whichever tests the worker had before."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test sets, or SGLang while it resolves flags, is no other test's: children inherit."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def warm_starts() -> Iterator[None]:
    """What tests start has imported SGLang before, but for those that are marked as cold."""
    with warm.starts():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    cold = item.get_closest_marker("cold") is not None
    with warm.cold() if cold else contextlib.nullcontext():
        return (yield)


@pytest.fixture
def target_folder(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target")


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    return write_head(tmp_path / "head")
