"""What a server says that it captures, and when it refuses to start."""

import json
import socket
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.demo.pair import DemoPair
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from tests.support.demo_server import plain_command, refused, with_ids
from tests.support.server import Server, free_port

LINE = "sglang-qwen3next-eagle3: auxiliary hidden states: "


def captures(server: Server) -> list[str]:
    lines = server.printed().splitlines()
    return [line.split(LINE)[1] for line in lines if LINE in line and "[20" in line]


def test_the_plain_command_captures_the_card_s_layers(chain_server: Server) -> None:
    assert captures(chain_server) == [
        "output:3,7,11 (card), source: default, the head's config names none"
    ]


def test_a_head_whose_ids_include_the_last_layer_serves(narrow_server: Server) -> None:
    assert captures(narrow_server) == ["output:3,7,11, source: the head's config"]


def test_the_launcher_s_selection_reaches_the_scheduler(tree_server: Server) -> None:
    assert captures(tree_server) == [f"output:3,7,11, source: {ENVIRONMENT_VARIABLE}"]


def test_ids_beyond_the_target_stop_the_server_with_one_line(
    pair: DemoPair, tmp_path: Path
) -> None:
    head = with_ids(pair, tmp_path / "head", [3, 7, 12])
    port = free_port()
    ended = refused(*plain_command(pair.target, head, (3, 1, 4), port))
    assert ended.returncode != 0
    assert "the target has no layer 12, its layers are 0 to 11" in ended.stdout + ended.stderr


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
