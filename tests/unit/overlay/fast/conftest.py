"""The kernels run in Triton's interpreter here, which is chosen when triton is imported."""

import os
import sys

import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def interpreted() -> None:
    from sglang_qwen3next_eagle3.overlay.fast import device

    assert device.INTERPRETED, "triton was imported before TRITON_INTERPRET=1 was set"
