"""What is on without being asked for, and that whatever is said wins."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.overlay import contract, proofs
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates
from sglang_qwen3next_eagle3.overlay.environment import DEFER, FAST, SEAMS
from sglang_qwen3next_eagle3.overlay.fast import exclusions
from sglang_qwen3next_eagle3.overlay.fast import proved as of_fast
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET
from sglang_qwen3next_eagle3.overlay.proofs import Proof
from sglang_qwen3next_eagle3.overlay.seams import proved as of_seams
from sglang_qwen3next_eagle3.overlay.seams.seams import ON
from sglang_qwen3next_eagle3.serving import flags, gpus, preflight, profile, switches
from sglang_qwen3next_eagle3.serving.gpus import Gpus
from sglang_qwen3next_eagle3.serving.preflight import Options
from sglang_qwen3next_eagle3.serving.profile import Overrides
from tests.support.checkpoints import SMALL_TARGET, write_config
from tests.support.hosts import h200
from tests.support.launching import dry_run
from tests.support.proofs import as_it_was_not, as_it_was_proved

TABLES: dict[str, dict[str, tuple[Proof, ...]]] = {
    "nothing": {"fast": (), "seams": ()},
    "one": {
        "fast": (Proof("0.5.17", (9, 0), 1, (*OF_TARGET, "head")),),
        "seams": (Proof("0.5.17", (9, 0), 1, ON),),
    },
    "another release": {
        "fast": (Proof("0.5.23", (9, 0), 1, OF_TARGET),),
        "seams": (Proof("0.5.23", (9, 0), 1, ON),),
    },
    "other ranks": {
        "fast": (Proof("0.5.17", (9, 0), 2, (*OF_TARGET, "head", "allreduce")),),
        "seams": (Proof("0.5.17", (9, 0), 2, ON),),
    },
}
SAID = {
    "nothing": ((), "", None),
    "an empty variable": ((), "", ""),
    "auto, the option": (("--{}", "auto"), "", None),
    "auto, the profile": ((), "{}: auto", None),
    "auto, the variable": ((), "", "auto"),
    "auto over off": (("--{}", "auto"), "{}: off", "off"),
}
"""Words, a line of the profile, and the variable, none of which says more than auto."""


@pytest.fixture(autouse=True)
def _release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "installed_sglang", lambda: contract.Installed("0.5.17", Path()))
    as_it_was_proved(monkeypatch)
    for variable in (FAST, SEAMS):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def proved(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(switches, "_TABLES", TABLES[request.param])


def told(found: dict[str, Any], title: str) -> str:
    (note,) = [note for note in found["notes"] if note.startswith(f"{title}: ")]
    return str(note)


def own_profile(folder: Path, line: str, name: str = "h200-fp8") -> str:
    own = folder / "own.yaml"
    data = yaml.safe_load((data_dir("launch") / f"{name}.yaml").read_text())
    own.write_text(yaml.safe_dump(data | (yaml.safe_load(line) or {})))
    return str(own)


REASONS = {
    "nothing": "not proved yet",
    "another release": "not proved with SGLang 0.5.17",
    "other ranks": "not proved with TP 1",
}


@pytest.mark.parametrize(
    ("proved", "said", "switch"),
    itertools.product(TABLES, SAID, ("fast", "seams")),
    indirect=["proved"],
)
@pytest.mark.usefixtures("proved")
def test_auto_is_on_where_it_was_proved_and_nowhere_else(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    said: str,
    switch: switches.Switch,
) -> None:
    words, line, variable = SAID[said]
    if variable is not None:
        monkeypatch.setenv(switches.VARIABLES[switch], variable)
    own = own_profile(tmp_path, line.format(switch))
    asked = [word.format(switch) for word in words]
    found = dry_run(capsys, "--profile", own, *asked)
    value = found["environment"].get(switches.VARIABLES[switch])
    note = told(found, switches.TITLES[switch])
    table = request.node.callspec.params["proved"]
    if table == "one":
        assert value == {"fast": "auto,head", "seams": "auto"}[switch]
        assert "on by default on GPUs of compute capability 9.0, unless the server's log" in note
        assert f"--no-{switch}" in note
    else:
        # What is said elsewhere would come through, were it not overruled.
        assert value == ("off" if "auto" in said else None)
        assert f"off by default: {REASONS[table]}" in note
        assert f"--{switch} asks for it" in note


@pytest.mark.parametrize("proved", TABLES, indirect=True)
@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(
    ("words", "line", "variable", "value"),
    [
        (("--{}",), "", None, "on"),
        (("--no-{}",), "", "on", "off"),
        ((), "{}: on", "off", "on"),
        ((), "{}: off", None, "off"),
        (("--no-{}",), "{}: auto", None, "off"),
        ((), "", "on", None),
        ((), "", "off", None),
    ],
)
@pytest.mark.parametrize("switch", ["fast", "seams"])
def test_whatever_is_said_wins(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    line: str,
    variable: str | None,
    value: str | None,
    switch: switches.Switch,
) -> None:
    if variable is not None:
        monkeypatch.setenv(switches.VARIABLES[switch], variable)
    own = own_profile(tmp_path, line.format(switch))
    found = dry_run(capsys, "--profile", own, *(word.format(switch) for word in words))
    assert found["environment"].get(switches.VARIABLES[switch]) == value
    title = switches.TITLES[switch]
    assert not [note for note in found["notes"] if note.startswith(f"{title}: ")]


@pytest.mark.parametrize("proved", ["one", "other ranks"], indirect=True)
@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(
    ("words", "ranks", "value"),
    [
        ((), 1, "auto,head"),
        (("--no-speculation",), 1, "auto"),
        (("--mtp",), 1, "auto"),
        (("--tp", "2"), 2, "auto,head,allreduce"),
        (("--mtp", "--tp", "2"), 2, "auto,allreduce"),
    ],
)
def test_stages_are_those_that_the_server_can_have(
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
    words: tuple[str, ...],
    ranks: int,
    value: str,
) -> None:
    found = dry_run(capsys, "--profile", "h200-fp8", *words)
    on = {"one": 1, "other ranks": 2}[request.node.callspec.params["proved"]] == ranks
    assert found["environment"].get(FAST) == (value if on else None)


@pytest.mark.parametrize("name", exclusions.SWITCHES)
def test_what_a_server_refuses_a_launch_knows(name: str) -> None:
    """There is one table, and SGLang has all of its flags."""
    word = exclusions.flag(name)
    known = flags.find(word)
    assert known is not None
    values = [] if known.values == "0" else ["2"]
    words = ["--attention-backend", "triton", word]
    assert switches.cannot_be(flags.parse([*words, *values])) == f"it does not go with {word}"
    if values:
        assert switches.cannot_be(flags.parse([*words, "0"])) is None


@pytest.mark.parametrize("proved", ["one"], indirect=True)
@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--enable-lora",), "it does not go with --enable-lora"),
        (("--lora-paths", "a=b"), "it does not go with --lora-paths"),
        (("--enable-linear-replayssm-spec",), "it does not go with --enable-linear-replayssm-spec"),
        (("--enable-memory-saver",), "it does not go with --enable-memory-saver"),
        (("--ep-num-redundant-experts", "2"), "with --ep-num-redundant-experts"),
        (("--moe-a2a-backend", "deepep"), "it does not go with --moe-a2a-backend"),
        (("--ep-size", "2"), "it knows tensor parallelism only, --ep-size is 2"),
        (("--dtype", "float16"), "it computes in bfloat16"),
        (("--kv-cache-dtype", "fp8_e4m3"), "its attention reads a bfloat16 KV cache"),
        (("--mamba-ssm-dtype", "bfloat16"), "it keeps GDN states in float32"),
        (("--disable-cuda-graph",), "it lives in CUDA graphs of decoding"),
        (("--pp-size", "2"), "it knows tensor parallelism only, and PP is 2"),
        (("--dp-size", "2"), "it knows tensor parallelism only, and DP is 2"),
        (("--attention-backend", "fa3"), "triton, not fa3"),
        # Steps that follow SGLang's own file: nobody knows of what its costs are.
        (("--speculative-adaptive", "--speculative-num-steps", "3", "--speculative-eagle-topk",
          "1", "--speculative-num-draft-tokens", "4"), None),
    ],
)  # fmt: skip
def test_what_is_refused_to_one_who_asks_is_off_to_one_who_does_not(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], reason: str | None
) -> None:
    asked = ("--profile", "h200-fp8", "--allow-attention-backend", "--", *words)
    found = dry_run(capsys, *asked)
    if reason is None:
        assert found["environment"][FAST] == "auto", "without the head"
        assert SEAMS not in found["environment"]
        assert "nothing proves them with steps that follow load" in told(found, "seams")
        return
    assert FAST not in found["environment"]
    note = told(found, "fast path")
    assert "off by default: " in note
    assert reason in note
    assert "--fast" not in note.removeprefix("fast path: "), "asked for, it would not be on either"


@pytest.mark.parametrize("proved", ["one"], indirect=True)
@pytest.mark.usefixtures("proved")
def test_steps_that_follow_costs_of_ours_are_served_with_ours(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is proved is on, the head and extends that are put off too, as they were measured."""
    monkeypatch.delenv(DEFER, raising=False)
    found = dry_run(capsys, "--profile", "auto")
    on = {FAST: "auto,head", SEAMS: "auto", DEFER: "32"}
    assert {name: found["environment"].get(name) for name in on} == on
    (note,) = [note for note in found["notes"] if note.startswith("auto: ")]
    assert "h200-fp8-fast.json" in note
    assert "and not" not in note, "nothing of it is otherwise than it was measured"
    stock = dry_run(capsys, "--profile", "auto", "--no-fast", "--no-seams")
    assert stock["environment"].get(DEFER) is None
    (note,) = [note for note in stock["notes"] if note.startswith("auto: ")]
    assert "h200-fp8.json" in note


