"""The head that this SGLang process serves, as its server arguments name it."""

import json
from pathlib import Path
from typing import Any

from sglang_qwen3next_eagle3.head.head import AUX_LAYERS_KEY


def spelled_layers() -> str | None:
    """The selection that the head's config spells under our own key; None if it has none.

    SGLang hands on a config's `eagle_aux_hidden_state_layer_ids` only. `launch` reads the key
    itself and passes the selection by the environment; this is for a server that was started
    without it.
    """
    spelled = (config() or {}).get(AUX_LAYERS_KEY)
    return None if spelled is None else str(spelled)


def config() -> dict[str, Any] | None:
    """The head's config.json; None without a head, or where no file of it is here."""
    path = _file()
    if path is None:
        return None
    read: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return read


def _file() -> Path | None:
    try:
        from sglang.srt.runtime_context import get_server_args

        arguments = get_server_args()
        name = arguments.speculative_draft_model_path
    except (ImportError, AttributeError, ValueError):
        # A release that names it elsewhere, or a model that no server runs.
        return None
    if not name:
        return None
    path = Path(name) / "config.json"
    if path.is_file():
        return path
    from huggingface_hub import try_to_load_from_cache

    revision = arguments.speculative_draft_model_revision
    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached) if isinstance(cached, str) else None
