"""With 0 steps the head's cache may be filled for some cycles at once: text and acceptance stay."""

import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.files import write_text
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.overlay.environment import DEFER
from tests.support.demo_server import NEW_TOKENS, Oracle
from tests.support.server import free_port, generate, running

STATES = DraftStates(
    # A request alone drafts after some cycles without; several do not; trials are between.
    candidates={1: (0, 1, 3)},
    cycle_ms={1: {0: 10.0, 1: 16.6, 3: 40.0}, 2: {0: 10.0, 1: 19.0, 3: 90.0}},
    shares=(0.3, 0.3, 0.3),
    start=3,
)
_SWITCH = re.compile(r"Switch adaptive runtime state: steps (\d) -> (\d)")


def asked(folder: Path, oracle: Oracle, defer: int) -> tuple[list[Any], str]:
    """What was generated and verified for each request, and the server's log."""
    folder.mkdir()
    states, port, log = folder / "states.json", free_port(), folder / "server.log"
    write_text(states, STATES.text())
    command = ["-m", "sglang_qwen3next_eagle3.launch", "--profile", "demo", "--port", str(port)]
    command += ["--adaptive", str(states)]
    with running(command, port, log, {DEFER: str(defer)}) as server:
        ask = partial(generate, server, NEW_TOKENS)
        replies = [ask(input_ids=oracle.prompts[index]) for index in (0, 1, 2)]
        with ThreadPoolExecutor(4) as pool:
            beside = [
                pool.submit(generate, server, NEW_TOKENS // (1 + n), input_ids=oracle.prompts[n])
                for n in range(4)
            ]
            beside_texts = [one.result()["output_ids"] for one in beside]
        replies.append(ask(input_ids=oracle.prompts[3]))
    told = [(one["output_ids"], one["meta_info"]["spec_verify_ct"]) for one in replies]
    for n, text in enumerate(beside_texts):
        assert text == oracle.answer(n)[: NEW_TOKENS // (1 + n)]
    return told, log.read_text(encoding="utf-8")


def test_text_and_acceptance_are_those_of_extends_in_every_cycle(
    oracle: Oracle, tmp_path: Path
) -> None:
    at_once, said = asked(tmp_path / "at-once", oracle, 32)
    assert "extends of the head: up to 32 cycles of 0 steps at once" in said
    assert "with 0 steps stock's states are updated in place" in said
    in_each, others = asked(tmp_path / "in-each", oracle, 0)
    assert "extends of the head" not in others
    assert "0" in {to for _, to in _SWITCH.findall(said)}
    for index, (text, _) in zip((0, 1, 2, 3), at_once, strict=True):
        assert text == oracle.answer(index)
    assert at_once[:3] == in_each[:3]
    print([count for _, count in at_once], [count for _, count in in_each])