@pytest.mark.parametrize("proved", ["one"], indirect=True)
@pytest.mark.usefixtures("proved")
def test_steps_that_follow_costs_are_served_as_these_were_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = dry_run(capsys, "--profile", "auto", "--adaptive", "h200-fp8")
    for variable, title in ((FAST, "fast path"), (SEAMS, "seams")):
        assert variable not in found["environment"]
        assert "the steps follow costs that were measured without" in told(found, title)
    (note,) = [note for note in found["notes"] if note.startswith("auto: ")]
    assert "and not" not in note, "nothing of it is otherwise than it was measured"


@pytest.mark.parametrize("proved", ["one"], indirect=True)
@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(
    ("fast", "served"), [("on,head", "auto,head"), ("on", "auto"), ("off", None)]
)
def test_the_head_serves_where_the_costs_were_measured_with_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, fast: str, served: str | None
) -> None:
    measured = {"on": "1x NVIDIA H200", "tp": 1, "precision": "fp8", "fast": fast, "seams": "on"}
    costs = {1: {0: 2.0, 2: 3.0}}
    states = DraftStates({1: (0, 2)}, costs, (0.6, 0.5), 2, {**measured, "tries": "off"})
    (tmp_path / "mine.json").write_text(states.text())
    found = dry_run(capsys, "--profile", "auto", "--adaptive", str(tmp_path / "mine.json"))
    assert found["environment"].get(FAST) == served
    assert found["environment"][SEAMS] == "auto"
    (note,) = [note for note in found["notes"] if note.startswith("auto: ")]
    assert "and not" not in note, "nothing of it is otherwise than it was measured"


