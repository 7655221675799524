"""`bench speed`: what a draft tree costs, whatever the weights.

The full-size architecture with dummy weights, random tokens, and an accept length that SGLang is
told: no checkpoint, no data. It says nothing about acceptance.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sglang_qwen3next_eagle3.base import figures, provenance
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import masked, without_paths
from sglang_qwen3next_eagle3.bench import configurations, servers
from sglang_qwen3next_eagle3.bench.configurations import Contender
from sglang_qwen3next_eagle3.bench.measure import Benchmark, Outcome, measure
from sglang_qwen3next_eagle3.bench.options import SpeedOptions, SyntheticOptions
from sglang_qwen3next_eagle3.bench.results.journal import PassKey, claim
from sglang_qwen3next_eagle3.bench.results.records import Configuration
from sglang_qwen3next_eagle3.bench.servers import ServedConfiguration, Work
from sglang_qwen3next_eagle3.bench.trees import synthetic
from sglang_qwen3next_eagle3.model import hub, precision
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay import environment as variables
from sglang_qwen3next_eagle3.overlay.simulate import AcceptLength
from sglang_qwen3next_eagle3.serving import flags as sglang_flags
from sglang_qwen3next_eagle3.serving import profile as profiles
from sglang_qwen3next_eagle3.serving.profile import Profile

SUITE = "synthetic"
CONTEXT = 8192
PADDING = 2
"""Times a prefill's tokens that SGLang pads it to at most; beyond, it launches kernel by kernel."""
OF_PREFILL_GRAPHS = (
    "--disable-prefill-cuda-graph", "--disable-piecewise-cuda-graph", "--disable-cuda-graph",
    "--cuda-graph-backend-prefill", "--cuda-graph-bs-prefill", "--cuda-graph-max-bs-prefill",
    "--cuda-graph-config",
)  # fmt: skip
"""SGLang's flags that say which prefill graphs there are."""


def run_speed(options: SpeedOptions) -> Outcome:
    """Measure, and write what came out into the options' folder.

    Raises:
        UserError: something in the options or the folder does not allow it.
    """
    if options.plots:
        figures.require("--no-plots")
    described = provenance.describe(options.words)
    request = options.request("speed")
    with (
        claim(options.out, request, provenance.stamp(described)) as journal,
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
    ):
        scratch = Path(folder)
        served, flags = synthetic_pair(options, scratch)
        base = served.base()
        shared = AcceptLength.create(scratch / "accept-length")
        environment = simulating(options, scratch / "accept-length")
        contenders = configurations.parse(
            options.configurations, base, served.given, options.profile
        )
        compared = all_served(contenders, options, flags, environment)
        target = target_of(base)
        benchmark = Benchmark(
            kind="speed",
            label="bench speed",
            compared=compared,
            keys=_keys(options, contenders),
            work=_work(options, shared, target.vocab_size),
            requests=lambda key: key.batch,
            settings=settings(
                request,
                target,
                flags,
                batches=list(options.batches),
                accept_lengths=list(options.accept_lengths),
                repeats=options.repeats,
                side_by_side=options.side_by_side,
            ),
            side_by_side=options.side_by_side,
            restart=False,
        )
        return measure(benchmark, journal, options, described)


def simulating(options: SyntheticOptions, accept_length: Path) -> dict[str, str]:
    """What makes a server simulate the accept length in a file, and its routing if it is asked."""
    return {variables.SIMULATE: str(accept_length), **routed(options)}


def routed(options: SyntheticOptions) -> dict[str, str]:
    """What makes a server's dummy routers choose as it is asked, with a head or without."""
    return {variables.ROUTING: options.routing} if options.routed else {}


def all_served(
    contenders: Sequence[Contender],
    options: SyntheticOptions,
    flags: Sequence[str],
    environment: Mapping[str, str],
) -> list[ServedConfiguration]:
    """The contenders with what starts them; flags: as `synthetic_pair` gives them.

    Raises:
        UserError: one cannot be served.
    """
    return [
        servers.served(
            contender,
            options.out,
            [*head_flags(contender, flags), *flags],
            options.start_seconds,
            environment,
            {variables.ROUTING: "--routing"},
        )
        for contender in contenders
    ]


Synthetic = TypeVar("Synthetic", bound=SyntheticOptions)


def synthetic_pair(options: Synthetic, scratch: Path) -> tuple[Synthetic, list[str]]:
    """The options with a synthetic target and head, made in `scratch`, and SGLang's flags.

    With a target of the user's own, or the demo's, the options are as they were.
    """
    chosen = profiles.load(options.profile)
    flags = _server_flags(options, chosen)
    if options.target is not None or chosen.target == hub.DEMO:
        return options, flags
    folder = scratch / f"Qwen3-Coder-Next-{options.precision}"
    target = synthetic.write_target(folder, options.precision)
    head = options.head or str(synthetic.write_head(scratch / "head"))
    return options.with_pair(target, head), [*synthetic.FLAGS, *flags]


