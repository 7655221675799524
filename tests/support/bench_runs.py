"""What tests of `bench run` share: its arguments, and a chat format that needs no tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Behave = Callable[..., None]
"""The fixture `behave`: sets how the fake servers of each configuration behave."""
TWO = ("--config", "none", "--config", "3,1,4")


class LettersAsTokens:
    """The interface of `ChatFormat`: a letter is a token, a chat its contents in a row."""

    def __init__(self, target: str, revision: str | None = None) -> None: ...

    def require_template(self, way_out: str) -> None: ...

    def ids(self, conversation: Sequence[Mapping[str, str]], *, answer: bool = False) -> list[int]:
        return [ord(letter) for message in conversation for letter in message["content"]]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))


def words(out: Path, *more: str) -> list[str]:
    return [
        "bench", "run", "--profile", "demo", "--suite", "smoke", "--max-tokens", "12",
        "--no-plots", "--out", str(out), *more,
    ]  # fmt: skip
