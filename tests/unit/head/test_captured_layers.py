"""Which layers a head is served with: the option, the calibration, its config, the card."""

from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.captured_layers import NamedLayers, decide
from sglang_qwen3next_eagle3.head.files import Folder, content_hash
from sglang_qwen3next_eagle3.head.record import AuxRecord
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.checkpoints import CODER_NEXT, write_target
from tests.support.heads import CONFIG, TARGET, random_tensors, write
from tests.support.server import free_port

pytestmark = pytest.mark.usefixtures("installed")

CODER = Target.from_config(CODER_NEXT)

IDS = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [7, 27, 43]}}


@pytest.fixture(autouse=True)
def no_calibrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write_target(tmp_path / "target", TARGET)


def head(folder: Path, **config: Any) -> Path:
    return write(folder, {**CONFIG, **config}, random_tensors(CONFIG))


def calibrate(folder: Path, selection: str) -> None:
    files = Folder(folder)
    content = content_hash(files)
    assert content is not None
    record = AuxRecord(content, files.sizes["model.safetensors"], selection, "2026-01-31")
    aux_record.save(record, aux_record.default_path(record))


class Served:
    """What a launch would have served, and the lines it printed before."""

    def __init__(
        self, executed: dict[str, Any], capsys: pytest.CaptureFixture[str], *argv: str
    ) -> None:
        launch.main(["--profile", "b1", "--port", str(free_port()), *argv])
        self.selection = executed["environment"][ENVIRONMENT_VARIABLE]
        lines = capsys.readouterr().err.splitlines()
        prefix = "sglang-qwen3next-eagle3: "
        self.lines = [line.removeprefix(prefix) for line in lines]
        self.warnings = [line for line in self.lines if line.startswith("warning: ")]


@pytest.fixture
def serve(executed: dict[str, Any], capsys: pytest.CaptureFixture[str], target: Path) -> Any:
    def start(folder: Path, *argv: str) -> Served:
        names = ("--target", str(target), "--head", str(folder))
        return Served(executed, capsys, *names, *argv)

    return start


def test_the_first_source_that_is_set_wins() -> None:
    record = AuxRecord("0" * 64, 1, "output:7,27,43", "2026-01-31")
    spelled, ids, nothing = NamedLayers("sglang", [3, 7, 11]), NamedLayers(None, [1, 23, 44]), None

    def decided(named: NamedLayers, record: AuxRecord | None, **option: str) -> tuple[str, str]:
        captured = decide(CODER, named, record, count=3, **option)  # type: ignore[arg-type]
        return str(captured.selection), captured.source

    assert decided(spelled, record, option="fork") == ("input:3,27,47", "option or profile")
    told = decided(spelled, record, option="fork", option_source="a variable")
    assert told == ("input:3,27,47", "a variable")
    assert decided(spelled, record) == ("output:7,27,43", "calibration of 2026-01-31")
    assert decided(spelled, nothing) == ("input:2,24,45", "the head's config")
    assert decided(ids, nothing) == ("output:1,23,44", "the head's config")
    default = ("output:3,23,47", "default, the head's config names none")
    assert decided(NamedLayers(), nothing) == default
    assert decided(NamedLayers(None, []), nothing) == default


def test_only_an_option_needs_leave_for_gdn_layers() -> None:
    with pytest.raises(UserError, match="2 are GDN layers"):
        decide(CODER, NamedLayers(), option="output:2,23,47", count=3)
    assert decide(CODER, NamedLayers(), option="output:2,23,47", count=3, allow_gdn=True)
    assert decide(CODER, NamedLayers("output:2,23,47"), count=3)
    assert decide(CODER, NamedLayers(None, [2, 23, 47]), count=3)


def test_a_target_too_small_for_the_default_needs_an_explicit_selection() -> None:
    small = Target({"num_hidden_layers": 8, "full_attention_interval": 4})
    with pytest.raises(UserError, match="no 'card' selection"):
        decide(small, NamedLayers(), count=3)


def test_streams_that_leave_gdn_layers_are_named_at_start() -> None:
    def described(option: str) -> str:
        return decide(CODER, NamedLayers(), option=option, count=3).describe(CODER)

    card = "auxiliary hidden states: output:3,23,47 (card), source: option or profile"
    assert described("card") == card
    assert "input@3 is what layer 2 put out, input@27 is what layer 26 put out" in described("fork")
    assert "input@2" in described("sglang")
    assert "input@24" not in described("sglang"), "what enters layer 24 left attention layer 23"


def test_a_head_of_which_nothing_is_known_gets_one_line_with_the_command(
    serve: Any, tmp_path: Path, target: Path
) -> None:
    folder = head(tmp_path / "head")
    served = serve(folder)
    assert served.selection == "card"
    command = f"sglang-qwen3next-eagle3 head calibrate --target {target} --head {folder} --tp 4"
    assert len(served.warnings) == 1
    assert served.warnings[0].endswith(f"measure them with `{command}`")


def test_a_calibration_is_picked_up_and_said(serve: Any, tmp_path: Path) -> None:
    folder = head(tmp_path / "head")
    calibrate(folder, "output:3,26,47")
    served = serve(folder)
    assert served.selection == "output:3,26,47 allow-gdn"
    assert served.warnings == []
    said = "auxiliary hidden states: output:3,26,47, source: calibration of 2026-01-31"
    assert any(line.startswith(said) for line in served.lines)


def test_a_dry_run_shows_the_calibrated_layers(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = head(tmp_path / "head")
    calibrate(folder, "fork")
    argv = ["--profile", "b1", "--target", str(target), "--head", str(folder), "--dry-run"]
    assert launch.main(argv) == 0
    printed = capsys.readouterr().out
    assert f"{ENVIRONMENT_VARIABLE}=fork" in printed
    assert "source: calibration of 2026-01-31" in printed


def test_a_measurement_wins_over_the_config_and_says_so(serve: Any, tmp_path: Path) -> None:
    folder = head(tmp_path / "head", **IDS)
    calibrate(folder, "input:7,27,43")
    served = serve(folder)
    assert served.selection == "input:7,27,43"
    assert len(served.warnings) == 1
    words = "config names output:7,27,43, its calibration of 2026-01-31 measured input:7,27,43"
    assert words in served.warnings[0]


def test_a_measurement_that_agrees_with_the_config_is_no_warning(
    serve: Any, tmp_path: Path
) -> None:
    folder = head(tmp_path / "head", **IDS)
    calibrate(folder, "input:8,28,44")
    served = serve(folder)
    assert served.warnings == [], "input@8 is output@7"


def test_an_option_decides_alone(serve: Any, tmp_path: Path) -> None:
    folder = head(tmp_path / "head", **IDS)
    calibrate(folder, "input:7,27,43")
    served = serve(folder, "--aux-layers", "card")
    assert served.selection == "card"
    assert served.warnings == []


def test_the_config_s_own_spelling_is_served(serve: Any, tmp_path: Path) -> None:
    folder = head(tmp_path / "head", qwen3next_eagle3_aux_layers="input:0,output:23,output:47")
    served = serve(folder)
    assert served.selection == "input:0,output:23,output:47 allow-gdn"
    assert served.warnings == []


def test_a_calibration_for_a_deeper_target_is_refused(
    tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = head(tmp_path / "head")
    calibrate(folder, "output:3,23,59")
    argv = ["--profile", "b1", "--target", str(target), "--head", str(folder)]
    assert launch.main([*argv, "--port", str(free_port())]) == 2
    assert "the target has no layer 59" in capsys.readouterr().err
