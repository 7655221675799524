"""What the installed SGLang does in a cycle of a plain batch can be recorded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", ["1 4 3 relayed", "4 8 3", "1 4 3 relayed sampled"])
def test_a_cycle_needs_nothing_of_the_host(arguments: str) -> None:
    """A chain in a padded batch, a tree, and a chain of sampled requests."""
    command = [sys.executable, "-m", "tests.support.check_cycles", *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    assert "used of the batch: nothing" in lines
    assert f"numbers are drawn {2 * ('sampled' in arguments)} times" in lines
    assert "recorded: 1 plan of 10 steps, 5 graphs" in lines
    assert f"takes from the relay: {'relayed' in arguments}" in lines
    assert lines.count("changed in the batch: mamba_track_indices") == 2, "SGLang puts it back"
