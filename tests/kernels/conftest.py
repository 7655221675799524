"""Our kernels run in Triton's interpreter here, which is chosen when triton is first imported: by
`make test`, and by this file where nothing else has imported it."""

import os
import sys

import pytest

if "triton" not in sys.modules:
    os.environ["TRITON_INTERPRET"] = "1"
# On tensors this small more threads only wait for one another. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def interpreted() -> None:
    from sglang_qwen3next_eagle3.overlay.fast import device

    assert device.INTERPRETED, "another test imported triton first: set TRITON_INTERPRET=1"
