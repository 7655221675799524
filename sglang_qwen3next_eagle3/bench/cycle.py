"""`bench cycle`: where the host's time goes in a cycle, phase by phase.

The servers are those of `bench speed`, with the overlay's recorder in their schedulers. It says
nothing about what a cycle takes unwatched: `bench speed` does.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base import processes, provenance
from sglang_qwen3next_eagle3.base.errors import ServerFailed, UserError
from sglang_qwen3next_eagle3.base.files import read_json, slug, write_json, write_text
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.base.redact import text_without_secrets, without_paths
from sglang_qwen3next_eagle3.base.schema import validate
from sglang_qwen3next_eagle3.bench import configurations, servers
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.options import CycleOptions
from sglang_qwen3next_eagle3.bench.reports import cycle as reports
from sglang_qwen3next_eagle3.bench.results.cycles import CycleMeasurement, CycleResult, RankCycles
from sglang_qwen3next_eagle3.bench.results.journal import Journal, claim
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Pass
from sglang_qwen3next_eagle3.bench.servers import ServedConfiguration
from sglang_qwen3next_eagle3.bench.speed import (
    all_served,
    settings,
    simulating,
    synthetic_pair,
    target_of,
)
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.cycle import recording
from sglang_qwen3next_eagle3.overlay.cycle.recording import Control
from sglang_qwen3next_eagle3.overlay.simulate import AcceptLength
from sglang_qwen3next_eagle3.serving.server import Server

WARM_TOKENS = 32
WRITE_SECONDS = 60.0
"""For every rank to write what it recorded."""


def run_cycle(options: CycleOptions) -> tuple[CycleResult, str, bool]:
    """Measure what the options' folder lacks; the result, its report, and whether all is there.

    Raises:
        UserError: something in the options or the folder does not allow it.
    """
    described = provenance.describe(options.words)
    request = options.request("cycle", accept_length=options.accept_length, stacks=options.stacks)
    with (
        claim(options.out, request, provenance.stamp(described)) as journal,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
    ):
        scratch = Path(folder)
        served, flags = synthetic_pair(options, scratch)
        base = served.base()
        target = target_of(base)
        measuring = _Measuring(options, journal, scratch, target.vocab_size)
        contenders = configurations.parse(
            options.configurations, base, served.given, options.profile
        )
        compared = all_served(contenders, options, flags, measuring.environment)
        for one in compared:
            journal.admit(one.configuration)
        total = len(compared) * len(options.batches)
        stopped: KeyboardInterrupt | None = None
        with Progress("bench cycle", total, unit="cells") as progress:
            servers.tell_unused(compared, progress.say)
            try:
                for contender, one in zip(contenders, compared, strict=True):
                    measuring.server(contender, one, progress)
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
        known = journal.configurations()
        rows = [one.configuration for one in compared]
        result = CycleResult(
            provenance=dict(described),
            settings=settings(request, target, flags, batches=list(options.batches)),
            configurations=tuple(known.get(row.name, row) for row in rows),
            cells=tuple(measuring.cells(rows)),
        )
        write_json(options.out / "result.json", result.model_dump(mode="json"), indent=1)
        report = reports.cycle_report(result)
        write_text(options.out / "report.md", report)
        if stopped is not None:
            stopped.add_note("what is done is kept, the same command goes on")
            raise stopped
        return result, report, len(result.cells) == total


class _Measuring:
    """environment: of every server, which records into a folder of `scratch`."""

    def __init__(
        self, options: CycleOptions, journal: Journal, scratch: Path, vocabulary: int
    ) -> None:
        self._options, self._journal, self._vocabulary = options, journal, vocabulary
        self._recordings = scratch / "recordings"
        self._simulated = AcceptLength.create(scratch / "accept-length")
        self.environment = {
            **simulating(options, scratch / "accept-length"),
            variables.CYCLE: str(self._recordings),
        }

    def cells(self, rows: Sequence[Configuration]) -> list[CycleMeasurement]:
        """Those that are there, in order. Raises UserError: one is damaged."""
        paths = [self._path(row.name, batch) for row in rows for batch in self._options.batches]
        return [
            validate(CycleMeasurement, read_json(path, "delete it"), f"{path} is damaged")
            for path in paths
            if path.is_file()
        ]

    def _path(self, name: str, batch: int) -> Path:
        return self._journal.folder / "passes" / f"{slug(name)}-b{batch}.json"

    def server(self, contender: Contender, served: ServedConfiguration, progress: Progress) -> None:
        """Every batch of a configuration that is not measured yet, at one server."""
        name = contender.name
        left = [b for b in self._options.batches if not self._path(name, b).is_file()]
        progress.advance(len(self._options.batches) - len(left))
        if not left:
            return
        progress.say(f"{name}: starting the server")
        try:
            shutil.rmtree(self._recordings, ignore_errors=True)
            control = Control.create(self._recordings)
            with served.start() as poll:
                while (server := poll()) is None:
                    time.sleep(processes.POLL_SECONDS)
                row = servers.ready(served.configuration, server)
                self._journal.note(row)
                progress.say(f"{name}: ready after {server.ready_seconds or 0:.0f} s")
                for batch in left:
                    cell = self._cell(contender, batch, server, control)
                    write_json(self._path(name, batch), cell.model_dump(mode="json"), indent=None)
                    progress.advance()
        except (ServerFailed, UserError) as error:
            tail = error.log_tail if isinstance(error, ServerFailed) else ()
            lines = tuple(without_paths([text_without_secrets(line) for line in tail]))
            update = {"status": "failed", "error": str(error), "log_tail": lines}
            self._journal.note(served.configuration.model_copy(update=update))
            progress.say(f"{name}: {error}")

    def _cell(
        self, contender: Contender, batch: int, server: Server, control: Control
    ) -> CycleMeasurement:
        """Raises ServerFailed."""
        tree, asked = contender.tree, self._options.accept_length
        length = None if tree is None else min(asked, float(tree[0] + 1))
        self._simulated.value = -1.0 if length is None else length
        self._ask(server, batch, WARM_TOKENS)
        number = control.begin("times")
        measured = self._ask(server, batch, self._options.output_tokens)
        control.end()
        times = self._read(server, number)
        stacks: dict[str, Mapping[str, Any]] = {}
        if self._options.stacks:
            number = control.begin("stacks")
            self._ask(server, batch, self._options.output_tokens)
            control.end()
            stacks = {one.rank: one.about["stacks"] for one in self._read(server, number)}
        steps = [sample.verify_steps for sample in measured.samples]
        tokens = sum(sample.completion_tokens for sample in measured.samples)
        return CycleMeasurement(
            configuration=contender.name,
            batch=batch,
            simulated_accept_length=length,
            output_tok_s=tokens / measured.seconds,
            verify_steps=None if None in steps else sum(step or 0 for step in steps),
            ranks=tuple(RankCycles.of(one, batch, stacks.get(one.rank)) for one in times),
        )

    def _ask(self, server: Server, batch: int, tokens: int) -> Pass:
        options = self._options
        prompts = synthetic.dialogues(batch, options.input_tokens, self._vocabulary, options.seed)
        sampling = options.sampling(tokens)
        found = servers.ask(server, prompts, batch, sampling, options.stall_seconds)
        if found.failures:
            # Then the batch was smaller than it says.
            count, (_, why) = len(found.failures), found.failures[0]
            raise ServerFailed(f"{count} of {batch} requests failed: {why}", server.log_tail())
        server.flush()
        return found

    def _read(self, server: Server, number: int) -> list[recording.Recording]:
        try:
            found = recording.read(self._recordings, number, WRITE_SECONDS, server.check)
        except TimeoutError as error:
            raise ServerFailed(str(error), server.log_tail()) from None
        if not found:
            raise ServerFailed("its schedulers record nothing; its log says why", server.log_tail())
        return found
