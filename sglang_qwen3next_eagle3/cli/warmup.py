"""`warmup`: compile what a profile's server compiles, and keep it in a folder.

A server of the profile is started once with dummy weights, asked, and started again, which then
finds everything compiled. `launch --caches FOLDER` uses the folder, and deploy/caches/Dockerfile
makes an image layer of it.
"""

import argparse
import json
import shlex
import sys
import tempfile
from pathlib import Path

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.redact import masked
from sglang_qwen3next_eagle3.cli import launch
from sglang_qwen3next_eagle3.cli.arguments import add_sglang_flags, positive
from sglang_qwen3next_eagle3.serving import caches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    launch.add_server_arguments(parser)
    what = parser.add_argument_group("what is kept")
    what.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for what is compiled"
    )
    what.add_argument(
        "--own-weights",
        action="store_true",
        help="start with the profile's checkpoints, not with dummies of their size",
    )
    what.add_argument(
        "--once", action="store_true", help="do not start a second time, to see what it brought"
    )
    what.add_argument(
        "--start-seconds",
        type=positive,
        default=1800,
        metavar="N",
        help="that each start may take (default %(default)s)",
    )
    what.add_argument("--json", action="store_true", help="print JSON")
    add_sglang_flags(parser, "flags for SGLang, untouched; they win")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError or ServerFailed."""
    from sglang_qwen3next_eagle3.bench import start
    from sglang_qwen3next_eagle3.serving import doctor, preflight, profile

    if arguments.profile is None:
        names = ", ".join(profile.profile_names())
        raise UserError(f"which profile? --profile NAME, one of {names}")
    served, options = launch.chosen(arguments)
    preflight.plan(served, options)
    if not served.cpu_engine and not doctor.has_gpu():
        raise UserError(
            "no GPU is here: kernels are compiled for the GPU that a server runs on, so warmup "
            "runs on a machine of that kind (--profile demo shows what it does, on a CPU)"
        )
    with tempfile.TemporaryDirectory(prefix="warmup-") as logs:
        found = start.warm(
            served,
            arguments.out,
            Path(logs),
            flags=options.extra,
            own_weights=arguments.own_weights,
            start_seconds=arguments.start_seconds,
            stall_seconds=600,
            again=not arguments.once,
            said=options.said,
        )
    if arguments.json:
        print(json.dumps(found.payload(), indent=1))
    else:
        print(found.text())
    _how_to_go_on(arguments)
    return 0


def _how_to_go_on(arguments: argparse.Namespace) -> None:
    spelled = shlex.quote(str(arguments.out))
    name = Path(arguments.profile).stem
    words = [*launch.spelled(arguments), "--caches", str(arguments.out)]
    words += ["--", *masked(arguments.sglang)] if arguments.sglang else []
    print(
        f"use it: {launch.PROGRAM} launch {shlex.join(words)}\n"
        f"as an image: docker build -f deploy/caches/Dockerfile -t {launch.PROGRAM}:{name} "
        f"{spelled}",
        file=sys.stderr,
    )
    if arguments.out.absolute() != caches.IN_THE_IMAGE:
        print(
            f"in an image they lie at {caches.IN_THE_IMAGE}, where FlashInfer compiles again what "
            "was filled elsewhere: deploy/caches/Dockerfile says how to fill them in its container",
            file=sys.stderr,
        )
