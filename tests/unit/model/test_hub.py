import json
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model import hub


class Response:
    """What huggingface_hub's errors read of an HTTP response."""

    headers: dict[str, str] = {}  # noqa: RUF012
    request = None

    def __init__(self, status_code: int = 404) -> None:
        self.status_code = status_code


def answered(status: int) -> errors.HfHubHTTPError:
    return errors.HfHubHTTPError("x", response=Response(status))


def absent_because_of(status: int) -> errors.LocalEntryNotFoundError:
    """What a download raises where the cache has no copy and the hub refuses one."""
    error = errors.LocalEntryNotFoundError("x")
    error.__cause__ = answered(status)
    return error


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert hub.resolve(str(tmp_path)) == tmp_path.resolve()


def test_paths_that_are_not_there_are_not_taken_for_hub_names(tmp_path: Path) -> None:
    for name in (str(tmp_path / "gone"), "./gone", "~/gone-too", "a/b/c", "nothing"):
        with pytest.raises(UserError, match="there is no folder"):
            hub.local_folder(name)
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(UserError, match="is a file"):
        hub.local_folder(str(file))
    assert hub.local_folder("Qwen/Qwen3-Coder-Next") is None


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_is_not_the_folder_that_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no checkpoint is named: give its folder or its hub name"):
        hub.local_folder(name)


def test_demo_is_the_target_or_the_head_of_the_pair() -> None:
    assert hub.resolve("demo", what="target").parts[-2:] == ("demo", "target")
    assert hub.resolve("demo", what="head").parts[-2:] == ("demo", "head")
    assert hub.local_folder("demo") == hub.resolve("demo")
    with pytest.raises(UserError, match="a revision goes with a hub name"):
        hub.resolve("demo", "main")


@pytest.mark.parametrize("only", ["only_config", "only_tokenizer"])
def test_weights_are_left_on_the_hub_where_they_are_not_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, only: str
) -> None:
    patterns: list[str] = []

    def download(name: str, *, allow_patterns: list[str], **options: object) -> str:
        patterns.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.resolve("org/name", **{only: True})
    taken = {
        name: any(fnmatch(name, pattern) for pattern in patterns)
        for name in ("config.json", "tokenizer.json", "model-00001-of-00040.safetensors")
    }
    assert taken == {
        "config.json": True,
        "tokenizer.json": only == "only_tokenizer",
        "model-00001-of-00040.safetensors": False,
    }


def test_of_many_weight_files_only_those_that_hold_the_tensors_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weight_map = {"embed": "model-1.safetensors", "lm_head": "model-9.safetensors", "x": "model-2"}
    (tmp_path / hub.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    fetched: list[list[str]] = []

    def download(name: str, *, allow_patterns: list[str], **options: object) -> str:
        fetched.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("org/name", only_tensors=("embed", "lm_head", "none")) == tmp_path
    first, second = fetched
    assert set(first) == {"config.json", hub.INDEX, "model.safetensors"}
    assert set(second) - set(first) == {"model-1.safetensors", "model-9.safetensors"}


def test_a_revision_goes_with_a_hub_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a revision goes with a hub name"):
        hub.resolve(str(tmp_path), "main")


def test_a_hub_name_is_downloaded_at_its_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def download(name: str, **options: object) -> str:
        calls.append((name, options["revision"]))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("org/name", "v1") == tmp_path
    assert calls == [("org/name", "v1")]


def test_folders_of_a_repository_stay_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = ["config.json", "model.safetensors", "original/a.safetensors", "onnx/config.json"]
    taken: list[str] = []

    def download(name: str, **options: Any) -> str:
        patterns = {key: options[f"{key}_patterns"] for key in ("allow", "ignore")}
        taken[:] = filter_repo_objects(
            files, allow_patterns=patterns["allow"], ignore_patterns=patterns["ignore"]
        )
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    hub.resolve("org/name")
    assert taken == ["config.json", "model.safetensors"]
    hub.resolve("org/name", only_config=True)
    assert taken == ["config.json"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (answered(403), r"does not let you read it \(HTTP 403\): set HF_TOKEN"),
        (absent_because_of(403), r"does not let you read it \(HTTP 403\)"),
        (answered(429), r"asked too often from here \(HTTP 429\): wait"),
        (absent_because_of(500), r"a fault of its own \(HTTP 500\): try again later"),
        (answered(416), "answers with HTTP 416"),
        (errors.LocalEntryNotFoundError("x"), "not in the local cache and the hub cannot be"),
        (errors.OfflineModeIsEnabled("x"), "give a local folder"),
        (ConnectionError("x"), "the hub cannot be reached"),
        (OSError(28, "No space left on device"), "cannot be stored.*No space left on device"),
        (errors.RepositoryNotFoundError("x", response=Response()), "is not on the hub"),
        (errors.GatedRepoError("x", response=Response()), "asks for consent"),
        (errors.RevisionNotFoundError("x", response=Response()), "has no revision v1"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def download(name: str, **options: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=words) as caught:
        hub.resolve("org/name", "v1", "head")
    assert "head org/name" in str(caught.value)
    assert "\n" not in str(caught.value)
