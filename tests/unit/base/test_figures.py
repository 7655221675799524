"""base/figures: a PNG, or one line that says why not."""

import pytest

from sglang_qwen3next_eagle3.base import figures
from sglang_qwen3next_eagle3.base.errors import UserError


def test_without_matplotlib_the_ways_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'sglang-qwen3next-eagle3\[plot\]'$"):
        figures.require()
    with pytest.raises(UserError, match=r"\[plot\]', or --no-plots$"):
        figures.require("--no-plots")
