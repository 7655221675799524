"""Stands in for `specforge train --config F`: steps, reports and checkpoints without a model.

FAKE_TRAINER in the environment says what goes wrong, and at which step: `raise:7`, `hang:7`,
`deaf:7`, `sigkill:7`.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml


def main() -> None:
    config = yaml.safe_load(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    training, out = config["training"], Path(config["output_dir"])
    mishap, _, at = os.environ.get("FAKE_TRAINER", "").partition(":")
    first = int(training.get("resume_from", "step0").rpartition("step")[2])
    print(f"a trainer begins behind step {first}")
    for step in range(first + 1, training["max_steps"] + 1):
        print(f"step {step}: {{'acc_0': {step / 100}, 'acc_6': 0.5, 'loss': nan}}")
        if training["save_interval"] and step % training["save_interval"] == 0:
            folder = out / f"{config['run_id']}-step{step}"
            folder.mkdir(parents=True)
            for name in ("training_state_rank0.pt", "training_state.pt"):
                (folder / name).write_text("")
        if mishap and step == int(at):
            _go_wrong(mishap, step)


def _go_wrong(mishap: str, step: int) -> None:
    if mishap == "raise":
        raise ValueError(f"broken at step {step}")
    if mishap == "deaf":
        # As a trainer that ignores being told to end, with a helper that holds its output open.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen(["sleep", "600"])
    if mishap == "sigkill":
        os.kill(os.getpid(), signal.SIGKILL)
    print(f"hangs at step {step}, process {os.getpid()}", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main()
