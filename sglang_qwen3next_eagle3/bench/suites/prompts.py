"""The prompts of a suite: its records through its rule, all or a sample."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.suites import data
from sglang_qwen3next_eagle3.bench.suites.data import SuiteRecord
from sglang_qwen3next_eagle3.bench.suites.suite import Prompt, PromptRule, Suite, parts


@dataclass(frozen=True)
class Selection:
    """The prompts that are asked. settings: for the result file, how they came about."""

    prompts: tuple[Prompt, ...]
    settings: dict[str, Any]


def select(
    suite: Suite, data_dir: Path | None = None, limit: int | None = None, seed: int | None = None
) -> Selection:
    """The suite's prompts in the order of its data.

    limit, seed: in place of the suite's own sample count and seed. A smaller sample of the same
    seed is part of a larger one.

    Raises:
        UserError: limit below 1, or the data is not there or not what it should be.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: ask at least 1 prompt of a suite")
    read = data.read(suite, data_dir)
    everything = [_prompt(record, suite.prompt) for record in read.records]
    _require_different_ids(suite, everything)
    count = min(limit or suite.sample_count or len(everything), len(everything))
    seed = suite.seed if seed is None else seed
    chosen = [everything[index] for index in _sample(len(everything), count, seed)]
    settings = {
        "data": read.origin,
        "available": len(everything),
        "count": count,
        "seed": seed,
        "temperature": suite.temperature,
        "max-tokens": suite.max_tokens,
        "prompt": suite.prompt.model_dump(by_alias=True, exclude_none=True),
    }
    return Selection(tuple(chosen), settings)


def _sample(available: int, count: int, seed: int) -> list[int]:
    # Of the generator's methods only random() gives the same under every Python version.
    generator = random.Random(seed)
    keys = [generator.random() for _ in range(available)]
    return sorted(sorted(range(available), key=keys.__getitem__)[:count])


def _prompt(record: SuiteRecord, rule: PromptRule) -> Prompt:
    if rule.template is not None:
        turns = ["".join(t + _text(record, name) for t, name in parts(rule.template))]
    else:
        turns = _turns(record, rule.turns or "")
    return Prompt(_text(record, rule.id), tuple(turns), rule.system)


def _turns(record: SuiteRecord, name: str) -> list[str]:
    turns = data.field(record, name)
    if not isinstance(turns, list) or not turns:
        raise UserError(f"{record.place}: {name!r} lists no turns")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, str) or not turn.strip():
            raise UserError(f"{record.place}: turn {number} in {name!r} is no text")
    return turns


def _text(record: SuiteRecord, name: str | None) -> str:
    if name is None:
        return ""
    value = data.field(record, name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{record.place}: field {name!r} is no text, or an empty one")
    return value


def _require_different_ids(suite: Suite, found: list[Prompt]) -> None:
    seen: set[str] = set()
    for prompt in found:
        if prompt.id in seen:
            raise UserError(
                f"suite {suite.name}: two records have the {suite.prompt.id} {prompt.id!r}: "
                "answers could not be told apart"
            )
        seen.add(prompt.id)
