"""The small trained pair that comes with this package: a Qwen3-Next target and its EAGLE3 head.

Both have the architecture of the real ones and 7.6M parameters together, trained on source code
and documentation (`examples/demo-pair`). They show a server, a profile or a client at work, with
real acceptance on real text; they know nothing worth asking for.
"""

from dataclasses import dataclass
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError


@dataclass(frozen=True)
class DemoPair:
    """Folders of the two checkpoints, as `--model-path` and
    `--speculative-draft-model-path` take them."""

    target: Path
    head: Path


def demo_pair() -> DemoPair:
    """Where the pair is.

    Raises:
        UserError: the installation lacks it.
    """
    root = Path(__file__).parent
    pair = DemoPair(target=root / "target", head=root / "head")
    for folder in (pair.target, pair.head):
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise UserError(
                    f"the demo pair is not whole, {folder / name} is missing: reinstall this "
                    "package"
                )
    return pair