@pytest.mark.parametrize("proved", ["one"], indirect=True)
@pytest.mark.usefixtures("proved")
def test_on_a_cpu_nothing_is_said_and_nothing_set(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, "--profile", "demo")
    assert not {FAST, SEAMS} & set(found["environment"])
    assert not [note for note in found["notes"] if note.startswith(("fast path: ", "seams: "))]


RESTRICTED: tuple[tuple[dict[str, Any], tuple[str, ...], str], ...] = (
    ({"precisions": ("fp8",)}, ("--profile", "h200-fp8"), ""),
    ({"precisions": ("bf16",)}, ("--profile", "h200-fp8"), "TP 1 and weights in fp8"),
    ({"precisions": ("fp8",)}, ("--profile", "b1"), "TP 1 and weights in bf16"),
    ({"given": (proofs.NO_FUSION,)}, ("--profile", "b1", "--", proofs.NO_FUSION), ""),
    ({"given": (proofs.NO_FUSION,)}, ("--profile", "b1"), f"TP 1 without {proofs.NO_FUSION}"),
    ({"shapes": (("hidden_size", 2048),)}, ("--profile", "b1"), ""),
    ({"shapes": (("hidden_size", 64),)}, ("--profile", "b1"), "a hidden_size of 2048"),
)


@pytest.mark.parametrize(("restricted", "words", "reason"), RESTRICTED)
def test_all_that_a_proof_may_be_restricted_to_is_asked_of_both(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    restricted: dict[str, Any],
    words: tuple[str, ...],
    reason: str,
) -> None:
    names = {"fast": OF_TARGET, "seams": ON}
    table = {
        switch: (Proof("0.5.17", (9, 0), 1, named, **restricted),)
        for switch, named in names.items()
    }
    monkeypatch.setattr(switches, "_TABLES", table)
    found = dry_run(capsys, "--tp", "1", *words)
    for switch in switches.VARIABLES:
        said = f"off by default: not proved with {reason} (" if reason else "on by default"
        assert said in told(found, switches.TITLES[switch])
        assert (switches.VARIABLES[switch] in found["environment"]) == (not reason)


