"""What a machine and a command mean for serving. Pure: what was probed goes in, findings come out.

An error does not serve, a warning serves slower or at risk, a note is as it should be.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sglang_qwen3next_eagle3.base.findings import Finding, error, note, warning
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.environment import is_on
from sglang_qwen3next_eagle3.serving import keys
from sglang_qwen3next_eagle3.serving.command_line import Launch, host_of
from sglang_qwen3next_eagle3.serving.connection import is_loopback
from sglang_qwen3next_eagle3.serving.doctor.host import Host
from sglang_qwen3next_eagle3.serving.doctor.memory import GIB, Choice, DoesNotFit, Plan, Pools
from sglang_qwen3next_eagle3.serving.flags import find, parse
from sglang_qwen3next_eagle3.serving.gpus import Gpu

MIB = 2**20
SHM_BYTES = GIB
"""Shared memory that ranks may want to talk through; a container's default is 64 MiB."""
OPEN_FILES = 4096
RANK_MEMORY = 6 * GIB
"""RAM of one rank: torch, CUDA and what it reads weights through."""
DRIVERS = {13: 580, 12: 525}
"""The oldest driver of a CUDA release (CUDA Toolkit release notes, minor version compatibility)."""
FAST_CAPABILITY = (9, 0)
FP8_CAPABILITY = (8, 9)
BF16_CAPABILITY = (8, 0)
UNEVEN = 0.9
"""SGLang refuses ranks of which one has less than this part of another's free memory
(distributed/bootstrap.py, `_check_tp_memory_balance`)."""
SURE = 0.03
"""Of a GPU's memory: what the plan may be wrong by before it refuses."""
_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
_DAY = 86400.0


@dataclass(frozen=True)
class Needs:
    """Of the server that is asked about. gpus: how many it takes of this machine; fp8: whether its
    weights are; first, step: which ones (`--base-gpu-id`, `--gpu-id-step`)."""

    on_gpu: bool = True
    gpus: int = 1
    fp8: bool = False
    first: int = 0
    step: int = 1

    def of(self, visible: Sequence[Gpu]) -> Sequence[Gpu]:
        """The GPUs that it will run on; fewer where there are fewer."""
        return visible[self.first :: self.step][: self.gpus]


def of_host(host: Host, needs: Needs | None) -> Iterator[Finding]:
    """needs: None where no server is asked about: then nothing is missing."""
    if needs is None or needs.on_gpu:
        yield from _gpus(host, needs)
    yield from _shared_memory(host, needs)
    yield from _memory(host, needs)
    yield from _limits(host)
    yield from _proxies(host.environment)
    yield from _clock(host)
    if host.caches and (needs is None or needs.on_gpu):
        yield from _caches(host)


def _gpus(host: Host, needs: Needs | None) -> Iterator[Finding]:
    gpus = host.gpus
    if gpus.trouble:
        yield error("gpus", f"nvidia-smi says: {gpus.trouble}", "nvidia-smi", "no GPU can be used")
        return
    if not gpus.found:
        yield from _no_gpus(host, needs)
        return
    visible = host.visible
    used = needs.of(visible) if needs is not None else visible
    if needs is not None and len(used) < needs.gpus:
        masked = host.environment.get("CUDA_VISIBLE_DEVICES")
        of = f" of {len(gpus.found)} (CUDA_VISIBLE_DEVICES={masked})" if masked is not None else ""
        yield error(
            "gpus",
            f"{needs.gpus} GPUs are asked for{_from(needs)}, {len(visible)}{of} can be seen",
            "unset CUDA_VISIBLE_DEVICES" if of else f"--tp {_largest_power(len(used))}",
        )
    if not used:
        return
    yield note("gpus", _description(used))
    yield from _kinds(used, needs)
    yield from _driver(host, used)
    yield from _occupied(host, used, needs)
    if len(used) > 1:
        yield from _links(host, used)
    yield from _state(used)


def _no_gpus(host: Host, needs: Needs | None) -> Iterator[Finding]:
    if host.has_device:
        yield warning(
            "gpus",
            "there is a GPU, but no nvidia-smi to ask about it",
            "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ...",
            "memory, driver and other processes are not checked",
        )
    elif needs is None:
        yield note("gpus", "no NVIDIA GPU is found", "sglang-qwen3next-eagle3 demo")
    else:
        yield error(
            "gpus",
            "no NVIDIA GPU is found",
            "serve on a machine with GPUs (in a container: docker run --gpus all), or try "
            "`sglang-qwen3next-eagle3 demo`, which needs none",
            "this profile serves on GPUs",
        )


