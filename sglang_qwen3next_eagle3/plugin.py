"""`register()`: what SGLang calls in the launching process and in every scheduler process."""

import logging
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import NoReturn

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.secrets import hide_in_process_list, mask_logger, read_key
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay import standby
from sglang_qwen3next_eagle3.overlay.fast import stages
from sglang_qwen3next_eagle3.overlay.seams import seams

logger = logging.getLogger(__name__)

SERVER_MODULE = "sglang.launch_server"
"""What the launcher executes."""
SERVER_LOGGER = "sglang.srt.entrypoints.engine"
"""Under which SGLang prints all of its arguments, keys included (0.5.17)."""
NAME = "qwen3next_eagle3"
"""The name of the entry point, as `SGLANG_PLUGINS` filters it."""


def register() -> None:
    """Hook the capture of auxiliary hidden states into the SGLang of this process.

    Only Qwen3-Next targets under EAGLE3 are affected. SGLang logs and swallows what a plugin raises
    and then serves unpatched; SystemExit alone stops it, so that is what a refusal is.
    """
    environment = os.environ.get(aux_layers.ENVIRONMENT_VARIABLE, "").strip() or None
    _end_all_on_sigterm()
    hide_in_process_list()
    try:
        if _is_server():
            _take_keys()
            mask_logger(SERVER_LOGGER)
            standby.take()
        if os.environ.get(variables.CPU_ENGINE) == "1":
            _activate_cpu_engine()
        if environment != aux_layers.OFF:
            _hook_capture(environment)
        if os.environ.get(variables.ADAPTIVE) == "1":
            # Around stock's verify, which the fast path has for what is not its own.
            _hook_in_place()
        _hook_fast(os.environ.get(variables.FAST))
        _hook_seams(os.environ.get(variables.SEAMS))
        # Around what a seam makes of a verify.
        if os.environ.get(variables.SIMULATE):
            _simulate(Path(os.environ[variables.SIMULATE]), os.environ.get(variables.ROUTING))
        if os.environ.get(variables.ADAPTIVE) == "1":
            _hook_adaptive(os.environ.get(variables.STEPS))
        if os.environ.get(variables.CYCLE):
            _record_cycles(Path(os.environ[variables.CYCLE]))
    except UserError as error:
        raise SystemExit(f"sglang-qwen3next-eagle3: {error}") from None
    except Exception as error:
        traceback.print_exc()
        raise SystemExit(
            "sglang-qwen3next-eagle3 does not fit into this SGLang, and does not serve without: "
            f"{type(error).__name__}: {error}"
        ) from None


def _end_all_on_sigterm() -> None:
    """While a server loads, SIGTERM would end its first process only, and those that it is starting
    would wait for it for ever: they ask to end with their parent later than it is gone.

    As an exception it passes the place where SGLang ends them all. Once it serves, SGLang has a
    handler of its own. Only what the launcher starts is touched, no program of somebody else.
    """
    if not _is_server():
        return
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _leave)


def _is_server() -> bool:
    """Whether this process is what the launcher starts, and none of its children."""
    specification = getattr(sys.modules["__main__"], "__spec__", None)
    return specification is not None and specification.name == SERVER_MODULE


def _take_keys() -> None:
    """Add the keys to the words that SGLang is about to parse; `ps` does not show these.

    Raises:
        UserError: a file that holds one cannot be read.
    """
    for flag, name in variables.KEYS.items():
        key = os.environ.pop(name, "").strip()
        if file := os.environ.pop(name + variables.FILE, "").strip():
            key = read_key(Path(file), f"{flag}-file")
        if key:
            sys.argv.append(f"{flag}={key}")


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _activate_cpu_engine() -> None:
    from sglang_qwen3next_eagle3.overlay import contract

    manifest = contract.require(["cpu_engine"])
    from sglang_qwen3next_eagle3.overlay.cpu_engine import hooks as cpu_engine

    cpu_engine.activate(manifest.hooked("cpu_engine"))


def _simulate(path: Path, routed: str | None) -> None:
    from sglang_qwen3next_eagle3.overlay import contract, hooks, routing, simulate

    contract.require(["simulate"])
    hooks.apply(simulate.hooks(simulate.AcceptLength(path)))
    if routed:
        hooks.apply([routing.hook(routing.parse(routed))])
    logger.warning("acceptance is simulated: the text of this server means nothing")


def _record_cycles(folder: Path) -> None:
    from sglang_qwen3next_eagle3.overlay import contract, hooks

    try:
        contract.require(["cycle"])
    except UserError as error:
        logger.warning("sglang-qwen3next-eagle3 records no cycles: %s", error)
        return
    from sglang_qwen3next_eagle3.overlay.cycle import hooks as cycle

    hooks.apply([cycle.entry(folder)])


