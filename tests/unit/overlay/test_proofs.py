"""What a table says of a server."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.model.published import CODER_NEXT, CODER_NEXT_FP8
from sglang_qwen3next_eagle3.overlay import contract, proofs
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_HEAD, RANKS, STAGES
from sglang_qwen3next_eagle3.overlay.proofs import Proof
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams
from sglang_qwen3next_eagle3.overlay.seams.seams import ALL
from sglang_qwen3next_eagle3.overlay.sources import Code
from sglang_qwen3next_eagle3.serving import flags

TABLES = {"fast": of_fast.PROVED, "seams": of_seams.PROVED}
CODES = {"fast": of_fast.code, "seams": of_seams.code}
HEADLESS = {"head"}
"""What a server without an EAGLE3 head cannot have."""
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
    assert proofs.proved(table, *where, lambda: "NVIDIA H200") == {"a"}
    assert proofs.proved(table, *where, lambda: "NVIDIA H100 80GB HBM3") == frozenset()
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
        config = None if precision is None else stored_in(precision)
        found = proofs.proved(table, *where, config=config, given=has)
        assert found == frozenset(names)
        assert proofs.why_not(table, *where, config=config, given=has) == reason


def stored_in(method: str) -> proofs.Config:
    return {}.get if method == "bf16" else {"quantization_config": {"quant_method": method}}.get


def test_a_proof_may_be_of_some_shapes_only() -> None:
    table = (
        Proof("1", (9, 0), 1, ("a",), shapes=(("hidden_size", 8), ("head_dim", 2))),
        Proof("1", (9, 0), 1, ("b",), shapes=(("hidden_size", 4),)),
    )
    for config, names, reason in (
        ({"hidden_size": 8, "head_dim": 2}, "a", None),
        ({"hidden_size": 4, "head_dim": 1}, "b", None),
        ({"hidden_size": 8, "head_dim": 1}, "", "not proved with a head_dim of 1"),
        ({}, "", "not proved with a hidden_size of None"),
    ):
        assert proofs.proved(table, "1", None, 1, config=config.get) == frozenset(names)
        assert proofs.why_not(table, "1", None, 1, config=config.get) == reason
    assert proofs.proved(table, "1", None, 1) == {"a", "b"}, "a target that is not known"


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


@pytest.mark.parametrize("switch", TABLES)
def test_a_proof_stands_on_files_that_are_there(switch: str) -> None:
    """A server's log in which all of its names were on, others in which all were that the server
    can have, and text that was the same, by servers in which they were."""
    for proof in TABLES[switch]:
        files = {Path(name).name: RESULTS / name for name in proof.evidence}
        assert all(file.is_file() for file in files.values()), proof.evidence
        logs = files["said.txt"].read_text("utf-8").split("== ")[1:]
        whole = [log for log in logs if set(proof.names) <= named(log)]
        assert whole, "no server had all of it at once"
        for log in logs:
            assert set(proof.names) - HEADLESS <= named(log), log.splitlines()[0]
        text = json.loads(files["text-fast.json"].read_text("utf-8"))
        servers = the_same(text, proof.names)
        # Of another code would be of other kernels.
        codes = {code for log in (*whole, *servers.values()) for code in said_codes(log)[switch]}
        assert codes == {proof.code}


def the_same(text: dict[str, Any], names: Iterable[str]) -> dict[str, str]:
    """What the servers said that had these names on, and whose text was to be the reference's and
    was. Stock's kernels round otherwise than ours: a server is compared with a reference that runs
    the same fast path, which a head's stage is no part of, as it decides how many tokens come at
    once and not which."""
    servers = {server["name"]: "\n".join(server["said"]) for server in text["servers"]}
    reference = fast_path(servers[text["against"]])
    assert reference, "the reference runs no fast path"
    chosen = {
        name: log
        for name, log in servers.items()
        if set(names) <= named(log) and fast_path(log) == reference
    }
    assert len(chosen) >= 3, f"too few with the fast path of the reference: {sorted(chosen)}"
    alone = {one["server"]: one for one in text["compared"] if one["at_once"] == 1}
    for name in chosen:
        assert alone[name]["equal"] == alone[name]["prompts"] == 164, name
    return chosen


def fast_path(log: str) -> set[str]:
    """The target's stages that one server said were on, and their code, where it said that."""
    stages = named(log) & (set(STAGES) - OF_HEAD)
    return stages | said_codes(log)["fast"] if stages else set()


def named(log: str) -> set[str]:
    """What one server said was on, of stages and seams."""
    on = [line.partition(" on: ")[2].partition(";")[0] for line in log.splitlines()]
    return {part.split()[0] for line in on for part in line.split(", ") if part}


def said_codes(log: str) -> dict[str, set[str]]:
    lines = {"fast": " fast path on: ", "seams": " seams on: "}
    return {
        switch: {
            line.rpartition("; code ")[2]
            for line in log.splitlines()
            if words in line and "; code " in line
        }
        for switch, words in lines.items()
    }


FAST_ON = "x: fast path on: dense up to 8 rows, moe up to 8 rows; 12 of 12 layers; code 0a"
LESS = "x: fast path on: dense up to 8 rows; 12 of 12 layers; code 0a"
OTHER = FAST_ON.replace("0a", "0b")
HEAD_ON = "x: fast path on: head up to 8 rows; code 0a"
SEAMS_ON = "x: seams on: chain, commit; code 0c"


