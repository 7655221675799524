"""Batches, steps and accept lengths as they are typed."""

import argparse
import math

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.cli.arguments import number, positive
from sglang_qwen3next_eagle3.overlay.adaptive.states import MOST_STEPS


def numbers(text: str) -> tuple[int, ...]:
    """`1,8,32`"""
    try:
        return tuple(sorted({positive(part) for part in text.split(",")}))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: whole numbers from 1, as 1,8,32") from None


def whole_from_0(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 0")
    return int(text)


def steps_of(words: str) -> tuple[int, ...]:
    """`0,1,3`. Raises UserError."""
    parts = [word.strip() for word in words.split(",")]
    if not all(word.isdecimal() and int(word) <= MOST_STEPS for word in parts):
        raise UserError(f"--steps {words}: give whole numbers, 0 to {MOST_STEPS}, as 0,1,3")
    return tuple(sorted(set(map(int, parts))))


def steps_argument(text: str) -> tuple[int, ...]:
    try:
        return steps_of(text)
    except UserError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: whole numbers from 0 to {MOST_STEPS}, as 0,1,3"
        ) from None


def gpus(text: str) -> tuple[str, ...]:
    """`0,1,2,3`, or names that CUDA_VISIBLE_DEVICES knows."""
    found = tuple(part.strip() for part in text.split(","))
    if not all(found) or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r}: GPUs, each of them once, as 0,1,2,3")
    return found


def batches_of(words: str | None) -> tuple[int, ...]:
    """Empty where they are not given. Raises UserError."""
    if words is None:
        return ()
    parts = [word.strip() for word in words.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in parts):
        raise UserError(f"--batch {words}: give batch sizes as 1,8,32")
    return tuple(map(int, parts))


def lengths(text: str) -> tuple[float, ...]:
    """`1.0,2.5`"""
    try:
        found = {float(part) for part in text.split(",")}
    except ValueError:
        found = set()
    if not found or not all(1 <= length < math.inf for length in found):  # nan neither
        raise argparse.ArgumentTypeError(f"{text!r}: accept lengths are 1 or more, as 1.0,2.5")
    return tuple(sorted(found))


def length(text: str) -> float:
    """`2.46`"""
    (found, *more) = lengths(text)
    if more:
        raise argparse.ArgumentTypeError(f"{text!r}: one accept length")
    return found


def temperature(text: str) -> float:
    """`0.7`; 0 for greedy requests."""
    found = number(text)
    if found < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a temperature is 0 or more")
    return found


def share(text: str) -> float:
    """`0.8`"""
    found = number(text)
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a share above 0, up to 1")
    return found
