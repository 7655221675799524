"""How much one request may ask for, as the launching process tells it.

Stock SGLang bounds a prompt and its answer by the context alone, and the size of a body by nothing:
it is read into memory, decoded and tokenized first. What a server allows is spelled in the variable
of `environment.LIMITS`, NAME=NUMBER joined by commas, for example

    body=8Mi,prompt=32k,answer=4096,choices=8
"""

import os
import re
from dataclasses import dataclass, fields
from functools import cache

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.environment import LIMITS

_NUMBER = re.compile(r"(\d{1,15})(|k|M|Ki|Mi|Gi)")
_TIMES = {"": 1, "k": 10**3, "M": 10**6, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class Bounds:
    """What one request may have at most.

    body: bytes; a context of 262,144 tokens takes one or two MiB, several in JSON's escapes.
    prompt: tokens; answer: `max_tokens`, which a request without one is given; of both None is what
        the context holds.
    choices: `n`, of which each is a request of its own (128 is what the OpenAI API allows).
    depth: brackets within brackets of a grammar. The time to compile grows with the third power: at
        250, one second.
    """

    body: int = 32 << 20
    prompt: int | None = None
    answer: int | None = None
    choices: int = 128
    depth: int = 200


def parse(text: str | None) -> Bounds:
    """The bounds that the variable spells, with what it leaves out as it is by default.

    Raises:
        UserError: it is spelled otherwise, or names one twice or none.
    """
    known = [one.name for one in fields(Bounds)]
    found: dict[str, int] = {}
    for word in (text or "").replace(",", " ").split():
        name, _, value = word.partition("=")
        number = _NUMBER.fullmatch(value)
        if name not in known or number is None:
            raise UserError(
                f"limit {word!r} cannot be read: write NAME=NUMBER joined by commas, for example "
                f"body=8Mi,answer=4096, with names of {', '.join(known)}"
            )
        if name in found:
            raise UserError(f"limit {name!r} is given twice: leave one of them")
        found[name] = int(number[1]) * _TIMES[number[2]]
        if not found[name]:
            raise UserError(f"limit {word!r} would refuse every request: at least 1")
    return Bounds(**found)


@cache
def of_this_server() -> Bounds:
    """Raises UserError: what the variable holds cannot be read."""
    return parse(os.environ.get(LIMITS))
