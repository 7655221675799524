"""What the launcher hands to the server that it starts, and when it starts none."""

import json
import socket

import pytest

from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from tests.support.demo_server import captures, refused
from tests.support.server import Server, free_port


def test_the_launcher_s_selection_reaches_the_scheduler(tree_server: Server) -> None:
    assert captures(tree_server) == [f"output:3,7,11, source: {ENVIRONMENT_VARIABLE}"]


@pytest.mark.cold
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--aux-layers", "output:3,7,12"], "the target has no layer 12"),
        (["--aux-layers", "output:2,7,11"], "2 are GDN layers"),
        (["--head", "./absent"], "there is no folder ./absent"),
    ],
)
def test_the_launcher_refuses_before_sglang_starts(words: list[str], message: str) -> None:
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo"]
    ended = refused(*command, "--port", str(free_port()), *words)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.cold
def test_the_launcher_refuses_a_port_in_use() -> None:
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = refused(*command, str(other.getsockname()[1]))
    assert ended.returncode == 2
    assert "is another server running there?" in ended.stderr


def test_the_dry_run_prints_what_the_launcher_starts(tree_server: Server) -> None:
    port = tree_server.url.rpartition(":")[2]
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", port]
    printed = json.loads(refused(*command, "--dry-run", "--json").stdout)
    lines = tree_server.printed().splitlines()
    (started,) = [line for line in lines if line.startswith("sglang-qwen3next") and " -m " in line]
    for word in [*printed["argv"][1:], *printed["environment"]]:
        assert word in started
