"""From a profile to what will be executed: everything is checked before SGLang is started.

`plan` is pure but for reading local config files and serves `--dry-run`; `prepare` also resolves
checkpoints, reads the head and looks at this machine.
"""

import importlib.metadata
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sglang_qwen3next_eagle3 import plugin
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import contract as head_contract
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head import selection
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model import aux_layers, hub
from sglang_qwen3next_eagle3.model.target import Target, read_config
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.serving import mtp
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving.profile import Profile, last_value

LONGER_CONTEXT = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"
ENTRY_POINT_GROUP = "sglang.srt.plugins"
TP_FLAGS = ("--tp", "--tp-size", "--tensor-parallel-size")
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 30000


@dataclass(frozen=True)
class Options:
    """What the command line says beside the profile. extra: SGLang's flags, after `--`."""

    extra: tuple[str, ...] = ()
    insecure: bool = False
    allow_attention_backend: bool = False


@dataclass(frozen=True)
class Launch:
    """What will be executed. environment: what is set beyond the caller's; notes: decisions."""

    argv: list[str]
    environment: dict[str, str]
    notes: list[str]


def plan(chosen: Profile, options: Options) -> Launch:
    """The command without resolving hub names or looking at this machine.

    Of local checkpoints the configs and the head's headers are read, so that their traps and
    selections are in the printed command; what only the hub knows is decided at launch.

    Raises:
        UserError: the profile, the options or a local config do not fit together.
    """
    notes: list[str] = []
    chosen = _with_demo(chosen)
    folder, head_folder = _local(chosen.target, "target"), _local(chosen.head, "head")
    argv = [*profiles.build_argv(chosen), *options.extra]
    _check_flags(argv, chosen, options)
    environment = {**chosen.environment, **_cpu_environment(chosen)}
    target = Target.from_path(folder) if folder else None
    head = _peek(head_folder) if head_folder else None
    if target is not None:
        _check_tp(target, argv)
    if chosen.algorithm == "nextn" and folder is not None:
        mtp.check(folder, argv)
    if chosen.algorithm != "eagle3":
        return Launch(argv, environment, notes)
    if target is not None and head is not None:
        if head.tensors:
            head_contract.check(head, target)
        count = head.aux_count if head.tensors else head.declared_aux_count
        value, explained = _selection(chosen, target, head, count, argv)
        environment[aux_layers.ENVIRONMENT_VARIABLE] = value
        notes += explained
        _spring_context_trap(target, head, argv, environment, notes)
    elif chosen.aux_layers is not None:
        allow = f" {aux_layers.ALLOW_GDN}" if chosen.allow_gdn_aux else ""
        environment[aux_layers.ENVIRONMENT_VARIABLE] = f"{chosen.aux_layers}{allow}"
    argv = _spring_quantization_trap(argv, notes)
    return Launch(argv, environment, notes)


def prepare(chosen: Profile, options: Options) -> Launch:
    """Everything `plan` does, for real: checkpoints on disk, the head's tensors, this machine.

    What is cheap to find out comes first: nothing large is downloaded for a launch that cannot be.

    Raises:
        UserError: the first thing that would keep the server from starting or from serving right.
    """
    argv = plan(chosen, options).argv
    _check_installation(chosen)
    _check_port(argv)
    asked, chosen = chosen, _with_demo(chosen)
    head = None
    if chosen.head is not None:
        head = Head.from_path(hub.resolve(chosen.head, chosen.head_revision, "head"))
    revision = chosen.target_revision
    target = Target.from_path(hub.resolve(chosen.target, revision, "target", only_config=True))
    _check_tp(target, argv)
    explained: list[str] = []
    if head is not None:
        head_contract.check(head, target)
        _, explained = _selection(asked, target, head, head.aux_count, argv)
    folders = {
        "target": str(hub.resolve(chosen.target, revision, "target")),
        "head": None if head is None else str(head.path),
        "target_revision": None,
        "head_revision": None,
    }
    launch = plan(chosen.model_copy(update=folders), options)
    argv = [sys.executable, *launch.argv[1:]]
    if asked.target != folders["target"] and last_value(argv, "--served-model-name") is None:
        at = len(argv) - len(options.extra)
        argv[at:at] = ["--served-model-name", asked.target]
    # The same lines, with the checkpoints as the user spells them.
    notes = [*explained, *launch.notes[len(explained) :]]
    return replace(launch, argv=argv, notes=notes)


def _with_demo(chosen: Profile) -> Profile:
    """The profile with the demo pair's folders in place of the name `demo`."""
    folders = {
        what: str(hub.resolve(hub.DEMO, what=what))
        for what in ("target", "head")
        if getattr(chosen, what) == hub.DEMO
    }
    return chosen.model_copy(update=folders)


def _local(name: str | None, what: str) -> Path | None:
    if name is None:
        return None
    try:
        return hub.local_folder(name, what)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _peek(folder: Path) -> Head:
    """A head as far as it can be read: a folder without weights is enough for a dry run."""
    try:
        return Head.from_path(folder)
    except UserError:
        return Head(folder, read_config(folder), {})


