"""Every command that starts servers says first which variables of the caller do not count."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3 import __main__
from sglang_qwen3next_eagle3.base.errors import ServerFailed
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving import doctor, server
from tests.support.bench_runs import LettersAsTokens

ROOT = Path(__file__).resolve().parents[3]
FAST, SEAMS = variables.FAST, variables.SEAMS
STOCK, OURS = (f"benchmarks/fast-path/{name}-314.yaml" for name in ("stock", "ours"))
BOTH = (
    f"{FAST}=on,head is not used: stock-314.yaml says fast: off; {SEAMS}=on is not used: "
    "stock-314.yaml says seams: off"
)
SPEED = ["bench", "speed", "--no-plots", "--batch", "1", "--repeats", "1"]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of its size, which take seconds to draw."""
    return synthetic.write_head(tmp_path_factory.mktemp("head"))


@pytest.fixture
def said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    head: Path,
) -> Callable[..., list[str]]:
    """The lines of a command up to its first server, none of which starts."""

    @contextlib.contextmanager
    def starting(words: Any, *_: Any, **__: Any) -> Iterator[Any]:
        begun.touch()  # Also by a process that a benchmark has forked.
        raise ServerFailed("it does not start")
        yield

    begun = tmp_path / "begun"
    for name in variables.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(FAST, "on,head")
    monkeypatch.setenv(SEAMS, "on")
    monkeypatch.setattr(server, "starting", starting)
    monkeypatch.setattr(doctor, "has_gpu", lambda: True)
    monkeypatch.setattr(synthetic, "write_head", lambda folder: head)
    monkeypatch.chdir(ROOT)

    def run(*words: str) -> list[str]:
        begun.unlink(missing_ok=True)
        with contextlib.suppress(ServerFailed):
            __main__.main(list(words))
        lines = capsys.readouterr().err.splitlines()
        assert begun.exists(), lines
        warned = [line for line in lines if "not used" in line]
        assert not warned or lines[0] == warned[0], "before anything starts"
        return [line.removeprefix("warning: ") for line in warned]

    return run


@pytest.mark.parametrize(
    "words",
    [
        [*SPEED, "--config", "PROFILE"],
        # Trees have the flags of --profile, and what it says of ours.
        [*SPEED, "--config", "none", "--config", "3,1,4", "--config", "3,4,8"],
        ["bench", "auto", "--no-plots", "--batch", "1", "--steps", "0,1", "--alone", "1"],
        ["bench", "start", "--batch", "1", "--repeats", "2"],
        ["bench", "cycle", "--batch", "1", "--config", "3,1,4", "--config", "none"],
    ],
)
def test_a_benchmark_says_it_once(
    said: Callable[..., list[str]], tmp_path: Path, words: list[str]
) -> None:
    def of(profile: str) -> list[str]:
        # A profile with the head's stage is none of a server without a head.
        other = {"PROFILE": profile} | ({"none": "5,1,6"} if profile == OURS else {})
        spelled = [other.get(word, word) for word in words]
        return said(*spelled, "--profile", profile, "--out", str(tmp_path / Path(profile).stem))

    assert of(STOCK) == [f"{BOTH}; for them to count, say fast: on,head and seams: on in a profile"]
    assert of(OURS) == []


def test_profiles_that_differ_are_named_in_one_line(
    said: Callable[..., list[str]], tmp_path: Path
) -> None:
    stock = [word for name in ("none", "314") for word in
             ("--config", f"benchmarks/fast-path/stock-{name}.yaml")]  # fmt: skip
    words = [*SPEED, "--profile", STOCK, *stock, "--config", OURS, "--out", str(tmp_path / "out")]
    (line,) = said(*words)
    assert line == (
        f"{FAST}=on,head is not used where stock-none.yaml and stock-314.yaml say fast: off; "
        f"{SEAMS}=on is not used where stock-none.yaml and stock-314.yaml say seams: off; for them "
        "to count, say fast: on,head and seams: on in a profile"
    )


def test_suites_say_it_too(
    said: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FAST)
    monkeypatch.setenv(SEAMS, "off")
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "0")
    monkeypatch.setattr("sglang_qwen3next_eagle3.bench.run.ChatFormat", LettersAsTokens)
    words = ["bench", "run", "--no-plots", "--suite", "smoke", "--profile", "demo"]
    (line,) = said(*words, "--config", "none", "--config", "3,1,4", "--out", str(tmp_path / "out"))
    assert line == "TORCH_COMPILE_DISABLE=0 is not used: the CPU engine wins"


def test_a_warmup_says_it_with_its_options(
    said: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    (line,) = said("warmup", "--profile", STOCK, "--no-seams", "--out", str(tmp_path / "caches"))
    assert line == (
        f"{FAST}=on,head is not used: stock-314.yaml says fast: off; {SEAMS}=on is not used: "
        "--no-seams wins; TRITON_CACHE_DIR=/elsewhere is not used: --out wins; for "
        f"{FAST} and {SEAMS} to count, pass --fast on,head --seams on"
    )


def test_what_a_benchmark_says_itself_wins_over_a_variable(
    said: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variables.ROUTING, "uniform")
    words = [*SPEED, "--profile", OURS, "--config", OURS, "--out", str(tmp_path / "out")]
    assert said(*words) == [
        f"{variables.ROUTING}=uniform is not used: the benchmark wins; for it to count, pass "
        "--routing uniform"
    ]
    words[-1] += "-routed"
    assert said(*words, "--routing", "uniform") == []
    monkeypatch.setenv("CUDA_CACHE_PATH", "/elsewhere")
    words = ["bench", "start", "--profile", OURS, "--batch", "1", "--out", str(tmp_path / "start")]
    monkeypatch.delenv(variables.ROUTING)
    (line,) = said(*words, "--caches", str(tmp_path / "caches"))
    assert line.startswith("CUDA_CACHE_PATH=/elsewhere is not used: --caches wins")


def test_gpus_that_are_shared_out_are_not_counted_from_the_caller_s(
    said: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    words = ["bench", "auto", "--no-plots", "--batch", "1", "--steps", "0,1", "--profile", OURS]
    words += ["--out", str(tmp_path / "out")]
    assert said(*words, "--gpus", "0") == [
        "CUDA_VISIBLE_DEVICES=2,3 is not used: --gpus 0 wins; for it to count, pass --gpus 2,3"
    ]
    assert said(*words, "--gpus", "3") == []


def test_extends_that_are_put_off_are_for_the_server_whose_steps_change(
    said: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variables.DEFER, "8")
    words = ["bench", "auto", "--no-plots", "--batch", "1", "--steps", "0,1", "--profile", OURS]
    assert said(*words, "--alone", "1", "--out", str(tmp_path / "auto")) == []
    (line,) = said(*SPEED, "--profile", OURS, "--config", OURS, "--out", str(tmp_path / "speed"))
    assert line.startswith(f"{variables.DEFER}=8 is not used: ")
