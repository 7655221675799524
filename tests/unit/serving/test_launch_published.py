"""A dry run of the published checkpoints, on a machine that has neither them nor a network."""

from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import launch
from sglang_qwen3next_eagle3.model.aux_layers import ENVIRONMENT_VARIABLE
from sglang_qwen3next_eagle3.serving import preflight
from tests.support.checkpoints import CODER_NEXT, FP8, SMALL_TARGET, write_config, write_target
from tests.support.heads import published as published_head
from tests.support.launching import dry_run, error_of
from tests.support.server import free_port


@pytest.fixture
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*asked: object, **how: object) -> Path:
        raise AssertionError(f"a dry run asks for {asked}")

    monkeypatch.setattr(preflight.hub, "resolve", resolve)


FP8_RULE = "moe_intermediate_size 512 / TP 8 = 64 is not divisible by the FP8 block of 128"
REFUSED = {
    "--profile h200-fp8 --tp 8": FP8_RULE,
    "--profile h200-fp8 -- --tp 8": FP8_RULE,
    "--profile h200-fp8 -- --tp=8": FP8_RULE,
    "--profile h200-fp8 -- --tp-size 8": FP8_RULE,
    "--profile h200-fp8 -- --tensor-parallel-size=8": FP8_RULE,
    "--profile h200-fp8 -- --tensor-par 8": FP8_RULE,
    "--profile h200-fp8 --no-speculation --tp 8": FP8_RULE,
    "--profile h200-fp8 --mtp --tp 8": FP8_RULE,
    "--profile b1 --target Qwen/Qwen3-Coder-Next-FP8 --tp 8": FP8_RULE,
    "--profile b1 --tp 3": "num_attention_heads = 16 is not divisible by TP 3: use --tp 1 or 2",
    "--profile h200-fp8 --tp 3": "is not divisible by TP 3: use --tp 1 or 2 or 4",
    "--profile h200-fp8 --tp 0": "TP '0': a whole number of ranks from 1",
    "--profile h200-fp8 --tp -1": "TP '-1': a whole number of ranks from 1",
    "--profile h200-fp8 --port 99999": "port '99999': a number from 1 to 65535",
    "--profile h200-fp8 -- --por=0": "port '0': a number from 1 to 65535",
    "--profile b1 --aux-layers output:3,23": "2 named, the head's fc takes 3",
    "--profile b1 --aux-layers output:3,23,43,47": "4 named, the head's fc takes 3",
    "--profile b1 --aux-layers output:2,23,47": "2 are GDN layers; name attention layers",
    "--profile b1 --aux-layers input:4,output:23,output:47": "4 are GDN layers",
    "--profile b1 --aux-layers output:3,23,99": "no layer 99, its layers are 0 to 47",
    "--profile b1 --aux-layers input:3,27,48": "no layer 48, its layers are 0 to 47",
    "--profile b1 --aux-layers output:3,23,99 --allow-gdn-aux": "no layer 99",
    "--profile b1 --aux-layers output:23,3,47": "name them ascending in depth",
    "--profile b1 --aux-layers output:3,23,23": "two of them are the same stream",
    "--profile b1 --head else/where --aux-layers output:2,23": "2 are GDN layers",
    "--profile b1 -- --context-length 300000": "context of 300000 is asked for, the target knows",
    "--profile b1 -- --context-len=512k": "a context of 512000 is asked for",
    "--profile b1 -- --context-length 512Ki": "a context of 524288 is asked for",
    "--profile b1 -- --context-length many": "--context-length 'many': a number of tokens",
    "--profile b1 --head demo": "reads states of width 192, the target's are 2048 wide",
    "--profile b1 --target demo --tp 1": "reads states of width 2048, the target's are 192 wide",
}


