"""From a profile to what will be executed: everything is checked before SGLang is started.

`plan` is pure but for reading local files and serves `--dry-run`; `prepare` also resolves
checkpoints, reads the head and looks at this machine.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head import captured_layers
from sglang_qwen3next_eagle3.head import check as head_check
from sglang_qwen3next_eagle3.head import record as aux_record
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model import aux_layers, hub, published, rope, shards
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay.environment import LIMITS, is_on
from sglang_qwen3next_eagle3.overlay.proofs import Capability
from sglang_qwen3next_eagle3.overlay.requests import bounds
from sglang_qwen3next_eagle3.serving import (
    adaptive,
    caches,
    flags,
    gpus,
    keys,
    machine,
    prefix_cache,
    switches,
)
from sglang_qwen3next_eagle3.serving.command_line import (
    DEFAULT_PORT,
    SGLANG_NAMES,
    Launch,
    build_argv,
    build_environment,
    defaults_of,
    host_of,
    port_of,
    states_of,
)
from sglang_qwen3next_eagle3.serving.connection import is_loopback
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.keys import Keys
from sglang_qwen3next_eagle3.serving.profile import Profile, Tree

LONGER_CONTEXT = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"
GRPC_PORT = "SGLANG_GRPC_PORT"
_GRPC = ("--grpc-port", "--smg-grpc-mode", "--grpc-mode")
CARD_LIMIT = (
    "the model card names Triton as required (FlashInfer fails on head_dim 256 with hybrid "
    "attention and GDN layers)"
)
MTP_PREFIX = "mtp."
"""Of the MTP layer's tensors (SGLang 0.5.17, models/qwen3_next.py, load_weights)."""
_BACKENDS = {
    "--attention-backend": "attention backend",
    "--prefill-attention-backend": "attention backend of the prefill",
    "--decode-attention-backend": "attention backend of decoding",
}
# What would be served unchecked, and the option that has it checked.
_CHECKED = {
    "--model-path": "--target",
    "--revision": "--revision before the --",
    "--speculative-draft-model-path": "--head",
    "--speculative-draft-model-revision": "--head-revision",
}
_TREE = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")


@dataclass(frozen=True)
class Options:
    """What the command line says beside the profile. extra: SGLang's flags, after `--`; limits: of
    one request, as `bounds.parse` reads them; caches: a folder for what is compiled."""

    extra: tuple[str, ...] = ()
    keys: Keys = field(default_factory=Keys)
    limits: str | None = None
    caches: Path | None = None
    insecure: bool = False
    allow_attention_backend: bool = False


@dataclass(frozen=True)
class _Checkpoints:
    """The folders that are known so far.

    whole: so is all that is in them. published: what the package knows of a repository may stand in
    for a folder that is not known.
    """

    target: Path | None = None
    head: Path | None = None
    whole: bool = False
    published: bool = False


def plan(chosen: Profile, options: Options) -> Launch:
    """The command without resolving hub names or looking at this machine.

    Of local checkpoints the configs and the head's headers are read, so that their traps and
    selections are in the printed command; what only the hub knows is decided at launch. Of the
    repositories in `model/published` what comes with the package is checked against.

    Raises:
        UserError: the profile, the options or a local checkpoint do not fit together.
    """
    found = _Checkpoints(
        _local(chosen.target, "target"), _local(chosen.head, "head"), published=True
    )
    served = chosen.model_copy(
        update={
            what: str(getattr(found, what))
            for what in ("target", "head")
            if getattr(chosen, what) == hub.DEMO
        }
    )
    return _decide(chosen, served, found, options)


def prepare(chosen: Profile, options: Options) -> Launch:
    """Everything `plan` does, for real: checkpoints on disk, the head's tensors, this machine.

    What is cheap to find out comes first: nothing large is downloaded for a launch that cannot be.

    Raises:
        UserError: the first thing that would keep the server from starting or from serving right.
    """
    local = _Checkpoints(_local(chosen.target, "target"), _local(chosen.head, "head"))
    first = _decide(chosen, chosen, local, options)
    given = flags.parse(first.argv)
    keys.check_readable(given, first.environment)
    machine.check_installation(chosen.cpu_engine, _guards(given, first.environment))
    machine.check_address(host_of(given), port_of(given))
    revision = chosen.target_revision
    config = hub.resolve(chosen.target, revision, "target", only_config=True)
    head = None
    if chosen.head is not None:
        _decide(chosen, chosen, _Checkpoints(config), options)
        head = hub.resolve(chosen.head, chosen.head_revision, "head")
    _decide(chosen, chosen, _Checkpoints(config, head, whole=True), options)
    if head is not None:
        shards.check(Folder(head))
    target = hub.resolve(chosen.target, revision, "target")
    shards.check_loaded(Folder(target), given.value("--load-format"))
    folders = {
        "target": str(target),
        "head": None if head is None else str(head),
        "target_revision": None,
        "head_revision": None,
    }
    served = chosen.model_copy(update=folders)
    found = _Checkpoints(target, head, whole=True)
    return _decide(chosen, served, found, options, sys.executable, _capability())


