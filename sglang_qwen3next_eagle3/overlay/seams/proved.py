"""Where seams are ours without being asked for: a line for each kind of server that was proved.

A line is `Proof("0.5.17", (9, 0), 1, ON)`; none stands here before its servers have stood mixed
load (tests/gpu/soak_seams.py). Importing this loads neither torch nor sglang.
"""

from typing import Final

from sglang_qwen3next_eagle3.overlay.proofs import Proof

PROVED: Final[tuple[Proof, ...]] = ()
