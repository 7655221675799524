"""What the installed SGLang does in a cycle of a plain batch can be recorded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.overlay import variants
from tests.support.parts import needs

ROOT = Path(__file__).parents[2]
NEWER = variants.has_layer_boundaries()
STEPS = 9 if NEWER else 10
"""0.5.23 says of no place in a draft extend that it has read all that is shared."""


BATCHES = ("1 4 3 relayed sampled", "4 8 3")
"""A chain in a padded batch and a tree, greedy and sampled."""
DEFERRED = ("1 1 1 relayed deferred", "1 1 1 relayed joined deferred")
"""0 steps, where the head's cache is filled for cycles at once."""


@pytest.fixture(scope="module")
def said() -> dict[str, list[str]]:
    deferred = () if NEWER else DEFERRED
    command = [sys.executable, "-m", "tests.support.check_cycles", *BATCHES, *deferred]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    parts = [part.splitlines() for part in ended.stdout.split("== ")[1:]]
    return {words: lines for words, *lines in parts}


@needs("seams")
@pytest.mark.parametrize("arguments", BATCHES)
def test_a_cycle_needs_nothing_of_the_host(arguments: str, said: dict[str, list[str]]) -> None:
    lines = said[arguments]
    kinds = 1 + ("sampled" in arguments)
    assert lines.count("used of the batch: nothing") == kinds
    drawn = [line for line in lines if line.startswith("numbers are drawn")]
    assert drawn == ["numbers are drawn 0 times", "numbers are drawn 2 times"][:kinds]
    assert f"recorded: {[STEPS] * kinds} steps" in lines
    assert f"graphs: {5 * kinds}" in lines
    assert f"takes from the relay: {'relayed' in arguments}" in lines
    changed = lines.count("changed in the batch: mamba_track_indices")
    assert changed == 2 * kinds, "SGLang puts it back"
    assert ("sampled alike: 32 batches" in lines) == (kinds == 2)


@needs("seams")
@pytest.mark.skipif(NEWER, reason="extends are not put off with 0.5.23")
@pytest.mark.parametrize("arguments", DEFERRED)
def test_a_cycle_whose_extend_is_put_off_is_recorded(
    arguments: str, said: dict[str, list[str]]
) -> None:
    lines = said[arguments]
    assert "used of the batch: nothing" in lines
    assert "takes from the relay: True" in lines
    # Four cycles, of which three are kept; the third one was recorded, the fourth is that again.
    assert [line for line in lines if "filled" in line] == ["filled for 3 tokens: {(3,)}, 3 states"]
    if "joined" in arguments:
        mark = "a mark behind 1"
        assert f"said of one graph: {mark}, {mark}; 1 parts" in lines


@needs("seams")
@pytest.mark.skipif(NEWER, reason="0.5.23 launches it by itself in few; see docs/fast-path.md")
def test_what_is_around_a_verify_and_a_draft_extend_is_sglang_s() -> None:
    command = [sys.executable, "-m", "tests.support.check_chains"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "equal: 12 draft extends and verifies" in ended.stdout
