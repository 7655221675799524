"""What `doctor` says of the fast path and the seams, before a server's log does."""

from collections.abc import Callable, Iterator

from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.seams import seams as of_seams
from sglang_qwen3next_eagle3.serving import switches
from sglang_qwen3next_eagle3.serving.doctor import findings
from sglang_qwen3next_eagle3.serving.doctor.host import Host
from sglang_qwen3next_eagle3.serving.doctor.subject import Subject


def fast(server: Subject, found: Host, mib: int | None) -> Iterator[Finding]:
    if not server.on_gpu:
        return
    wanted = stages.parse(server.environment.get(variables.FAST))
    here = found if mib is None else None
    if wanted is None or wanted.auto:
        yield from _by_default(
            "fast", server, lambda: _no_fast_path(server, here) or _not_proved("fast", server)
        )
        return
    reason = _no_fast_path(server, here)
    if reason is None:
        yield note("fast", f"the fast path is on: {', '.join(sorted(wanted.stages))}")
    elif wanted.required:
        yield error("fast", f"the fast path is required, and is off: {reason}", "--no-fast")
    else:
        yield warning("fast", f"the fast path will be off: {reason}", "--no-fast, or mend it")


def _by_default(
    switch: switches.Switch, server: Subject, why: Callable[[], str | None]
) -> Iterator[Finding]:
    """What becomes of a switch of which nobody said anything, or only that it is off. why: asked
    where the launch has it on, tells why it would be off."""
    title, variable = switches.TITLES[switch], switches.VARIABLES[switch]
    line = next((each for each in server.launch.notes if each.startswith(f"{title}: ")), None)
    if line is None:
        yield note(switch, f"{title}: off, as it is asked for", f"--{switch}")
    elif variable in server.launch.environment and (reason := why()) is not None:
        yield note(switch, f"{title}: off by default: {reason}")
    else:
        yield note(switch, line)


def _other_gpu(server: Subject, found: Host | None) -> str | None:
    """Why a GPU of this machine is none that anything was proved on, or None."""
    used = server.needs.of(found.visible) if found is not None else ()
    if any(gpu.capability != findings.FAST_CAPABILITY for gpu in used):
        return "its kernels are for compute capability 9.0 (H100, H200)"
    return None


def _not_proved(switch: switches.Switch, server: Subject) -> str | None:
    """Why what is on by default, and was not asked for, stays off on a GPU that it would use."""
    given = server.given
    config = server.target.config if server.target is not None else None
    reasons = (switches.not_proved_on(switch, given, name, config) for name in server.gpus)
    return next((reason for reason in reasons if reason is not None), None)


def _no_fast_path(server: Subject, found: Host | None) -> str | None:
    """Why; the server's log says what only the loaded model shows (overlay/fast/conditions)."""
    if (reason := _other_gpu(server, found)) is not None:
        return reason
    ranks = server.given.number("--tp-size") or 1
    if (reason := switches.cannot_be(server.given)) is not None:
        return reason
    if server.needs.gpus != ranks:
        return f"it knows tensor parallelism only, this server takes {server.needs.gpus} GPUs"
    return _not_reviewed("fast")


def seams(server: Subject, found: Host | None) -> Iterator[Finding]:
    if not server.on_gpu:
        return
    asked = server.environment.get(variables.SEAMS)
    wanted = of_seams.parse(asked)
    if not wanted or of_seams.is_auto(asked):
        yield from _by_default(
            "seams",
            server,
            lambda: (
                _other_gpu(server, found) or _not_reviewed("seams") or _not_proved("seams", server)
            ),
        )
        return
    reason = _not_reviewed("seams")
    if reason is None:
        yield note("seams", f"seams that are ours: {', '.join(sorted(wanted))}")
    else:
        yield warning("seams", f"the seams will be SGLang's: {reason}", "--no-seams, or mend it")


def are_on(server: Subject, found: Host | None) -> frozenset[str]:
    """The stages and seams that will be on, as far as one can tell before the server does."""
    if not server.on_gpu:
        return frozenset()
    # Where nobody said anything, the launch has said `auto`, and with which stages.
    told = stages.parse(server.environment.get(variables.FAST))
    ours: set[str] = set()
    if told is not None and _no_fast_path(server, found) is None:
        ours |= set() if told.auto and _not_proved("fast", server) else told.stages
    asked = server.environment.get(variables.SEAMS)
    if _other_gpu(server, found) is None and _not_reviewed("seams") is None:
        off = of_seams.is_auto(asked) and _not_proved("seams", server)
        ours |= set() if off else of_seams.parse(asked)
    return frozenset(ours)


def _not_reviewed(part: contract.Part) -> str | None:
    """Why the installed SGLang is served with without this part, or None."""
    installed = contract.installed_sglang()
    if installed is None:
        return "SGLang is not installed"
    if installed.release not in contract.known_releases():
        return f"it was not reviewed for SGLang {installed.release}"
    manifest = contract.read_manifest(installed.release)
    changed = [
        comparison.symbol.target
        for comparison in contract.compare(manifest, installed.root, [part])
        if comparison.state != "ok"
    ]
    if not manifest.of(part):
        return f"it was not reviewed for SGLang {installed.release}"
    return f"SGLang differs from what was reviewed: {changed[0]}" if changed else None