def _hook_seams(asked: str | None) -> None:
    wanted = seams.parse(asked)
    if not wanted:
        return
    from sglang_qwen3next_eagle3.overlay import contract, hooks

    try:
        manifest = contract.require(["seams"])
    except UserError as error:
        level = logging.INFO if seams.is_auto(asked) else logging.WARNING
        line = "sglang-qwen3next-eagle3: the seams of a cycle are SGLang's: %s"
        logger.log(level, line, error)
        return
    from sglang_qwen3next_eagle3.overlay.seams import hooks as at_seams

    ours = at_seams.served(wanted, manifest.hooked("seams"))
    if seams.is_auto(asked):
        proved = at_seams.Proved(ours)
        seams.serve(lambda: proved.seams)
        of_seams = at_seams.where_proved(ours, proved)
        hooks.apply([at_seams.announcing(ours, proved=proved), *of_seams])
        return
    seams.serve(lambda: ours)
    hooks.apply([at_seams.announcing(ours, wanted - ours), *at_seams.hooks(ours)])


def _hook_in_place() -> None:
    from sglang_qwen3next_eagle3.overlay import contract, hooks

    try:
        listed = contract.require(["adaptive"]).hooked("adaptive")
    except UserError:
        # `_hook_adaptive` tells of it.
        return
    from sglang_qwen3next_eagle3.overlay.adaptive import in_place

    ours = in_place.hooks()
    if all(hook.target in listed for hook in ours):
        hooks.apply(ours)


def _hook_adaptive(forced: str | None) -> None:
    from sglang_qwen3next_eagle3.overlay import contract, hooks, simulate

    try:
        listed = contract.require(["adaptive"]).hooked("adaptive")
    except UserError as error:
        logger.warning("sglang-qwen3next-eagle3: steps are chosen by SGLang: %s", error)
        return
    from sglang_qwen3next_eagle3.overlay.adaptive import hooks as adaptive

    table = adaptive.hooks(simulate.SharedNumber(Path(forced)) if forced else None)
    hooks.apply(hook for hook in table if hook.target in listed)
    adaptive.quiet()
    from sglang_qwen3next_eagle3.overlay.adaptive import deferral, states

    if most := states.cycles_at_once(os.environ.get(variables.DEFER)):
        kept = deferral.hooks(most)
        if all(hook.target in listed for hook in kept):
            hooks.apply(kept)
        else:
            logger.warning("sglang-qwen3next-eagle3: extends of the head are not put off here")


def _hook_fast(asked: str | None) -> None:
    wanted = stages.parse(asked)
    if wanted is None:
        return
    from sglang_qwen3next_eagle3.overlay import contract, hooks

    try:
        contract.require(["fast"])
    except UserError as error:
        if wanted.required:
            raise
        level = logging.INFO if wanted.auto else logging.WARNING
        logger.log(level, "sglang-qwen3next-eagle3: fast path off: %s", error)
        return
    from sglang_qwen3next_eagle3.overlay.fast import hooks as fast

    hooks.apply(fast.hooks(wanted))


def _hook_capture(environment: str | None) -> None:
    from sglang_qwen3next_eagle3.overlay import capture, contract, hooks, served_head

    if environment is not None:
        wanted, _ = aux_layers.from_environment(environment)
        aux_layers.parse(wanted)
    try:
        contract.require(["capture"])
    except UserError as error:
        if environment is not None:
            raise
        # Nobody asked for a selection, so this may be a server of any model: it must not be
        # touched. The refusal waits for the moment that a Qwen3-Next target meets EAGLE3.
        _refuse_later(error)
        return
    hooks.apply(capture.hooks(capture.choose_by(environment, served_head.spelled_layers)))
    _hook_requests()
    _hook_metrics()


def _hook_requests() -> None:
    from sglang_qwen3next_eagle3.overlay import hooks
    from sglang_qwen3next_eagle3.overlay.requests import bounds
    from sglang_qwen3next_eagle3.overlay.requests.hooks import ENTRIES

    bounds.of_this_server()
    try:
        hooks.apply(ENTRIES)
    except (ImportError, AttributeError) as error:
        logger.warning("sglang-qwen3next-eagle3 leaves requests to SGLang: %s", error)


def _hook_metrics() -> None:
    from sglang_qwen3next_eagle3.overlay import hooks
    from sglang_qwen3next_eagle3.overlay.metrics import cycle_costs
    from sglang_qwen3next_eagle3.overlay.metrics.hooks import ENTRIES

    cycle_costs.parse(os.environ.get(variables.CYCLE_COSTS))
    try:
        hooks.apply(ENTRIES)
    except (ImportError, AttributeError) as error:
        logger.warning("sglang-qwen3next-eagle3 adds no metrics to SGLang's: %s", error)


def _refuse_later(error: UserError) -> None:
    from sglang_qwen3next_eagle3.overlay import capture, hooks

    def refuse(original: object, model: object, *args: object, **kwargs: object) -> None:
        raise SystemExit(f"sglang-qwen3next-eagle3: {error}")

    try:
        hooks.apply([hooks.Hook(capture.SET_LAYERS, refuse, "refuses an unsupported release")])
    except (ImportError, AttributeError):
        logger.warning("sglang-qwen3next-eagle3 is not active: %s", error)
