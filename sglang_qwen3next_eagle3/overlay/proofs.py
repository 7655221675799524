"""What was proved on GPUs, and where: what is on there without being asked for.

A table of them is data. Importing this loads neither torch nor sglang: a launcher asks before it
knows the GPU, a server once more when it does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sglang_qwen3next_eagle3.model import precision
from sglang_qwen3next_eagle3.overlay.sources import Code

AUTO = "auto"
"""What is said, by an option, a profile or a variable, to have what was proved and nothing else."""
Capability = tuple[int, int]
NO_FUSION = "--enforce-disable-flashinfer-allreduce-fusion"
"""With several ranks on Hopper SGLang lets FlashInfer fuse its sums with the norm behind them
unless it is told not to; nothing of ours was measured beside that."""
OTHER_CODE = "its kernels are newer than what was proved with them"
NO_SOURCE = "whether it is as it was proved cannot be told without this package's source"
Given = Callable[[str], bool]
"""Whether a server is given a switch of SGLang's, by its name (--disable-this)."""
Config = Callable[[str], Any]
"""A target's config: what it says under a name, None where it says nothing."""


@dataclass(frozen=True)
class Proof:
    """names: what servers were proved with, of this SGLang release, on GPUs of this compute
    capability, with so many ranks of tensor parallelism. devices: the GPUs by their names, where
    others of the capability are no proof's. evidence: the files of benchmarks/results that it
    stands on: what the servers' logs said was on (said.txt), and what was compared with it on.
    precisions: what the target's weights were stored in (`model.precision`), where others are no
    proof's. given: switches of SGLang's that the servers had, without which it is none. shapes: of
    the targets, by the names of their config, where others are no proof's.
    code: the digest (`sources`) of what computed there; version: the release of this package that
    has it, where one has, which is believed where an installation has no source. Without a code it
    is one of any."""

    release: str
    capability: Capability
    ranks: int
    names: tuple[str, ...]
    devices: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    shapes: tuple[tuple[str, int], ...] = ()
    code: str = ""
    version: str = ""

    def is_of(self, stored: str) -> bool:
        """Whether it is one for weights that are stored so."""
        return not self.precisions or stored in self.precisions

    def other_shape(self, config: Config) -> str | None:
        """What of a target is not as of those that it was made with, or None."""
        for name, known in self.shapes:
            if (value := config(name)) != known:
                return f"not proved with a {name} of {value}"
        return None

    def missing(self, given: Given | None) -> list[str]:
        """Its switches that a server has not; None: whatever it has."""
        return [] if given is None else [switch for switch in self.given if not given(switch)]

    def is_of_code(self, code: Code | None) -> bool:
        """Whether the kernels that are installed are those that it was made with; None: whatever
        they are."""
        if code is None or not self.code:
            return True
        if code.digest is None:
            return self.version == code.version
        return self.code == code.digest


def proved(
    table: Iterable[Proof],
    release: str,
    capability: Capability | None,
    ranks: int,
    device: Callable[[], str] | None = None,
    *,
    config: Config | None = None,
    given: Given | None = None,
    code: Code | None = None,
) -> frozenset[str]:
    """What was proved there; of what is None, with any."""
    left, _ = _left(table, release, capability, ranks, device, config, given, code)
    return frozenset(name for proof in left for name in proof.names)


def why_not(
    table: Iterable[Proof],
    release: str,
    capability: Capability | None,
    ranks: int,
    device: Callable[[], str] | None = None,
    *,
    config: Config | None = None,
    given: Given | None = None,
    code: Code | None = None,
) -> str | None:
    """Why nothing is on there without being asked for, or None.

    device: gives the GPU's name, where one can ask for it. config: of the target.
    """
    return _left(table, release, capability, ranks, device, config, given, code)[1]


def _left(
    table: Iterable[Proof],
    release: str,
    capability: Capability | None,
    ranks: int,
    device: Callable[[], str] | None,
    config: Config | None,
    given: Given | None,
    code: Code | None,
) -> tuple[list[Proof], str | None]:
    """The proofs of such a server, or why there is none. All that a proof may be restricted to is
    asked for here and nowhere else, so that no switch goes without."""
    left = [proof for proof in table if proof.names]
    if not left:
        return [], "not proved yet"
    left = [proof for proof in left if proof.release == release]
    if not left:
        return [], f"not proved with SGLang {release}"
    left = [proof for proof in left if proof.ranks == ranks]
    if not left:
        return [], f"not proved with TP {ranks}"
    left = [proof for proof in left if capability in (None, proof.capability)]
    if not left and capability is not None:
        return [], f"not proved on GPUs of compute capability {spelled(capability)}"
    if config is not None and any(proof.precisions or proof.shapes for proof in left):
        stored = precision.of_config({name: config(name) for name in precision.NAMES})
        left = [proof for proof in left if proof.is_of(stored)]
        if not left:
            return [], f"not proved with TP {ranks} and weights in {stored}"
        others = [proof.other_shape(config) for proof in left]
        if all(others):
            return [], others[0]
        left = [proof for proof, other in zip(left, others, strict=True) if not other]
    missing = [proof.missing(given) for proof in left]
    if all(missing):
        return [], f"not proved with TP {ranks} without {' '.join(missing[0])}"
    left = [proof for proof in left if not proof.missing(given)]
    if not any(proof.is_of_code(code) for proof in left):
        return [], OTHER_CODE if code is not None and code.digest is not None else NO_SOURCE
    left = [proof for proof in left if proof.is_of_code(code)]
    if device is not None and any(proof.devices for proof in left):
        name = device()
        left = [proof for proof in left if not proof.devices or name in proof.devices]
        if not left:
            return [], f"not proved on an {name}"
    return left, None


def switch_of(arguments: Any) -> Given:
    """Of a running server. arguments: SGLang's `ServerArgs`."""
    return lambda name: bool(getattr(arguments, name.removeprefix("--").replace("-", "_"), False))


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
