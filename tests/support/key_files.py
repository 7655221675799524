"""A server's keys in files, and in no variable."""

from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.overlay import environment as variables

KEY, ADMIN = variables.KEYS.values()


def written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The files of the key and of the administrator's."""
    for name in (KEY, ADMIN):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)
    (folder / "key").write_text("s3cret\n")
    (folder / "admin").write_text("-r00t\n")
    return str(folder / "key"), str(folder / "admin")