def _capability() -> Capability | None:
    """Of this machine's GPUs, where they are alike and nvidia-smi tells."""
    visible = gpus.basic().visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
    found = {gpu.capability for gpu in visible}
    return found.pop() if len(found) == 1 else None


def _decide(
    asked: Profile,
    served: Profile,
    found: _Checkpoints,
    options: Options,
    python: str = "python",
    capability: Capability | None = None,
) -> Launch:
    """The command for `served`: the profile as it was `asked` for, with the checkpoints that are
    found in their places. Notes and names are those that were asked for."""
    words = build_argv(served, python, options.extra)
    given = flags.parse([*words, *options.extra])
    environment = {**build_environment(asked), **options.keys.environment}
    if options.limits is not None:
        environment[LIMITS] = options.limits
    if options.caches is not None:
        caches.check(options.caches)
        environment |= caches.environment(options.caches)
    bounds.parse({**os.environ, **environment}.get(LIMITS))
    _check_flags(given, flags.parse(options.extra), asked, options)
    switches.check(given, environment, asked)
    _check_keys(given, environment, options)
    if served.target != asked.target and given.value("--served-model-name") is None:
        words += ["--served-model-name", asked.target]
    launch = Launch(
        words=tuple(words),
        extra=options.extra,
        guards=prefix_cache.guards(given, asked),
        environment=environment,
    )
    launch = launch.adding({}, *flags.overruled(words, options.extra))
    if asked.adaptive is not None:
        launch = launch.adding({}, states_of(served, options.extra).note)
    launch = launch.adding({}, *machine.not_in_this_release(asked))
    if options.caches is not None:
        launch = launch.adding({}, *caches.doubts(options.caches))
    if found.whole and not asked.cpu_engine:
        note = caches.compiled_first(given, {**os.environ, **environment})
        launch = launch.adding({}, *filter(None, [note]))
    overrides = given.overrides()
    target = _target_of(asked, found)
    config = None if target is None else target.config
    for default in defaults_of(served, options.extra, capability, config):
        launch = launch.adding(default.environment, default.note)
    if found.whole and target is not None:
        launch = launch.adding({}, *published.warnings(asked.target, target.config))
    if asked.cpu_engine:
        _check_cpu_weights(target, given)
    if target is not None:
        rope.check(target.config, overrides)
        target = Target.from_config(rope.overridden(target.config, overrides), asked.target)
        _check_tp(target, given)
        _check_context(target, given, launch.environment)
    if asked.algorithm == "nextn" and found.target is not None:
        _check_mtp(found.target, given)
    if asked.algorithm != "eagle3":
        return launch
    # For a dry run a head's config without any weights is enough.
    head = Head.from_files(Folder(found.head), whole=found.whole) if found.head else None
    if head is not None and target is not None:
        launch = _with_head(launch, asked, head, target, given)
    else:
        launch = _before_the_head(launch, asked, target, found)
    if found.whole and head is not None:
        launch = launch.adding({}, *published.warnings(asked.head, head.config))
    return _spare_head_quantization(launch, given)


def _target_of(asked: Profile, found: _Checkpoints) -> Target | None:
    """The checkpoint's, as far as it is there; else what is known of a published one."""
    if found.target is not None:
        return Target.from_path(found.target)
    known = published.config(asked.target) if found.published else None
    return None if known is None else Target.from_config(known, asked.target)


def _before_the_head(
    launch: Launch, asked: Profile, target: Target | None, found: _Checkpoints
) -> Launch:
    """What can be told while the head is not there: whether it and the option fit the target.

    What its own config decides, layers without an option and its context, waits for it.
    """
    known = published.config(asked.head or "") if found.published and not found.head else None
    head = None if known is None else Head(Path(str(asked.head)), known, {})
    if head is not None and target is not None:
        head_check.check_config(head, target)
    if asked.aux_layers is None:
        return launch
    if target is None:
        allow = f" {aux_layers.ALLOW_GDN}" if asked.allow_gdn_aux else ""
        return launch.adding({aux_layers.ENVIRONMENT_VARIABLE: f"{asked.aux_layers}{allow}"})
    captured = captured_layers.decide(
        target,
        captured_layers.NamedLayers(),
        count=None if head is None else head.declared_aux_count,
        option=asked.aux_layers,
        allow_gdn=asked.allow_gdn_aux,
    )
    value = aux_layers.to_environment(captured.selection, target)
    return launch.adding({aux_layers.ENVIRONMENT_VARIABLE: value}, captured.describe(target))


