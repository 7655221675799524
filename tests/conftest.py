"""What all tests share: small checkpoints that are there."""

from pathlib import Path

import pytest

from tests.support.checkpoints import SMALL_TARGET, write_config, write_head


@pytest.fixture
def target_folder(tmp_path: Path) -> Path:
    return write_config(tmp_path / "target", SMALL_TARGET)


@pytest.fixture
def head_folder(tmp_path: Path) -> Path:
    return write_head(tmp_path / "head")
