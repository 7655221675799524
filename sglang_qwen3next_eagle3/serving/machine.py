"""Whether this machine can start a server: what is installed, and where it would listen."""

import importlib.metadata
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.seams import seams

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.serving.profile import Profile

ENTRY_POINT_GROUP = "sglang.srt.plugins"


def check_installation(cpu_engine: bool, guards: Sequence[str] = ()) -> None:
    """Whether the SGLang that is installed can be served with.

    guards: the options that ask for what the plugin does at every request.

    Raises:
        UserError: it is of another release than was run, or was not run that far, or would not load
            the plugin.
    """
    from sglang_qwen3next_eagle3.overlay import contract

    # Without a head too: the plugin tells the last layer that it is the last.
    parts: list[contract.Part] = ["capture"]
    parts += ["cpu_engine"] if cpu_engine else []
    parts += ["simulate"] if os.environ.get(variables.SIMULATE) else []
    contract.require(parts)
    if guards:
        try:
            contract.require(["requests"])
        except UserError as error:
            asked = " and ".join(guards)
            raise UserError(f"{asked} would not be kept to by SGLang alone: {error}") from None
    mine = [
        point
        for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=plugin.NAME)
        if point.module == plugin.__name__
    ]
    if not mine:
        raise UserError(
            f"SGLang would not find the plugin: no entry point {plugin.NAME!r} in the group "
            f"{ENTRY_POINT_GROUP}; install this package with pip, a copied folder is not enough"
        )
    allowed = os.environ.get("SGLANG_PLUGINS", "")
    if allowed and plugin.NAME not in {name.strip() for name in allowed.split(",")}:
        raise UserError(
            f"SGLANG_PLUGINS={allowed!r} keeps the plugin {plugin.NAME!r} from loading: "
            f"add it to the list or unset the variable"
        )


def not_in_this_release(asked: "Profile") -> list[str]:
    """What is asked for and was not written for the SGLang that is installed, which serves without
    it, or was run on no GPU with it; a line each."""
    from sglang_qwen3next_eagle3.overlay import contract

    installed = contract.installed_sglang()
    if installed is None or installed.release not in contract.known_releases():
        return []
    manifest = contract.read_manifest(installed.release)
    fast = stages.parse(asked.fast)
    parts: dict[contract.Part, bool] = {
        "fast": fast is not None and not fast.auto,
        "seams": bool(seams.parse(asked.seams)) and not seams.is_auto(asked.seams),
    }
    doubt, lines = contract.not_on_gpus(), []
    for part in (part for part, wanted in parts.items() if wanted):
        if not manifest.of(part):
            lines.append(
                f"warning: {part}: not for SGLang {installed.release}, which serves without; "
                f"it is for {contract.DEFAULT_RELEASE}"
            )
        elif doubt is not None:
            lines.append(f"warning: {part}: {doubt}")
    return lines


def check_address(host: str, port: int) -> None:
    """Raises UserError: somebody listens there, or it is none of this machine's."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror:
        raise UserError(f"host {host!r} is not an address of this machine") from None
    family, kind, protocol, _, address = found
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(
                f"cannot listen on {host} port {port} ({error.strerror}): is another server "
                "running there? choose another with --port"
            ) from None
