"""The kernels run in Triton's interpreter here, which is chosen when triton is imported.

So these tests run in a process of their own, as `make test` and `make test-fast` do.
"""

import os
import sys

import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def interpreted() -> None:
    from sglang_qwen3next_eagle3.overlay.fast import device

    assert device.INTERPRETED, (
        "another test imported triton first: run pytest tests/unit/overlay/fast by itself"
    )
