"""Conversations to prepare, and `train prepare` as a command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.actions import action


def record(question: str, answer: str = "An answer of some length.", **more: Any) -> dict[str, Any]:
    """One turn, as OpenAI messages."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {**more, "messages": turns}


def turns(count: int, name: str) -> dict[str, Any]:
    """A conversation of that many questions, each with an answer."""
    messages: list[dict[str, str]] = []
    for turn in range(count):
        messages.append({"role": "user", "content": f"question {name}.{turn}"})
        messages.append({"role": "assistant", "content": f"an old answer {name}.{turn}"})
    return {"messages": messages}


def write_lines(path: Path, records: list[Any]) -> Path:
    text = "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records)
    path.write_text(text, encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def run(*words: object) -> int:
    return action("train", "prepare", *words)


# A shell that started the tests in the background left SIGINT ignored, which children inherit.
_COMMAND = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from sglang_qwen3next_eagle3.__main__ import main
raise SystemExit(main())
"""


def start(*words: object) -> subprocess.Popen[str]:
    """The same in a process of its own, to be killed."""
    command = [sys.executable, "-c", _COMMAND, "train", "prepare", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