def _from(needs: Needs) -> str:
    return f" from GPU {needs.first} on" if needs.first else ""


def _largest_power(count: int) -> int:
    return 1 << max(0, count.bit_length() - 1)


def _description(used: Sequence[Gpu]) -> str:
    first = used[0]
    capability = ".".join(map(str, first.capability))
    return (
        f"{len(used)}x {first.name}, {first.total_mib / 1024:.1f} GiB, compute capability "
        f"{capability}, driver {first.driver}"
    )


def _kinds(used: Sequence[Gpu], needs: Needs | None) -> Iterator[Finding]:
    names = sorted({gpu.name for gpu in used})
    if len(names) > 1:
        yield warning(
            "gpus",
            f"the GPUs differ: {', '.join(names)}",
            f"CUDA_VISIBLE_DEVICES={','.join(str(g.index) for g in used if g.name == names[0])}",
            "ranks wait for the slowest and hold what the smallest can",
        )
    lowest = min(gpu.capability for gpu in used)
    text = ".".join(map(str, lowest))
    if lowest < BF16_CAPABILITY:
        yield error("gpus", f"compute capability {text}", "take an A100, H100 or H200", "no bf16")
    elif needs is not None and needs.fp8 and lowest < FP8_CAPABILITY:
        yield warning(
            "gpus",
            f"compute capability {text} has no FP8 arithmetic",
            "--target Qwen/Qwen3-Coder-Next",
            "FP8 weights only save memory here",
        )
    if any(gpu.mig for gpu in used):
        yield warning("gpus", "MIG is on", "sudo nvidia-smi -mig 0", "a slice is not a whole GPU")


def _driver(host: Host, used: Sequence[Gpu]) -> Iterator[Finding]:
    if host.torch_cuda is None:
        return
    oldest = DRIVERS.get(int(host.torch_cuda.partition(".")[0]))
    driver = used[0].driver
    major = driver.partition(".")[0]
    if oldest is None or not major.isdecimal() or int(major) >= oldest:
        return
    text = f"driver {driver} is older than {oldest}, which CUDA {host.torch_cuda} of torch wants"
    if host.has_cuda_compat:
        yield warning("driver", text, "update the driver", "only CUDA's compat libraries help")
    else:
        yield error("driver", text, f"update the driver to {oldest} or newer", "torch sees no GPU")


def _occupied(host: Host, used: Sequence[Gpu], needs: Needs | None) -> Iterator[Finding]:
    here = {gpu.uuid: gpu for gpu in used}
    others = [process for process in host.gpus.processes if process.uuid in here]
    if others:
        listed = "; ".join(
            f"{process.name or 'process'} {process.pid}"
            + (f" with {process.used_mib / 1024:.1f} GiB" if process.used_mib is not None else "")
            + f" on GPU {here[process.uuid].index}"
            for process in others[:4]
        )
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        pids = ",".join(str(process.pid) for process in others)
        yield warning(
            "gpu-processes",
            f"others use the GPUs: {listed}{more}",
            f"ps -o pid,user,etime,cmd -p {pids}",
            "less memory is left, and both are slower",
        )
    free = [gpu.free_mib for gpu in used]
    if min(free) < UNEVEN * max(free):
        poorest = min(used, key=lambda gpu: gpu.free_mib)
        # Of a machine alone nobody knows which of them will serve together; and SGLang only warns
        # where its check is switched off.
        checked = is_on(host.environment.get("SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK", "1"))
        yield (error if needs is not None and checked else warning)(
            "gpu-memory",
            f"GPU {poorest.index} has {min(free) / 1024:.1f} GiB free, another "
            f"{max(free) / 1024:.1f}",
            "end what is on it, or leave it out with CUDA_VISIBLE_DEVICES",
            "SGLang refuses ranks of so unequal memory",
        )


def _links(host: Host, used: Sequence[Gpu]) -> Iterator[Finding]:
    linked = host.gpus.on_nvlink(used)
    if linked is None:
        yield note("nvlink", "how the GPUs are linked is not known", "nvidia-smi topo -m")
    elif linked:
        yield note("nvlink", f"all {len(used)} GPUs are linked by NVLink")
    else:
        yield warning(
            "nvlink",
            "not all of the GPUs are linked by NVLink",
            "nvidia-smi topo -m, then CUDA_VISIBLE_DEVICES of GPUs that are",
            "every layer waits for two sums over PCIe",
        )


