"""Where our code differs from one SGLang release to another: here and nowhere else.

Which symbols are hooked is data: the manifest of a release lists them, and of a table of hooks only
those are put in place that it lists (`ReleaseManifest.hooked`).
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.overlay import contract

if TYPE_CHECKING:
    from sglang_qwen3next_eagle3.overlay.fast.boundaries import Boundaries
    from sglang_qwen3next_eagle3.overlay.seams.host import CycleHost

LAYER_BOUNDARIES = "0.5.23"
"""The first release that was run in which a batch holds its residual (`layer_boundary`), whose
arguments are published to a process before it loads a model, and whose CPU operators of attention
take the scales of an FP8 cache."""


@cache
def has_layer_boundaries() -> bool:
    """Whether the installed SGLang is of the newer kind."""
    installed = contract.installed_sglang()
    return installed is not None and contract.at_least(installed.release, LAYER_BOUNDARIES)


def cpu_operators() -> dict[str, Callable[..., Any]]:
    """The CPU engine's operators with the parameters that the installed SGLang passes."""
    from sglang_qwen3next_eagle3.overlay.cpu_engine import attention, ops

    if not has_layer_boundaries():
        return ops.OPS
    return ops.OPS | {
        "decode_attention_cpu": attention.decode_scaled,
        "extend_attention_cpu": attention.extend_scaled,
    }


def publish(one_batch: Any, server_args: Any, rank: int) -> None:
    """What `sglang.benchmark.one_batch` does in every process before it loads a model.

    one_batch: that module; rank: the tensor-parallel one, which is also its GPU.
    """
    if not has_layer_boundaries():
        return
    world = one_batch.spawn_world_rank(server_args, tp_rank=rank, pp_rank=0)
    ranks = one_batch.SpawnRanks(world_rank=world, gpu_id=rank)
    one_batch.publish(server_args, role="scheduler", ranks=ranks)
    one_batch._init_process_global_configs()


def reserved_tokens(server_args: Any) -> int:
    """The output slots that SGLang keeps for drafts in a request's row.

    server_args: what the process was started with; newer releases know it by themselves.
    """
    from sglang.srt.managers import utils

    arguments = () if has_layer_boundaries() else (server_args,)
    return int(utils.compute_num_reserved_tokens(*arguments))


def place(scheduler: Any) -> Any:
    """Which of a server's schedulers this one is: `tp_rank`, `pp_rank`, `pp_size`, `dp_rank`."""
    if not has_layer_boundaries():
        return scheduler.ps
    from sglang.srt.runtime_context import get_parallel

    return get_parallel()


def arguments_of(runner: Any) -> Any:
    """The arguments of a `ModelRunner` or a worker of drafts as SGLang took them; newer releases
    keep what was given on the command line and what came of it apart."""
    if not has_layer_boundaries():
        return runner.server_args
    from sglang.srt.arg_groups.model_override_base import resolved_view

    return resolved_view(runner.server_args)


def boundaries() -> "Boundaries":
    """How the layers of a pass hand the stream to one another."""
    from sglang_qwen3next_eagle3.overlay.fast.boundaries import Pairs, Streams

    return Streams() if has_layer_boundaries() else Pairs()


def has_update_sessions() -> bool:
    """Whether weights are updated within a session, whose end makes them ready."""
    return has_layer_boundaries()


def draft_extend_reads_alone() -> bool:
    """Whether a captured draft extend returns only the rows of the last accepted tokens."""
    return has_layer_boundaries()


def host() -> "CycleHost":
    """What a scheduler's process does between the graphs of a cycle."""
    from sglang_qwen3next_eagle3.overlay.seams.host import CycleHost, PlanningCycleHost

    return PlanningCycleHost() if has_layer_boundaries() else CycleHost()
