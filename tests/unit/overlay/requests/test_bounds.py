"""How much one request may ask for: as it is spelled, and as the launcher takes it."""

import pytest

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import LIMITS
from sglang_qwen3next_eagle3.overlay.requests import bounds
from sglang_qwen3next_eagle3.overlay.requests.bounds import Bounds, parse
from tests.support.launching import dry_run, error_of


@pytest.mark.parametrize("text", [None, "", "  "])
def test_what_is_not_said_is_as_it_is_by_default(text: str | None) -> None:
    assert parse(text) == Bounds(body=33554432, prompt=None, answer=None, choices=128, depth=200)


def test_each_is_read() -> None:
    text = "body=8Mi,prompt=32k, answer=4096 choices=8,depth=50"
    assert parse(text) == Bounds(8 << 20, 32000, 4096, 8, 50)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("body", "'body' cannot be read: write NAME=NUMBER"),
        ("body=big", "'body=big' cannot be read"),
        ("body=-1", "cannot be read"),
        ("bodies=1", "names of body, prompt, answer, choices, depth"),
        ("body=1.5Mi", "cannot be read"),
        ("answer=0", "would refuse every request"),
        ("answer=1,answer=2", "'answer' is given twice"),
    ],
)
def test_what_cannot_be_read_is_told(
    capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)
    assert said in str(caught.value)
    assert said in error_of(capsys, "--profile", "demo", "--dry-run", "--limits", text)


def test_the_launcher_hands_them_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = dry_run(capsys, "--profile", "demo", "--limits", "answer=4096")
    assert data["environment"][LIMITS] == "answer=4096"
    monkeypatch.setenv(LIMITS, "answer=none")
    assert "cannot be read" in error_of(capsys, "--profile", "demo", "--dry-run")
    assert dry_run(capsys, "--profile", "demo", "--limits", "answer=1")


def test_limits_that_cannot_be_read_stop_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds.of_this_server.cache_clear()
    monkeypatch.setenv(LIMITS, "answer=none")
    with pytest.raises(UserError, match="cannot be read"):
        plugin._hook_requests()
    bounds.of_this_server.cache_clear()
