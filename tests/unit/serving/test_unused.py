"""What a launch says of variables of the caller that do not count."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.fast.trials import TRY
from sglang_qwen3next_eagle3.serving import caches, profile, unused
from sglang_qwen3next_eagle3.serving.unused import AUX_LAYERS, Said, UnusedVariable
from tests.support.checkpoints import SMALL_HEAD, SMALL_TARGET, write_config
from tests.support.launching import dry_run

FAST, SEAMS, ADAPTIVE = variables.FAST, variables.SEAMS, variables.ADAPTIVE
FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "fast-path"
STOCK, OURS, OURS_NONE = (
    str(FOLDER / f"{name}.yaml") for name in ("stock-314", "ours-314", "ours-none")
)


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*variables.NAMES, "OMP_NUM_THREADS", "TORCH_COMPILE_DISABLE"):
        monkeypatch.delenv(name, raising=False)


def told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: Mapping[str, str],
    *argv: str,
) -> list[str]:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notes = dry_run(capsys, "--profile", *argv)["notes"]
    found = [note for note in notes if "not used" in note]
    ours = any(variables.PREFIX in name for name in environment)
    for note in found:
        # An option of this very command is meant to win.
        meant = all(by.startswith("--") for by in re.findall(r"not used: (\S+)", note))
        assert note.startswith("warning: ") == (ours and not meant)
    return [note.removeprefix("warning: ") for note in found]


@pytest.mark.parametrize(
    ("environment", "argv", "line"),
    [
        # As it was: sixteen minutes of another server's kernels were measured so.
        (
            {FAST: "on,head", SEAMS: "on"},
            [STOCK],
            f"{FAST}=on,head is not used: stock-314.yaml says fast: off; {SEAMS}=on is not used: "
            "stock-314.yaml says seams: off; for them to count, pass --fast on,head --seams on",
        ),
        (
            {FAST: "off"},
            [OURS],
            f"{FAST}=off is not used: ours-314.yaml says fast: on,head; for it to count, pass "
            "--no-fast",
        ),
        ({SEAMS: "on"}, ["h200-fp8", "--no-seams"], f"{SEAMS}=on is not used: --no-seams wins; "
         "for it to count, pass --seams on"),
        ({FAST: "on, head"}, [STOCK], f"{FAST}=on, head is not used: stock-314.yaml says fast: "
         "off; for it to count, pass --fast on,head"),
        # What cannot be read has no other spelling.
        ({FAST: "onn"}, [STOCK], f"{FAST}=onn is not used: stock-314.yaml says fast: off"),
        ({FAST: "auto"}, [STOCK], f"{FAST}=auto is not used: stock-314.yaml says fast: off; for it "
         "to count, pass --fast auto"),
        ({ADAPTIVE: "1"}, ["h200-fp8"], f"{ADAPTIVE}=1 is not used: h200-fp8 says no adaptive; for "
         "it to count, pass --adaptive measured"),
        ({variables.DEFER: "8"}, ["h200-fp8"], f"{variables.DEFER}=8 is not used: h200-fp8 says no "
         "adaptive; for it to count, pass --adaptive measured"),
        ({variables.DEFER: "8"}, ["auto", "--adaptive", "off", "--tree", "3,1,4"],
         f"{variables.DEFER}=8 is not used: --adaptive off wins; for it to count, pass --adaptive "
         "measured"),
        ({ADAPTIVE: "0"}, ["auto"], f"{ADAPTIVE}=0 is not used: auto says adaptive: measured; for "
         "it to count, pass --adaptive off"),
        ({AUX_LAYERS: "fork"}, ["h200-fp8"], f"{AUX_LAYERS}=fork is not used: the head's own "
         "config or what is known of it wins; for it to count, pass --aux-layers fork"),
        ({TRY: "rows"}, [STOCK], f"{TRY}=rows is not used: stock-314.yaml says fast: off"),
        ({TRY: "rows"}, ["h200-fp8", "--no-fast"], f"{TRY}=rows is not used: --no-fast wins"),
        ({AUX_LAYERS: "output:2,23,47 allow-gdn"}, ["h200-fp8", "--aux-layers", "card"],
         f"{AUX_LAYERS}=output:2,23,47 allow-gdn is not used: --aux-layers card wins; for it to "
         "count, pass --aux-layers output:2,23,47 --allow-gdn-aux"),
        ({variables.LIMITS: "body=8Mi"}, ["b1", "--limits", "body=9Mi"],
         f"{variables.LIMITS}=body=8Mi is not used: --limits body=9Mi wins; for it to count, leave "
         "out --limits body=9Mi"),
        ({"TRITON_CACHE_DIR": "/a", "CUDA_CACHE_PATH": "/b"}, ["b1", "--caches", "/tmp"],
         "CUDA_CACHE_PATH=/b, TRITON_CACHE_DIR=/a are not used: --caches wins; for them to count, "
         "leave out --caches"),
        ({"OMP_NUM_THREADS": "3", "TORCH_COMPILE_DISABLE": "0"}, ["demo"],
         "OMP_NUM_THREADS=3 is not used: demo says OMP_NUM_THREADS: 1 in its environment; "
         "TORCH_COMPILE_DISABLE=0 is not used: the CPU engine wins; for OMP_NUM_THREADS to count, "
         "take a profile without OMP_NUM_THREADS"),
        # Long ones are not told, on neither side.
        ({variables.CYCLE_COSTS: "gpu=H200 tp=1 weights=fp8 3,4,8 1:9.9/6.1"}, ["h200-fp8"],
         f"{variables.CYCLE_COSTS} is not used: h200-fp8 says another in its environment; for it "
         f"to count, take a profile without {variables.CYCLE_COSTS}"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_not_used_and_the_way_out(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    argv: list[str],
    line: str,
) -> None:
    assert told(capsys, monkeypatch, environment, *argv) == [line]


@pytest.mark.parametrize(
    ("environment", "argv"),
    [
        ({FAST: "on,head", SEAMS: "on"}, [OURS]),
        ({FAST: "ON, head ", SEAMS: "on,cycle"}, [OURS]),
        ({FAST: "dense,moe,gdn,attention,lm_head,head"}, [OURS]),
        ({FAST: "off", SEAMS: "off"}, [STOCK]),
        ({FAST: "", SEAMS: " "}, [STOCK]),
        # The head's stage asks nothing of a server without a head.
        ({FAST: "on,head", SEAMS: "on"}, [OURS_NONE]),
        ({FAST: "auto"}, ["h200-fp8"]),
        ({TRY: "rows"}, [OURS]),
        ({FAST: "on,head"}, ["b1"]),
        ({ADAPTIVE: "1"}, ["auto"]),
        ({variables.DEFER: "8"}, ["auto"]),
        ({variables.DEFER: " 0 "}, ["h200-fp8"]),
        ({ADAPTIVE: "0"}, ["b1"]),
        ({AUX_LAYERS: "output:3,23,47"}, ["b1", "--aux-layers", "card"]),
        ({AUX_LAYERS: "input:4,output:23,input:48"}, ["b1", "--aux-layers", "output:3,23,47"]),
        ({AUX_LAYERS: "fork"}, ["b1", "--no-speculation"]),
        ({variables.LIMITS: "body=8Mi"}, ["b1", "--limits", "body=8192Ki"]),
        ({"TRITON_CACHE_DIR": "/tmp/./triton/"}, ["b1", "--caches", "/tmp"]),
        ({"OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "true"}, ["demo"]),
        ({"PYTHONPATH": "/a"}, ["demo"]),
    ],
)
def test_what_means_the_same_is_not_told(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    argv: list[str],
) -> None:
    assert told(capsys, monkeypatch, environment, *argv) == []


def test_what_the_head_decided_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = write_config(tmp_path / "t", SMALL_TARGET)
    head = write_config(tmp_path / "h", SMALL_HEAD)
    pair = ["b1", "--target", str(target), "--head", str(head)]
    (line,) = told(capsys, monkeypatch, {AUX_LAYERS: "fork"}, *pair)
    assert "what is known of the head says aux-layers: card" in line
    assert told(capsys, monkeypatch, {AUX_LAYERS: "output:3,23,47"}, *pair) == []
    (line,) = told(capsys, monkeypatch, {AUX_LAYERS: "off"}, *pair)
    assert line.endswith("card"), "no option leaves SGLang's own capture alone"


def test_a_key_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = variables.KEYS["--api-key"]
    (line,) = told(capsys, monkeypatch, {name: "s3cret"}, "b1", "--api-key", "0ther")
    assert line == (f"{name} is not used: --api-key wins; for it to count, leave out --api-key")


def test_a_login_is_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither the caller's nor the profile's."""
    own = tmp_path / "own.yaml"
    text = Path(STOCK).read_text()
    own.write_text(f"{text}\nenvironment:\n  https_proxy: http://me:prof-pw@proxy:3128\n")
    monkeypatch.setenv("https_proxy", "http://u:call-pw@p:3128")
    (line,) = told(capsys, monkeypatch, {}, str(own))
    assert "-pw" not in line
    assert line.startswith("https_proxy=http://")
    assert "p:3128 is not used: own.yaml says https_proxy: http://" in line
    assert "proxy:3128 in its environment" in line