def _state(used: Sequence[Gpu]) -> Iterator[Finding]:
    for gpu in used:
        if gpu.throttled:
            yield warning(
                "clocks",
                f"GPU {gpu.index} is slowed down by {' and '.join(gpu.throttled)}",
                f"nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i {gpu.index}",
                "tokens come slower than measured figures say",
            )
        if gpu.ecc_errors:
            yield warning(
                "ecc",
                f"GPU {gpu.index} had {gpu.ecc_errors} uncorrected memory errors since it started",
                f"nvidia-smi -q -d ECC -i {gpu.index}; drain it and reset it",
                "answers may be wrong, or the server dies",
            )
    if any(gpu.persistence is False for gpu in used):
        yield note(
            "persistence",
            "the driver is put to sleep between processes",
            "sudo nvidia-smi -pm 1",
            "starts and nvidia-smi take seconds longer",
        )


def _shared_memory(host: Host, needs: Needs | None) -> Iterator[Finding]:
    if host.shm is None or needs is None or not needs.on_gpu:
        return
    text = f"/dev/shm has {_size(host.shm.free)} free of {_size(host.shm.total)}"
    if needs.gpus > 1 and host.shm.free < SHM_BYTES:
        yield warning(
            "shm",
            text,
            "docker run --shm-size 32g, or --ipc=host; outside: sudo mount -o remount,size=32g "
            "/dev/shm",
            "ranks that talk through it die with a bus error",
        )
    else:
        yield note("shm", text)


def _memory(host: Host, needs: Needs | None) -> Iterator[Finding]:
    if not host.memory:
        return
    total = min(host.memory, host.limit or host.memory)
    free = min(host.available, total)
    of = " of the container's limit" if host.limit and host.limit < host.memory else ""
    text = f"{_size(free)} of RAM are free of {_size(total)}{of}"
    wanted = RANK_MEMORY * (needs.gpus if needs is not None and needs.on_gpu else 1)
    if needs is not None and not needs.on_gpu:
        wanted = 4 * GIB
    if needs is not None and free < wanted:
        yield warning(
            "memory",
            text,
            "docker run --memory with more, or end other processes",
            f"about {_size(wanted)} are needed, and the system may kill the server",
        )
    else:
        yield note("memory", text)


def _limits(host: Host) -> Iterator[Finding]:
    if host.nofile is not None and host.nofile < OPEN_FILES:
        yield warning(
            "limits",
            f"a process may open {host.nofile} files",
            "ulimit -n 65536, docker run --ulimit nofile=65536:65536, or LimitNOFILE=65536",
            "connections beyond that are refused",
        )
    if host.memlock is not None and host.memlock < 64 * MIB and host.gpus.found:
        yield note(
            "limits",
            f"a process may lock {_size(host.memlock)}",
            "docker run --ulimit memlock=-1, or LimitMEMLOCK=infinity",
            "only transfers between machines want more",
        )


def _proxies(environment: Mapping[str, str]) -> Iterator[Finding]:
    proxies = [name for name in _PROXIES if environment.get(name)]
    if not proxies:
        return
    spared = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    words = {word.strip() for word in spared.split(",")}
    missing = [] if "*" in words else [h for h in ("localhost", "127.0.0.1") if h not in words]
    if missing:
        keep = f"{spared}," if spared else ""
        yield warning(
            "proxies",
            f"{proxies[0]} is set, and NO_PROXY spares {' and '.join(missing)} not",
            f"export NO_PROXY={keep}{','.join(missing)} no_proxy={keep}{','.join(missing)}",
            "SGLang asks itself through the proxy when it starts, and gives up",
        )


def _clock(host: Host) -> Iterator[Finding]:
    if host.now < host.built - _DAY:
        told = datetime.fromtimestamp(host.now, UTC).date()
        yield warning(
            "time",
            f"this machine says that it is {told}, before this package was installed",
            "timedatectl set-ntp true",
            "certificates of the hub are refused, and logs and metrics cannot be placed",
        )


def _caches(host: Host) -> Iterator[Finding]:
    warm = [f"{c.name} {_size(c.bytes)}" for c in host.caches if c.files]
    cold = [f"{c.name} ({c.path})" for c in host.caches if not c.files]
    if warm:
        yield note("caches", f"compiled before: {', '.join(warm)}")
    if cold:
        yield note(
            "caches",
            f"nothing compiled yet: {', '.join(cold)}",
            "keep these folders between starts (in a container: as volumes)",
            "the first start takes minutes longer",
        )
    for cache in host.caches:
        if not cache.writable:
            yield warning(
                "caches",
                f"{cache.name} may not write to {cache.path}",
                "make it writable for this user, or mount a volume there",
                "every start compiles again, or fails",
            )


