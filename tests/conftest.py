"""What all tests share: small checkpoints that are there."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.checkpoints import write_head, write_target

# The same examples in every run, however slow the machine is: a failure is of the change that was
# tested. `pytest --hypothesis-profile=default` looks for others.
settings.register_profile("same", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("same")
# Under nohup, or as a background job, children would ignore these, as they should, and tests
# that send them would wait for ever.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test sets, or SGLang while it resolves flags, is no other test's: children inherit."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def target_folder(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target")


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    return write_head(tmp_path / "head")
