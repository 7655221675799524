"""The keys of a server: from a file or a variable to SGLang, past every list and log."""

import logging
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from sglang_qwen3next_eagle3 import launch, plugin
from sglang_qwen3next_eagle3.base.errors import Replacement
from sglang_qwen3next_eagle3.cli import launch as cli
from sglang_qwen3next_eagle3.serving import machine, refusals, server
from tests.support import key_files
from tests.support.key_files import ADMIN, KEY
from tests.support.launching import dry_run, error_of

OPEN = ("--profile", "demo", "--host", "0.0.0.0")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    return key_files.written(tmp_path, monkeypatch)


def test_files_are_handed_on_by_name(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--api-key-file", files[0], "--admin-api-key-file", files[1])
    data = dry_run(capsys, *OPEN, *options)
    assert data["environment"][f"{KEY}_FILE"] == files[0]
    assert data["environment"][f"{ADMIN}_FILE"] == files[1]
    assert not any("key" in word for word in data["argv"])
    assert launch.main([*OPEN, "--dry-run", *options]) == 0
    assert f"{KEY}_FILE={files[0]}" in capsys.readouterr().out


def test_a_dry_run_reads_no_key(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    absent = "/nowhere/api-key"
    data = dry_run(capsys, *OPEN, "--api-key-file", absent)
    assert data["environment"][f"{KEY}_FILE"] == absent
    data = dry_run(capsys, *OPEN, "--api-key-file", "~no-such-user/key")
    assert data["environment"][f"{KEY}_FILE"].endswith("/~no-such-user/key")


def test_a_key_in_the_command_line_goes_no_further(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    data = dry_run(capsys, *OPEN, "--api-key", "s3cret")
    assert data["environment"][KEY] == "s3cret"
    assert not any("s3cret" in word for word in data["argv"])
    assert launch.main([*OPEN, "--dry-run", "--api-key", "s3cret"]) == 0
    printed = capsys.readouterr().out
    assert "s3cret" not in printed
    assert f'{KEY}="${{{KEY}:?}}"' in printed


@pytest.mark.parametrize("end", ["", "_FILE"])
def test_the_environment_of_the_caller_guards_it_too(
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    assert "pass --api-key-file FILE" in error_of(capsys, *OPEN, "--dry-run")
    monkeypatch.setenv(f"{KEY}{end}", " ")
    assert "pass --api-key-file FILE" in error_of(capsys, *OPEN, "--dry-run")
    monkeypatch.setenv(f"{KEY}{end}", files[0] if end else "s3cret")
    assert dry_run(capsys, *OPEN)


def test_an_admin_key_alone_guards_nothing(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "lets everybody" in error_of(capsys, *OPEN, "--dry-run", "--admin-api-key-file", "x")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--api-key", "a", "--api-key-file", "b"], "--api-key and --api-key-file"),
        (["--api-key-file", "b", "--", "--api-key=c"], f"--api-key and {KEY}_FILE"),
        (["--api-key", "a", "--", "--api-k", "c"], f"--api-key and {KEY}:"),
        (
            ["--admin-api-key-file", "b", "--insecure", "--", "--admin-api-key", "c"],
            f"--admin-api-key and {ADMIN}_FILE",
        ),
    ],
)
def test_one_key_from_two_places_is_refused(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], words: list[str], named: str
) -> None:
    error = error_of(capsys, *OPEN, "--dry-run", *words)
    assert named in error
    assert "leave one of them" in error


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--api-key", ""], "--api-key"),
        (["--api-key= "], "--api-key"),
        (["--", "--api-key", ""], "--api-key"),
        (["--", "--api-k="], "--api-key"),
        (["--", "--admin-api-key="], "--admin-api-key"),
    ],
)
def test_an_empty_key_is_not_taken_for_none(
    capsys: pytest.CaptureFixture[str], words: list[str], flag: str
) -> None:
    error = error_of(capsys, "--profile", "demo", "--dry-run", *words)
    assert f"{flag} is empty, as an unset variable leaves it, and would guard nothing" in error


@pytest.mark.parametrize("option", ["--api-key-file", "--admin-api-key-file"])
def test_keys_that_sglang_would_not_check_are_refused(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], option: str
) -> None:
    words = ("--profile", "demo", option, "x", "--dry-run", "--", "--tokenizer-worker-num")
    assert "with 2 tokenizer workers SGLang checks no key" in error_of(capsys, *words, "2")
    assert launch.main([*words, "1"]) == 0


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "check_installation", lambda *_: None)
    monkeypatch.setattr(machine, "check_address", lambda host, port: None)
    monkeypatch.setattr(cli, "_examine", lambda *_: [])
    monkeypatch.setattr(os, "execvpe", lambda *given: pytest.fail("not to be reached"))


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (b" \n", "is empty"), (b"\xff", "no text"), (b"a\nb", "no HTTP")],
)
def test_a_file_that_holds_no_key_stops_the_launch(
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    said: str,
) -> None:
    path = Path(files[0])
    path.unlink() if content is None else path.write_bytes(content)
    assert said in error_of(capsys, *OPEN, "--api-key-file", files[0])


