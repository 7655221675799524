"""Recorded cycles of a worker that is made up."""

import pytest

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.seams import cycles as under_test
from sglang_qwen3next_eagle3.overlay.seams.cycles import Cycles
from tests.support.op_graph import OpGraph


@pytest.fixture
def cycles(monkeypatch: pytest.MonkeyPatch) -> Cycles:
    monkeypatch.setattr(under_test, "hindrance", lambda worker: None)
    monkeypatch.setattr(under_test, "_track", lambda batch: None)
    monkeypatch.setattr(
        under_test, "_read_done", lambda runner: variants.host().say_read_done(runner, "ours")
    )
    return Cycles(OpGraph, "cpu")