def _local(name: str | None, what: str) -> Path | None:
    if name is None:
        return None
    try:
        return hub.local_folder(name, what)
    except UserError as error:
        raise UserError(f"{what}: {error}") from None


def _check_flags(given: Parsed, extra: Parsed, chosen: Profile, options: Options) -> None:
    """given: all of the command line; extra: of it what stands behind `--`."""
    if extra.stray:
        raise UserError(
            f"{extra.stray[0]!r} after -- belongs to no flag: SGLang would end with its usage; "
            "mend it, or put its flag before it"
        )
    for name, option in _CHECKED.items():
        for entry in extra.of(name):
            raise UserError(
                f"{entry.word} after -- would be served without being looked at: use {option}"
            )
    asked = (extra.value("--speculative-algorithm") or "").upper()
    if asked and asked != SGLANG_NAMES[chosen.algorithm]:
        raise UserError(
            f"{asked} after -- contradicts algorithm {chosen.algorithm}, and nothing would check "
            "it: take a profile of another algorithm"
        )
    _check_tree(given)
    adaptive.check(given)
    prefix_cache.check(given, chosen)
    if not chosen.cpu_engine and not options.allow_attention_backend:
        _check_backends(given)
    for name, what in switches.RANKS.items():
        ranks = switches.ranks_of(given, name, what)
        if chosen.cpu_engine and ranks != 1:
            raise UserError(
                f"{what} {ranks}: the CPU engine serves with one process: leave {name} at 1"
            )
    port = given.value("--port") or str(DEFAULT_PORT)
    if not 0 < _whole(port) < 65536:
        raise UserError(f"port {port!r}: a number from 1 to 65535")
    flags.check(given)


def _guards(given: Parsed, environment: Mapping[str, str]) -> list[str]:
    """What is asked for that the plugin does at every request."""
    asked = [flag for flag in keys.FLAGS if keys.sources(flag, given, environment)]
    limited = {**os.environ, **environment}.get(LIMITS, "").strip()
    return [*asked, "--limits"] if limited else asked


def _check_keys(given: Parsed, environment: Mapping[str, str], options: Options) -> None:
    keys.check(given, environment)
    workers = given.number("--tokenizer-worker-num") or 1
    if workers > 1 and any(keys.sources(flag, given, environment) for flag in keys.FLAGS):
        raise UserError(
            f"with {workers} tokenizer workers SGLang checks no key: leave --tokenizer-worker-num "
            "at 1, or the keys out and a proxy in front that checks them (--insecure)"
        )
    host = host_of(given)
    grpc = _grpc(given, {**os.environ, **environment})
    guarded = any(keys.sources(flag, given, environment) for flag in keys.FLAGS)
    if grpc and not options.insecure and (guarded or not is_loopback(host)):
        raise UserError(
            f"{grpc}: SGLang's gRPC server asks nobody for a key: leave it out, or pass --insecure "
            "if something else guards it"
        )
    if is_loopback(host) or keys.is_guarded(given, environment) or options.insecure:
        return
    raise UserError(
        f"listening on {host or 'every address'} lets everybody who reaches it use the server: "
        "pass --api-key-file FILE, or --insecure if something else guards it"
    )


def _grpc(given: Parsed, environment: Mapping[str, str]) -> str | None:
    """What starts SGLang's gRPC server, as it is spelled."""
    if environment.get(GRPC_PORT, "").strip():
        return GRPC_PORT
    return next((entry.word for name in _GRPC for entry in given.of(name)), None)


def _check_backends(given: Parsed) -> None:
    for name, what in _BACKENDS.items():
        backend = given.value(name)
        if backend == switches.TRITON or (backend is None and name != "--attention-backend"):
            continue
        raise UserError(
            f"{what} {backend or 'not set'}: {CARD_LIMIT}; use triton, or pass "
            "--allow-attention-backend to go on"
        )


def _check_tree(given: Parsed) -> None:
    """Flags after `--` may change a part of the profile's tree, and then there may be none."""
    values = [given.value(name) for name in _TREE]
    if all(value is not None for value in values):
        Tree.parse(",".join(map(str, values)))


def _whole(text: str) -> int:
    """0: it is no whole number, or one of so many digits that nothing has it (Python reads none of
    thousands)."""
    return int(text) if text.isdecimal() and len(text) <= 18 else 0


