"""Starting SpecForge in a run folder, watching it, and letting it go on where it stopped."""

import ast
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.errors import UserError
from sglang_qwen3next_eagle3.training import runconfig, specforge
from sglang_qwen3next_eagle3.training.recipe import Recipe

CONFIG, DRAFT, RUN, LOG, LOCK = "specforge.yaml", "draft.json", "run.json", "train.log", ".lock"
CHECKPOINTS = "checkpoints"
CPU_TRAINER = "sglang_qwen3next_eagle3.training.cpu_trainer"
_STEP = re.compile(r"step (\d+): (\{.*\})")


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    config: SpecForge's run config; draft_config: the head's config.json, None for a dry run with
    a target that is not here; selection: the auxiliary layers as they are spelled.
    """

    recipe: Recipe
    config: dict[str, Any]
    draft_config: dict[str, Any] | None
    selection: str


def train(plan: Plan, out: Path, device: str) -> Path | None:
    """Start SpecForge, or let it go on, and see that it ends with a checkpoint.

    Returns the checkpoint, or None if the folder's run was finished before.

    Raises:
        UserError: another run is in the folder, or SpecForge failed; its log is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out) as lock:
        record = _claim(out, plan)
        if record.get("finished"):
            print(f"{out} is finished ({record['finished']}): nothing to do")
            return None
        config = dict(plan.config)
        folder = specforge.indexed(Path(config["model"]["target_model_path"]), out / "target")
        config["model"] = {**config["model"], "target_model_path": str(folder)}
        resumed = latest_checkpoint(out)
        if resumed is not None:
            config["training"] = {**config["training"], "resume_from": str(resumed)}
            print(f"going on from {resumed.name}")
        _write(out / DRAFT, json.dumps(plan.draft_config, indent=2) + "\n")
        _write(out / CONFIG, yaml.safe_dump(config, sort_keys=False))
        module = CPU_TRAINER if device == "cpu" else "specforge.cli"
        command = [sys.executable, "-m", module, "train", "--config", str(out / CONFIG)]
        started = time.monotonic()
        _execute(command, plan, out, lock)
        trained = latest_checkpoint(out)
        if trained is None:
            raise UserError(
                f"SpecForge ended without a checkpoint: set training.save_interval, see {out / LOG}"
            )
        _finish(out, record, time.monotonic() - started)
    return trained


def latest_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run folder."""
    found = [
        (int(path.name.rpartition("step")[2]), path)
        for path in (out / CHECKPOINTS).glob(f"{runconfig.RUN_ID}-step*")
        if (path / "training_state.pt").is_file()
    ]
    return max(found)[1] if found else None


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """The folder's lock. SpecForge's process inherits it, so that a killed `train run` whose
    trainer lives on cannot be started a second time."""
    with (out / LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{out} is in use: another `train run` is training there") from None
        yield stream.fileno()


def _claim(out: Path, plan: Plan) -> dict[str, Any]:
    """The run's record, begun now or by an earlier start with the same settings."""
    mine = {"config": plan.config, "draft": plan.draft_config, "aux_layers": plan.selection}
    path = out / RUN
    if path.is_file():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(key for key in mine if record.get(key) != mine[key])
        if differing:
            raise UserError(
                f"{out} holds a run with other settings ({_first_difference(record, mine)}): "
                "use the same ones to go on, or another --out"
            )
        return record
    record = {
        **mine,
        "recipe": plan.recipe.description,
        "features": _features_record(plan),
        "versions": {
            name: metadata.version(name)
            for name in ("sglang-qwen3next-eagle3", "specforge", "torch", "transformers")
        },
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": 0.0,
    }
    _write(path, json.dumps(record, indent=2) + "\n")
    return record


def _features_record(plan: Plan) -> Any:
    path = Path(plan.config["data"]["hidden_states_path"]) / "features.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> str:
    for key in sorted({*old, *new} if where else new):
        here, there = new.get(key), old.get(key)
        if here == there:
            continue
        name = f"{where}.{key}" if where else key
        if isinstance(here, dict) and isinstance(there, dict):
            return _first_difference(there, here, name)
        return f"{name} is {there!r} there, {here!r} here"
    return where


def _execute(command: list[str], plan: Plan, out: Path, lock: int) -> None:
    environment = {**os.environ, **plan.recipe.environment, "PYTHONUNBUFFERED": "1"}
    steps = plan.config["training"].get("max_steps")
    tail: deque[str] = deque(maxlen=15)
    with (
        (out / LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[lock],
        ) as process,
    ):
        assert process.stdout is not None
        started, first = time.monotonic(), 0
        try:
            for line in process.stdout:
                log.write(line)
                log.flush()
                tail.append(line)
                if found := _STEP.match(line):
                    first = first or int(found[1])
                    elapsed = time.monotonic() - started
                    print(_progress(int(found[1]), first, found[2], elapsed, steps), flush=True)
        except KeyboardInterrupt:
            process.wait()
            raise UserError(
                f"interrupted: the same command goes on from the last checkpoint in {out}"
            ) from None
        status = process.wait()
    if status:
        raise UserError(
            f"SpecForge failed with exit status {status}; the end of {out / LOG}:\n"
            + "".join(tail).rstrip()
        )


def _progress(step: int, first: int, metrics: str, elapsed: float, steps: int | None) -> str:
    """One line of a training or evaluation report of SpecForge."""
    try:
        values = ast.literal_eval(re.sub(r"\b(nan|inf)\b", "None", metrics))
    except (ValueError, SyntaxError):
        return f"step {step}: {metrics}"
    if "eval/avg_loss" in values:
        accuracies = " ".join(f"{a:.3f}" for a in values["eval/per_position_acc"])
        length = values.get("eval/simulated_acc_len")
        return f"step {step} evaluation: acc {accuracies} accept length {length:.2f}"
    shown = " ".join(f"{k} {values[k]:.3f}" for k in ("acc_0", "acc_6", "ploss_0") if k in values)
    left = ""
    if steps and step > first:
        left = f", {(steps - step) * elapsed / (step - first) / 60:.1f} min left"
    return f"step {step}{f'/{steps}' if steps else ''}: {shown}{left}"


def _finish(out: Path, record: dict[str, Any], seconds: float) -> None:
    record["seconds"] = round(record["seconds"] + seconds, 1)
    record["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _write(out / RUN, json.dumps(record, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
