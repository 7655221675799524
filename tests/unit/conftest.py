"""What unit tests share."""

import sys
from collections.abc import Iterator

import pytest

from tests.support.without_sglang import (  # noqa: F401
    demo_port,
    executed,
    installed,
    no_waiting,
    one_tls_context,
)


@pytest.fixture(autouse=True, scope="module")
def no_sglang() -> Iterator[None]:
    """A test that imports it belongs to tests/contract: it takes ten seconds."""
    before = "sglang.srt" in sys.modules  # by tests/contract, in the same process
    yield
    assert before or "sglang.srt" not in sys.modules
