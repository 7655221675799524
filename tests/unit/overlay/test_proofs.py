"""What a table says of a server."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_qwen3next_eagle3.model.published import CODER_NEXT, CODER_NEXT_FP8
from sglang_qwen3next_eagle3.overlay import contract, proofs
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.fast.stages import RANKS, STAGES
from sglang_qwen3next_eagle3.overlay.proofs import Proof
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams
from sglang_qwen3next_eagle3.overlay.seams.seams import ALL
from sglang_qwen3next_eagle3.serving import flags

RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"
TABLE = (
    Proof("1", (9, 0), 1, ("a", "b")),
    Proof("1", (9, 0), 2, ("a",)),
    Proof("1", (10, 0), 1, ("b",)),
    Proof("2", (9, 0), 4, ()),
)


@pytest.mark.parametrize(
    ("where", "names", "reason"),
    [
        (("1", (9, 0), 1), "ab", None),
        (("1", None, 1), "ab", None),
        (("1", (10, 0), 1), "b", None),
        (("1", (8, 0), 1), "", "not proved on GPUs of compute capability 8.0"),
        (("1", (10, 0), 2), "", "not proved on GPUs of compute capability 10.0"),
        (("1", None, 4), "", "not proved with TP 4"),
        (("2", (9, 0), 4), "", "not proved with SGLang 2"),
        (("3", None, 1), "", "not proved with SGLang 3"),
    ],
)
def test_names_or_a_reason(
    where: tuple[str, tuple[int, int] | None, int], names: str, reason: str | None
) -> None:
    assert proofs.proved(TABLE, *where) == frozenset(names)
    assert proofs.why_not(TABLE, *where) == reason


def test_where_it_would_be_on() -> None:
    assert proofs.places(TABLE, "1", 1) == "GPUs of compute capability 9.0 or 10.0"
    named = (*TABLE, Proof("1", (9, 0), 1, ("c",), ("NVIDIA X",)))
    assert proofs.places(named, "1", 1) == "an NVIDIA X or GPUs of compute capability 9.0 or 10.0"
    assert proofs.why_not((), "1", (9, 0), 1) == "not proved yet"


def test_a_proof_may_be_of_some_gpus_only() -> None:
    table = (Proof("1", (9, 0), 1, ("a",), ("NVIDIA H200",)),)
    where = "1", (9, 0), 1
    assert proofs.why_not(table, *where) is None
    assert proofs.why_not(table, *where, lambda: "NVIDIA H200") is None
    other = proofs.why_not(table, *where, lambda: "NVIDIA H100 80GB HBM3")
    assert other == "not proved on an NVIDIA H100 80GB HBM3"
    assert of_fast.PROVED[0].devices == ("NVIDIA H200",), "on which alone servers were run"


def test_a_proof_may_be_of_some_weights_and_switches_only() -> None:
    table = (
        Proof("1", (9, 0), 2, ("a",), precisions=("fp8",)),
        Proof("1", (9, 0), 2, ("b",), precisions=("bf16",), given=("--x",)),
    )
    where = "1", (9, 0), 2
    none: list[str] = []
    for precision, given, names, reason in (
        (None, None, "ab", None),
        ("fp8", none, "a", None),
        ("bf16", none, "", "not proved with TP 2 without --x"),
        ("bf16", ["--x"], "b", None),
        ("gptq", ["--x"], "", "not proved with TP 2 and weights in gptq"),
    ):
        has = None if given is None else given.__contains__
        found = proofs.proved(table, *where, precision=precision, given=has)
        assert found == frozenset(names)
        assert proofs.why_not(table, *where, precision=precision, given=has) == reason


def test_a_switch_of_a_running_server_is_an_argument_of_it() -> None:
    arguments = SimpleNamespace(enforce_disable_flashinfer_allreduce_fusion=True, other=False)
    given = proofs.switch_of(arguments)
    assert given(proofs.NO_FUSION)
    assert not given("--other")
    assert not given("--absent")


def test_the_tables_name_what_there_is() -> None:
    for table, known in ((of_fast.PROVED, STAGES), (of_seams.PROVED, ALL)):
        for proof in table:
            assert set(proof.names) <= set(known)
            assert proof.release in contract.SERVED_ON_GPUS
            assert proof.ranks in RANKS
            assert set(proof.precisions) <= {"fp8", "bf16"}
            for switch in proof.given:
                assert flags.find(switch) is not None, "a switch that SGLang has"
        places = [(p.release, p.capability, p.ranks) for p in table]
        for one, other in itertools.combinations(places, 2):
            assert one != other, "said twice"


@pytest.mark.parametrize("proof", [*of_fast.PROVED, *of_seams.PROVED])
def test_a_proof_stands_on_files_that_are_there(proof: Proof) -> None:
    """The log of a server in which all of its names were on, and text that was the same."""
    files = [RESULTS / name for name in proof.evidence]
    assert all(file.is_file() for file in files), proof.evidence
    said = "".join(file.read_text("utf-8") for file in files if file.name == "said.txt")
    on = " ".join(line.partition(" on: ")[2] for line in said.splitlines() if " on: " in line)
    assert set(proof.names) <= set(on.replace(",", " ").replace(";", " ").split())
    (text,) = [file for file in files if file.name == "text-fast.json"]
    compared = json.loads(text.read_text("utf-8"))["compared"]
    alone = [one for one in compared if one["at_once"] == 1]
    assert len(alone) >= 4
    assert all(one["equal"] == one["prompts"] == 164 for one in alone)


@pytest.mark.parametrize("config", [CODER_NEXT, CODER_NEXT_FP8])
def test_the_published_targets_are_of_the_shapes_that_were_proved(
    config: dict[str, object],
) -> None:
    assert of_fast.other_shape(config.get) is None
    other = {**config, "moe_intermediate_size": 64}
    assert of_fast.other_shape(other.get) == "not proved with a moe_intermediate_size of 64"
