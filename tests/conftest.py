"""What all tests share: small checkpoints that are there."""

from pathlib import Path

import pytest

from tests.support.checkpoints import write_head, write_target


@pytest.fixture
def target_folder(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target")


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    return write_head(tmp_path / "head")
