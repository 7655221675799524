"""What is started here has imported SGLang already."""

import os

import pytest

# Workers share the cores, and models are small. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def started_warm(warm_starts: None) -> None:
    """See tests/support/warm.py."""
