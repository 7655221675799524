"""A verb in a process of its own, which a signal ends."""

import signal
import subprocess
import sys

import pytest

VERB = """
import sys, time
from sglang_qwen3next_eagle3.base.errors import exit_status
def verb():
    try:
        print("up", flush=True)
        time.sleep(30)
    finally:
        print("cleaned", flush=True)
sys.exit(exit_status(verb))
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_verb_behind_its_cleaning_up(number: int, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VERB], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        assert started.stdout.readline() == "up\n"
        started.send_signal(number)
        assert started.stdout.read() == "cleaned\n"
        assert started.stderr.read().count("\n") == 1
    assert started.returncode == status
