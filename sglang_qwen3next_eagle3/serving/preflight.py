"""From a profile to what will be executed: everything is checked before SGLang is started.

`plan` is pure but for reading local files and serves `--dry-run`; `prepare` also resolves
checkpoints, reads the head and looks at this machine.
"""

import os
import sys
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
from sglang_qwen3next_eagle3.overlay import standby
from sglang_qwen3next_eagle3.overlay.environment import LIMITS, STANDBY
from sglang_qwen3next_eagle3.overlay.proofs import Capability
from sglang_qwen3next_eagle3.overlay.requests import bounds
from sglang_qwen3next_eagle3.serving import (
    caches,
    flags,
    gpus,
    keys,
    machine,
    prefix_cache,
    refusals,
    switches,
    unused,
)
from sglang_qwen3next_eagle3.serving.command_line import (
    Launch,
    build_argv,
    build_environment,
    defaults_of,
    deferring,
    host_of,
    port_of,
    states_of,
)
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.keys import Keys
from sglang_qwen3next_eagle3.serving.profile import Profile
from sglang_qwen3next_eagle3.serving.unused import Said


@dataclass(frozen=True)
class Options:
    """What the command line says beside the profile. extra: SGLang's flags, after `--`; limits: of
    one request, as `bounds.parse` reads them; caches: a folder for what is compiled. said: who says
    all that, for people."""

    extra: tuple[str, ...] = ()
    keys: Keys = field(default_factory=Keys)
    limits: str | None = None
    caches: Path | None = None
    insecure: bool = False
    allow_attention_backend: bool = False
    said: Said = field(default_factory=Said)


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
    return _with_unused(_decide(chosen, served, found, options), chosen, found, options)


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
    machine.check_installation(chosen.cpu_engine, refusals.guards(given, first.environment))
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
    launch = _decide(chosen, served, found, options, sys.executable, _capability())
    return _with_unused(launch, chosen, found, options)


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
        if not options.limits.strip():
            raise UserError("--limits is empty: name one, for example body=8Mi, or leave it out")
        environment[LIMITS] = options.limits
    if options.caches is not None:
        caches.check(options.caches)
        environment |= caches.environment(options.caches)
    refusals.check_variables({**os.environ, **environment})
    bounds.parse({**os.environ, **environment}.get(LIMITS))
    standby.parse({**os.environ, **environment}.get(STANDBY))
    refusals.check_flags(
        given,
        flags.parse(options.extra),
        asked,
        allow_attention_backend=options.allow_attention_backend,
    )
    switches.check(given, environment, asked)
    refusals.check_keys(given, environment, insecure=options.insecure)
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
        chosen = states_of(served, options.extra)
        launch = launch.adding(deferring(asked, chosen.states), chosen.note)
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
        refusals.check_cpu_weights(target, given)
    if target is not None:
        rope.check(target.config, overrides)
        target = Target.from_config(rope.overridden(target.config, overrides), asked.target)
        refusals.check_tp(target, given)
        refusals.check_context(target, given, launch.environment)
    if asked.algorithm == "nextn" and found.target is not None:
        refusals.check_mtp(found.target, given)
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


def _with_unused(launch: Launch, asked: Profile, found: _Checkpoints, options: Options) -> Launch:
    """With what the caller's environment asks for in vain."""
    given = flags.parse(launch.argv)
    target = _target_of(asked, found)
    lost = unused.find(asked, options.said, given, launch.environment, target)
    line = unused.line([lost])
    return replace(launch, unused=lost).adding({}, *filter(None, [line]))


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
        {refusals.LONGER_CONTEXT: "1"},
        f"the head declares a context of {head.context_length}, {context} is served: "
        f"{refusals.LONGER_CONTEXT}=1 is set (positions are rotary, nothing is truncated)",
    )


def _spare_head_quantization(launch: Launch, given: Parsed) -> Launch:
    """An explicit --quantization would quantize the head too, which SGLang cannot load."""
    draft = "--speculative-draft-model-quantization"
    if given.value("--quantization") is None or given.value(draft) is not None:
        return launch
    note = f"--quantization is for the target only: {draft} unquant is added"
    return replace(launch, guards=(*launch.guards, draft, "unquant")).adding({}, note)
