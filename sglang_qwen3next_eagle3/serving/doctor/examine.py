"""`doctor`: what stands between a profile and a server that serves well, and what memory allows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning, worst
from sglang_qwen3next_eagle3.head import inspect as head_inspect
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.head.head import Head
from sglang_qwen3next_eagle3.model import hub, published
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.adaptive import states
from sglang_qwen3next_eagle3.overlay.fast import sizes, stages
from sglang_qwen3next_eagle3.overlay.seams import sizes as of_cycles
from sglang_qwen3next_eagle3.serving import adaptive, flags, keys, machine, preflight, switches
from sglang_qwen3next_eagle3.serving.command_line import Launch, host_of, port_of
from sglang_qwen3next_eagle3.serving.doctor import (
    checkpoint,
    findings,
    host,
    memory,
    ours,
    settings,
    weights,
)
from sglang_qwen3next_eagle3.serving.doctor.host import Host
from sglang_qwen3next_eagle3.serving.doctor.memory import GIB, MIB, Choice, Inputs, Plan
from sglang_qwen3next_eagle3.serving.doctor.settings import Unplanned
from sglang_qwen3next_eagle3.serving.doctor.subject import Subject
from sglang_qwen3next_eagle3.serving.flags import Parsed
from sglang_qwen3next_eagle3.serving.preflight import Options
from sglang_qwen3next_eagle3.serving.profile import Profile

KNOWN_GPUS = {
    "H200": 143771, "H100": 81559, "H20": 97871, "A100": 81920, "B200": 183359,
}  # fmt: skip
"""MiB as nvidia-smi gives them."""
RESERVED_MIB = 600
"""What the driver keeps of an idle GPU (an H200: 143771 MiB, of which 139.8 GiB can be used)."""
CONTEXT_MIB = 512
"""What CUDA takes before a weight is loaded."""
RANKS_MIB = 2048
"""What NCCL and its like take besides, with more than one rank (8x H200: "Init torch distributed
ends. mem usage=2.01 GB", 137.29 GiB left; log in sgl-project/sglang, pull request 11716)."""


@dataclass(frozen=True)
class Report:
    """subject: the profile that was asked about; None for the machine alone. basis: what the plan
    goes by, for people."""

    subject: str | None
    findings: tuple[Finding, ...]
    plan: Plan | None = None
    choices: tuple[Choice, ...] = ()
    basis: str = ""

    @property
    def status(self) -> int:
        """Exit status: 0 fine, 1 serves slower or at risk, 2 does not serve."""
        return worst(self.findings)


def of_machine() -> Report:
    """Of this machine alone."""
    found = host.probe()
    return Report(None, (*findings.of_host(found, None), *_installation(cpu_engine=False)))


def of_profile(name: str, chosen: Profile, options: Options, gpu: str | None = None) -> Report:
    """name: of the profile. gpu: plan for GPUs of this name, or of so many GiB, of another machine;
    nothing is then said of this one."""
    found = host.probe()
    mib = None if gpu is None else gpu_mib(gpu)
    target_folder, target_finding = _folder(chosen.target, chosen.target_revision, "target")
    head_folder, head_finding = _folder(chosen.head, chosen.head_revision, "head")
    there = chosen.model_copy(
        update={
            **({"target": str(target_folder), "target_revision": None} if target_folder else {}),
            **({"head": str(head_folder), "head_revision": None} if head_folder else {}),
        }
    )
    told: list[Finding] = []
    if mib is None:
        told += _installation(cpu_engine=chosen.cpu_engine)
    try:
        launch = preflight.plan(there, options)
    except UserError as refused:
        told += [*findings.of_host(found, None)] if mib is None else []
        told += [error("options", str(refused))]
        if target_folder is not None:
            told.append(checkpoint.weights(target_folder)[1])
        return Report(name, tuple(told))
    server = _server(launch, chosen, target_folder, head_folder)
    server = replace(server, gpus=_names(server, found, gpu))
    if mib is None:
        told += findings.of_host(found, server.needs)
        told += _address(server.given)
        told += _readable_keys(server.given, launch)
    told += findings.of_keys(launch)
    told += _notes(launch)
    for finding in (target_finding, head_finding):
        told += [finding] if finding is not None else []
    if target_folder is not None:
        server, of_target = _whole_target(server, target_folder)
        told += of_target
    elif server.target is not None and mib is None:
        told += _disk(found, server)
    if head_folder is not None and server.target is not None:
        told += _head(chosen, head_folder, server.target)
    told += ours.fast(server, found, mib)
    told += ours.seams(server, found if mib is None else None)
    plan, choices, basis, of_plan = _plan(server, found, chosen.hardware, mib)
    return Report(name, (*told, *of_plan), plan, choices, basis)


def before_the_launch(launch: Launch, chosen: Profile) -> list[Finding]:
    """What `launch` asks before it becomes the server: quick, nothing large is read.

    launch: as `preflight.prepare` made it, with checkpoints that are on this disk.
    """
    found = host.probe(whole=False)
    given = flags.parse(launch.argv)
    target, head = (
        Path(folder) if (folder := given.value(name)) else None
        for name in ("--model-path", "--speculative-draft-model-path")
    )
    server = _server(launch, chosen, target, head)
    server = replace(server, gpus=_names(server, found, None))
    told = [*findings.of_host(found, server.needs)]
    told += findings.of_keys(launch)
    *_, of_plan = _plan(server, found, chosen.hardware, None)
    return [finding for finding in (*told, *of_plan) if finding.level != "note"]


def _names(server: Subject, found: Host, gpu: str | None) -> tuple[str, ...]:
    """gpu: what was asked for in place of this machine's, a name or its GiB."""
    if gpu is None:
        return tuple(sorted({one.name for one in server.needs.of(found.visible)}))
    return (f"NVIDIA {gpu.upper()}",) if gpu.upper() in KNOWN_GPUS else ()


def gpu_mib(gpu: str) -> int:
    """Memory by a name such as H200, or of a number of GiB. Raises UserError: it is neither."""
    known = KNOWN_GPUS.get(gpu.upper())
    if known is not None:
        return known
    if re.fullmatch(r"\d+(\.\d+)?", gpu) and float(gpu) >= 1:
        return int(float(gpu) * 1024)
    raise UserError(f"gpu {gpu!r}: one of {', '.join(KNOWN_GPUS)}, or its memory in GiB")


def _folder(
    name: str | None, revision: str | None, what: str
) -> tuple[Path | None, Finding | None]:
    """Where a checkpoint is on this disk, and what is to be said if it is not."""
    if name is None:
        return None, None
    try:
        folder = hub.in_cache(name, revision, what)
    except UserError as refused:
        return None, error(what, str(refused))
    if folder is not None:
        return folder, None
    return None, note(
        what,
        f"the {what} {name} is not on this disk",
        f"hf download {name}" + (f" --revision {revision}" if revision else ""),
        "`launch` downloads it",
    )


def _server(launch: Launch, chosen: Profile, target: Path | None, head: Path | None) -> Subject:
    known = published.config(chosen.target) if target is None else None
    of_target = Target.from_path(target) if target else None
    if known is not None:
        of_target = Target.from_config(known, chosen.target)
    of_head = None
    if head is not None:
        of_head = Head.from_files(Folder(head), whole=False)
    elif chosen.head is not None and (config := published.config(chosen.head)) is not None:
        of_head = Head(Path(chosen.head), config, {})
    given = flags.parse(launch.argv)
    return Subject(launch, given, chosen.algorithm, of_target, of_head)


def _installation(*, cpu_engine: bool) -> Iterator[Finding]:
    try:
        machine.check_installation(cpu_engine)
    except UserError as refused:
        yield error("sglang", str(refused))
        return
    installed = contract.installed_sglang()
    assert installed is not None
    yield note(
        "sglang", f"SGLang {installed.release}: a reviewed release, what is hooked is unchanged"
    )
    yield note("plugin", "the plugin is registered, and nothing keeps it out")


def _address(given: Parsed) -> Iterator[Finding]:
    try:
        machine.check_address(host_of(given), port_of(given))
    except UserError as refused:
        yield error("port", str(refused))
    else:
        yield note("port", f"port {port_of(given)} is free")


def _readable_keys(given: Parsed, launch: Launch) -> Iterator[Finding]:
    try:
        keys.check_readable(given, launch.environment)
    except UserError as refused:
        yield error("keys", str(refused))


def _notes(launch: Launch) -> Iterator[Finding]:
    for line in launch.notes:
        if line.startswith(tuple(f"{title}: " for title in switches.TITLES.values())):
            continue  # Told with what this machine and the rest of the command say.
        text = line.removeprefix("warning: ")
        yield warning("launch", text) if text != line else note("launch", text)


def _whole_target(server: Subject, folder: Path) -> tuple[Subject, list[Finding]]:
    if server.dummy:
        told = [note("checkpoint", f"{folder}: no weights are read (--load-format dummy)")]
    else:
        read, finding = checkpoint.weights(folder)
        told = [finding]
        server = replace(server, tensors=read)
    if not server.given.of("--skip-tokenizer-init") and not server.given.value("--tokenizer-path"):
        told += checkpoint.tokenizer(folder)
    return server, told


def _disk(found: Host, server: Subject) -> Iterator[Finding]:
    """Whether the target has room where it will be downloaded to."""
    if found.hub_cache is None or server.target is None or server.dummy:
        return
    size = weights.target_bytes(weights.of_config(server.target), server.target, 1, 2)
    text = (
        f"{found.hub_cache.path} has {found.hub_cache.free / GIB:,.0f} GiB free, the target takes "
        f"{size / GIB:,.0f} GiB"
    )
    if found.hub_cache.free < size:
        yield error("disk", text, "export HF_HOME=/a/larger/disk", "the download breaks off")
    else:
        yield note("disk", text)


def _head(chosen: Profile, folder: Path, target: Target) -> Iterator[Finding]:
    name = chosen.head or str(folder)
    report = head_inspect.inspect(name, Folder(folder), chosen.target, target)
    for finding in report.findings:
        yield replace(finding, subject=f"head {finding.subject}")
    if report.status == 0:
        yield note("head", f"{name} fits the target")


def _plan(
    server: Subject, found: Host, hardware: str, mib: int | None
) -> tuple[Plan | None, tuple[Choice, ...], str, list[Finding]]:
    """The plan, what flags would buy, what it goes by, and what it says."""
    if server.target is None:
        return (
            None,
            (),
            "",
            [note("memory-plan", "nothing is known of the target: no plan", "", "")],
        )
    total, before, basis = _memory_of(server, found, hardware, mib)
    if before is None:
        return (
            None,
            (),
            "",
            [note("memory-plan", "no GPU whose memory is known", "--gpu H200, or its GiB")],
        )
    try:
        resolved = settings.resolve(
            server.given, server.environment, server.target, server.algorithm, total
        )
    except Unplanned as refused:
        on = ours.are_on(server, found if mib is None else None)
        unplanned = [note("memory-plan", str(refused)), *_recorded_by_states(server, on)]
        return None, (), "", unplanned
    draft = server.head.config if server.head is not None else None
    on = ours.are_on(server, found if mib is None else None)
    inputs = Inputs(resolved, server.target, _weights(server, resolved), before, draft, on)
    plan, choices = memory.plan(inputs), tuple(memory.choices(inputs))
    source = "weights by the checkpoint's headers" if server.tensors else "weights by the config"
    installed = contract.installed_sglang()
    told = [*findings.of_plan(plan, choices)]
    fast = stages.parse(server.environment.get(variables.FAST))
    if fast is not None and fast.auto and plan.fast and plan.rest + plan.recorded < sizes.LEFT:
        told.append(
            note(
                "fast",
                f"the fast path will be off by default: its buffers take {plan.fast / MIB:,.0f} "
                f"MiB, and {sizes.LEFT / GIB:.0f} GiB have to stay free beside them",
                "-- --mem-fraction-static lower by 0.03",
            )
        )
    if installed is not None and installed.release != memory.RELEASE:
        told.append(
            note(
                "memory-plan",
                f"as SGLang {memory.RELEASE} sizes its pools; {installed.release} was not compared",
            )
        )
    return plan, choices, f"{basis}, {source}", told


def _recorded_by_states(server: Subject, on: frozenset[str]) -> Iterator[Finding]:
    """What cycles take that adaptive drafting records in each of its states, beside all pools."""
    given = server.given
    file = given.value(adaptive.CONFIG)
    if "cycle" not in on or not given.of(adaptive.ADAPTIVE) or file is None:
        return
    try:
        candidates, _ = states.read_all(file)
    except UserError:
        return  # The launch has said so.
    found = len({steps for row in candidates.values() for steps in row})
    largest = given.number("--cuda-graph-max-bs-decode") or given.number("--cuda-graph-max-bs")
    sampled = "sampled" in on and (given.number("--tp-size") or 1) == 1
    requests = largest or of_cycles.MOST_RECORDED
    count = of_cycles.recorded(requests, sampled=sampled, states=found)
    taken = count * of_cycles.RECORDED_BYTES
    yield note(
        "memory-plan",
        f"recorded cycles take up to {taken / GIB:.2f} GiB of what is left for graphs: {count} in "
        f"{found} states, {of_cycles.RECORDED_BYTES / MIB:.0f} MiB each as measured with one "
        "request",
    )


def _weights(server: Subject, resolved: settings.ServerSettings) -> memory.Weights:
    assert server.target is not None
    target, tp, width = server.target, resolved.tp, resolved.dtype_bytes
    tensors = server.tensors or weights.of_config(target, mtp=True)
    own = weights.target_bytes(tensors, target, tp, width)
    embedding = weights.embedding_bytes(target.config, tp, width)
    if server.algorithm == "nextn":
        # It makes an embedding and an lm_head of its own, and then shares the target's.
        return memory.Weights(own, weights.mtp_bytes(tensors, target, tp, width), 2 * embedding)
    if server.algorithm == "eagle3" and server.head is not None:
        return memory.Weights(own, weights.head_bytes(server.head, tp, width), embedding)
    return memory.Weights(own)


def _memory_of(
    server: Subject, found: Host, hardware: str, mib: int | None
) -> tuple[float | None, int | None, str]:
    """Memory of the smallest device in MiB as SGLang asks for it, bytes that are free on it once
    the processes have started, and what both are taken from."""
    if not server.on_gpu:
        free = min(found.available, found.limit or found.available)
        return found.memory / MIB, free, "this machine's free RAM"
    ranks = server.needs.gpus
    taken = CONTEXT_MIB + (RANKS_MIB if ranks > 1 else 0)
    used = server.needs.of(found.visible)
    if mib is None and any(gpu.mig for gpu in used):
        return None, None, ""
    if mib is None and used:
        total, free_mib = min(gpu.total_mib for gpu in used), min(gpu.free_mib for gpu in used)
        return total, (free_mib - taken) * MIB, f"what is free on {used[0].short_name} now"
    if mib is None:
        named = re.search(r"\b(" + "|".join(KNOWN_GPUS) + r")\b", hardware)
        mib = KNOWN_GPUS[named[1]] if named else None
        if mib is None:
            return None, None, ""
        basis = f"the profile's {named[1]}" if named else ""
    else:
        basis = f"an idle GPU of {mib / 1024:.1f} GiB"
    return mib, (mib - RESERVED_MIB - taken) * MIB, basis
