"""What a server tells of itself, without its keys.

`/server_info` holds all of the server's arguments, twice: whoever may ask could read the admin key
there, which is to keep from them what it guards.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from sglang_qwen3next_eagle3.base.redact import HIDDEN, is_secret, text_without_secrets


def resolved_config_dict(
    original: Callable[..., dict[str, Any]], manager: Any, base: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, also as they are written into a dump."""
    return _hidden(original(manager, base))


async def get_internal_state(
    original: Callable[..., Awaitable[list[dict[str, Any]]]], manager: Any
) -> list[dict[str, Any]]:
    """The same once more, of each scheduler."""
    return [_hidden(state) for state in await original(manager)]


def build_server_info(
    original: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any
) -> dict[str, Any]:
    """What 0.5.23 answers of the arguments, and with which command line it was started."""
    told = _hidden(original(*args, **kwargs))
    command = told.get("launch_command")
    if isinstance(command, str):
        told["launch_command"] = text_without_secrets(command)
    return told


def _hidden(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: HIDDEN if value and is_secret(name) else value for name, value in arguments.items()
    }
