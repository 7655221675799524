"""What tests of `bench run` share: its arguments, and a chat format that needs no tokenizer."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.serving import server
from tests.support import fake_sglang

ROOT = Path(__file__).resolve().parents[2]

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


@contextmanager
def fakes() -> Iterator[Behave]:
    """The servers of `bench` are fakes, and prompts need no tokenizer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "LAUNCHER", fake_sglang.__name__)
        patch.setattr("sglang_qwen3next_eagle3.bench.run.ChatFormat", LettersAsTokens)
        patch.chdir(ROOT)

        def set_behaviour(**of: dict[str, Any]) -> None:
            patch.setenv(fake_sglang.VARIABLE, json.dumps(of))

        set_behaviour()
        yield set_behaviour


def words(out: Path, *more: str) -> list[str]:
    return [
        "bench", "run", "--profile", "demo", "--suite", "smoke", "--max-tokens", "12",
        "--no-plots", "--out", str(out), *more,
    ]  # fmt: skip
