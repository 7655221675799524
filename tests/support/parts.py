"""Tests of a part of the overlay: whether the installed SGLang has it, and how many run there."""

import pytest

from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.contract import Part


def needs(part: Part) -> pytest.MarkDecorator:
    """Skips on a release whose manifest leaves the part out: it is SGLang's own there."""
    installed = contract.installed_sglang()
    assert installed is not None
    there = bool(contract.read_manifest(installed.release).of(part))
    return pytest.mark.skipif(not there, reason=f"SGLang {installed.release}: {part} is its own")


def elsewhere() -> bool:
    """Whether another release than the default is installed: what is the same code there is tested
    with the default one, and by hand."""
    installed = contract.installed_sglang()
    assert installed is not None
    return installed.release != contract.DEFAULT_RELEASE
