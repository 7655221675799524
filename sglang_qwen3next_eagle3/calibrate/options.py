"""What a calibration is asked for. The command line reads its defaults from here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CalibrationOptions:
    """What to measure, and what to do with it.

    head, target: folder, hub name or `demo`. prompts: a file, None for the built-in ones.
    regenerate: let the target answer them; by default those that are built in. max_prompts: the
    first so many. max_length: tokens of a text; longer ones are cut into pieces, or left out where
    they are answered. steps: drafts in a chain. load_format: SGLang's; dummy needs no weights.
    plot: a PNG to write. out: where to keep the result instead of where `launch` looks; keep: at
    all. sglang: its flags, which win.
    """

    head: str
    target: str
    head_revision: str | None = None
    target_revision: str | None = None
    prompts: Path | None = None
    regenerate: bool | None = None
    answer_tokens: int = 128
    max_prompts: int | None = None
    max_length: int = 512
    steps: int = 3
    tp: int = 1
    device: Literal["cpu", "cuda"] | None = None
    load_format: str | None = None
    plot: Path | None = None
    out: Path | None = None
    keep: bool = True
    sglang: tuple[str, ...] = ()
