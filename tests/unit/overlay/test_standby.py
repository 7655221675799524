"""Which processes import beside a server, and when one is what a fresh one would be."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.base.errors import Replacement, UserError, exit_status
from sglang_qwen3next_eagle3.overlay import contract, standby
from sglang_qwen3next_eagle3.overlay.contract import Installed
from sglang_qwen3next_eagle3.overlay.environment import CPU_ENGINE, STANDBY
from sglang_qwen3next_eagle3.overlay.standby import launcher
from sglang_qwen3next_eagle3.overlay.standby.imported import settled, unlike
from sglang_qwen3next_eagle3.plugin import SERVER_MODULE
from sglang_qwen3next_eagle3.serving.command_line import Launch, imports_beside
from tests.support.launching import error_of


@pytest.fixture(autouse=True)
def read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release of which it was read what they need, on a host of one node."""
    monkeypatch.setattr(contract, "installed_sglang", lambda: Installed(standby.RELEASE, Path()))
    monkeypatch.setattr(launcher, "_SECOND_NODE", Path("nowhere"))


def beside(*flags: str, **environment: str) -> int:
    """For how many schedulers; where there is one, the detokenizer has its own."""
    words = ("python", "-m", SERVER_MODULE, *flags)
    found = imports_beside(Launch(words, environment={STANDBY: "auto", **environment}))
    assert found.count(standby.DETOKENIZER) == bool(found)
    return found.count(standby.SCHEDULER)


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 1),
        (["--tp", "4"], 4),
        (["--tp-size=2", "--tensor-parallel-size", "8"], 8),
        (["--tp", "8", "--nnodes", "2"], 4),
        (["--tp", "3", "--nnodes", "2"], 0),
        (["--tp", "2", "--dp-size", "2"], 0),
        (["--pp-size", "2"], 0),
        (["--tp", "2", "--dp-size", "1", "--disaggregation-mode", "null"], 2),
        (["--disaggregation-mode", "prefill"], 0),
        (["--tokenizer-worker-num", "2"], 0),
        (["--detokenizer-worker-num", "2"], 0),
        (["--enable-memory-saver"], 0),
        (["--use-ray"], 0),
    ],
)
def test_as_many_as_schedulers_of_this_host(flags: list[str], count: int) -> None:
    assert beside(*flags) == count


def test_where_processes_are_forked_none_but_those_that_are_asked_for() -> None:
    assert beside(**{CPU_ENGINE: "1"}) == 0
    assert beside(**{CPU_ENGINE: "1", STANDBY: "1"}) == 1
    assert beside("--dp-size", "2", **{STANDBY: "3"}) == 3
    assert beside("--tp", "4", **{STANDBY: "off"}) == 0


@pytest.mark.parametrize("release", ["0.5.23", None])
def test_with_another_release_none_but_those_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, release: str | None
) -> None:
    found = None if release is None else Installed(release, Path())
    monkeypatch.setattr(contract, "installed_sglang", lambda: found)
    assert beside() == 0
    assert beside(**{STANDBY: "1"}) == 1


def test_where_numactl_starts_schedulers_none_import_in_vain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(launcher, "_SECOND_NODE", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert beside("--tp", "2") == 2
    (tmp_path / "numactl").touch(0o755)
    assert beside("--tp", "2") == 0
    assert beside("--tp", "2", SGLANG_NUMA_BIND_V2="0") == 2
    assert beside("--tp", "2", SGLANG_NUMA_BIND_V2="true") == 0
    assert beside("--tp", "2", **{STANDBY: "2"}) == 2


@pytest.mark.parametrize(
    ("flags", "environment"),
    [(["--nnodes", "2", "--node-rank", "1"], {}), ([], {"SGLANG_RUST_SERVER": "1"})],
)
def test_where_there_is_no_detokenizer_none_imports_for_it(
    flags: list[str], environment: dict[str, str]
) -> None:
    words = ("python", "-m", SERVER_MODULE, "--tp", "4", *flags)
    found = imports_beside(Launch(words, environment={STANDBY: "auto", **environment}))
    assert set(found) == {standby.SCHEDULER}


@pytest.mark.parametrize(
    ("text", "number"),
    [(None, None), ("", None), ("auto", None), (" Off ", 0), ("0", 0), ("4", 4)],
)
def test_what_the_variable_says(text: str | None, number: int | None) -> None:
    assert standby.parse(text) == number


@pytest.mark.parametrize("text", ["on", "-1", "65", "1.5", "9" * 5000, "0000000065"])
def test_what_it_cannot_say(text: str) -> None:
    with pytest.raises(UserError, match="say auto, off, or for how many schedulers"):
        standby.parse(text)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_a_launch_refuses_it_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dry: list[str]
) -> None:
    monkeypatch.setenv(STANDBY, "x")
    assert f"{STANDBY}=x: say auto, off" in error_of(capsys, "--profile", "b1", *dry)


