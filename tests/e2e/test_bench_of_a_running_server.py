"""`bench` against a real server that already runs."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench.results.records import Result
from tests.support.server import Server


def test_a_running_server_is_measured_with_its_own_tree(
    tree_server: Server, tmp_path: Path
) -> None:
    words = ["bench", "run", "--suite", "smoke", "--limit", "2", "--max-tokens", "16"]
    words += ["--base-url", tree_server.url, "--tokenizer", "demo", "--no-plots"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    (found,) = Result.load(tmp_path).measurements
    assert found.configuration == "3,4,8", "as /server_info says"
    assert found.figures.accept_length is not None
    assert found.figures.card_accept_rate == pytest.approx(found.figures.accept_length / 8)
