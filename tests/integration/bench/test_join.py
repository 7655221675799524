"""`bench join`: parts of one benchmark as one result."""

import json
import shutil
from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench.results.records import Result
from tests.support.bench_runs import Behave, fakes, words


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders that share the baseline; the second one's was measured with one more batch."""
    folder = tmp_path_factory.mktemp("measured")
    with fakes() as behave:
        behave(**{"3-1-4": {"per_chunk": 3}, "2-1-3": {"per_chunk": 2}})
        one, two = folder / "one", folder / "two"
        assert main(words(one, "--config", "none", "--config", "3,1,4", "--batch", "1")) == 0
        assert main(words(two, "--config", "none", "--config", "2,1,3", "--batch", "1,2")) == 0
    return folder


@pytest.fixture
def parts(behave: Behave, measured: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the two folders, for a test to do with as it likes."""
    behave(**{"3-1-4": {"per_chunk": 3}, "2-1-3": {"per_chunk": 2}})
    for name in ("one", "two"):
        shutil.copytree(measured / name, tmp_path / name)
    return tmp_path / "one", tmp_path / "two"


def join(out: Path, *parts: Path) -> int:
    return main(["bench", "join", *map(str, parts), "--no-plots", "--out", str(out)])


def test_a_joined_result_holds_what_its_parts_do(
    parts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = map(Result.load, parts)
    capsys.readouterr()
    assert join(tmp_path / "both", *parts) == 0
    printed = capsys.readouterr()
    both = Result.load(tmp_path / "both")
    assert "1 passes are in several folders: the first one's count" in printed.err
    assert [c.name for c in both.configurations] == ["none", "3,1,4", "2,1,3"]
    assert both.of("3,1,4", "smoke", 1) == one.of("3,1,4", "smoke", 1)
    assert both.of("2,1,3", "smoke", 2) == two.of("2,1,3", "smoke", 2)
    assert both.of("none", "smoke", 1) == one.of("none", "smoke", 1)
    assert both.of("none", "smoke", 2) == two.of("none", "smoke", 2)
    (against_the_other,) = both.of("2,1,3", "smoke", 1)
    assert against_the_other.equality is not None
    assert against_the_other.equality.equal == 10
    assert both.settings["batches"] == [1, 2]
    assert (tmp_path / "both" / "report.md").read_text() in printed.out


def test_it_says_how_its_parts_were_measured(parts: tuple[Path, Path], tmp_path: Path) -> None:
    path = parts[1] / "result.json"
    other = json.loads(path.read_text())
    other["provenance"]["environment"] = {"CUDA_VISIBLE_DEVICES": "1"}
    path.write_text(json.dumps(other))
    join(tmp_path / "both", *parts)
    provenance = Result.load(tmp_path / "both").provenance
    first, second = provenance["parts"]
    assert set(first) == {"date", "command"}
    assert second["environment"] == {"CUDA_VISIBLE_DEVICES": "1"}
    assert "--config 2,1,3" in second["command"]
    assert provenance["command"].startswith("sglang-qwen3next-eagle3 bench join")
    assert provenance["commit"] == Result.load(parts[0]).provenance["commit"]
    report = (tmp_path / "both" / "report.md").read_text()
    again = report[report.index("## To regenerate") :]
    places = [again.index(said) for said in ("3,1,4", "2,1,3", "bench join")]
    assert places == sorted(places)


def test_the_joined_folder_goes_on(
    parts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = tmp_path / "both"
    join(both, *parts)
    capsys.readouterr()
    wanted = ["--config", "none", "--config", "3,1,4", "--config", "2,1,3", "--batch", "1,2"]
    assert main(words(both, *wanted)) == 0
    started = [line for line in capsys.readouterr().err.splitlines() if "starting" in line]
    assert len(started) == 1, "3,1,4 at B=2 alone was missing"
    # What was measured since is not overwritten.
    assert join(both, *parts) == 2
    assert "choose a new folder" in capsys.readouterr().err


def test_parts_stay_as_they_are(parts: tuple[Path, Path], tmp_path: Path) -> None:
    def content() -> dict[Path, bytes]:
        files = [path for part in parts for path in part.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files}

    before = content()
    join(tmp_path / "both", *parts)
    assert content() == before


def test_what_was_joined_can_be_joined(parts: tuple[Path, Path], tmp_path: Path) -> None:
    third = tmp_path / "third"
    assert main(words(third, "--config", "none", "--batch", "2")) == 0
    join(tmp_path / "both", *parts)
    assert join(tmp_path / "all", tmp_path / "both", third) == 0
    said = Result.load(tmp_path / "all").provenance["parts"]
    commands = [part["command"] for part in said]
    assert ["3,1,4" in c for c in commands] == [True, False, False]
    assert ["2,1,3" in c for c in commands] == [False, True, False]


def test_a_server_that_failed_in_one_part_and_ran_in_the_other_is_no_failure(
    behave: Behave, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    behave(**{"2-1-3": {"crash_at": 1}})
    failed = tmp_path / "failed"
    assert main(words(failed, "--config", "2,1,3", "--batch", "1")) == 1
    assert join(tmp_path / "both", failed, parts[1]) == 0
    assert {c.name: c.status for c in Result.load(tmp_path / "both").configurations} == {
        "2,1,3": "ok",
        "none": "ok",
    }


def test_parts_of_another_benchmark_are_refused(
    parts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = tmp_path / "other", tmp_path / "both"
    assert main(words(other, "--config", "none", "--batch", "1", "--seed", "7")) == 0
    capsys.readouterr()
    assert join(out, parts[0], other) == 2
    assert "other arguments (seed: " in capsys.readouterr().err
    assert not out.exists()
    (tmp_path / "empty").mkdir()
    assert join(out, parts[0], tmp_path / "empty") == 2
    assert "there is no result" in capsys.readouterr().err
    (parts[0] / "request.json").unlink()
    assert join(out, *parts) == 2
    assert "is no folder of `bench run`" in capsys.readouterr().err
    assert join(parts[1], parts[1]) == 2
    assert "choose a new folder" in capsys.readouterr().err


def test_other_servers_by_the_same_name_are_refused(
    parts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = parts[1] / "configurations.json"
    servers = json.loads(path.read_text())
    servers["none"]["argv"].append("--enable-something")
    path.write_text(json.dumps(servers))
    assert join(tmp_path / "both", *parts) == 2
    assert "another server that goes by none" in capsys.readouterr().err