@pytest.mark.parametrize("proved", ["one"], indirect=True)
@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ([(9, 0)], "fast path: on by default on GPUs of compute capability 9.0, unless"),
        ([(8, 0)], "off by default: not proved on GPUs of compute capability 8.0"),
        (
            [(9, 0), (8, 0)],
            "on by default on GPUs of compute capability 9.0, unless the server's log",
        ),
        ([], "on by default on GPUs of compute capability 9.0, unless the server's log"),
    ],
)
def test_a_launch_looks_at_the_gpus_and_a_dry_run_does_not(
    monkeypatch: pytest.MonkeyPatch, capabilities: list[tuple[int, int]], said: str
) -> None:
    (first, *_) = h200().gpus.found
    found = [
        type(first)(n, f"GPU-{n}", first.name, 1, 1, capability, first.driver)
        for n, capability in enumerate(capabilities)
    ]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(gpus, "basic", lambda: Gpus(tuple(found)))
    served = Overrides(no_speculation=False).apply(profile.load("h200-fp8"))
    seen = preflight._capability()
    launch = preflight._decide(served, served, preflight._Checkpoints(), Options(), capability=seen)
    assert [note for note in launch.notes if said in note]
    assert (FAST in launch.environment) == ("on by default" in said)


@pytest.mark.parametrize("words", [(), ("--", proofs.NO_FUSION)])
@pytest.mark.parametrize("profile_name", ["h200-fp8", "b1"])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("switch", ["fast", "seams"])
def test_the_tables_as_they_are_decide(
    capsys: pytest.CaptureFixture[str],
    switch: switches.Switch,
    ranks: int,
    profile_name: str,
    words: tuple[str, ...],
) -> None:
    found = dry_run(capsys, "--profile", profile_name, "--tp", str(ranks), *words)
    table = {"fast": of_fast.PROVED, "seams": of_seams.PROVED}[switch]
    stored = "fp8" if profile_name == "h200-fp8" else "bf16"
    on = any(
        (proof.release, proof.ranks) == ("0.5.17", ranks)
        and stored in (proof.precisions or (stored,))
        and set(proof.given) <= set(words)
        for proof in table
    )
    assert (switches.VARIABLES[switch] in found["environment"]) == on
    assert f"{'on' if on else 'off'} by default" in told(found, switches.TITLES[switch])


def test_one_gpu_has_the_fast_path_and_the_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry_run(capsys, "--profile", "h200-fp8")["environment"][FAST] == "auto,head"


@pytest.mark.parametrize("switch", ["fast", "seams"])
def test_kernels_that_are_newer_than_their_proof_are_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, switch: switches.Switch
) -> None:
    as_it_was_not(monkeypatch)
    found = dry_run(capsys, "--profile", "h200-fp8")
    assert switches.VARIABLES[switch] not in found["environment"]
    note = told(found, switches.TITLES[switch])
    assert f"off by default: {proofs.OTHER_CODE} (--{switch} asks for it all the same)" in note
    asked = dry_run(capsys, "--profile", "h200-fp8", f"--{switch}")
    assert asked["environment"][switches.VARIABLES[switch]] == "on"


def test_another_shape_is_not_proved(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = write_config(tmp_path / "small", SMALL_TARGET)
    words = ("--profile", "h200-fp8", "--no-speculation", "--target", str(target))
    found = dry_run(capsys, *words)
    assert FAST not in found["environment"]
    assert "off by default: not proved with a hidden_size of" in told(found, "fast path")
    assert dry_run(capsys, *words, "--fast")["environment"][FAST] == "on"
