"""Steps that follow the load, down to none and back: the text stays, and drafts are right again."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.files import write_text
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from tests.support.demo_server import NEW_TOKENS, Oracle
from tests.support.server import Server, free_port, generate, running

STATES = DraftStates(
    candidates={1: (0, 1, 3)},
    # Alone drafts cost next to nothing, and with several requests more than they can bring.
    cycle_ms={1: {0: 10.0, 1: 10.1, 3: 10.2}, 3: {0: 10.0, 1: 40.0, 3: 90.0}},
    shares=(0.6, 0.6, 0.6),
    start=3,
)
_SWITCH = re.compile(r"Switch adaptive runtime state: steps (\d) -> (\d)")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auto") / "server.log"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[Server]:
    states, port = log.parent / "states.json", free_port()
    write_text(states, STATES.text())
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    with running([*command, "--adaptive", str(states)], port, log, {}) as started:
        yield started


def test_text_is_the_target_s_while_steps_follow_the_load(
    server: Server, oracle: Oracle, log: Path
) -> None:
    ask = partial(generate, server, NEW_TOKENS)
    alone = ask(input_ids=oracle.prompts[0])
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(generate, server, NEW_TOKENS, input_ids=oracle.prompts[1])
        short = [
            pool.submit(generate, server, NEW_TOKENS // 4, input_ids=ids)
            for ids in oracle.prompts[2:7]
        ]
        beside = [one.result() for one in short]
        left_alone = first.result()
    again = ask(input_ids=oracle.prompts[7])
    for index, reply in [(0, alone), (1, left_alone), (7, again)]:
        assert reply["output_ids"] == oracle.answer(index)
    for index, reply in enumerate(beside, start=2):
        assert reply["output_ids"] == oracle.answer(index)[: NEW_TOKENS // 4]
    text = log.read_text(encoding="utf-8")
    switches = _SWITCH.findall(text)
    assert "chooses among 0, 1, 3 steps" in text
    assert any(to == "0" for _, to in switches), "none with several requests"
    # Alone from the start, and alone at last: drafts are accepted as before.
    assert again["meta_info"]["spec_verify_ct"] < 0.6 * NEW_TOKENS
    # A quarter of it without drafts, and then with: the head has seen what came meanwhile.
    assert left_alone["meta_info"]["spec_verify_ct"] < 0.85 * NEW_TOKENS
