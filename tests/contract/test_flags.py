"""Our table of SGLang's flags against the parser of the installed SGLang."""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import data_dir
from sglang_qwen3next_eagle3.overlay import server_flags
from sglang_qwen3next_eagle3.serving import command_line, flags, preflight, profile
from sglang_qwen3next_eagle3.serving.profile import Overrides
from tests.support import warm

WORDS: list[list[str]] = [
    [],
    ["--enable-metrics", "--quantization", "fp8"],
    ["--tensor-p", "2", "--por=1", "--cuda-graph-bs-d", "1", "2", "--log-level-http=debug"],
]


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    from sglang.srt.server_args import ServerArgs

    built = argparse.ArgumentParser()
    ServerArgs.add_cli_args(built)
    return built


def test_the_table_is_that_of_the_installed_release() -> None:
    release = importlib.metadata.version("sglang")
    table = json.loads((data_dir("patches") / f"sglang-{release}.flags.json").read_text())
    assert table == server_flags.table(argparse.ArgumentParser()), (
        "make it again with `patches flags`"
    )


def value_of(action: argparse.Action) -> str:
    """One that its parser takes."""
    if action.choices:
        return str(next(iter(action.choices)))
    if action.dest == "cuda_graph_config":
        return "{}"
    kind = getattr(action.type, "__name__", "")
    return {"int": "1", "float": "0.5", "human_readable_int": "1Ki", "loads": "{}"}.get(kind, "[]")


@pytest.fixture
def quiet(parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang's usage is long, and takes long to be laid out."""

    def refuse(message: str) -> None:
        raise ValueError(message)

    monkeypatch.setattr(parser, "error", refuse)


def is_taken(read: Callable[[list[str]], object], words: list[str]) -> bool:
    try:
        read(["--model-path", "x", *words])
    except (UserError, ValueError):
        return False
    return True


def read_by_us(words: list[str]) -> None:
    parsed = flags.parse(words)
    flags.check(parsed)
    if parsed.stray:
        raise UserError("as preflight says of what stands behind --")


@pytest.mark.usefixtures("quiet")
def test_we_take_every_flag_of_sglang_as_its_parser_does(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        for name in action.option_strings:
            if name in ("-h", "--help", flags.CONFIG):
                continue
            value = value_of(action)
            right = [name] if action.nargs == 0 else [name, value]
            assert is_taken(parser.parse_args, right), right
            assert is_taken(read_by_us, right), right
            # What has no value, is given one, or is followed by what is none.
            for words in ([name], [f"{name}={value}"], [name, "-q"], [name, "-5.5.5"]):
                assert is_taken(read_by_us, words) == is_taken(parser.parse_args, words), words


@pytest.mark.usefixtures("quiet")
def test_we_take_every_key_of_a_file_as_sglang_does(
    parser: argparse.ArgumentParser, tmp_path: Path
) -> None:
    merger = server_flags.config_merger().ConfigArgumentMerger(parser)
    file = tmp_path / "flags.yaml"

    def read_by_sglang(words: list[str]) -> None:
        parser.parse_args(merger.merge_config_with_args(words))

    for action in parser._actions:
        for name in action.option_strings:
            if name in ("-h", "--help", flags.CONFIG):
                continue
            switches = ["true", "false"] if action.nargs == 0 else []
            for value in [*switches, json.dumps(value_of(action))]:
                file.write_text(f"{name[2:]}: {value}")
                words = ["--config", str(file)]
                taken = is_taken(read_by_sglang, words)
                assert is_taken(read_by_us, words) == taken, (name, value)


def spelled_out(words: Sequence[str]) -> list[str]:
    """A command line as we read it, with the long name and the last value of each flag."""
    last = {entry.flag or entry.word: entry for entry in flags.parse(words).given}
    return [
        word
        for entry in last.values()
        for word in [entry.flag.names[0] if entry.flag else entry.word, *entry.values]
    ]


@pytest.mark.parametrize("words", WORDS, ids=["plain", "quantized", "abbreviated"])
@pytest.mark.parametrize("overrides", [Overrides(), Overrides(no_speculation=True)])
@pytest.mark.parametrize("name", profile.profile_names())
def test_sglang_reads_a_launch_as_we_do(
    parser: argparse.ArgumentParser, name: str, overrides: Overrides, words: list[str]
) -> None:
    chosen = overrides.apply(profile.load(name))
    if chosen.cpu_engine:
        words = [w for w in words if w not in {"--tensor-p", "2", "--quantization", "fp8"}]
    launch = preflight.plan(chosen, preflight.Options(tuple(words)))
    argv = launch.argv[3:]
    read: dict[str, Any] = vars(parser.parse_args(argv))
    assert read == vars(parser.parse_args(spelled_out(argv)))
    assert read["model_path"] == flags.last_value(argv, "--model-path")
    assert read["host"] == (flags.last_value(argv, "--host") or command_line.DEFAULT_HOST)
    assert read["tp_size"] == int(flags.last_value(argv, "--tp-size") or 1)


READ_BY_SGLANG = (
    "import sys\n"
    "from sglang.srt.server_args import prepare_server_args\n"
    "read = prepare_server_args(sys.argv[1:])\n"
    # Newer releases do what follows from the flags only where they launch.
    "getattr(read, 'resolve_once', lambda: None)()\n"
    "print(read.disable_radix_cache, read.disable_overlap_schedule)\n"
)
warm.CODES.add(READ_BY_SGLANG)


def test_sglang_takes_the_cpu_demo_with_a_prefix_cache() -> None:
    """It asserts that a GPU is there unless it is told the strategy and not to overlap."""
    demo = profile.load("demo")
    cached = demo.override(sglang={"disable-radix-cache": False})
    launch = preflight.plan(cached, preflight.Options())
    command = [sys.executable, "-c", READ_BY_SGLANG]
    environment = {**os.environ, **launch.environment}

    def read(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words], env=environment, capture_output=True, text=True, check=False
        )

    told = read(launch.argv[3:])
    assert told.stdout.split()[-2:] == ["False", "True"], told.stderr[-2000:]
    untold = read(launch.words[3:])
    assert "AssertionError: extra_buffer" in untold.stderr, "it is gone: so may the flags be"
