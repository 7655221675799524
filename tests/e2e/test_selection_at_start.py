"""What a server of the plain command says that it captures, and when it refuses to start."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.demo.pair import DemoPair
from tests.support.demo_server import captures, plain_command, refused, with_ids
from tests.support.server import Server, free_port


def test_the_plain_command_captures_the_card_s_layers(chain_server: Server) -> None:
    assert captures(chain_server) == [
        "output:3,7,11 (card), source: default, the head's config names none"
    ]


def test_a_head_whose_ids_include_the_last_layer_serves(narrow_server: Server) -> None:
    assert captures(narrow_server) == ["output:3,7,11, source: the head's config"]


@pytest.mark.cold
def test_ids_beyond_the_target_stop_the_server_with_one_line(
    pair: DemoPair, tmp_path: Path
) -> None:
    head = with_ids(pair, tmp_path / "head", [3, 7, 12])
    port = free_port()
    ended = refused(*plain_command(pair.target, head, (3, 1, 4), port))
    assert ended.returncode != 0
    assert "the target has no layer 12, its layers are 0 to 11" in ended.stdout + ended.stderr