def target_of(base: Profile) -> Target:
    """The target that a profile serves, by its config. Raises UserError: it is not to be had."""
    config = hub.resolve(base.target, base.target_revision, "target", only_config=True)
    return Target.from_path(config)


def head_flags(contender: Contender, flags: Sequence[str]) -> Sequence[str]:
    """What a contender needs besides the flags of `synthetic_pair`."""
    synthetic_head = contender.profile.algorithm == "eagle3" and synthetic.FLAGS[0] in flags
    return synthetic.HEAD_FLAGS if synthetic_head else ()


def _server_flags(options: SyntheticOptions, chosen: Profile) -> list[str]:
    """Decode graphs for the batches that are measured and no others, and prefill graphs where they
    are asked for: SGLang captures some 60 by default, which takes minutes."""
    largest = max(options.batches)
    flags = ["--max-running-requests", str(largest), "--disable-radix-cache", "--random-seed", "1"]
    if options.prefill_graphs:
        refuse_prefill_graphs(options, chosen)
    if not chosen.cpu_engine:
        flags += ["--cuda-graph-bs-decode", *map(str, options.batches)]
        flags += [*_prefill_flags(options.prefill_graphs), "--skip-server-warmup"]
        flags += ["--context-length", str(CONTEXT), "--mem-fraction-static", "0.85"]
    return [*flags, *options.flags]


def _prefill_flags(sizes: Sequence[int]) -> list[str]:
    if not sizes:
        return ["--disable-prefill-cuda-graph"]
    # SGLang's default on NVIDIA GPUs. Named, it is not left out where little memory is free, which
    # would be a line in the log and another speed.
    named = ["--cuda-graph-backend-prefill", "breakable"]
    return [*named, "--cuda-graph-bs-prefill", *map(str, sizes)]


def refuse_prefill_graphs(options: SyntheticOptions, chosen: Profile) -> None:
    """Raises UserError: the prefill graphs that are asked for cannot be, or would serve nothing."""
    spelled = f"--prefill-graphs {','.join(map(str, options.prefill_graphs))}"
    if chosen.cpu_engine:
        raise UserError(
            f"{spelled}: the profile {options.profile} serves on a CPU, which has no CUDA graphs"
        )
    given = sglang_flags.parse(options.flags)
    for name in OF_PREFILL_GRAPHS:
        if entries := given.of(name):
            raise UserError(
                f"{spelled} and {entries[0].word} behind -- both say which prefill graphs there "
                "are: leave one out"
            )
    tokens = options.input_tokens
    if tokens < CONTEXT and not any(
        tokens <= size <= PADDING * tokens for size in options.prefill_graphs
    ):
        raise UserError(
            f"{spelled}: none serves a prompt of --input-tokens {tokens}, which SGLang pads to the "
            f"next size, but to no more than {PADDING} times its tokens: give one from {tokens} to "
            f"{PADDING * tokens}"
        )


def _keys(
    options: SpeedOptions, contenders: Sequence[Contender]
) -> Callable[[Configuration, int], list[PassKey]]:
    trees = {contender.name: contender.tree for contender in contenders}
    return lambda row, repetition: [
        PassKey(row.name, SUITE, batch, repetition, length)
        for length in reachable(trees[row.name], options.accept_lengths)
        for batch in options.batches
    ]


def _work(
    options: SpeedOptions, shared: AcceptLength, vocabulary: int
) -> Callable[[PassKey], Work]:
    # Kernels are compiled and tuned once for a batch, whatever is accepted.
    warmed: set[tuple[str, int]] = set()
    sampling = options.sampling(options.output_tokens)

    def work(key: PassKey) -> Work:
        length = key.simulated_accept_length

        def simulate() -> None:
            shared.value = -1.0 if length is None else length

        # Other tokens for every repetition and configuration alike.
        seed = options.seed + key.repetition
        asked = synthetic.dialogues(key.batch, options.input_tokens, vocabulary, seed)
        place = key.configuration, key.batch
        warm = [] if place in warmed else asked
        warmed.add(place)
        return Work(asked, sampling, warm, simulate)

    return work


def reachable(tree: tuple[int, int, int] | None, lengths: Sequence[float]) -> list[float | None]:
    """The accept lengths to simulate for a tree; [None] without speculation."""
    if tree is None:
        return [None]
    return [length for length in lengths if length <= tree[0] + 1]


def settings(
    request: Mapping[str, Any], target: Target, flags: Sequence[str], **more: Any
) -> dict[str, Any]:
    """Of a result: the request, with what was served in place of what was asked for.

    flags: those of `synthetic_pair`; more: what else was asked for.
    """
    served = {"precision": precision.of_config(target.config), "flags": masked(flags)}
    cleaned: dict[str, Any] = without_paths({**request, **more, **served})
    return cleaned
