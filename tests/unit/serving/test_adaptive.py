"""Adaptive drafting: what would not start, or would silently not take place."""

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.model.published import CODER_NEXT, CODER_NEXT_FP8
from sglang_qwen3next_eagle3.overlay.adaptive.states import read, switches
from sglang_qwen3next_eagle3.overlay.environment import DEFER, FAST, SEAMS
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY
from sglang_qwen3next_eagle3.serving import adaptive
from sglang_qwen3next_eagle3.serving.profile import load
from tests.support.launching import dry_run, error_of

ADAPTIVE = "--speculative-adaptive"


def words(tree: str, *flags: str) -> list[str]:
    return ["--profile", "b1", *(["--tree", tree] if tree else []), "--", *flags]


@pytest.mark.parametrize("tree", ["1,1,2", "3,1,4", "7,1,8"])
def test_sglang_s_candidates_are_served(capsys: pytest.CaptureFixture[str], tree: str) -> None:
    assert ADAPTIVE in dry_run(capsys, *words(tree, ADAPTIVE))["argv"]


@pytest.mark.parametrize(
    ("tree", "flags", "told"),
    [
        ("4,1,5", [ADAPTIVE], "or 7 steps, not with 4: use --tree 1,1,2 or 3,1,4 or "),
        ("3,1,4", [ADAPTIVE, "--speculative-num-steps=2", "--speculative-num-draft-tokens=3"],
         "not with 2"),
        ("3,1,4", [ADAPTIVE, "--speculative-eagle-topk=04", "--speculative-num-draft-tokens=8"],
         "with topk 4"),
        ("3,4,8", [ADAPTIVE], "with topk 4 SGLang serves without it: take a chain"),
        ("", [ADAPTIVE], "with topk 4 SGLang serves without it"),
        ("3,1,4", [ADAPTIVE, "--enable-two-batch-overlap"], "SGLang serves without it"),
        ("3,1,4", ["--speculative-adaptive-config", "c.json"], f"says nothing without {ADAPTIVE}"),
    ],
)  # fmt: skip
def test_what_would_not_be_adaptive_is_refused(
    capsys: pytest.CaptureFixture[str], tree: str, flags: list[str], told: str
) -> None:
    argv = words(tree, *flags)
    assert told in error_of(capsys, *argv[:2], "--dry-run", *argv[2:])


def test_without_drafts_nothing_adapts(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--profile", "b1", "--no-speculation", "--dry-run", "--", ADAPTIVE)
    assert "nothing drafts here" in error_of(capsys, *argv)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"1": {"candidate_steps": [2, 5]}, "8": {"candidate_steps": [0]}}', None),
        ('{"1": {"candidate_steps": [2, 4]}}', "2 or 4 steps, not with 5: use --tree 2,1,3 or"),
        ('{"ema_alpha": 0.2}', "expected candidates for batch sizes"),
        ('{"1": {"candidate_steps": [-1]}}', "expected candidates for batch sizes"),
        ('{"1": {"candidate_steps": 5}}', "expected candidates for batch sizes"),
        ('{"1": {}}', "expected candidates for batch sizes"),
        ('{"\u00b2": {"candidate_steps": [5]}}', "expected candidates for batch sizes"),
        ("[]", "expected candidates for batch sizes"),
        ("{", "expected candidates for batch sizes"),
        (None, "cannot be read"),
    ],
)
def test_one_s_own_candidates_count(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None, told: str | None
) -> None:
    file = tmp_path / "adaptive.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    argv = words("5,1,6", ADAPTIVE, "--speculative-adaptive-config", str(file))
    if told is None:
        assert dry_run(capsys, *argv)["argv"]
    else:
        assert told in error_of(capsys, *argv[:2], "--dry-run", *argv[2:])


def words_of(*flags: str) -> list[str]:
    return ["--profile", "auto", *flags]


def test_a_profile_s_states_are_handed_to_sglang(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, *words_of())
    file = found["argv"][found["argv"].index("--speculative-adaptive-config") + 1]
    states = read(file)
    assert states is not None
    steps = found["argv"][found["argv"].index("--speculative-num-steps") + 1]
    assert int(steps) == max(states.steps)
    assert found["environment"]["SGLANG_QWEN3NEXT_EAGLE3_ADAPTIVE"] == "1"
    (note,) = (note for note in found["notes"] if note.startswith("auto: "))
    assert states.where() in note
    assert "measures yours" not in note


