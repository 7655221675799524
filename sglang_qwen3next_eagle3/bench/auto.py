"""`bench auto`: what cycles of 0, 1, 2, ... steps cost, and whether the steps that follow load and
acceptance are ever slower than none, or than the best of them.

Two servers: one without speculation, and one with a state for each number of steps. The second is
first told which to draft, a pass for each; from what its cycles take, it gets its costs (the file
of states that a launch takes, too), and then it chooses for itself.

What a number of steps takes in a server of its own is another question, for a state might cost
more: `alone` names those that are measured so, too, and with several GPUs (`gpus`) at the same
time, each by a process that has nothing else to do.
"""

import fcntl
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import figures, processes, provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import slug, write_text
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.bench import reports, servers, speed
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.measure import Outcome
from sglang_qwen3next_eagle3.bench.options import AutoOptions
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey, claim
from sglang_qwen3next_eagle3.bench.results.records import (
    ADAPTIVE,
    ALONE,
    CHANGING,
    NONE,
    Configuration,
    Result,
)
from sglang_qwen3next_eagle3.bench.servers import Loop, ServedConfiguration, Session, Work
from sglang_qwen3next_eagle3.bench.trees import adaptive, cost, synthetic
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.simulate import OFF, AcceptLength, SharedNumber
from sglang_qwen3next_eagle3.serving.profile import Profile
from sglang_qwen3next_eagle3.serving.unused import PASS, Said, UnusedVariable

