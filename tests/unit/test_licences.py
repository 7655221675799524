"""Every pinned package is under a licence that was looked at."""

from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest

from tests.support import licences


class Stated(Distribution):
    """A package with this metadata and these files."""

    def __init__(self, metadata: str, **files: str) -> None:
        self._texts = {"METADATA": metadata, **files}

    def read_text(self, filename: Any) -> str | None:
        return self._texts.get(str(filename))

    def locate_file(self, path: Any) -> Path:
        return Path(str(path))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ("Name: a\nLicense-Expression: MIT OR Apache-2.0\nLicense: ignored", "MIT OR Apache-2.0"),
        ("Name: a\nClassifier: License :: OSI Approved :: BSD License", "BSD License"),
        ("Name: a\nLicense: Apache 2.0", "Apache 2.0"),
        ("Name: a\nLicense: UNKNOWN\nClassifier: License :: OSI Approved", ""),
        ("Name: a", ""),
    ],
)
def test_what_a_package_says(metadata: str, said: str) -> None:
    assert licences.licence(Stated(metadata)) == said


@pytest.mark.parametrize("said", ["GPL-3.0", "AGPL-3.0-only", "GNU General Public License v3"])
def test_what_has_to_be_looked_at(said: str) -> None:
    assert licences.TO_BE_LOOKED_AT.search(said)


@pytest.mark.parametrize("said", ["LGPL-2.1-only", "MIT", "MPL-2.0 AND MIT"])
def test_what_need_not_be(said: str) -> None:
    assert not licences.TO_BE_LOOKED_AT.search(said)


def test_the_table_is_of_all_that_is_pinned(capsys: pytest.CaptureFixture[str]) -> None:
    pinned = {*licences.names(), *licences.names("constraints-0.5.23.txt")}
    assert set(licences.LOOKED_AT) <= pinned
    assert licences.main() == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert f"| pydantic | {distribution('pydantic').version} | MIT |" in printed
