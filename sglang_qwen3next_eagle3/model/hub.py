"""A checkpoint by a local path, a hub name or the name `demo`."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.base.errors import UserError

DEMO = "demo"
"""The name of the small pair that comes with this package, its target or its head."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PARTIAL_CONTENT = 206
# What serving reads; other formats and original-weight folders of a repository stay there.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "tokenizer*"]
_CONFIG = ["config.json"]
_TOKENIZER = [
    "config.json", "generation_config.json", "tokenizer*", "vocab.json", "merges.txt",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.jinja",
]  # fmt: skip


def local_folder(name: str, what: str = "target") -> Path | None:
    """The folder that `name` is, or None if it is spelled as a hub name and no such folder exists.

    what: "head" for that of the demo pair.

    Raises:
        UserError: it is spelled as a path and is not there, or is neither.
    """
    if name == DEMO:
        from sglang_qwen3next_eagle3.demo.pair import demo_pair

        pair = demo_pair()
        return pair.head if what == "head" else pair.target
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise UserError(f"{name} is a file: give the checkpoint's folder")
    if name.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(name):
        raise UserError(f"there is no folder {name}: give a checkpoint folder or a hub name")
    return None


def resolve(
    name: str,
    revision: str | None = None,
    what: str = "checkpoint",
    *,
    only_config: bool = False,
    only_tokenizer: bool = False,
) -> Path:
    """The folder with the checkpoint, downloaded into the hub's cache if need be.

    what: "target" or "head", for messages, and to tell which one of the demo pair is meant.
    only_config: its `config.json` is enough; only_tokenizer: that and the tokenizer's files are.
        The weights stay where they are.

    `HF_HUB_OFFLINE`, `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` are honoured by huggingface_hub, which
    also draws the progress bars and resumes a broken download.

    Raises:
        UserError: not there, not reachable, or not allowed.
    """
    folder = local_folder(name, what)
    if folder is not None:
        if revision is not None:
            raise UserError(f"{name} is a local folder: a revision goes with a hub name")
        return folder
    from huggingface_hub import snapshot_download

    patterns = _CONFIG if only_config else _TOKENIZER if only_tokenizer else _PATTERNS
    with _explained(name, revision, what):
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


class Remote:
    """The files of a repository on the hub, read by ranges of bytes: nothing is downloaded whole.

    Raises:
        UserError: (also from `read`) not there, not reachable, or not allowed.
    """

    def __init__(self, name: str, revision: str | None = None, what: str = "checkpoint") -> None:
        from huggingface_hub import HfApi

        self.name, self._what = name, what
        api = HfApi()
        with _explained(name, revision, what):
            info = api.model_info(name, revision=revision, files_metadata=True)
        self._files = {file.rfilename: file for file in info.siblings or ()}
        self._endpoint = api.endpoint
        # What was listed is what is read, whatever is pushed in between.
        self.revision = info.sha or revision

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file."""
        return {file: int(entry.size or 0) for file, entry in self._files.items()}

    def sha256(self, file: str) -> str | None:
        """Of a whole file, in hex, where the hub keeps it (large files)."""
        lfs = self._files[file].lfs
        return None if lfs is None else str(lfs.sha256)

    def read(self, file: str, start: int, stop: int) -> bytes:
        """Bytes start .. stop of a file."""
        from huggingface_hub import constants, hf_hub_url, utils

        if stop <= start:
            return b""
        url = hf_hub_url(self.name, file, revision=self.revision, endpoint=self._endpoint)
        http: Any = utils
        headers = {**http.build_hf_headers(), "Range": f"bytes={start}-{stop - 1}"}
        with _explained(self.name, self.revision, self._what):
            response = http.get_session().get(
                url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
            http.hf_raise_for_status(response)
        content = bytes(response.content)
        # A server that does not know ranges sends the whole file.
        return content if response.status_code == PARTIAL_CONTENT else content[start:stop]


@contextmanager
def _explained(name: str, revision: str | None, what: str) -> Iterator[None]:
    """What huggingface_hub raises about a repository, as one line with the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    unreachable: tuple[type[Exception], ...] = (
        LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError, HfHubHTTPError,
    )  # fmt: skip
    unreachable += _transport_errors()
    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except GatedRepoError:
        raise UserError(
            f"{what} {name} asks for consent: accept it on the hub, then set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{what} {name} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise UserError(f"{what} {name} is not on the hub (or private: set HF_TOKEN)") from None
    except unreachable as error:
        raise UserError(
            f"{what} {name}{at} is not in the local cache and the hub cannot be reached "
            f"({type(error).__name__}): go online, or give a local folder"
        ) from None
    except OSError as error:
        raise UserError(
            f"{what} {name}{at} cannot be stored in the local cache ({error.strerror or error}): "
            "make room, or set HF_HOME to another folder; what is downloaded is kept"
        ) from None
    except HFValidationError as error:
        raise UserError(f"{what} {name}: {error}") from None


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library under huggingface_hub raises (httpx since 1.0, requests before)."""
    import httpx

    try:
        import requests
    except ImportError:
        return (httpx.HTTPError,)
    return (httpx.HTTPError, requests.RequestException)