@pytest.mark.usefixtures("launched")
def test_a_variable_that_holds_no_key_stops_the_launch(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "schlüssel")
    error = error_of(capsys, *OPEN)
    assert "no HTTP header holds" in error
    assert "schlüssel" not in error


@pytest.mark.usefixtures("launched")
def test_what_the_launch_prints_says_how_to_ask(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Replacement] = []
    monkeypatch.setattr(launch, "exit_status", lambda call: ran.append(call()) or 0)
    assert launch.main([*OPEN, "--api-key-file", files[0]]) == 0
    printed = capsys.readouterr().err
    assert f"--api-key-file {files[0]} 'What is a heap?'" in printed
    assert "s3cret" not in printed
    assert ran[0].environment[f"{KEY}_FILE"] == files[0]


@pytest.fixture
def in_the_server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`sys.argv` of a process that is what the launcher starts."""
    main = ModuleType("__main__")
    main.__spec__ = SimpleNamespace(name=plugin.SERVER_MODULE)  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(plugin, "_end_all_on_sigterm", lambda: None)
    monkeypatch.setattr(plugin, "_hook_capture", lambda environment: None)
    monkeypatch.setattr(plugin, "_hook_fast", lambda asked: None)
    argv = ["launch_server.py", "--port", "1"]
    monkeypatch.setattr(sys, "argv", argv)
    return argv


def test_the_server_reads_them_before_sglang_parses_its_words(
    files: tuple[str, str], in_the_server: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "s3cret")
    monkeypatch.setenv(f"{ADMIN}_FILE", files[1])
    plugin.register()
    plugin.register()
    assert in_the_server[3:] == ["--api-key=s3cret", "--admin-api-key=-r00t"]
    assert KEY not in os.environ, "its children have no use for it"


def test_without_keys_the_words_stay(files: tuple[str, str], in_the_server: list[str]) -> None:
    plugin.register()
    assert in_the_server == ["launch_server.py", "--port", "1"]


def test_a_file_that_is_gone_by_then_stops_the_server(
    files: tuple[str, str], in_the_server: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{KEY}_FILE", f"{files[0]}.gone")
    with pytest.raises(SystemExit, match="--api-key-file .* cannot be read"):
        plugin.register()


def test_a_program_of_somebody_else_is_left_alone(
    files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY, "s3cret")
    before = list(sys.argv)
    plugin._take_keys() if plugin._is_server() else None
    assert sys.argv == before


def test_sglang_prints_its_arguments_without_them(
    in_the_server: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    plugin.register()
    with caplog.at_level(logging.INFO):
        logger = logging.getLogger(plugin.SERVER_LOGGER)
        logger.info("server_args=ServerArgs(api_key='s3cret', admin_api_key=\"r00t\", tp_size=1)")
        logger.info("%d of %s", 1, "2")
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "server_args=ServerArgs(api_key=***, admin_api_key=***, tp_size=1)"
    assert second == "1 of 2"


def test_a_server_that_a_verb_starts_for_itself_has_no_key_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not ask it."""
    monkeypatch.setenv(KEY, "s3cret")
    seen: dict[str, str] = {}

    class Stopped(Exception):
        pass

    def child(command: list[str], log: Path, *, environment: dict[str, str]) -> None:
        seen.update(environment)
        raise Stopped

    monkeypatch.setattr(server, "child", child)
    with pytest.raises(Stopped), server.started([], tmp_path / "log", {"A": "1"}, 1.0):
        pass
    assert seen == {KEY: "", f"{KEY}_FILE": "", ADMIN: "", f"{ADMIN}_FILE": "", "A": "1"}


GRPC = [["--grpc-port", "5000"], ["--grpc-po=5000"], ["--smg-grpc-mode"], ["--grpc-mode"]]


@pytest.mark.parametrize("words", [*GRPC, []])
def test_grpc_which_asks_for_no_key_is_refused(
    files: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
) -> None:
    named = words[0].partition("=")[0] if words else refusals.GRPC_PORT
    if not words:
        monkeypatch.setenv(refusals.GRPC_PORT, "5000")
    key = ["--api-key-file", files[0]]
    near = ["--profile", "demo", "--dry-run"]
    for options in ([*OPEN, "--dry-run"], [*OPEN, "--dry-run", *key], [*near, *key]):
        error = error_of(capsys, *options, "--", *words)
        assert f"{named}: SGLang's gRPC server asks nobody for a key" in error
        assert launch.main([*options, "--insecure", "--", *words]) == 0
        capsys.readouterr()
    assert launch.main([*near, "--", *words]) == 0
