"""What unit tests share."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.without_sglang import (  # noqa: F401
    demo_port,
    executed,
    installed,
    no_waiting,
    one_tls_context,
)

# Thousands of tests and what they import stay: to look through them for garbage as often as Python
# does is a tenth of all that is computed here.
gc.set_threshold(20_000, 20, 20)
# transformers imports it where it is there, for one way of drafting that nobody here uses, and it
# imports scipy and pandas: seconds of each worker.
sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]


# Those that need transformers' tokenizers and have no torch among their names.
TOKENIZING = {
    "test_answers.py", "test_chat_format.py", "test_encode.py", "test_pair.py", "test_prompts.py",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What computes with torch comes first: what it and transformers import when they are first
    used takes ten seconds, which then one worker spends and not each."""

    def computes(item: pytest.Item) -> bool:
        return hasattr(getattr(item, "module", None), "torch") or item.path.name in TOKENIZING

    folder = Path(__file__).parent
    places = [place for place, item in enumerate(items) if folder in item.path.parents]
    ours = sorted((items[place] for place in places), key=lambda item: not computes(item))
    for place, item in zip(places, ours, strict=True):
        items[place] = item


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def no_sglang() -> Iterator[None]:
    """A test that imports it belongs to tests/contract: it takes ten seconds."""
    before = "sglang.srt" in sys.modules  # by tests/contract, in the same process
    yield
    assert before or "sglang.srt" not in sys.modules
