"""Starting SpecForge in a run folder, watching it, and letting it go on where it stopped."""

import fcntl
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.base import provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.trainer import runconfig, runlog, specforge
from sglang_qwen3next_eagle3.train.trainer.recipe import Recipe
from sglang_qwen3next_eagle3.train.trainer.trainer_process import execute, say

CONFIG, DRAFT, RUN, LOG = "specforge.yaml", "draft.json", "run.json", "train.log"
LOCK, TRAINER_LOCK = ".lock", ".trainer-lock"
CHECKPOINTS = "checkpoints"
STATE = "training_state.pt"
CPU_TRAINER = "sglang_qwen3next_eagle3.train.trainer.cpu_trainer"
LET_GO_SECONDS = 60.0


@dataclass(frozen=True)
class Plan:
    """A run that is ready to start.

    config: SpecForge's run config; draft_config: the head's config.json, None for a dry run with
    a target that is not here; selection: the auxiliary layers as they are spelled; device: cuda or
    cpu; steps: that SpecForge will take, None where that is not known; about: what else is worth
    keeping of it (recipe, target, data), for the head's provenance.
    """

    recipe: Recipe
    config: dict[str, Any]
    draft_config: dict[str, Any] | None
    selection: str
    device: str = "cuda"
    steps: int | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        return int(self.config["deployment"]["trainer"]["nproc_per_node"])


@dataclass(frozen=True)
class Outcome:
    """checkpoint: the last one; record: of run.json; trained: whether this start did anything."""

    checkpoint: Path
    record: Mapping[str, Any]
    trained: bool


def train(plan: Plan, out: Path) -> Outcome:
    """Start SpecForge, or let it go on, and see that it ends with a checkpoint.

    Raises:
        UserError: another run is in the folder, or SpecForge failed; its log is kept.
        KeyboardInterrupt: after SpecForge ended.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out) as lock:
        record = _claim(out, plan)
        newest = latest_checkpoint(out, plan.processes)
        if record.get("finished") and newest is not None:
            return Outcome(newest, record, trained=False)
        start = f"from {newest.name}" if newest is not None else "from nothing"
        say(f"{start} to step {plan.steps}; what SpecForge prints is kept in {out / LOG}")
        _write_files(plan, out, newest)
        module = CPU_TRAINER if plan.device == runconfig.CPU else "specforge.cli"
        command = [sys.executable, "-m", module, "train", "--config", str(out / CONFIG)]
        started = time.monotonic()
        try:
            execute(
                command,
                plan.recipe.environment,
                out / LOG,
                steps=plan.steps,
                inherit=[lock],
            )
        finally:
            record["seconds"] = round(record["seconds"] + time.monotonic() - started, 1)
            _write_json(out / RUN, record)
        newest = latest_checkpoint(out, plan.processes)
        if newest is None:
            raise UserError(f"SpecForge ended without a checkpoint: see {out / LOG}")
        record["finished"] = _now()
        record["metrics"] = runlog.last_metrics(out / LOG, step_of(newest))
        _write_json(out / RUN, record)
    return Outcome(newest, record, trained=True)


def register(plan: Plan, out: Path) -> None:
    """Write a run's files for a SpecForge that is started elsewhere; `train export` reads them.

    Raises:
        UserError: another run is in the folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        _claim(out, plan)
        _write_files(plan, out)


def _write_files(plan: Plan, out: Path, resumed: Path | None = None) -> None:
    """specforge.yaml and draft.json, as SpecForge reads them."""
    config = dict(plan.config)
    target = Path(config["model"]["target_model_path"])
    if target.is_dir():
        target = specforge.indexed(target, out / "target")
        config["model"] = {**config["model"], "target_model_path": str(target)}
    if resumed is not None:
        config["training"] = {**config["training"], "resume_from": str(resumed)}
    if plan.draft_config is not None:
        _write_json(out / DRAFT, plan.draft_config)
    _write(out / CONFIG, yaml.safe_dump(config, sort_keys=False))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("step")[2])


def latest_checkpoint(out: Path, processes: int = 1) -> Path | None:
    """The newest checkpoint of a run folder that is whole: SpecForge writes a file for each of its
    processes, and one for all of them."""
    files = [STATE, *(f"training_state_rank{rank}.pt" for rank in range(processes))]
    found = [
        path
        for path in (out / CHECKPOINTS).glob(f"{runconfig.RUN_ID}-step*")
        if path.name.rpartition("step")[2].isdecimal()
        and all((path / name).is_file() for name in files)
    ]
    return max(found, key=step_of, default=None)


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """The folder's two locks; the handle of the trainer's.

    A `train run` holds the first itself: where that is taken, another one is at it. SpecForge's
    process inherits the second: that of a killed `train run` is told to end, which can take a
    while, and is waited for.
    """
    busy = f"{out} is in use: %s; wait for it, or choose another folder with --out"
    with (out / LOCK).open("w") as mine, (out / TRAINER_LOCK).open("w") as trainer:
        if not _lock(mine.fileno()):
            raise UserError(busy % "another `train run` is training there")
        until = time.monotonic() + LET_GO_SECONDS
        while not _lock(trainer.fileno()):
            if time.monotonic() > until:
                raise UserError(busy % "the trainer of a `train run` that is gone has not ended")
            time.sleep(0.2)
        yield trainer.fileno()


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # Some network file systems lock nothing; alone in it, one needs no lock.
    return True


def _claim(out: Path, plan: Plan) -> dict[str, Any]:
    """The run's record, begun now or by an earlier start with the same settings."""
    mine = {"config": plan.config, "draft": plan.draft_config, "aux_layers": plan.selection}
    path = out / RUN
    if path.is_file():
        record = read_record(out)
        if any(record.get(key) != mine[key] for key in mine):
            raise UserError(
                f"{out} holds a run with other settings ({_first_difference(record, mine)}): "
                "use the same ones to go on, or another --out"
            )
        return record
    record = {
        **mine,
        **plan.about,
        "commit": provenance.commit(),
        "versions": {
            name: metadata.version(name)
            for name in ("sglang-qwen3next-eagle3", "specforge", "torch", "transformers")
        },
        "started": _now(),
        "seconds": 0.0,
    }
    _write_json(path, record)
    return record


def read_record(out: Path) -> dict[str, Any]:
    """run.json of a run folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = out / RUN
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{out} is no folder of `train run`: it has no {RUN}") from None
    except ValueError:
        raise UserError(f"{path} is damaged: not JSON") from None
    return record


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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _write(path, json.dumps(content, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)
