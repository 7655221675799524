"""The launcher as it is typed: what it prints, and what it refuses."""

import json
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.overlay.environment import FAST, SEAMS


def dry_run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert launch.main([*argv[:2], "--dry-run", "--json", *argv[2:]]) == 0
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def error_of(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert launch.main(list(argv)) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1, "one line"
    return printed.err


def without_switches(found: dict[str, Any]) -> dict[str, str]:
    """What a launch sets besides our switches, whose default is a table's."""
    return {k: v for k, v in found["environment"].items() if k not in (FAST, SEAMS)}
