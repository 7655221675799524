"""A checkpoint by a local path, by a hub name, or as `demo`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.files import expanded, read_json
from sglang_qwen3next_eagle3.demo import demo_pair

DEMO = "demo"
"""As a target or head: the small pair that comes with this package (a folder is `./demo`)."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What serving reads; other formats of a repository stay there.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "tokenizer*"]
_CONFIG = ["config.json"]
_TOKENIZER = [
    "config.json", "generation_config.json", "tokenizer*", "vocab*", "merges.txt", "*.model",
    "special_tokens_map.json", "added_tokens.json", "chat_template*", "*.jinja",
]  # fmt: skip
INDEX = "model.safetensors.index.json"
"""Which file holds which tensor, where a checkpoint has more than one."""
_NOT_IN_FOLDERS = ["*/*"]
"""Original weights and exports lie in folders, and a pattern's * crosses them."""


def local_folder(name: str, what: str = "target") -> Path | None:
    """The folder that `name` is, or None if it is spelled as a hub name and no such folder exists.

    what: "head" for that of the demo pair.

    Raises:
        UserError: it is spelled as a path and is not there, or is neither.
    """
    if name == DEMO:
        pair = demo_pair()
        return pair.head if what == "head" else pair.target
    if not name.strip():
        raise UserError("no checkpoint is named: give its folder or its hub name")
    path = expanded(name)
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
    only_tensors: Sequence[str] = (),
) -> Path:
    """The folder with the checkpoint, downloaded into the hub's cache if need be.

    what: "target" or "head", for messages, and to tell which one of the demo pair is meant.
    only_config: its `config.json` is enough; only_tokenizer: that and the tokenizer's files are;
        only_tensors: that and the weight files are that hold these. The rest stays where it is.

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

    def download(patterns: Sequence[str]) -> Path:
        with _explained(name, revision, what):
            found = snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                ignore_patterns=_NOT_IN_FOLDERS,
            )
        return Path(found)

    if not only_tensors:
        return download(_CONFIG if only_config else _TOKENIZER if only_tokenizer else _PATTERNS)
    found = download([*_CONFIG, INDEX, "model.safetensors"])
    if not (found / INDEX).is_file():
        return found
    places = read_json(found / INDEX, "download the checkpoint again").get("weight_map") or {}
    holders = {str(places[tensor]) for tensor in only_tensors if tensor in places}
    return download([*_CONFIG, INDEX, *sorted(holders)])


def in_cache(name: str, revision: str | None = None, what: str = "checkpoint") -> Path | None:
    """The folder with the checkpoint if it is on this disk, whole or not; nobody is asked for it.

    Raises:
        UserError: it is spelled as a path and is not there, or is neither.
    """
    folder = local_folder(name, what)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


class Remote:
    """The files of a repository on the hub, read by ranges of bytes: nothing is downloaded whole.

    Raises:
        UserError: (also from `read`) not there, not reachable, or not allowed.
    """

    def __init__(self, name: str, revision: str | None = None, what: str = "checkpoint") -> None:
        from huggingface_hub import HfApi, HfFileSystem

        self.name, self._what = name, what
        api = HfApi()
        with _explained(name, revision, what):
            info = api.model_info(name, revision=revision, files_metadata=True)
        self._files = {file.rfilename: file for file in info.siblings or ()}
        # What was listed is what is read, whatever is pushed in between.
        self.revision = info.sha or revision
        self._hub = HfFileSystem(endpoint=api.endpoint)

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
        if stop <= start:
            return b""
        # A listed size and no cache: one request for these bytes, and none besides.
        opened = {"size": self.sizes[file], "cache_type": "none"}
        with (
            _explained(self.name, self.revision, self._what),
            self._hub.open(f"{self.name}/{file}", "rb", revision=self.revision, **opened) as stream,
        ):
            stream.seek(start)
            content = bytes(stream.read(stop - start))
        # A server that does not know ranges sends the whole file.
        return content[start:stop] if len(content) > stop - start else content


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
        HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, ConnectionError,
        *_transport_errors(),
    )  # fmt: skip
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
        # Of a download it stands behind the cache that has no copy either.
        status = _status(error) or _status(error.__cause__)
        if status is not None:
            raise UserError(f"{what} {name}{at}: the hub {_refused(status)}") from None
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


def _status(error: BaseException | None) -> int | None:
    """Of the hub's answer, if it gave one."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _refused(status: int) -> str:
    if status in (401, 403):
        return f"does not let you read it (HTTP {status}): set HF_TOKEN to one that may"
    if status == 429:
        return "is asked too often from here (HTTP 429): wait a while, or set HF_TOKEN"
    if status >= 500:
        return f"has a fault of its own (HTTP {status}): try again later, or give a local folder"
    return f"answers with HTTP {status}: check the name and the revision, or give a local folder"


def _transport_errors() -> tuple[type[Exception], ...]:
    """What the HTTP library under huggingface_hub raises (httpx since 1.0, requests before)."""
    import httpx

    try:
        import requests
    except ImportError:
        return (httpx.HTTPError,)
    return (httpx.HTTPError, requests.RequestException)