def test_a_variable_in_the_profile_s_environment_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also one that a key could say."""
    own = tmp_path / "own.yaml"
    text = "\n".join(line for line in Path(STOCK).read_text().splitlines() if "fast:" not in line)
    own.write_text(f"{text}\nenvironment:\n  {FAST}: 'off'\n")
    (line,) = told(capsys, monkeypatch, {FAST: "on"}, str(own))
    assert line.startswith(f"{FAST}=on is not used: own.yaml says {FAST}: off in its environment")


def lost(name: str, by: str, says: str) -> UnusedVariable:
    return UnusedVariable(name, "on", by, says, unused.SAY, "fast: on")


def test_of_several_servers_those_are_named_that_do_not_use_it() -> None:
    off = [lost(FAST, name, "fast: off") for name in ("a.yaml", "b.yaml", "c.yaml")]
    dense = lost(FAST, "d.yaml", "fast: dense")
    assert unused.line([[one] for one in off] + [[dense]]) == (
        f"warning: {FAST}=on is not used: a.yaml, b.yaml and c.yaml say fast: off, d.yaml says "
        "fast: dense; for it to count, say fast: on in a profile"
    )
    assert unused.line([[off[0]], [], [off[0]]]) == (
        f"warning: {FAST}=on is not used where a.yaml says fast: off; for it to count, say fast: "
        "on in a profile"
    )
    assert unused.line([[], []]) is None


def test_what_a_command_sets_over_the_caller_s(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = caches.environment(Path("/own"))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/theirs")
    monkeypatch.setenv(variables.ROUTING, "uniform")
    monkeypatch.setenv(variables.CYCLE, "/c")
    options = {**dict.fromkeys(folder, "--caches"), variables.ROUTING: "--routing"}
    told = {**folder, variables.ROUTING: "", variables.CYCLE: ""}
    assert unused.line([unused.of_command(told, options, {}, Said())]) == (
        "warning: TRITON_CACHE_DIR=/theirs is not used: --caches wins; "
        f"{variables.ROUTING}=uniform, {variables.CYCLE}=/c are not used: the benchmark wins; for "
        f"TRITON_CACHE_DIR and {variables.ROUTING} to count, leave out --caches, pass "
        "--routing uniform"
    )
    over = {"TRITON_CACHE_DIR": "/profile"}
    assert unused.line([unused.of_command(folder, options, over, Said("p.yaml"))]) == (
        "--caches for TRITON_CACHE_DIR is not used: p.yaml says TRITON_CACHE_DIR: /profile in its "
        "environment; for it to count, take a profile without TRITON_CACHE_DIR"
    )


def test_every_key_that_a_variable_says_too_is_known() -> None:
    """A new one is compared, too."""
    fields = {name.replace("_", "-") for name in profile.Profile.model_fields}
    assert set(unused.KEYS.values()) <= fields
    spelled = {name.removeprefix(variables.PREFIX).lower().replace("_", "-"): name
               for name in variables.NAMES}  # fmt: skip
    assert {key: name for key, name in spelled.items() if key in fields} == {
        key: name for name, key in unused.KEYS.items()
    }
