"""What tests of `bench run` share: its arguments, and a chat format that needs no tokenizer."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sglang_qwen3next_eagle3.bench.load.load import Conversation
from sglang_qwen3next_eagle3.bench.suites.suites import Prompt

Behave = Callable[..., None]
"""The fixture `behave`: sets how the fake servers of each configuration behave."""
TWO = ("--config", "none", "--config", "3,1,4")


class LettersAsTokens:
    def __init__(self, target: str, revision: str | None = None) -> None: ...

    def conversation(self, prompt: Prompt) -> Conversation:
        def turns(answers: Sequence[tuple[int, ...]]) -> list[int] | None:
            if len(answers) == len(prompt.turns):
                return None
            ids = [ord(letter) for turn in prompt.turns[: len(answers) + 1] for letter in turn]
            return ids + [token for answer in answers for token in answer]

        return Conversation(prompt.id, turns)


def words(out: Path, *more: str) -> list[str]:
    return [
        "bench", "run", "--profile", "demo", "--suite", "smoke", "--max-tokens", "12",
        "--no-plots", "--out", str(out), *more,
    ]  # fmt: skip
