"""`make licences`: under which licence each pinned package is, by its own metadata.

Pinned in constraints.txt or the file that is named, which is of the environment it runs in.

Exits with 1 for one that says none, and for one that may not be used beside ours without a look.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TO_BE_LOOKED_AT = re.compile(r"\b(A?GPL|GNU (Affero )?General Public|SSPL|non-?commercial)", re.I)
LOOKED_AT = {
    "cuda-toolkit": "a name that requires NVIDIA's CUDA packages, without a file of its own",
    "kernels-data": "comes with SGLang by `kernels`; neither its metadata nor its files name one",
    "nvshmem4py-cu13": "NVIDIA's bindings of NVSHMEM, with SGLang 0.5.23; its wheel names none",
    "sentencepiece": "with SGLang 0.5.23; Apache-2.0 in its source, its wheel names none",
}
"""Packages that were: why they may stay."""
_TEXTS = {
    "Apache License": "Apache-2.0",
    "Permission is hereby granted, free of charge": "MIT",
    "Redistribution and use in source and binary forms": "BSD",
}
"""What a licence's text begins with, where nothing but the text is there."""


def names(constraints: str = "constraints.txt") -> list[str]:
    lines = (ROOT / constraints).read_text(encoding="utf-8").splitlines()
    return [line.partition("==")[0] for line in lines if "==" in line and line[0] != "#"]


def licence(found: Distribution) -> str:
    """Its expression (PEP 639), else its classifiers, its licence field, or its licence's text."""
    told: Any = found.metadata  # An email.message.Message, which is more than what is promised.
    if expression := told.get("License-Expression"):
        return str(expression)
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in told.get_all("Classifier") or ()
        if value.startswith("License :: ")
    ]
    if said := [one for one in classifiers if one != "OSI Approved"]:
        return ", ".join(said)
    field = str(told.get("License") or "").strip()
    if field and field != "UNKNOWN":
        return field.splitlines()[0][:60]
    return _by_text(found)


def _by_text(found: Distribution) -> str:
    for file in found.files or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            text = file.read_text(encoding="utf-8")[:2000]
            return next((name for words, name in _TEXTS.items() if words in text), "")
    return ""


def rows(constraints: str) -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of each that is installed here."""
    for name in names(constraints):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        yield name, found.version, licence(found)


def main(constraints: str = "constraints.txt") -> int:
    troubles = []
    print("| package | version | licence |\n|---|---|---|")
    for name, version, said in rows(constraints):
        print(f"| {name} | {version} | {said or '-'} |")
        if (not said or TO_BE_LOOKED_AT.search(said)) and name not in LOOKED_AT:
            troubles.append(f"{name}: {said or 'says no licence'}")
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