@pytest.mark.usefixtures("installed")
def test_a_launch_begins_them_right_before_it_is_replaced(
    executed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, Any]] = []

    def begin(python: str, imports: Any, environment: Mapping[str, str]) -> dict[str, str]:
        assert environment["PATH"]
        begun.append((python, imports))
        return {"BEGUN": "1"}

    monkeypatch.setattr(standby, "begin", begin)
    monkeypatch.setenv(STANDBY, "2")
    launch.main(["--profile", "demo"])
    imports = [standby.SCHEDULER, standby.SCHEDULER, standby.DETOKENIZER]
    assert begun == [(executed["file"], imports)]
    assert executed["environment"]["BEGUN"] == "1"


def test_what_begins_is_told_the_whole_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Mapping[str, str]] = []
    monkeypatch.setattr("os.execvpe", lambda *given: seen.append(given[2]))
    monkeypatch.setenv("CALLERS", "1")
    exit_status(lambda: Replacement(["x"], {"OWN": "2"}, lambda told: {"SUM": str(len(told))}))
    assert seen[0]["CALLERS"] == "1"
    assert seen[0]["SUM"] == str(len(seen[0]) - 1)


def test_none_has_the_keys_and_each_what_sglang_will_set() -> None:
    told = {"SGLANG_QWEN3NEXT_EAGLE3_API_KEY": "s3cret", "CUDA_MODULE_LOADING": "EAGER", "A": "1"}
    expected = launcher._expected({**told, "TRTLLM_ENABLE_PDL": "0"})
    assert "s3cret" not in expected.values()
    assert expected["A"] == "1"
    assert expected["CUDA_MODULE_LOADING"] == "AUTO"
    assert expected["TRTLLM_ENABLE_PDL"] == "0", "SGLang leaves it, too"


BEFORE = {"HOME": "/", "SGLANG_X": "1", "OMP_NUM_THREADS": "1"}
AFTER = {**BEFORE, "KMP_SET": "yes"}


@pytest.mark.parametrize(
    ("changes", "asked", "names"),
    [
        ({}, {"HOME"}, []),
        ({"SGLANG_X": "2", "SGLANG_NEW": "1", "NCCL_ALGO": "tree"}, set(), []),
        ({"SGLANG_X": "2"}, {"SGLANG_X"}, ["SGLANG_X"]),
        ({"SGLANG_NEW": "2"}, {"SGLANG_NEW"}, ["SGLANG_NEW"]),
        ({"OMP_NUM_THREADS": "2", "LD_PRELOAD": "x.so"}, set(), ["LD_PRELOAD", "OMP_NUM_THREADS"]),
        ({"PROMETHEUS_MULTIPROC_DIR": "/tmp/x"}, set(), []),
        ({"PROMETHEUS_MULTIPROC_DIR": "/tmp/x"}, {"PROMETHEUS_MULTIPROC_DIR"},
         ["PROMETHEUS_MULTIPROC_DIR"]),
        ({"KMP_SET": "yes"}, {"KMP_SET"}, []),
        ({"KMP_SET": "no"}, set(), ["KMP_SET"]),
    ],
)  # fmt: skip
def test_which_variables_are_imported_anew_for(
    changes: dict[str, str], asked: set[str], names: list[str]
) -> None:
    assert unlike(BEFORE, AFTER, {**BEFORE, **changes}, asked) == names


def test_a_variable_that_is_gone_counts_too() -> None:
    assert unlike(BEFORE, BEFORE, {"HOME": "/"}, ()) == ["OMP_NUM_THREADS"]


def test_what_modules_set_stays_and_what_the_server_set_comes() -> None:
    assert settled(BEFORE, AFTER, {"HOME": "/", "SGLANG_NEW": "1"}) == {
        "HOME": "/",
        "SGLANG_NEW": "1",
        "KMP_SET": "yes",
    }
    assert settled({"A": "1"}, {}, {"A": "1", "B": "1"}) == {"B": "1"}
