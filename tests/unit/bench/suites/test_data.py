import gzip
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.records import HubRows
from sglang_qwen3next_eagle3.bench.suites import Suite, load_suite, prompts
from tests.support.small_suite import ROWS, fields, suite

LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
SHARED = Path(__file__).resolve().parents[5] / "shared" / "data"
HUB = {"dataset": "owner/name", "split": "test", "revision": "v1"}


def refusal(suite: Suite, folder: Path | None) -> str:
    with pytest.raises(UserError) as error:
        prompts.read_records(suite, folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """A hub with one data set: ROWS. What was asked of it."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def open_hub(name: str, **options: Any) -> HubRows:
        asked.append((name, options))
        return HubRows({"dataset": name, "revision": options["revision"]}, 2, ROWS)

    monkeypatch.setattr(prompts, "open_hub", open_hub)
    return asked


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_hub(name: str, **_: Any) -> HubRows:
        raise UserError(f"data set {name} cannot be reached")

    monkeypatch.setattr(prompts, "open_hub", open_hub)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.json", json.dumps(ROWS, indent=1).encode()),
    ],
)
def test_local_files_of_several_formats_hold_the_same(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert fields(suite({"path": name}), tmp_path) == ROWS


def test_the_origin_of_a_file_is_its_hash_and_no_path_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    found = prompts.read_records(suite({"path": "a.jsonl"}), tmp_path).origin
    assert found == {"file": "a.jsonl", "sha256": hashlib.sha256(LINES).hexdigest()}


def test_a_folder_of_yaml_files_is_a_record_each_in_the_order_of_their_names(
    tmp_path: Path,
) -> None:
    for task in ("b", "a"):
        (tmp_path / "tasks" / task).mkdir(parents=True)
        (tmp_path / "tasks" / task / "task.yaml").write_text(f"instruction: do {task}\n")
    wanted = suite({"path": "tasks/*/task.yaml", "fields": {"word": "instruction"}})
    first, second = fields(wanted, tmp_path)
    assert first == {"folder": "a", "instruction": "do a", "word": "do a"}
    assert second["folder"] == "b"


def test_the_hash_of_a_folder_changes_with_any_of_its_files(tmp_path: Path) -> None:
    wanted = suite({"path": "*.yaml"})
    hashes = set()
    for word in ("x", "y"):
        (tmp_path / "a.yaml").write_text("word: x\n")
        (tmp_path / "b.yaml").write_text(f"word: {word}\n")
        hashes.add(prompts.read_records(wanted, tmp_path).origin["sha256"])
    assert len(hashes) == 2


def test_terminal_bench_takes_an_export_and_the_repository_s_folder(tmp_path: Path) -> None:
    task = tmp_path / "terminal-bench" / "tasks" / "hello" / "task.yaml"
    task.parent.mkdir(parents=True)
    task.write_text("instruction: Say hello.\n")
    wanted = load_suite("terminal-bench")
    assert [r["task_id"] for r in fields(wanted, tmp_path)] == ["hello"]
    row = {"task_id": "t", "instruction": "Say hi."}
    (tmp_path / "terminal-bench.jsonl").write_text(json.dumps(row))
    assert fields(wanted, tmp_path) == [row]


def test_the_first_file_that_is_there_wins_over_later_ones_and_the_hub(
    tmp_path: Path, hub: list[tuple[str, dict[str, Any]]]
) -> None:
    (tmp_path / "b.jsonl").write_text('{"id": 1}')
    (tmp_path / "c.jsonl").write_text('{"id": 2}')
    wanted = suite(*({"path": f"{name}.jsonl"} for name in "abc"), hub=HUB)
    assert fields(wanted, tmp_path) == [{"id": 1}]
    assert hub == []


@pytest.mark.parametrize("given", [True, False])
def test_without_a_file_the_hub_is_asked_for_the_pinned_revision(
    tmp_path: Path, hub: list[tuple[str, dict[str, Any]]], given: bool
) -> None:
    wanted = suite({"path": "a.jsonl"}, hub={**HUB, "config": "c", "fields": {"text": "word"}})
    read = prompts.read_records(wanted, tmp_path if given else None)
    assert hub == [("owner/name", {"config": "c", "split": "test", "revision": "v1"})]
    assert [record.fields["text"] for record in read.records] == ["one", "two"]
    assert read.origin == {"dataset": "owner/name", "revision": "v1"}


def test_without_file_and_hub_the_line_that_gets_the_data_is_given(
    tmp_path: Path, offline: None
) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    wanted = suite({"path": "a.jsonl", "get": "hf download x --local-dir {data-dir}"}, hub=HUB)
    assert refusal(wanted, folder) == (
        f"suite ours: {folder} has no a.jsonl, and data set owner/name cannot be reached; "
        f"to get it: hf download x --local-dir '{folder}' (then --data-dir '{folder}')"
    )
    assert refusal(wanted, None).endswith("--local-dir DIR (then --data-dir DIR)")


def test_without_the_datasets_package_it_is_said_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in refusal(load_suite("swe-bench-verified"), None)
    assert "hf download --repo-type dataset princeton" in refusal(
        load_suite("swe-bench-verified"), None
    )


def test_a_suite_with_a_file_only_wants_a_data_dir(tmp_path: Path) -> None:
    wanted = suite({"path": "a.jsonl"})
    assert refusal(wanted, None) == "suite ours reads a.jsonl: say where with --data-dir"
    assert refusal(wanted, tmp_path) == f"suite ours: {tmp_path} has no a.jsonl"
    assert refusal(wanted, tmp_path / "x") == f"--data-dir {tmp_path / 'x'} is no folder"


def test_another_content_is_refused_with_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    wanted = suite({"path": "a.jsonl", "sha256": "0" * 64, "get": "curl {data-dir}"})
    said = refusal(wanted, tmp_path)
    assert hashlib.sha256(LINES).hexdigest() in said
    assert "0" * 64 in said
    assert "curl" in said


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("a.jsonl.gz", LINES, "a.jsonl.gz is not gzip"),
        ("a.jsonl.gz", gzip.compress(LINES * 9, mtime=0)[:-20], "the gzip file is broken"),
        ("a.jsonl", LINES + b"{broken\n", "a.jsonl:3: not JSON: Expecting property name"),
        ("a.jsonl", LINES + b"\xff\n", "a.jsonl:3: not JSON: byte 1 is not UTF-8"),
        ("a.jsonl", b"<html>", "a.jsonl:1: not JSON"),
        ("a.jsonl", LINES + b"7\n", "a.jsonl:3: a mapping of fields was expected, not int"),
        ("a.json", b'[{"id": 1}, {"id"', "item 2 of the JSON array is broken"),
        ("a.jsonl", b"", "a.jsonl holds no records"),
        ("a.jsonl", b"\n\n", "a.jsonl holds no records"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "a.jsonl.gz holds no records"),
        ("a.json", b"[]", "a.json holds no records"),
        ("a.yaml", b"a: [", "a.yaml cannot be read as YAML"),
        ("a.yaml", b"text", "a.yaml: a mapping of fields was expected, not str"),
        ("a.jsonl", b'{"id": 1, "x": 2}', "a.jsonl:1 has no field 'word'; it has id, x"),
    ],
)
def test_wrong_data_is_refused_where_it_is_wrong(
    tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(content)
    fields = {"text": "word"} if match.endswith("id, x") else {}
    assert re.search(re.escape(match), refusal(suite({"path": name, "fields": fields}), tmp_path))


def test_an_empty_data_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "open_hub", lambda name, **_: HubRows({}, 0, []))
    assert "data set owner/name holds no records" in refusal(suite(hub=HUB), None)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside this checkout")
@pytest.mark.parametrize(("name", "count"), [("humaneval", 164), ("mt-bench", 80)])
def test_the_published_files_are_those_that_the_suites_are_made_for(name: str, count: int) -> None:
    assert len(prompts.read_records(load_suite(name), SHARED).records) == count