def text_of(against: str, *servers: tuple[str, int, tuple[str, ...]]) -> dict[str, Any]:
    """servers: their names, how many of 164 texts were the reference's, and what they said."""
    return {
        "against": against,
        "servers": [{"name": name, "said": list(said)} for name, _, said in servers],
        "compared": [
            {"server": name, "at_once": at_once, "prompts": 164, "equal": equal // at_once}
            for name, equal, _ in servers
            for at_once in (1, 8)
        ],
    }


OURS = (
    ("none", 164, (FAST_ON, SEAMS_ON)),
    ("3,1,4", 164, (FAST_ON, HEAD_ON, SEAMS_ON)),
    ("3,4,8", 164, (FAST_ON, HEAD_ON, SEAMS_ON)),
)


@pytest.mark.parametrize("said", [(SEAMS_ON,), (LESS, SEAMS_ON), (OTHER, SEAMS_ON), (FAST_ON,)])
def test_text_is_compared_where_the_fast_path_is_that_of_the_reference(
    said: tuple[str, ...],
) -> None:
    """Neither stock's kernels with seams, nor less of ours, nor others, nor ours without seams."""
    text = text_of("none", *OURS, ("beside", 126, said))
    assert set(the_same(text, ("chain", "commit"))) == {"none", "3,1,4", "3,4,8"}


@pytest.mark.parametrize(
    ("against", "servers", "reason"),
    [
        ("none", (*OURS, ("more", 163, (FAST_ON, SEAMS_ON))), "more"),
        ("none", (("none", 163, (FAST_ON, SEAMS_ON)), *OURS[1:]), "none"),
        ("none", (*OURS[:2], ("stock", 164, (SEAMS_ON,))), "too few"),
        ("none", (("none", 164, (LESS, SEAMS_ON)), *OURS[1:]), "too few"),
        ("stock", (*OURS, ("stock", 164, (SEAMS_ON,))), "no fast path"),
        ("stock", [(f"{n}" if n else "stock", 164, (SEAMS_ON,)) for n in range(3)], "no fast path"),
    ],
)
def test_text_that_proves_nothing_is_told(
    against: str, servers: Sequence[tuple[str, int, tuple[str, ...]]], reason: str
) -> None:
    with pytest.raises(AssertionError, match=reason):
        the_same(text_of(against, *servers), ("chain", "commit"))


def test_what_one_server_said_is_told_from_what_another_did() -> None:
    log = "01: fast path on: dense up to 8 rows, moe up to 8 rows; 48 of 48 layers; code 0a\n"
    assert named(log) == {"dense", "moe"}
    assert named(log + "02: seams on: chain, commit; code 0b\n") >= {"chain", "commit", "moe"}
    assert said_codes(log) == {"fast": {"0a"}, "seams": set()}


@pytest.mark.parametrize("switch", TABLES)
def test_which_proof_is_to_be_made_anew(switch: str) -> None:
    """It is told by a skip: between a change of the kernels and the next time on a GPU the default
    is off, which is no fault."""
    code = CODES[switch]()
    stale = [proof for proof in TABLES[switch] if not proof.is_of_code(code)]
    for proof in TABLES[switch]:
        assert proof.code, "a proof is of some code"
        assert proof.version != code.version or proof not in stale, (
            f"a release says that it has the code {proof.code}, and has {code.told}"
        )
    for proof in stale:
        where = proof.release, proof.capability, proof.ranks
        others = [other for other in TABLES[switch] if other not in stale]
        assert not proofs.proved(others, *where), "then it is told by another line"
        assert proofs.why_not(TABLES[switch], *where, code=code) == proofs.OTHER_CODE
    if stale:
        places = ", ".join(f"TP {proof.ranks} of SGLang {proof.release}" for proof in stale)
        pytest.skip(
            f"{switch} is off by default: its proof is to be made anew with the code {code.told}: "
            f"{places} (docs/fast-path.md, On by default)"
        )


def test_a_proof_is_of_the_kernels_that_it_was_made_with() -> None:
    table = (
        Proof("1", (9, 0), 1, ("a",), code="0a", version="1.0"),
        Proof("1", (10, 0), 1, ("b",), code="0b"),
    )
    for code, capability, names, reason in (
        (Code("0a", "2.0"), None, "a", None),
        (Code("0b", "2.0"), None, "b", None),
        (Code("0b", "1.0"), (9, 0), "", proofs.OTHER_CODE),
        (Code("0c", "1.0"), None, "", proofs.OTHER_CODE),
        # Without source a release is believed to be what it was when it was proved.
        (Code(None, "1.0"), None, "a", None),
        (Code(None, "1.0"), (10, 0), "", proofs.NO_SOURCE),
        (Code(None, "2.0"), None, "", proofs.NO_SOURCE),
    ):
        assert proofs.proved(table, "1", capability, 1, code=code) == frozenset(names), code
        assert proofs.why_not(table, "1", capability, 1, code=code) == reason


@pytest.mark.parametrize("config", [CODER_NEXT, CODER_NEXT_FP8])
def test_the_published_targets_are_of_the_shapes_that_were_proved(
    config: dict[str, object],
) -> None:
    for proof in of_fast.PROVED:
        assert proof.other_shape(config.get) is None
        other = {**config, "moe_intermediate_size": 64}
        assert proof.other_shape(other.get) == "not proved with a moe_intermediate_size of 64"
