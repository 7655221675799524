"""`make audit`, with answers as pip-audit gives them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import audit, sbom

FINE = {"name": "torch", "version": "2.11.0", "vulns": []}
KNOWN = {
    "name": "sglang",
    "version": "0.5.17",
    "vulns": [{"id": "GHSA-1", "fix_versions": ["0.5.18"]}, {"id": "GHSA-2", "fix_versions": []}],
}
SKIPPED = {"name": "six", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("found", "said", "status"),
    [
        ([FINE], ["1 of 1 packages looked up, 0 vulnerable"], 0),
        (
            [FINE, KNOWN],
            [
                "sglang 0.5.17: GHSA-1, mended in 0.5.18",
                "sglang 0.5.17: GHSA-2, mended in no release yet",
                "2 of 2 packages looked up, 1 vulnerable",
            ],
            1,
        ),
        (
            [FINE, SKIPPED],
            [
                "1 of 2 packages looked up, 0 vulnerable",
                "not looked up: six: the advisory service did not know them",
            ],
            2,
        ),
        ([], ["0 of 0 packages looked up, 0 vulnerable"], 2),
    ],
)
def test_what_was_not_looked_up_is_not_fine(
    found: list[dict[str, Any]], said: list[str], status: int
) -> None:
    assert audit.report(found) == (said, status)


def program(folder: Path, prints: str, says: str, status: int) -> str:
    path = folder / "pip-audit"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{prints}\nEND\necho '{says}' >&2\nexit {status}\n")
    os.chmod(path, 0o755)
    return str(path)


def test_the_pins_of_every_release_are_asked_about(tmp_path: Path) -> None:
    """By what pip-audit is called with: a file at a time, and all of them."""
    calls = tmp_path / "calls"
    path = tmp_path / "pip-audit"
    path.write_text(f'#!/bin/sh\necho "$@" >> {calls}\necho \'{{"dependencies": []}}\'\n')
    os.chmod(path, 0o755)
    assert audit.main(str(path)) == 2, "nothing was looked up"
    others = sorted(file.name for file in audit.ROOT.glob("constraints-*.txt"))
    assert others, "there is another release than the default"
    asked = [line.split() for line in calls.read_text().splitlines()]
    assert [Path(words[1]).name for words in asked] == ["constraints.txt", *others]
    for words in asked:
        assert words[0] == "--requirement"
        assert Path(words[1]).is_file()
        assert words[2:] == "--no-deps --disable-pip --format json --progress-spinner off".split()


@pytest.mark.parametrize(
    ("other", "status"), [([FINE], 0), ([KNOWN], 1), ([SKIPPED], 2), ([KNOWN, SKIPPED], 1)]
)
def test_what_is_wrong_with_one_release_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: list[dict[str, Any]], status: int
) -> None:
    answers = {True: [FINE], False: other}
    fine, found = (json.dumps({"dependencies": answers[key]}) for key in (True, False))
    path = tmp_path / "pip-audit"
    path.write_text(
        f"#!/bin/sh\ncase $2 in */constraints.txt) echo '{fine}';; *) echo '{found}';; esac\n"
    )
    os.chmod(path, 0o755)
    assert audit.main(str(path)) == status
    printed = capsys.readouterr().out
    assert "constraints.txt: 1 of 1 packages looked up, 0 vulnerable" in printed
    assert ("constraints-0.5.23.txt: sglang 0.5.17: GHSA-1" in printed) == (status == 1)


def test_a_service_that_cannot_be_reached_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main(program(tmp_path, "", "ConnectionError: no such host", 1)) == 2
    assert "cannot be asked: ConnectionError: no such host" in capsys.readouterr().err


def test_what_pip_audit_found_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = program(tmp_path, json.dumps({"dependencies": [KNOWN], "fixes": []}), "", 1)
    assert audit.main(found) == 1
    assert "GHSA-1" in capsys.readouterr().out


def test_a_list_of_packages_names_what_is_served_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [{"name": name, "version": "1"} for name in ("sglang", "torch", "transformers")]
    ours = {"name": "sglang_qwen3next_eagle3"}
    path = tmp_path / "sbom.json"
    for components, status in (([*named, ours], 1), ([*named, {**ours, "version": "1"}], 0)):
        path.write_text(json.dumps({"specVersion": "1.6", "components": components}))
        assert sbom.main(str(path)) == status
    assert "not among them: sglang-qwen3next-eagle3" in capsys.readouterr().err
