"""All conversations that may be drawn: read once, judged, and spooled to disk as they will be
written, so that memory holds some 200 bytes a conversation and not its text."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.base.records import Record
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, Conversation
from sglang_qwen3next_eagle3.train.data import mixing
from sglang_qwen3next_eagle3.train.data.decontaminate import Excluded
from sglang_qwen3next_eagle3.train.data.formats import detect, parse
from sglang_qwen3next_eagle3.train.data.mixing import Candidate
from sglang_qwen3next_eagle3.train.data.sources import Opened

LISTED_ON_STDERR = 20
LISTED_IN_REPORT = 1000


@dataclass(frozen=True)
class Rules:
    """min_answer_chars: fewer characters in all answers together are too short; ignored with
    keep_answers False, where the answers will be replaced and do not tell duplicates apart."""

    excluded: Excluded
    min_answer_chars: int
    keep_answers: bool


@dataclass
class Counts:
    """What became of the records of one source; read is the sum of the others, but for left_out:
    how many that are not bad were read without which part."""

    read: int = 0
    kept: int = 0
    duplicate: int = 0
    too_short: int = 0
    excluded: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass
class BadRecords:
    """The first of them, by source and line: some on standard error, more in the report."""

    total: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, opened: Opened, record: Record, reason: str, detail: str) -> None:
        self.total += 1
        name = opened.source.name
        if self.total <= LISTED_ON_STDERR:
            print(f"bad: {_place(name, record)}: {detail} [{reason}]", file=sys.stderr)
        elif self.total == LISTED_ON_STDERR + 1:
            print("bad: more of them are listed in the report", file=sys.stderr)
        if len(self.listed) < LISTED_IN_REPORT:
            where = {"source": opened.source.label, "number": record.number, "line": record.line}
            self.listed.append({**where, "reason": reason, "detail": detail})


class Pool:
    """candidates, counts, formats: one entry a source. Raises UserError from `read`."""

    def __init__(self, work: Path, rules: Rules) -> None:
        self._work, self._rules = work, rules
        self._seen: set[bytes] = set()
        self._spools: list[IO[bytes]] = []
        self.candidates: list[list[Candidate]] = []
        self.counts: list[Counts] = []
        self.formats: list[str] = []
        self.bad = BadRecords()

    def read(self, opened: Opened) -> None:
        """Add a source. A conversation that an earlier one equals is a duplicate, in the order in
        which sources are read.

        Raises:
            UserError: it holds no record, or every one is bad.
        """
        index, counts = len(self.counts), Counts()
        candidates: list[Candidate] = []
        format_name = opened.source.format
        spool = (self._work / f"pool-{index}.jsonl").open("w+b")
        self._spools.append(spool)
        with Progress(f"reading {opened.source.label}", opened.rows, unit="records") as progress:
            for record in opened.records():
                counts.read += 1
                progress.advance()
                format_name = format_name or detect(record.value)
                try:
                    conversation = _conversation(record, format_name, counts.left_out)
                except BadRecord as bad:
                    counts.bad[bad.reason] += 1
                    self.bad.add(opened, record, bad.reason, bad.detail)
                    continue
                if self._is_dropped(conversation, counts):
                    continue
                content = mixing.content_key(conversation)
                prompt, offset = mixing.prompt_key(conversation), spool.tell()
                candidates.append(Candidate(index, record.number, offset, content, prompt))
                name = f"{opened.source.label}-{record.number}"
                spool.write(encode({"id": name, "conversations": conversation}))
        counts.kept = len(candidates)
        _refuse_unusable(opened, counts)
        self.candidates.append(candidates)
        self.counts.append(counts)
        self.formats.append(format_name or "")

    def sample(self, one: Candidate) -> dict[str, Any]:
        """`{"id", "conversations"}` of a candidate."""
        spool = self._spools[one.source]
        spool.seek(one.offset)
        sample: dict[str, Any] = json.loads(spool.readline())
        return sample

    def close(self) -> None:
        for spool in self._spools:
            spool.close()

    def _is_dropped(self, conversation: Conversation, counts: Counts) -> bool:
        rules = self._rules
        content = mixing.content_key(conversation, answers=rules.keep_answers)
        if rules.keep_answers and _answer_chars(conversation) < rules.min_answer_chars:
            counts.too_short += 1
        elif content in self._seen:
            counts.duplicate += 1
        elif rules.excluded.hits(conversation):
            counts.excluded += 1
        else:
            self._seen.add(content)
            return False
        return True


def encode(sample: dict[str, Any]) -> bytes:
    """A line of train.jsonl."""
    return json.dumps(sample, ensure_ascii=False).encode() + b"\n"


def names(candidates: Sequence[Candidate], labels: Sequence[str]) -> list[str]:
    """Their ids."""
    return [f"{labels[one.source]}-{one.number}" for one in candidates]


def _conversation(record: Record, format_name: str | None, left_out: Counter[str]) -> Conversation:
    if record.problem is not None:
        raise BadRecord(*record.problem)
    if format_name is None:
        raise BadRecord("unknown_format", "of none of the known formats")
    return parse(record.value, format_name, left_out)


def _answer_chars(conversation: Conversation) -> int:
    return sum(len(m["content"].strip()) for m in conversation if m["role"] == "assistant")


def _refuse_unusable(opened: Opened, counts: Counts) -> None:
    name = opened.source.name
    if not counts.read:
        raise UserError(f"{name} is empty: it holds no conversations")
    if counts.bad.total() == counts.read:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.bad.most_common(3))
        raise UserError(
            f"every one of the {counts.read} records of {name} is bad ({reasons}): "
            "see the lines above, and name its format with format=..."
        )


def _place(name: str, record: Record) -> str:
    if record.line is None:
        return f"{name} row {record.number}"
    item = f" (item {record.number})" if record.number != record.line else ""
    return f"{name}:{record.line}{item}"