AUTO = "auto"
"""The configuration that chooses for itself."""
STATES = "states.json"
"""In the folder of the benchmark, for `launch --adaptive`."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_FORK = multiprocessing.get_context("fork")


def run_auto(options: AutoOptions) -> Outcome:
    """Measure, and write what came out into the options' folder.

    Raises:
        UserError: something in the options or the folder does not allow it.
    """
    if options.plots:
        figures.require("--no-plots")
    options = replace(options, steps=tuple(sorted({0, *options.steps})))
    if len(options.steps) < 2:
        raise UserError("0 steps alone are no choice: name a chain, too (--steps 0,1,2)")
    if 0 in options.alone:
        raise UserError("--alone 0: a server of 0 steps is the one without speculation, `none`")
    ranks = _ranks(options.base())
    if options.gpus and len(options.gpus) < ranks:
        raise UserError(f"--gpus {','.join(options.gpus)}: a server needs {ranks} of them")
    if options.gpus and options.side_by_side:
        raise UserError(
            "--gpus gives every server its own, --side-by-side lets them share: leave one out"
        )
    described = provenance.describe(options.words)
    request = _request(options)
    with (
        claim(options.out, request, provenance.stamp(described)) as journal,
        tempfile.TemporaryDirectory(prefix="bench-") as scratch,
    ):
        return _Auto(options, journal, Path(scratch), described).run()


class _Auto:
    def __init__(
        self, options: AutoOptions, journal: Journal, scratch: Path, described: dict[str, Any]
    ) -> None:
        self._asked, self._journal, self._described = options, journal, described
        self._options, self._flags = speed.synthetic_pair(options, scratch)
        self._file = scratch / STATES
        write_text(self._file, _before_measuring(options).text())
        self._steps = SharedNumber.create(scratch / "steps")
        # A server that is told its steps when it starts reads its file behind that again.
        self._steps.value = 0
        base = self._options.base()
        self._target = speed.target_of(base)
        self._lengths: dict[str, AcceptLength] = {}
        self._scratch, self._parent = scratch, os.getpid()
        said = Said.by(options.profile)
        contenders = [Contender(NONE, without_head(base.override(algorithm="none")), said)]
        chosen = base.model_copy(update={"tree": None}).override(adaptive=str(self._file))
        contenders.append(Contender(AUTO, chosen, said))
        for steps in sorted(options.alone, reverse=True):
            tree = {"steps": steps, "topk": 1, "draft-tokens": steps + 1}
            fixed = base.model_copy(update={"adaptive": None}).override(tree=tree)
            contenders.append(Contender(f"{steps},1,{steps + 1}{ALONE}", fixed, said))
        self._contenders = {one.name: one for one in contenders}
        self._served = {name: self._server(name) for name in self._contenders}
        row = self._served[AUTO].configuration
        self._forced = [_forced(n, row) for n in options.steps]
        self._warmed: set[tuple[str, int]] = set()

    def _server(self, name: str, gpus: Sequence[str] = ()) -> ServedConfiguration:
        contender, told = self._contenders[name], speed.routed(self._options)
        if name != NONE:
            path = self._scratch / f"accept-length-{slug(name)}"
            if name not in self._lengths:
                self._lengths[name] = AcceptLength.create(path)
            told[variables.SIMULATE] = str(path)
        if name == AUTO:
            told[variables.STEPS] = str(self._scratch / "steps")
        if gpus:
            told[_VISIBLE] = ",".join(gpus)
        flags = [*speed.head_flags(contender, self._flags), *self._flags]
        start = self._options.start_seconds
        of_command = {variables.ROUTING: "--routing"}
        found = servers.served(contender, self._options.out, flags, start, told, of_command)
        if name != AUTO:
            # It is for the one whose steps change.
            unused = tuple(one for one in found.unused if one.name != variables.DEFER)
            return replace(found, unused=unused)
        adapts = {"algorithm": ADAPTIVE, "tree": None}
        return replace(found, configuration=found.configuration.model_copy(update=adapts))

    def run(self) -> Outcome:
        options, journal = self._options, self._journal
        sessions = [
            Session(self._served[name], tuple(self._keys_of(name)))
            # The one that takes longest first, and the shortest, whose GPUs are free again soon.
            for name in (AUTO, NONE, *(name for name in self._served if name.endswith(ALONE)))
        ]
        if not options.gpus:
            sessions[:2] = sessions[1::-1]
        for row in self._forced:
            journal.admit(row)
            journal.note(row)
        keys = [key for session in sessions for key in session.keys]
        done = sum(key.batch for key in keys if journal.has(key))
        interrupted = False
        with Progress("bench auto", sum(k.batch for k in keys), done=done, unit="requests") as bar:
            servers.tell_unused([*self._served.values()], bar.say, _other_gpus(options.gpus))
            try:
                if options.gpus:
                    self._apart(sessions, bar)
                else:
                    groups = [sessions] if options.side_by_side else [[one] for one in sessions]
                    self._loop(bar).run(groups)
            except KeyboardInterrupt:
                interrupted = True
        result = self._result()
        result.save(options.out / "result.json")
        report = reports.write(result, options.out, plots=options.plots)
        complete = all(journal.has(key) for key in keys)
        if all(journal.has(key) for key in self._costs()):
            write_text(options.out / STATES, self._measured().text())
        return Outcome(result, report, complete, interrupted)

    def _loop(self, bar: Progress) -> Loop:
        return Loop(self._journal, self._work, self._options.stall_seconds, bar)

    def _apart(self, sessions: Sequence[Session], bar: Progress) -> None:
        """A process for each session, as many at a time as there are GPUs for. What is measured is
        in the folder's result within seconds, so that who ends this loses nothing."""
        ranks = _ranks(self._options.base())
        gpus = list(self._options.gpus)
        free = [gpus[n : n + ranks] for n in range(0, len(gpus) - ranks + 1, ranks)]
        for session in sessions:
            self._journal.admit(session.served.configuration)
        pending = [one for one in sessions if one.left(self._journal).keys]
        self._journal.alone = _Alone(self._scratch / "alone")
        running: list[tuple[ForkProcess, list[str]]] = []
        begun, saved = bar.count, 0
        try:
            while pending or running:
                while pending and free:
                    mine, session = free.pop(0), pending.pop(0)
                    bar.say(f"{session.name}: on {_VISIBLE}={','.join(mine)}")
                    process = _FORK.Process(target=self._part, args=(session, mine))
                    process.start()
                    running.append((process, mine))
                time.sleep(processes.POLL_SECONDS)
                for one in tuple(running):
                    if not one[0].is_alive():
                        running.remove(one)
                        free.append(one[1])
                passes = len(self._journal.files())
                if passes != saved:
                    saved = passes
                    self._result().save(self._options.out / "result.json")
                    keys = (key for session in sessions for key in session.keys)
                    done = sum(key.batch for key in keys if self._journal.has(key))
                    bar.advance(done - begun)
                    begun = done
        finally:
            for process, _ in running:
                process.terminate()
            for process, _ in running:
                process.join()
        # What failed was said; each part made up for its own only.
        self._loop(bar).settle(sessions)

    def _part(self, session: Session, gpus: Sequence[str]) -> None:
        """In a process of its own: one server, and what it is asked."""
        # The first process ends this one. What is ignored would be ignored by the server, too.
        signal.signal(signal.SIGINT, _stay)
        signal.signal(signal.SIGTERM, _leave)
        if (ends := processes.end_with_parent(self._parent)) is not None:
            ends()
        mine = replace(session, served=self._server(session.name, gpus))
        known = session.served.configuration
        mine = replace(mine, served=replace(mine.served, configuration=known))
        left = sum(key.batch for key in mine.left(self._journal).keys)
        quiet = Progress(session.name, left, unit="requests", bar=False)
        try:
            self._loop(quiet).run([[mine]])
        except KeyboardInterrupt:
            return

    def _result(self) -> Result:
        others = [one.configuration for name, one in self._served.items() if name != NONE]
        rows = [self._served[NONE].configuration, *self._forced, *others]
        if (served := self._journal.configurations().get(AUTO)) is not None:
            for row in self._forced:  # They are served by the same server.
                self._journal.note(row.model_copy(update={"switched": served.switched}))
        told = {"gpus": list(self._asked.gpus)} if _at_the_same_time(self._asked) else {}
        settings = speed.settings(_request(self._asked), self._target, self._flags, **told)
        return self._journal.result("speed", self._described, settings, rows)

    def _keys(self, names: Sequence[str], lengths: Sequence[float | None]) -> list[PassKey]:
        return [
            PassKey(name, speed.SUITE, batch, repetition, length)
            for repetition in range(self._options.repeats)
            for name in names
            for length in lengths
            for batch in self._options.batches
        ]

    def _keys_of(self, name: str) -> list[PassKey]:
        if name == NONE:
            return self._keys([NONE], [None])
        if name == AUTO:
            # All of the first repetition before any of the second, so that who is cut off has most.
            again = [*self._costs(), *self._choices()]
            first = [key for key in again if key.repetition == 0]
            rest = sorted((key for key in again if key.repetition), key=lambda key: key.repetition)
            return [*first, *self._changes(), *rest]
        lengths = speed.reachable(self._contenders[name].tree, self._options.accept_lengths)
        return self._keys([name], lengths or [1.0])

    def _costs(self) -> list[PassKey]:
        """Every number of steps at the accept lengths that it can reach; where a server of its own
        is asked that, at one of them, for a cycle takes as long at any."""
        found: list[PassKey] = []
        for row in self._forced:
            lengths = speed.reachable(row.tree, self._options.accept_lengths) or [1.0]
            if row.tree is not None and row.tree[0] in self._options.alone:
                lengths = lengths[len(lengths) // 2 :][:1]
            found += self._keys([row.name], lengths)
        return found

    def _choices(self) -> list[PassKey]:
        return self._keys([AUTO], list(self._options.accept_lengths))

    def _changes(self) -> list[PassKey]:
        """Load and acceptance by turns, the same in every run; no pass is like the one before."""
        drawn = random.Random(self._options.seed)
        keys: list[PassKey] = []
        cells = [(b, x) for b in self._options.batches for x in self._options.accept_lengths]
        while len(keys) < self._options.changes:
            drawn.shuffle(cells)
            for batch, length in cells[: self._options.changes - len(keys)]:
                keys.append(PassKey(AUTO, CHANGING, batch, len(keys), length))
        return keys

    def _measured(self) -> DraftStates:
        """By what has been measured of the steps. Raises UserError: some are missing."""
        result = self._result()
        # On other GPUs `none` may not be up yet: of a server that was not, nobody knows what it is.
        asked = {one.configuration for one in result.measurements}
        states = [
            one
            for one in result.configurations
            if one.name in asked and not one.name.endswith(ALONE)
        ]
        names = {one.name for one in states}
        rows = [one for one in result.measurements if one.configuration in names]
        result = result.model_copy(update={"configurations": states, "measurements": rows})
        fitted = any(one.configuration == NONE for one in rows)
        model = cost.fit(result) if fitted else cost.CostModel(cells=tuple(cost.measured(result)))
        planned = adaptive.plan_states(
            model, steps=self._options.steps, measured=adaptive.of_result(result)
        )
        return planned.states

    def _work(self, key: PassKey) -> Work:
        options = self._options
        sampling = options.sampling(options.output_tokens)
        seed = options.seed + key.repetition
        asked = synthetic.dialogues(key.batch, options.input_tokens, self._target.vocab_size, seed)
        tree = {row.name: row.tree for row in self._forced}.get(key.configuration)
        place = key.configuration, key.batch
        if key.configuration == AUTO:
            # As long as the pass: the choice is what the one before it has found. Where acceptance
            # and load change, that is what is measured.
            warm = [] if key.suite == CHANGING else asked
            warm_tokens = options.output_tokens
        else:
            warm, warm_tokens = ([] if place in self._warmed else asked), servers.WARM_TOKENS
        self._warmed.add(place)
        return Work(asked, sampling, warm, self._before(key, tree), warm_tokens)

    def _before(self, key: PassKey, tree: tuple[int, int, int] | None) -> Callable[[], None]:
        def set_up() -> None:
            length = key.simulated_accept_length
            if key.configuration == NONE:
                return
            alone = key.configuration.endswith(ALONE)
            simulated = self._lengths[key.configuration if alone else AUTO]
            simulated.value = OFF if length is None else length
            if alone:
                return
            if key.configuration == AUTO and self._steps.value != OFF:
                write_text(self._file, self._measured().text())
            self._steps.value = OFF if tree is None else tree[0]

        return set_up


class _Alone:
    """One process at a time. Of one that is killed within nothing is left, unlike of a lock of
    multiprocessing, for which all others would wait."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._held = self._path.open("w")
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def __exit__(self, *of: object) -> None:
        self._held.close()


def _stay(number: int, frame: object) -> None:
    """Not even a child hears of it: what handles a signal ends with exec."""


def _leave(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def without_head(profile: Profile) -> Profile:
    """As a server without a head takes it."""
    asked = profile.fast
    fast = None if asked is None else stages.without_head(asked)
    return profile.model_copy(update={"fast": fast})


def _ranks(profile: Profile) -> int:
    ranks = profile.sglang.get("tp")
    return ranks if isinstance(ranks, int) else 1


def _forced(steps: int, served: Configuration) -> Configuration:
    tree = (steps, 1, steps + 1)
    name = cost.spelled(tree)
    return served.model_copy(update={"name": name, "algorithm": "eagle3", "tree": tree})


def _before_measuring(options: AutoOptions) -> DraftStates:
    """Costs that nobody goes by: until there are others, steps are told."""
    longest = max(options.steps)
    return DraftStates(
        candidates={1: tuple(options.steps)},
        cycle_ms={1: {n: 5.0 + n for n in options.steps}},
        shares=adaptive.SHARES[:1] * longest,
        start=min(n for n in options.steps if n),
    )


def _other_gpus(gpus: Sequence[str]) -> list[UnusedVariable]:
    """The caller's GPUs, where others are shared out among the servers."""
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    if not visible or set(gpus) <= set(visible):
        return []
    named = ",".join(visible)
    by, meant = f"--gpus {','.join(gpus)}", f"--gpus {named}"
    return [UnusedVariable(_VISIBLE, named, by, "", PASS, meant)]


def _at_the_same_time(options: AutoOptions) -> bool:
    """Whether there are GPUs for more than one server."""
    return len(options.gpus) >= 2 * _ranks(options.base())


def _request(options: AutoOptions) -> dict[str, Any]:
    # Servers beside others share a host or GPUs with them: what is begun so goes on so.
    servers = {}
    if options.side_by_side:
        servers = {"servers": "up at the same time"}
    elif _at_the_same_time(options):
        servers = {"servers": "asked at the same time"}
    return options.request(
        "auto",
        steps=list(options.steps),
        batches=list(options.batches),
        accept_lengths=list(options.accept_lengths),
        repeats=options.repeats,
        changes=options.changes,
        **servers,
    )
