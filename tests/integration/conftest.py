"""Whole runs with stand-ins for SGLang: real processes, or minutes of torch for what is one step in
unit tests; what waits for real time, and what draws or reads by packages that take seconds to
import. `make test` runs them, `make test-fast` does not."""

from collections.abc import Iterator

import pytest

from tests.support.bench_runs import Behave, fakes
from tests.support.without_sglang import (  # noqa: F401
    demo_port,
    executed,
    installed,
    no_waiting,
    one_tls_context,
)


@pytest.fixture
def behave() -> Iterator[Behave]:
    """Servers are fakes; called with the behaviour of each configuration by its file's name."""
    with fakes() as set_behaviour:
        yield set_behaviour