@pytest.mark.usefixtures("_no_hub")
@pytest.mark.parametrize(("words", "told"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_is_refused(
    capsys: pytest.CaptureFixture[str], words: str, told: str
) -> None:
    first, *rest = words.split(" -- ")
    argv = [*first.split(), "--dry-run", *(["--", *rest[0].split()] if rest else [])]
    assert told in error_of(capsys, *argv)


@pytest.mark.usefixtures("_no_hub")
@pytest.mark.parametrize(
    "words",
    [
        "--profile b1", "--profile b1 --tp 8", "--profile h200-fp8 --tp 2", "--profile b1 --mtp",
        "--profile b1 --aux-layers output:3,23,47", "--profile b1 --aux-layers fork",
        "--profile b1 --aux-layers output:2,23,47 --allow-gdn-aux",
        # Nothing is known of these.
        "--profile b1 --target else/where --tp 3", "--profile b1 --target else/where --head a/b "
        "--aux-layers output:2,99",
    ],
)  # fmt: skip
def test_what_can_be_is_printed(capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert dry_run(capsys, *words.split())["argv"]


@pytest.mark.usefixtures("_no_hub")
def test_what_the_head_s_own_config_decides_waits_for_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether the published head names layers is not known here."""
    assert ENVIRONMENT_VARIABLE not in dry_run(capsys, "--profile", "b1")["environment"]
    told = dry_run(capsys, "--profile", "b1", "--aux-layers", "output:3,23,47")
    assert told["environment"][ENVIRONMENT_VARIABLE] == "output:3,23,47"
    assert any("auxiliary hidden states: output:3,23,47" in note for note in told["notes"])


def test_a_local_checkpoint_is_read_whatever_its_name(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    write_config(tmp_path / "Qwen" / "Qwen3-Coder-Next", {**CODER_NEXT, "num_attention_heads": 24})
    monkeypatch.chdir(tmp_path)
    assert dry_run(capsys, "--profile", "b1", "--tp", "4")
    assert "num_attention_heads = 24 is not divisible by TP 16" in error_of(
        capsys, "--profile", "b1", "--tp", "16", "--dry-run"
    )


@pytest.mark.usefixtures("installed")
def test_the_hub_s_config_wins_and_is_reported(
    capsys: pytest.CaptureFixture[str],
    executed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """FP8 with blocks of 64 could be served with TP 8, whatever this package knows."""
    blocks = {**FP8, "weight_block_size": [64, 64]}
    target = write_target(tmp_path / "t", {**CODER_NEXT, "quantization_config": blocks})
    head = published_head(tmp_path / "h")
    places = {"Qwen/Qwen3-Coder-Next-FP8": target, "thoughtworks/Qwen3-Coder-Next-Eagle3": head}
    monkeypatch.setattr(preflight.hub, "resolve", lambda name, *_, **__: places[name])
    argv = ["--profile", "h200-fp8", "--port", str(free_port())]
    launch.main([*argv, "--tp", "8"])
    assert executed.pop("argv")
    said = capsys.readouterr().err
    assert "warning: Qwen/Qwen3-Coder-Next-FP8 is not as this package knows it" in said
    assert "quantization_config.weight_block_size is [64, 64], not [128, 128]" in said
    write_config(target, {**CODER_NEXT, "quantization_config": FP8})
    assert FP8_RULE in error_of(capsys, *argv, "--tp", "8")
    launch.main(argv)
    assert executed.pop("argv")
    assert "as this package knows it" not in capsys.readouterr().err


@pytest.mark.usefixtures("installed")
def test_a_launch_that_the_target_refuses_downloads_no_head(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "t", SMALL_TARGET)
    asked = []

    def resolve(name: str, revision: str | None, what: str, **how: bool) -> Path:
        asked.append(what)
        return config

    monkeypatch.setattr(preflight.hub, "resolve", resolve)
    argv = ("--profile", "b1", "--target", "a/b", "--tp", "3", "--port", str(free_port()))
    assert "is not divisible by TP 3" in error_of(capsys, *argv)
    assert asked == ["target"]
