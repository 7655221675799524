"""Which code of this package a proof is of: a digest over the source of what computes.

A proof is of the kernels that it was made with. What says nothing to a GPU is left out: comments,
strings that stand by themselves, lines of the log, and the modules that a table names. So the
digest changes with a kernel, with how it is launched and with what chooses it, not with words.

`python -m sglang_qwen3next_eagle3.overlay.sources` prints it of every switch, and which of its
proofs hold (`make proofs`). Importing this loads neither torch nor sglang.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sglang_qwen3next_eagle3 import __version__

_DIGITS = 12


@dataclass(frozen=True)
class Code:
    """digest: of the installed source; None where there is none, as where a package was compiled
    and its source left behind. version: of this package."""

    digest: str | None
    version: str

    @property
    def told(self) -> str:
        """As a server says it: what a proof of it has to name."""
        return self.digest or "without its source"


@lru_cache(maxsize=4)
def installed(folder: str, left_out: frozenset[str]) -> Code:
    """The code of a folder beside this module.

    left_out: its modules that are no part of what is proved, without their suffix.
    """
    return Code(digest(Path(__file__).parent / folder, left_out), __version__)


def digest(folder: Path, left_out: frozenset[str]) -> str | None:
    """Of all modules below a folder but those that are left out; None where there is no source.

    A module that is added counts, so that none is forgotten.
    """
    whole = hashlib.sha256()
    count = 0
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in left_out or "__pycache__" in path.parts:
            continue
        text = "".join(_told(ast.parse(path.read_text(encoding="utf-8"))))
        whole.update(f"{name}:{text}\n".encode())
        count += 1
    return whole.hexdigest()[:_DIGITS] if count else None


def _told(node: object) -> Iterator[str]:
    """A tree, the same under each Python: a field that is empty or is not there is not told."""
    if isinstance(node, ast.JoinedStr):
        yield f"JoinedStr({list(_parts(node))})"
    elif isinstance(node, ast.AST):
        yield type(node).__name__
        yield "("
        for name, value in ast.iter_fields(node):
            if value is not None and value != []:
                yield f"{name}="
                yield from _told(value)
                yield ","
        yield ")"
    elif isinstance(node, list):
        yield "["
        for each in node:
            if not _says_only(each):
                yield from _told(each)
                yield ","
        yield "]"
    else:
        yield repr(node)


def _parts(node: ast.JoinedStr) -> Iterator[str]:
    """Of an f-string, what stands between two values as one piece: Python 3.12.1 cuts it."""
    piece = ""
    for part in node.values:
        if isinstance(part, ast.Constant):
            piece += str(part.value)
        else:
            yield piece
            yield "".join(_told(part))
            piece = ""
    yield piece


def _says_only(node: object) -> bool:
    """A string that stands by itself, or a line of the log."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="logger")))):
            return True
    return False


def main(arguments: Sequence[str]) -> None:
    """Prints, of every switch, the digest and what becomes of its proofs.

    arguments: nothing, or the package's folder in another checkout.
    """
    from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
    from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams

    for switch, table in (("fast", of_fast), ("seams", of_seams)):
        code = table.code()
        if arguments:
            there = Path(arguments[0]) / "overlay" / switch
            code = Code(digest(there, table.APART), code.version)
        print(f"{switch}: {code.told}")
        for proof in table.PROVED:
            what = f"{proof.release}, TP {proof.ranks}, {' or '.join(proof.devices) or 'any GPU'}"
            state = "holds" if proof.is_of_code(code) else f"is of {proof.code}, to be made anew"
            print(f"  {what}: {state}")


if __name__ == "__main__":
    main(sys.argv[1:])