def test_what_was_measured_on_something_else_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, *words_of("--target", "Qwen/Qwen3-Coder-Next"))
    (note,) = (note for note in found["notes"] if note.startswith("auto: "))
    assert "precision fp8 and not bf16: `bench auto` measures yours" in note
    chosen = adaptive.choose(load("auto"), tp=8, switches=switches({}))
    assert "tp 1 and not 8" in chosen.note


def test_an_fp8_folder_counts_as_fp8_whatever_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, config in (("ours", CODER_NEXT_FP8), ("once-fp8", CODER_NEXT)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        found = dry_run(capsys, *words_of("--target", str(folder)))
        (note,) = (note for note in found["notes"] if note.startswith("auto: "))
        assert ("precision fp8 and not bf16" in note) == (config is CODER_NEXT)


def test_weights_that_are_quantized_as_they_are_loaded_count_as_that(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for flag, told in (("fp8", False), ("unquant", True)):
        words = words_of("--target", "Qwen/Qwen3-Coder-Next", "--", "--quantization", flag)
        found = dry_run(capsys, *words)
        (note,) = (note for note in found["notes"] if note.startswith("auto: "))
        assert ("precision fp8 and not bf16" in note) == told


def test_a_fixed_tree_takes_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    found = dry_run(capsys, *words_of("--adaptive", "off", "--tree", "3,4,8"))
    assert ADAPTIVE not in found["argv"]
    assert "SGLANG_QWEN3NEXT_EAGLE3_ADAPTIVE" not in found["environment"]


def test_without_drafts_no_states_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--no-speculation", "--mtp"):
        assert ADAPTIVE not in dry_run(capsys, *words_of(flag))["argv"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--tree", "3,4,8"), "or --adaptive off where a profile asks for it"),
        (("--adaptive", ""), "--adaptive: name measured, a .json"),
        (("--adaptive", "absent"), "no file of states 'absent': choose measured, one of"),
        (("--adaptive", "absent.json"), "cannot be read"),
    ],
)
def test_what_is_no_choice_is_refused(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    assert told in error_of(capsys, *words_of(*flags), "--dry-run")


def test_states_without_costs_are_for_sglang_s_own_flag(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "theirs.json"
    file.write_text('{"1": {"candidate_steps": [1, 3]}}', encoding="utf-8")
    assert "says no costs" in error_of(capsys, *words_of("--adaptive", str(file)), "--dry-run")


def test_a_server_begins_with_the_longest_chain(capsys: pytest.CaptureFixture[str]) -> None:
    """SGLang sizes buffers by it; what is drafted is chosen from the first cycle on."""
    told = error_of(capsys, *words_of("--tree", "1,1,2"), "--dry-run")
    assert "begin with 4" in told
    assert "leave --tree out" in told


@pytest.mark.parametrize("word", ["off", '"off"', "false", "null"])
def test_a_profile_may_say_off(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, word: str
) -> None:
    text = (data_dir("launch") / "auto.yaml").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("adaptive: measured", f"adaptive: {word}"), encoding="utf-8")
    assert ADAPTIVE not in dry_run(capsys, "--profile", str(file))["argv"]
    file.write_text(text.replace("adaptive: measured", 'adaptive: ""'), encoding="utf-8")
    assert "name measured" in error_of(capsys, "--profile", str(file), "--dry-run")


@pytest.mark.parametrize(
    "flags",
    [
        ("--tp", "4"),
        ("--", "--tp", "4"),
        ("--", "--tp-size=4"),
        ("--", "--tensor-parallel-si", "4"),
    ],
)
def test_ranks_count_in_every_spelling(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    found = dry_run(capsys, *words_of(*flags))
    file = found["argv"][found["argv"].index("--speculative-adaptive-config") + 1]
    assert Path(file).name == "h200x4-fp8.json"
    assert note_of(found).endswith("(adaptive/h200x4-fp8.json)")


def note_of(found: dict[str, Any]) -> str:
    (note,) = (note for note in found["notes"] if note.startswith("auto: "))
    return str(note)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--tp", "2"), "they are of tp 1 and not 2: `bench auto`"),
        (("--seams", "cycle"), "they are of seams on and not cycle"),
        (("--fast", "--seams"), "fast on,head and not on"),
        (("--fast", "moe,dense", "--seams", "off"), "fast on,head and not dense,moe, "),
    ],
)
def test_what_no_file_was_measured_with_is_told(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    assert told in note_of(dry_run(capsys, *words_of(*flags)))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--", "--tp", "4"), "h200-fp8 are of tp 1 and not 4: "),
        (("--", "--tensor-parallel-si=4"), "of tp 1 and not 4: "),
        (("--fast",), "of fast off and not on: "),
        (("--seams", "cycle"), "of seams off and not cycle: "),
        (("--target", "Qwen/Qwen3-Coder-Next"), "of precision fp8 and not bf16: "),
    ],
)
def test_a_named_file_of_another_kind_of_server_is_refused(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], told: str
) -> None:
    # Options come before the dashes.
    error = error_of(capsys, *words_of("--dry-run", "--adaptive", "h200-fp8", *flags))
    assert told in error
    assert "measure yours (`bench auto`)" in error


