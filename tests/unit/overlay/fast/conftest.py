"""The kernels run in Triton's interpreter here, which is chosen when triton is imported.

`make test` and `make test-fast` choose it for all unit tests; without it, run these by themselves.
"""

import os
import sys

import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def interpreted() -> None:
    from sglang_qwen3next_eagle3.overlay.fast import device

    assert device.INTERPRETED, "another test imported triton first: set TRITON_INTERPRET=1"
