"""A checkpoint by a local path or a hub name."""

import re
from pathlib import Path

from sglang_qwen3next_eagle3.errors import UserError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# What serving reads; other formats and original-weight folders of a repository stay there.
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "tokenizer*"]


def local_folder(name: str) -> Path | None:
    """The folder that `name` is, or None if it is spelled as a hub name and no such folder exists.

    Raises:
        UserError: it is spelled as a path and is not there, or is neither.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise UserError(f"{name} is a file: give the checkpoint's folder")
    if name.startswith(("/", ".", "~")) or not _HUB_NAME.fullmatch(name):
        raise UserError(f"there is no folder {name}: give a checkpoint folder or a hub name")
    return None


def resolve(
    name: str, revision: str | None = None, what: str = "checkpoint", *, only_config: bool = False
) -> Path:
    """The folder with the checkpoint, downloaded into the hub's cache if need be.

    only_config: its `config.json` is enough; the weights stay where they are.

    `HF_HUB_OFFLINE`, `HF_HOME`, `HF_TOKEN` and `HF_ENDPOINT` are honoured by huggingface_hub, which
    also draws the progress bars and resumes a broken download.

    Raises:
        UserError: not there, not reachable, or not allowed.
    """
    folder = local_folder(name)
    if folder is not None:
        if revision is not None:
            raise UserError(f"{name} is a local folder: a revision goes with a hub name")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["config.json"] if only_config else _PATTERNS
    at = f" at revision {revision}" if revision else ""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise UserError(
            f"{what} {name} asks for consent: accept it on the hub, then set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{what} {name} has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise UserError(f"{what} {name} is not on the hub (or private: set HF_TOKEN)") from None
    except (
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        ConnectionError,
        HfHubHTTPError,
    ) as error:
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