def test_a_variable_of_the_caller_s_counts_like_the_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAST, "on")
    argv = words_of("--adaptive", "h200-fp8")
    assert "of fast off and not on" in error_of(capsys, *argv, "--dry-run")
    assert dry_run(capsys, *argv, "--no-fast")


def test_the_nearest_of_several_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is on; some of our kernels are nearer to all of them than none are."""
    ours = data_dir("launch") / "adaptive" / "h200-fp8.json"
    kinds: dict[str, dict[str, Any]] = {
        "stock": {"fast": False},
        "fast": {"fast": "on", "seams": "off"},
        "both": {"fast": "on", "seams": "on"},
    }
    for name, measured in kinds.items():
        data = json.loads(ours.read_text(encoding="utf-8"))
        data["qwen3next_eagle3"]["measured"] = {"tp": 1, "precision": "fp8", **measured}
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(adaptive, "_folder", lambda: tmp_path)
    auto = load("auto")
    for fast, seams, name in [
        ("off", "off", "stock"),
        ("on", "off", "fast"),
        ("require", "on", "both"),
        ("on", "cycle", "both"),
        ("dense", "off", "fast"),
        ("off", "on", "stock"),
    ]:
        on = switches({FAST: fast, SEAMS: seams})
        chosen = adaptive.choose(auto, tp=1, switches=on)
        assert chosen.path.stem == name, (fast, seams)
        nearest = (fast, seams) in (("on", "cycle"), ("dense", "off"), ("off", "on"))
        assert ("measures yours" in chosen.note) == nearest


def test_estimated_costs_are_for_who_asks_for_what_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (data_dir("launch") / "adaptive").glob("*.json"):
        data = json.loads(file.read_text(encoding="utf-8"))
        if file.stem == "h200-fp8-fast":
            of = data["qwen3next_eagle3"]["measured"]
            of |= {"estimated": True, "on": of["on"] + "; estimated between two"}
        (tmp_path / file.name).write_text(json.dumps(data), encoding="utf-8")
    monkeypatch.setattr(adaptive, "_folder", lambda: tmp_path)
    auto = load("auto")
    on = switches({FAST: "on,head", SEAMS: "on"})
    asked = adaptive.choose(auto, tp=1, switches=on)
    assert asked.path.stem == "h200-fp8-fast"
    assert "estimated between" in asked.note
    assert "measures yours" not in asked.note
    followed = adaptive.choose(auto, tp=1, switches=on, by_default=("fast", "seams"))
    assert followed.path.stem == "h200-fp8"
    assert followed.without == {"fast", "seams"}
    stock = adaptive.choose(auto, tp=1, switches=switches({}))
    assert stock.path.stem == "h200-fp8"


def test_costs_of_what_is_on_trial_are_of_nothing_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = data_dir("launch") / "adaptive" / "h200-fp8.json"
    data = json.loads(ours.read_text(encoding="utf-8"))
    file = tmp_path / "mine.json"
    argv = words_of("--adaptive", str(file), "--fast")
    for measured, variable, other in (
        ("wide", "", "tries wide and not off"),
        ("off", "wide", "tries off and not wide"),
        (None, "wide", "tries off and not wide"),
        ("wide", " wide,", None),
        (None, "", None),
    ):
        on = {"tp": 1, "precision": "fp8", "fast": "on", "seams": "off"}
        on |= {} if measured is None else {"tries": measured}
        data["qwen3next_eagle3"]["measured"] = on
        file.write_text(json.dumps(data), encoding="utf-8")
        monkeypatch.setenv(TRY, variable)
        if other is None:
            assert "measures yours" not in note_of(dry_run(capsys, *argv))
        else:
            assert f"are of {other}: " in error_of(capsys, *argv, "--dry-run")


@pytest.mark.parametrize(
    ("measured", "caller", "served", "other"),
    [
        (8, None, "8", None),
        (8, " ", "8", None),
        (8, "8", None, None),
        (8, "0", None, "defer 8 and not off"),
        (8, "4", None, "defer 8 and not 4"),
        (None, "8", None, "defer off and not 8"),
        (None, "0", None, None),
        (None, None, None, None),
        (0, None, None, None),
    ],
)
def test_extends_are_put_off_as_they_were_measured(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    measured: int | None,
    caller: str | None,
    served: str | None,
    other: str | None,
) -> None:
    """A variable of the caller's wins, and is no other kind of server."""
    monkeypatch.delenv(DEFER, raising=False)
    data = json.loads((data_dir("launch") / "adaptive" / "h200-fp8.json").read_text("utf-8"))
    of = data["qwen3next_eagle3"]["measured"]
    of |= {} if measured is None else {"defer": measured}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    if caller is not None:
        monkeypatch.setenv(DEFER, caller)
    found = dry_run(capsys, *words_of("--adaptive", str(file)))
    assert found["environment"].get(DEFER) == served
    told = f"; they are of {other}: `bench auto` measures yours" if other else None
    assert note_of(found).endswith(told or f"({file})")
    assert not [note for note in found["notes"] if "not used" in note]


