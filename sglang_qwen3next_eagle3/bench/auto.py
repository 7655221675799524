"""`bench auto`: what cycles of 0, 1, 2, ... steps cost, and whether the steps that follow load and
acceptance are ever slower than none, or than the best of them.

Two servers: one without speculation, and one with a state for each number of steps. The second is
first told which to draft, a pass for each; from what its cycles take, it gets its costs (the file
of states that a launch takes, too), and then it chooses for itself.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import figures, provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import write_text
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.bench import reports, servers, speed
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.measure import Outcome
from sglang_qwen3next_eagle3.bench.options import AutoOptions
from sglang_qwen3next_eagle3.bench.results.journal import Journal, PassKey, claim
from sglang_qwen3next_eagle3.bench.results.records import (
    ADAPTIVE,
    CHANGING,
    NONE,
    Configuration,
    Result,
)
from sglang_qwen3next_eagle3.bench.servers import Loop, ServedConfiguration, Session, Work
from sglang_qwen3next_eagle3.bench.trees import adaptive, cost, synthetic
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.overlay.simulate import OFF, AcceptLength, SharedNumber

AUTO = "auto"
"""The configuration that chooses for itself."""
STATES = "states.json"
"""In the folder of the benchmark, for `launch --adaptive`."""


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
        self._length = AcceptLength.create(scratch / "accept-length")
        self._steps = SharedNumber.create(scratch / "steps")
        # A server that is told its steps when it starts reads its file behind that again.
        self._steps.value = 0
        self._environment = {
            variables.SIMULATE: str(scratch / "accept-length"),
            variables.STEPS: str(scratch / "steps"),
        }
        base = self._options.base()
        self._target = speed.target_of(base)
        self._none = self._served(Contender(NONE, base.override(algorithm="none")), {})
        chosen = base.model_copy(update={"tree": None}).override(adaptive=str(self._file))
        served = self._served(Contender(AUTO, chosen), self._environment)
        row = served.configuration.model_copy(update={"algorithm": ADAPTIVE, "tree": None})
        self._auto = replace(served, configuration=row)
        self._forced = [_forced(n, row) for n in options.steps]
        self._warmed: set[tuple[str, int]] = set()

    def _served(self, contender: Contender, environment: dict[str, str]) -> ServedConfiguration:
        flags = [*speed.head_flags(contender, self._flags), *self._flags]
        start = self._options.start_seconds
        return servers.served(contender, self._options.out, flags, start, environment)

    def run(self) -> Outcome:
        options, journal = self._options, self._journal
        sessions = [
            Session(self._none, tuple(self._keys([NONE], [None]))),
            Session(self._auto, (*self._costs(), *self._choices(), *self._changes())),
        ]
        for row in self._forced:
            journal.admit(row)
            journal.note(row)
        keys = [key for session in sessions for key in session.keys]
        done = sum(key.batch for key in keys if journal.has(key))
        interrupted = False
        with Progress("bench auto", sum(k.batch for k in keys), done=done, unit="requests") as bar:
            try:
                groups = [sessions] if options.side_by_side else [[one] for one in sessions]
                Loop(journal, self._work, options.stall_seconds, bar).run(groups)
            except KeyboardInterrupt:
                interrupted = True
        result = self._result()
        result.save(options.out / "result.json")
        report = reports.write(result, options.out, plots=options.plots)
        complete = all(journal.has(key) for key in keys)
        if complete:
            write_text(options.out / STATES, self._measured().text())
        return Outcome(result, report, complete, interrupted)

    def _result(self) -> Result:
        rows = [self._none.configuration, *self._forced, self._auto.configuration]
        if (served := self._journal.configurations().get(AUTO)) is not None:
            for row in self._forced:  # They are served by the same server.
                self._journal.note(row.model_copy(update={"switched": served.switched}))
        settings = speed.settings(_request(self._asked), self._target, self._flags)
        return self._journal.result("speed", self._described, settings, rows)

    def _keys(self, names: Sequence[str], lengths: Sequence[float | None]) -> list[PassKey]:
        return [
            PassKey(name, speed.SUITE, batch, repetition, length)
            for repetition in range(self._options.repeats)
            for name in names
            for length in lengths
            for batch in self._options.batches
        ]

    def _costs(self) -> list[PassKey]:
        """Every number of steps at the accept lengths that it can reach."""
        found: list[PassKey] = []
        for row in self._forced:
            lengths = speed.reachable(row.tree, self._options.accept_lengths) or [1.0]
            found += self._keys([row.name], lengths)
        return sorted(found, key=lambda key: key.repetition)

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
        planned = adaptive.plan_states(
            cost.fit(result), steps=self._options.steps, measured=adaptive.of_result(result)
        )
        return planned.states

    def _work(self, key: PassKey) -> Work:
        options = self._options
        sampling = {"temperature": 0, "max_new_tokens": options.output_tokens, "ignore_eos": True}
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
            self._length.value = OFF if length is None else length
            if key.configuration == NONE:
                return
            if key.configuration == AUTO and self._steps.value != OFF:
                write_text(self._file, self._measured().text())
            self._steps.value = OFF if tree is None else tree[0]

        return set_up


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


def _request(options: AutoOptions) -> dict[str, Any]:
    return options.request(
        "auto",
        steps=list(options.steps),
        batches=list(options.batches),
        accept_lengths=list(options.accept_lengths),
        repeats=options.repeats,
        changes=options.changes,
    )
