"""Starting SpecForge in a run folder, watching it, and letting it go on where it stopped."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sglang_qwen3next_eagle3.base import files, processes, provenance, workfolder
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.processes import Child, ending, tail
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.train.trainer import runconfig, runlog, specforge
from sglang_qwen3next_eagle3.train.trainer.recipe import Recipe

CONFIG, DRAFT, RUN, LOG = "specforge.yaml", "draft.json", "run.json", "train.log"
LOCK, TRAINER_LOCK = ".lock", ".trainer-lock"
CHECKPOINTS = "checkpoints"
STATE = "training_state.pt"
CPU_TRAINER = "sglang_qwen3next_eagle3.train.trainer.cpu_trainer"
LET_GO_SECONDS = 60.0
END_SECONDS = 30.0
"""What SpecForge gets to write a checkpoint and go, before it is killed."""


@dataclass(frozen=True)
class TrainingPlan:
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
class TrainingOutcome:
    """checkpoint: the last one; record: of run.json; trained: whether this start did anything."""

    checkpoint: Path
    record: Mapping[str, Any]
    trained: bool


def train(plan: TrainingPlan, out: Path) -> TrainingOutcome:
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
            return TrainingOutcome(newest, record, trained=False)
        start = f"from {newest.name}" if newest is not None else "from nothing"
        print(
            f"{start} to step {plan.steps}; what SpecForge prints is kept in {out / LOG}",
            file=sys.stderr,
            flush=True,
        )
        _write_files(plan, out, newest)
        module = CPU_TRAINER if plan.device == runconfig.CPU else "specforge.cli"
        command = [sys.executable, "-m", module, "train", "--config", str(out / CONFIG)]
        started = time.monotonic()
        try:
            _execute(command, plan, out / LOG, inherit=[lock])
        finally:
            record["seconds"] = round(record["seconds"] + time.monotonic() - started, 1)
            files.write_json(out / RUN, record)
        newest = latest_checkpoint(out, plan.processes)
        if newest is None:
            raise UserError(f"SpecForge ended without a checkpoint: see {out / LOG}")
        record["finished"] = _now()
        record["metrics"] = runlog.last_metrics(out / LOG, step_of(newest))
        files.write_json(out / RUN, record)
    return TrainingOutcome(newest, record, trained=True)


def _execute(command: Sequence[str], plan: TrainingPlan, log: Path, inherit: Sequence[int]) -> None:
    """Run SpecForge to its end; its output goes to the log, its reports to standard error too.

    inherit: file descriptors.

    Raises:
        UserError: it failed or was stopped; the message has its own reason.
        KeyboardInterrupt: after it ended.
    """
    before = log.stat().st_size if log.exists() else 0
    environment = {**plan.recipe.environment, "PYTHONUNBUFFERED": "1"}
    running = Child.start(
        command, log, name="SpecForge", environment=environment, inherit=inherit, append=True
    )
    with (
        _ended(running),
        Progress("training", plan.steps, unit="steps") as progress,
        log.open(encoding="utf-8", errors="replace") as printed,
    ):
        printed.seek(before)
        reports = _Reports(progress)
        unfinished = ""
        while True:
            status = running.ended()
            # Read after asking: what a process that has ended printed is all there.
            for line in printed:
                unfinished += line
                if unfinished.endswith("\n"):
                    if report := runlog.parse(unfinished):
                        reports.show(report)
                    unfinished = ""
            if status is not None:
                break
            time.sleep(processes.POLL_SECONDS)
    if status:
        reason = runlog.reason(tail(log, 200))
        raise UserError(
            f"SpecForge ended ({ending(status)}): {reason}; all of its output is in {log}, and the "
            "same command goes on from the last checkpoint"
        )


@contextmanager
def _ended(running: Child) -> Iterator[None]:
    """However the block ends, so does SpecForge, whatever it does with a signal."""
    try:
        yield
    finally:
        running.stop(END_SECONDS)


class _Reports:
    """Shows each report once (all processes of a run write it), and the time that is left."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shown: set[tuple[int, bool]] = set()

    def show(self, report: runlog.StepReport) -> None:
        key = (report.step, report.is_evaluation)
        if key in self._shown:
            return
        line = report.describe()
        if not self._shown:
            # Loading and the first steps' compilation say nothing about the rest.
            self._progress.begin(report.step)
        elif not report.is_evaluation:
            self._progress.reach(report.step)
            line += f"; {self._progress.figures()}"
        self._shown.add(key)
        self._progress.say(line)


def _write_files(plan: TrainingPlan, out: Path, resumed: Path | None = None) -> None:
    """specforge.yaml and draft.json, as SpecForge reads them."""
    config = dict(plan.config)
    target = Path(config["model"]["target_model_path"])
    if target.is_dir():
        target = specforge.indexed(target, out / "target")
        config["model"] = {**config["model"], "target_model_path": str(target)}
    if resumed is not None:
        config["training"] = {**config["training"], "resume_from": str(resumed)}
    if plan.draft_config is not None:
        files.write_json(out / DRAFT, plan.draft_config)
    files.write_text(out / CONFIG, yaml.safe_dump(config, sort_keys=False))


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
    gone = "the trainer of a `train run` that is gone has not ended"
    with (
        workfolder.lock(out / LOCK, busy % "another `train run` is training there"),
        workfolder.lock(out / TRAINER_LOCK, busy % gone, wait_seconds=LET_GO_SECONDS) as trainer,
    ):
        yield trainer


def _claim(out: Path, plan: TrainingPlan) -> dict[str, Any]:
    """The run's record, begun now or by an earlier start with the same settings."""
    mine = {"config": plan.config, "draft": plan.draft_config, "aux_layers": plan.selection}
    path = out / RUN
    if path.is_file():
        record = read_record(out)
        there = {key: record.get(key) for key in mine}
        workfolder.refuse_other_request(out, there, json.loads(json.dumps(mine)))
        return record
    record = {
        **mine,
        **plan.about,
        "commit": provenance.commit(),
        "versions": provenance.versions(
            (provenance.DISTRIBUTION, "specforge", "torch", "transformers")
        ),
        "started": _now(),
        "seconds": 0.0,
    }
    files.write_json(path, record)
    return record


def read_record(out: Path) -> dict[str, Any]:
    """run.json of a run folder.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = out / RUN
    if not path.is_file():
        raise UserError(f"{out} is no folder of `train run`: it has no {RUN}")
    return files.read_json(path, "restore it, or train in another folder")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
