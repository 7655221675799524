"""The code that is installed, as tests of what is on by default want it."""

import pytest

from sglang_qwen3next_eagle3.overlay import sources
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams
from sglang_qwen3next_eagle3.overlay.sources import Code

TABLES = {"fast": of_fast.PROVED, "seams": of_seams.PROVED}


def as_it_was_proved(patch: pytest.MonkeyPatch) -> None:
    """Let the installed kernels be those that the first of each table's proofs was made with."""
    found = {switch: Code(table[0].code, "") for switch, table in TABLES.items()}
    patch.setattr(sources, "installed", lambda folder, apart: found[folder])


def as_it_was_not(patch: pytest.MonkeyPatch) -> None:
    """Let them be others."""
    patch.setattr(sources, "installed", lambda folder, apart: Code("other", ""))