def of_keys(launch: Launch) -> Iterator[Finding]:
    """Who may use the server, and who learns its keys: what stands in its argv is seen by every
    user of the machine, what a `--config` file adds to that is not."""
    given = parse(launch.argv)
    spelled = [
        flag
        for flag, variable in variables.KEYS.items()
        # What stood before the -- is handed on in the variable, and was seen all the same.
        if variable in launch.environment or any(_names(word, flag) for word in launch.argv)
    ]
    if spelled:
        yield warning(
            "keys",
            f"{' and '.join(spelled)} stand{'' if spelled[1:] else 's'} in the command line",
            "write the key into a file that only you may read (chmod 600) and pass "
            f"`{spelled[0]}-file FILE` before the --",
            "every user of this machine reads it in `ps`",
        )
    if is_loopback(host_of(given)):
        return
    if not keys.is_guarded(given, launch.environment):
        yield warning(
            "keys",
            "the server listens beyond this machine without a key (--insecure)",
            "a key, or a firewall that lets only your clients through",
            "whoever reaches it may use it, and replace its weights",
        )
    elif not keys.sources(keys.ADMIN_API_KEY, given, launch.environment):
        yield warning(
            "keys",
            "there is no admin key",
            "write another one into a file of its own and pass `--admin-api-key-file FILE`",
            "whoever may ask may also replace weights, empty caches, profile and stop requests",
        )


def _names(word: str, flag: str) -> bool:
    found = find(word.partition("=")[0]) if word.startswith("--") else None
    return found is not None and flag in found.names


def of_plan(plan: Plan, choices: Sequence[Choice]) -> Iterator[Finding]:
    """What the memory plan says about what was asked for. choices: what else there is."""
    settings, pools = plan.settings, plan.pools
    if isinstance(pools, DoesNotFit):
        text = (
            f"{pools.reason}: {_size(plan.weights.target + plan.weights.draft)} of weights, "
            f"{_size(plan.before)} free on a rank, of which SGLang keeps {_size(plan.reserve)} for "
            "graphs and activations"
        )
        remedy = "more GPUs (--tp), the FP8 checkpoint, or `-- --mem-fraction-static` nearer to 1"
        if pools.missing > SURE * plan.before:
            yield error("memory-plan", text, remedy, "SGLang stops after loading the weights")
        else:
            yield warning("memory-plan", text, remedy, "by a hair: SGLang may stop after loading")
        return
    if pools.capped_by:
        yield _fewer_requests(plan, pools, choices)
    if plan.longest < settings.context_length:
        yield warning(
            "memory-plan",
            f"the longest request has {plan.longest:,} tokens, the context is "
            f"{settings.context_length:,}",
            f"-- --context-length {plan.longest}, or make room for KV",
            "a longer one is refused or ends early",
        )
    if settings.on_gpu and plan.rest < min(2 * GIB, plan.reserve // 2):
        yield warning(
            "memory-plan",
            f"{_size(max(0, plan.rest))} are left for CUDA graphs and activations",
            "-- --mem-fraction-static lower by 0.03",
            "it may run out of memory while it captures graphs or under long prompts",
        )


def _fewer_requests(plan: Plan, pools: Pools, choices: Sequence[Choice]) -> Finding:
    asked = plan.settings.max_running_requests
    why = {"states": "GDN states", "tokens": "KV"}.get(pools.capped_by, "")
    more = sorted(
        (choice for choice in choices if choice.requests > pools.requests),
        key=lambda choice: -choice.requests,
    )
    ways = [f"`{choice.spelled}` ({choice.requests})" for choice in more[:3]]
    # Where nobody asked for so many, fewer are no surprise.
    finding = warning if plan.settings.asks_requests else note
    of = "asked for" if plan.settings.asks_requests else "that SGLang would take"
    return finding(
        "memory-plan",
        f"{pools.requests} requests run at once of {asked} {of}: {why} are the limit",
        f"one of {', '.join(ways)}" if ways else "more GPUs (--tp), or another replica",
        "further requests wait, which only the queue in SGLang's metrics shows",
    )


def _size(count: int) -> str:
    if count < GIB:
        return f"{count / MIB:.0f} MiB"
    return f"{count / GIB:.1f} GiB"
