"""However a verb that loads the target is ended, no process and no temporary file of it is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import marked, wait_for

pytestmark = pytest.mark.cold
PATIENCE = 120.0
OUR_PREFIXES = ("head-calibrate-", "sglang-prefill-", "sglang-qwen3next-eagle3-")
VERBS = {
    "calibrate": ["head", "calibrate", "--head", "demo", "--target", "demo", "--device", "cpu"],
    "capture": ["train", "capture", "--target", "demo", "--device", "cpu"],
}


# Both load it by the same means, so that each signal need not meet each verb.
@pytest.mark.parametrize(
    ("verb", "number"), [("calibrate", signal.SIGTERM), ("capture", signal.SIGINT)]
)
def test_a_verb_that_is_ended_while_the_target_loads_leaves_nothing(
    verb: str, number: signal.Signals, tmp_path: Path
) -> None:
    words = list(VERBS[verb])
    if verb == "capture":
        data = tmp_path / "data.jsonl"
        turns = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "answer"}]'
        data.write_text(f'{{"id": "a", "conversations": {turns}}}\n')
        words += ["--data", str(data), "--out", str(tmp_path / "out" / "features")]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    mark = f"ENDS_MARK={tmp_path}"
    name, _, value = mark.partition("=")
    with subprocess.Popen(
        [sys.executable, "-m", "sglang_qwen3next_eagle3", *words],
        env={**os.environ, name: value, "TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as started:
        wait_for(lambda: len(marked(mark)) > 1 or started.poll() is not None, PATIENCE)
        started.send_signal(number)
        printed, _ = started.communicate(timeout=PATIENCE)
    assert started.returncode == 128 + number, printed
    assert "Traceback" not in printed
    wait_for(lambda: not marked(mark), PATIENCE)
    # Libraries keep their caches there: torchinductor_NAME and the like.
    ours = [path.name for path in temporary.iterdir() if path.name.startswith(OUR_PREFIXES)]
    assert ours == []
    if verb == "capture":
        left = [path.name for path in (tmp_path / "out").rglob("*") if path.suffix != ".log"]
        assert "features.json" not in left
