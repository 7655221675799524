"""The demo's server allocates what `doctor --profile demo` says."""

import pytest

from tests.support import memory_plans
from tests.support.server import Server


def test_the_plan_is_what_the_server_allocated(tree_server: Server) -> None:
    said = memory_plans.figures(memory_plans.planned("--profile", "demo"), tree_server)
    # Weights this small drown in what torch and the libraries take beside them.
    for name in ("tokens", "requests", "slots", "KV in GiB"):
        planned, allocated = said[name]
        assert planned == pytest.approx(allocated, rel=0.05), name
