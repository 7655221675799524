"""What the servers of a benchmark are started with."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base import processes
from sglang_qwen3next_eagle3.bench import configurations, servers, speed
from sglang_qwen3next_eagle3.bench.options import SpeedOptions
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving import server

SHOW = """
import json, os, sys
print(json.dumps({name: os.environ.get(name) for name in sys.argv[1:]}))
"""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, str]]:
    """What a server's process finds in its environment, where the caller exports all of it."""
    found: list[dict[str, str]] = []
    for name in servers.OURS:
        monkeypatch.setenv(name, "uniform")

    @contextlib.contextmanager
    def starting(words: Any, log: Path, told: Mapping[str, str], *_: Any) -> Iterator[Any]:
        command = [sys.executable, "-c", SHOW, *servers.OURS]
        with processes.child(command, log, environment=told) as child:
            child.process.wait()
        found.append(json.loads(log.read_text()))
        yield SimpleNamespace(poll=lambda: None)

    monkeypatch.setattr(server, "starting", starting)
    return found


def start(folder: Path, environment: Mapping[str, str] | None) -> None:
    (contender,) = configurations.parse(["none"], profiles.load("b1"))
    with servers.served(contender, folder, (), 1.0, environment).start():
        pass


def test_what_a_benchmark_sets_is_not_the_caller_s(
    tmp_path: Path, told: list[dict[str, str]]
) -> None:
    start(tmp_path, None)
    assert told == [dict.fromkeys(servers.OURS, "")]


@pytest.mark.parametrize("routing", ["dummy", "text"])
def test_the_routing_is_the_one_that_the_result_names(
    tmp_path: Path, told: list[dict[str, str]], routing: Any
) -> None:
    options = SpeedOptions(out=tmp_path, routing=routing)
    start(tmp_path, speed.simulating(options, tmp_path / "length"))
    (found,) = told
    assert found[variables.ROUTING] == ("" if routing == "dummy" else routing)
    assert found[variables.SIMULATE] == str(tmp_path / "length")
    assert found[variables.STEPS] == found[variables.CYCLE] == ""
