"""What was proved on GPUs, and where: what is on there without being asked for.

A table of them is data. Importing this loads neither torch nor sglang: a launcher asks before it
knows the GPU, a server once more when it does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

AUTO = "auto"
"""What is said, by an option, a profile or a variable, to have what was proved and nothing else."""
Capability = tuple[int, int]


@dataclass(frozen=True)
class Proof:
    """names: what servers were proved with, of this SGLang release, on GPUs of this compute
    capability, with so many ranks of tensor parallelism. devices: the GPUs by their names, where
    others of the capability are no proof's. evidence: the files of benchmarks/results that it
    stands on: what the servers' logs said was on (said.txt), and what was compared with it on."""

    release: str
    capability: Capability
    ranks: int
    names: tuple[str, ...]
    devices: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


def proved(
    table: Iterable[Proof], release: str, capability: Capability | None, ranks: int
) -> frozenset[str]:
    """What was proved there; without a capability, on any."""
    return frozenset(
        name
        for proof in table
        if (proof.release, proof.ranks) == (release, ranks)
        and capability in (None, proof.capability)
        for name in proof.names
    )


def why_not(
    table: Iterable[Proof],
    release: str,
    capability: Capability | None,
    ranks: int,
    device: Callable[[], str] | None = None,
) -> str | None:
    """Why nothing is on there without being asked for, or None.

    device: gives the GPU's name, where one can ask for it.
    """
    left = [proof for proof in table if proof.names]
    if not left:
        return "not proved yet"
    left = [proof for proof in left if proof.release == release]
    if not left:
        return f"not proved with SGLang {release}"
    left = [proof for proof in left if proof.ranks == ranks]
    if not left:
        return f"not proved with TP {ranks}"
    left = [proof for proof in left if capability in (None, proof.capability)]
    if not left and capability is not None:
        return f"not proved on GPUs of compute capability {spelled(capability)}"
    if device is not None and all(proof.devices for proof in left):
        name = device()
        if all(name not in proof.devices for proof in left):
            return f"not proved on an {name}"
    return None


def places(table: Iterable[Proof], release: str, ranks: int) -> str:
    """Where it is on, in words, to one who knows all but the GPU."""
    left = [p for p in table if (p.release, p.ranks) == (release, ranks) and p.names]
    named = sorted({device for proof in left for device in proof.devices})
    found = sorted({proof.capability for proof in left if not proof.devices})
    whole = [f"an {device}" for device in named]
    if found:
        whole.append("GPUs of compute capability " + " or ".join(map(spelled, found)))
    return " or ".join(whole)


def spelled(capability: Capability) -> str:
    return ".".join(map(str, capability))
