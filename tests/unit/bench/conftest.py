import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.bench import run as bench_run
from sglang_qwen3next_eagle3.serving import server
from tests.support import fake_sglang
from tests.support.bench_runs import Behave, LettersAsTokens

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def behave(monkeypatch: pytest.MonkeyPatch) -> Behave:
    """Servers are fakes; called with the behaviour of each configuration by its file's name."""
    monkeypatch.setattr(server, "LAUNCHER", fake_sglang.__name__)
    monkeypatch.setattr(bench_run, "ChatFormat", LettersAsTokens)
    monkeypatch.chdir(ROOT)

    def set_behaviour(**of: dict[str, Any]) -> None:
        monkeypatch.setenv(fake_sglang.VARIABLE, json.dumps(of))

    set_behaviour()
    return set_behaviour