def _check_flags(argv: Sequence[str], chosen: Profile, options: Options) -> None:
    backend = last_value(argv, "--attention-backend")
    if backend != profiles.TRITON and not chosen.cpu_engine and not options.allow_attention_backend:
        raise UserError(
            f"attention backend {backend or 'not set'}: {profiles.CARD_LIMIT}; use triton, or pass "
            "--allow-attention-backend to go on"
        )
    asked = (last_value(argv, "--speculative-algorithm") or "").upper()
    if (chosen.algorithm == "none" and asked) or (chosen.algorithm, asked) == ("nextn", "EAGLE3"):
        raise UserError(
            f"{asked} after -- contradicts algorithm {chosen.algorithm}, and nothing would check "
            "it: take a profile of another algorithm"
        )
    host = last_value(argv, "--host") or DEFAULT_HOST
    key = last_value(argv, "--api-key")
    if not _is_loopback(host) and not key and not options.insecure:
        raise UserError(
            f"listening on {host} lets everybody who reaches it use the server: "
            "pass --api-key KEY, or --insecure if something else guards it"
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_tp(target: Target, argv: Sequence[str]) -> None:
    text = last_value(argv, *TP_FLAGS) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"TP {text!r}: a whole number of ranks from 1")
    error = target.tp_error(int(text))
    if error is not None:
        fitting = [n for n in (1, 2, 4, 8, 16) if target.tp_error(n) is None]
        raise UserError(f"{error}: use --tp {' or '.join(map(str, fitting))}")


def _selection(
    chosen: Profile, target: Target, head: Head, count: int, argv: Sequence[str]
) -> tuple[str, list[str]]:
    """The value of the plugin's environment variable, and the lines that explain it."""
    option = chosen.aux_layers
    # An option decides alone; a calibration that is not asked for is not read either.
    record = None if option is not None else aux_record.find(Folder(head.path))
    resolved = selection.resolve(
        head, target, record, count=count, option=option, allow_gdn=chosen.allow_gdn_aux
    )
    notes = [resolved.describe(target)]
    if option is None:
        command = f"{selection.CALIBRATE} --target {chosen.target} --head {chosen.head}"
        tp = last_value(argv, *TP_FLAGS)
        command += f" --tp {tp}" if tp not in (None, "1") else ""
        doubts = selection.doubts(head, target, record, command)
        notes += [f"warning: {doubt}" for doubt in doubts]
    return aux_layers.to_environment(resolved.selection, target), notes


def _cpu_environment(chosen: Profile) -> dict[str, str]:
    if not chosen.cpu_engine:
        return {}
    from sglang_qwen3next_eagle3.overlay.cpu_engine import ENVIRONMENT, SHIM_DIR

    path = [str(SHIM_DIR), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **ENVIRONMENT,
        variables.CPU_ENGINE: "1",
        "PYTHONPATH": os.pathsep.join(path),
    }


def _spring_context_trap(
    target: Target, head: Head, argv: Sequence[str], environment: dict[str, str], notes: list[str]
) -> None:
    """SGLang builds the draft with the target's context and refuses a head that declares less."""
    asked = last_value(argv, "--context-length")
    context = int(asked) if asked and asked.isdecimal() else target.context_length
    if head.context_length < context:
        environment[LONGER_CONTEXT] = "1"
        notes.append(
            f"the head declares a context of {head.context_length}, {context} is served: "
            f"{LONGER_CONTEXT}=1 is set (positions are rotary, nothing is truncated)"
        )


def _spring_quantization_trap(argv: list[str], notes: list[str]) -> list[str]:
    """An explicit --quantization would quantize the head too, which SGLang cannot load."""
    draft = "--speculative-draft-model-quantization"
    if last_value(argv, "--quantization") is None or last_value(argv, draft) is not None:
        return argv
    notes.append(f"--quantization is for the target only: {draft} unquant is added")
    return [*argv, draft, "unquant"]


def _check_installation(chosen: Profile) -> None:
    from sglang_qwen3next_eagle3.overlay import contract

    # Without a head too: the plugin tells the last layer that it is the last.
    parts: list[contract.Part] = ["capture"]
    parts += ["cpu_engine"] if chosen.cpu_engine else []
    parts += ["simulate"] if os.environ.get(variables.SIMULATE) else []
    contract.require(parts)
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


def _check_port(argv: Sequence[str]) -> None:
    host = last_value(argv, "--host") or DEFAULT_HOST
    text = last_value(argv, "--port") or str(DEFAULT_PORT)
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UserError(f"port {text!r}: a number from 1 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, int(text), type=socket.SOCK_STREAM
        )[0]
    except socket.gaierror:
        raise UserError(f"host {host!r} is not an address of this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UserError(
                f"cannot listen on {host} port {text} ({error.strerror}): is another server "
                "running there? choose another with --port"
            ) from None
