from collections.abc import Iterator

import pytest

from tests.support.bench_runs import Behave, fakes


@pytest.fixture
def behave() -> Iterator[Behave]:
    """Servers are fakes; called with the behaviour of each configuration by its file's name."""
    with fakes() as set_behaviour:
        yield set_behaviour