def test_a_profile_may_say_for_how_many_cycles_extends_are_put_off(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DEFER, raising=False)
    file = tmp_path / "mine.yaml"
    text = (data_dir("launch") / "auto.yaml").read_text(encoding="utf-8")
    file.write_text(f'{text}environment:\n  {DEFER}: "4"\n', encoding="utf-8")
    found = dry_run(capsys, "--profile", str(file))
    assert found["environment"][DEFER] == "4"
    assert "defer 32 and not 4" in note_of(found)


@pytest.mark.parametrize("text", ["x", "-1", "65"])
def test_a_number_of_cycles_that_is_none_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(DEFER, text)
    told = error_of(capsys, *words_of("--dry-run"))
    assert f"{DEFER}={text}: say a number of cycles from 0 to 64" in told


def test_ranks_of_a_file_of_flags_count_where_the_profile_names_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """SGLang reads the file before all flags: what a profile names counts, and that is told."""
    file, bare = tmp_path / "flags.yaml", tmp_path / "bare.yaml"
    file.write_text("tp: 2\nport: 30000\n", encoding="utf-8")
    text = (data_dir("launch") / "h200-fp8.yaml").read_text(encoding="utf-8")
    bare.write_text(text.replace("  tp: 1\n", ""), encoding="utf-8")
    asked = ("--adaptive", "h200-fp8", "--", "--config", str(file))
    error = error_of(capsys, "--profile", str(bare), "--dry-run", *asked)
    assert "are of tp 1 and not 2" in error
    notes = dry_run(capsys, "--profile", "h200-fp8", *asked)["notes"]
    told = "--config: the profile's --tp-size 1 counts and not the file's --tp-size 2"
    assert [note for note in notes if "--config" in note and told not in note] == []
    assert sum(told in note for note in notes) == 1
    named = dry_run(capsys, "--profile", "h200-fp8", *asked[2:], "--tp", "4")["notes"]
    assert not any("--config" in note for note in named)


def test_costs_of_a_gpu_are_told_of_on_a_cpu(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("measured", "h200-fp8"):
        note = note_of(dry_run(capsys, "--profile", "demo", "--adaptive", name))
        assert "they are of a GPU and not a CPU: `bench auto` measures yours" in note
    ours = data_dir("launch") / "adaptive" / "h200-fp8.json"
    data = json.loads(ours.read_text(encoding="utf-8"))
    file = tmp_path / "mine.json"
    for measured in ({"on": "a CPU"}, {}):
        data["qwen3next_eagle3"]["measured"] = measured
        file.write_text(json.dumps(data), encoding="utf-8")
        note = note_of(dry_run(capsys, "--profile", "demo", "--adaptive", str(file)))
        assert "measures yours" not in note
        argv = words_of("--adaptive", str(file))
        if measured:
            assert "of a CPU and not a GPU: " in error_of(capsys, *argv, "--dry-run")
        else:
            assert "measures yours" not in note_of(dry_run(capsys, *argv))
