"""Pictures: whether they can be drawn, an empty one, and a PNG of it.

matplotlib is optional and untyped, so it is imported by name, and only where something is drawn.
Not pyplot, which keeps figures and looks for a display.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import replacing

# Okabe and Ito's palette, told apart by colour-blind readers.
BLACK, GREY = "#000000", "0.35"
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7",
)  # fmt: skip
YELLOW = "#F0E442"
"""Too pale for lines that carry a result."""
_DPI = 150


def require(or_else: str = "") -> None:
    """Before hours of measuring. or_else: another way out, for example "--no-plots".

    Raises:
        UserError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        other = f", or {or_else}" if or_else else ""
        raise UserError(
            f"plots need matplotlib: pip install 'sglang-qwen3next-eagle3[plot]'{other}"
        )


def figure(width: float, height: float) -> Any:
    """An empty `matplotlib.figure.Figure` of this size in inches.

    Raises:
        UserError: matplotlib is not installed.
    """
    require()
    figures: Any = importlib.import_module("matplotlib.figure")
    agg: Any = importlib.import_module("matplotlib.backends.backend_agg")
    drawn = figures.Figure(figsize=(width, height), layout="constrained")
    agg.FigureCanvasAgg(drawn)
    return drawn


def ticker() -> Any:
    """`matplotlib.ticker`."""
    return importlib.import_module("matplotlib.ticker")


def save(drawn: Any, path: Path) -> Path:
    """As a PNG, whole or not at all; folders above are made.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(path) as beside:
            drawn.savefig(beside, format="png", dpi=_DPI)
    except OSError as error:
        raise UserError(f"cannot write the plot {path}: {error.strerror or error}") from None
    return path