def _check_tp(target: Target, given: Parsed) -> None:
    error = target.tp_error(switches.ranks_of(given, "--tp-size", "TP"))
    if error is not None:
        fitting = [n for n in (1, 2, 4, 8, 16) if target.tp_error(n) is None]
        way_out = f"use --tp {' or '.join(map(str, fitting))}" if fitting else "no --tp fits"
        raise UserError(f"{error}: {way_out}")


def _check_cpu_weights(target: Target | None, given: Parsed) -> None:
    """SGLang's quantization methods want bfloat16 or float16, and kernels of a GPU."""
    spelled = given.value("--quantization")
    if spelled not in (None, "unquant"):
        raise UserError(f"--quantization {spelled} needs a GPU: the CPU engine serves in float32")
    method = (target.config.get("quantization_config") if target else None) or {}
    if method:
        raise UserError(
            f"the target's weights are quantized ({method.get('quant_method')}), which needs a "
            "GPU: the CPU engine serves in float32"
        )


def _check_context(target: Target, given: Parsed, environment: Mapping[str, str]) -> None:
    """SGLang refuses this itself unless it is told not to, as a head may make necessary."""
    asked, limit = given.number("--context-length"), target.context_length
    spelled = given.value("--context-length")
    if spelled is not None and not asked:
        raise UserError(
            f"context length {spelled!r}: a number of tokens, for example {limit} or 128Ki"
        )
    allowed = is_on({**os.environ, **environment}.get(LONGER_CONTEXT))
    if asked is None or asked <= limit or allowed:
        return
    if target.config.get("rope_scaling"):
        raise UserError(
            f"a context of {asked} is asked for, SGLang derives {limit} of the target's config "
            "(where original_max_position_embeddings is named it takes no factor): ask for "
            f"{limit} or less, or set {LONGER_CONTEXT}=1 where the rope is stretched that far"
        )
    raise UserError(
        f"a context of {asked} is asked for, the target knows {limit}: beyond that its text is "
        f"noise; ask for {limit} or less, or set {LONGER_CONTEXT}=1 if you know better"
    )


def _check_mtp(target: Path, given: Parsed) -> None:
    """SGLang starts without the layer's weights, too, and then accepts next to nothing.

    A folder without weights, or one whose weights are not loaded, may be served with random ones.
    """
    files = Folder(target)
    safetensors = any(name.endswith(".safetensors") for name in files.sizes)
    if given.value("--load-format") == "dummy" or not safetensors:
        return
    if not any(name.startswith(MTP_PREFIX) for name in shards.headers(files)):
        raise UserError(
            f"the target {target} has no MTP layer (no tensor {MTP_PREFIX}*): serve it with an "
            "EAGLE3 head, or with algorithm none (--no-speculation)"
        )


def _with_head(launch: Launch, asked: Profile, head: Head, target: Target, given: Parsed) -> Launch:
    """Which states it is fed with, and what its config makes necessary."""
    if head.tensors:
        head_check.check(head, target)
    option = asked.aux_layers
    # An option decides alone; a calibration that is not asked for is not read either.
    record = aux_record.find(Folder(head.path)) if option is None and head.tensors else None
    captured = captured_layers.decide(
        target,
        captured_layers.NamedLayers.of(head),
        record,
        count=head.aux_count if head.tensors else head.declared_aux_count,
        option=option,
        allow_gdn=asked.allow_gdn_aux,
    )
    notes = [captured.describe(target)]
    if option is None:
        command = f"{captured_layers.CALIBRATE} --target {asked.target} --head {asked.head}"
        tp = given.value("--tp-size")
        command += f" --tp {tp}" if tp not in (None, "1") else ""
        doubts = captured_layers.doubts(head, target, record, command)
        notes += [f"warning: {doubt}" for doubt in doubts]
    value = aux_layers.to_environment(captured.selection, target)
    launch = launch.adding({aux_layers.ENVIRONMENT_VARIABLE: value}, *notes)
    # SGLang builds the draft with the target's context and refuses a head that declares less.
    context = given.number("--context-length") or target.context_length
    if head.context_length >= context:
        return launch
    return launch.adding(
        {LONGER_CONTEXT: "1"},
        f"the head declares a context of {head.context_length}, {context} is served: "
        f"{LONGER_CONTEXT}=1 is set (positions are rotary, nothing is truncated)",
    )


def _spare_head_quantization(launch: Launch, given: Parsed) -> Launch:
    """An explicit --quantization would quantize the head too, which SGLang cannot load."""
    draft = "--speculative-draft-model-quantization"
    if given.value("--quantization") is None or given.value(draft) is not None:
        return launch
    note = f"--quantization is for the target only: {draft} unquant is added"
    return replace(launch, guards=(*launch.guards, draft, "unquant")).adding({}, note)
