"""`train vocab`: which of the target's tokens the head may draft, by how often answers use them.

The head's lm_head covers the draft vocabulary alone. `d2t[i]` is an offset: draft token i is
target token i + d2t[i]; `t2d[t]` says whether target token t is in it.
"""

import io
import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_qwen3next_eagle3.base import files
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_qwen3next_eagle3.model.chat_format import ChatFormat

MAPPING, REPORT = "vocab.pt", "vocab.json"


@dataclass(frozen=True)
class VocabularyOptions:
    """data: train.jsonl of `train prepare`; target: folder, hub name or `demo`; out: a folder;
    size: tokens; max_length: of a conversation, in tokens."""

    data: Path
    target: str
    out: Path
    size: int = 32000
    max_length: int = 2048


@dataclass(frozen=True)
class ChosenVocabulary:
    """tokens: the target ids of the draft vocabulary, ascending. covered, total: occurrences."""

    tokens: tuple[int, ...]
    target_size: int
    covered: int
    total: int

    @property
    def coverage(self) -> float:
        """Share of the counted occurrences that the draft vocabulary can express."""
        return self.covered / self.total if self.total else 0.0

    def tensors(self) -> "dict[str, Tensor]":
        """d2t: int64 [draft vocabulary]; t2d: bool [target vocabulary]."""
        import torch

        kept = torch.tensor(self.tokens, dtype=torch.int64)
        t2d = torch.zeros(self.target_size, dtype=torch.bool)
        t2d[kept] = True
        return {"d2t": kept - torch.arange(len(kept)), "t2d": t2d}


def choose(
    counts: Mapping[int, int], size: int, target_size: int, always: Collection[int] = ()
) -> ChosenVocabulary:
    """The `size` most frequent tokens, those in `always` included whatever their count.

    Of equally frequent tokens the lower id comes first; unused ones fill up.

    Raises:
        UserError: the size does not fit the target's vocabulary or the tokens that must be in.
    """
    if not 0 < size <= target_size:
        raise UserError(f"a draft vocabulary of {size}: from 1 to the target's {target_size}")
    if len(always) > size:
        raise UserError(
            f"a draft vocabulary of {size} is smaller than the {len(always)} special tokens, "
            "which must be in it: choose a larger --size"
        )
    for token in (*counts, *always):
        if not 0 <= token < target_size:
            raise UserError(
                f"token {token} is outside the target's vocabulary of {target_size}: "
                "the data was not tokenized for this target"
            )
    forced = set(always)
    ranked = sorted(range(target_size), key=lambda t: (t not in forced, -counts.get(t, 0), t))
    kept = tuple(sorted(ranked[:size]))
    covered = sum(counts.get(token, 0) for token in kept)
    return ChosenVocabulary(kept, target_size, covered, sum(counts.values()))


def count_answers(
    data: Path, chat: "ChatFormat", max_length: int
) -> tuple[Counter[int], int, dict[str, int]]:
    """Occurrences of each token in the answers of a prepared file, the conversations that have any,
    and how many others were left out for which reason."""
    from sglang_qwen3next_eagle3.base.progress import Progress
    from sglang_qwen3next_eagle3.train.capture import samples_of

    counts, left_out = Counter[int](), Counter[str]()
    read = 0
    with Progress("counting", None) as progress:
        for sample in samples_of(data, chat, max_length, left_out, progress.advance):
            read += 1
            counts.update(compress(sample.ids, sample.loss_mask))
    return counts, read, dict(left_out)


def make(options: VocabularyOptions) -> tuple[ChosenVocabulary, dict[str, object]]:
    """Count, choose, write. The draft vocabulary, and the content of `REPORT`.

    Raises:
        UserError: data or a size that does not fit.
    """
    from sglang_qwen3next_eagle3.train.capture import load_format

    if not options.data.is_file():
        raise UserError(f"there is no file {options.data}: `train prepare` writes train.jsonl")
    chat = load_format(options.target)
    target = Target.from_path(chat.folder)
    counts, read, left_out = count_answers(options.data, chat, options.max_length)
    if not read:
        raise UserError(f"{options.data}: no conversation with an answer in it")
    special = chat.special_tokens() | chat.end_tokens(target)
    chosen = choose(counts, options.size, target.vocab_size, special)
    source = {
        "data": str(options.data),
        "data_sha256": files.sha256(options.data),
        "conversations": read,
        "left_out": left_out,
        "max_length": options.max_length,
    }
    return chosen, write(chosen, options.out, source)


def write(chosen: ChosenVocabulary, out: Path, source: Mapping[str, object]) -> dict[str, object]:
    """vocab.pt as SpecForge reads it (`model.vocab_mapping_path`), and what it covers."""
    import torch

    report = {
        **source,
        "size": len(chosen.tokens),
        "target_vocabulary": chosen.target_size,
        "answer_tokens": chosen.total,
        "coverage": round(chosen.coverage, 6),
    }
    # Not to a path: torch.save writes the file's name into it.
    buffer = io.BytesIO()
    torch.save(chosen.tensors(), buffer)
    files.write_bytes(out / MAPPING, buffer.getbuffer())
    files.write_json(out / REPORT, report)
    return report


def read_report(mapping: Path | None) -> dict[str, object] | None:
    """What was written beside a vocab.pt, or None."""
    path = mapping and mapping.with_name(REPORT)
    if path is None or not path.is_file():
        return None
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return found


def sizes(mapping: Path) -> tuple[int, int]:
    """Draft and target tokens of a vocab.pt.

    Raises:
        UserError: the file is none.
    """
    import torch

    try:
        content = torch.load(mapping, weights_only=True)
        return len(content["d2t"]), len(content["t2d"])
    except Exception:
        raise UserError(f"{mapping} is no draft vocabulary: `train vocab` makes one") from None
