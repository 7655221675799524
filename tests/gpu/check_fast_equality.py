"""Is a verify by the fast path bit for bit the decode steps that it stands for? On a GPU.

    python tests/gpu/check_fast_equality.py OUT.json --layers 8

One process on one Hopper GPU loads the full-size FP8 architecture, of a few layers, with random
weights. Chains and trees of up to 32 rows are verified, committed and decoded
(tests/support/fast_equality.py), with programmatic dependent launch and without, and the logits of
both are compared. All stages are ours at any number of rows, as is needed for that.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

# Before SGLang is imported, as in measure_fast_passes.py, which stands beside this.
import measure_fast_passes as passes_of_target
import torch

from sglang_qwen3next_eagle3.overlay.fast import dispatch, hooks, kernel_table, preparation
from sglang_qwen3next_eagle3.overlay.fast.device import PDL_ENVIRONMENT
from sglang_qwen3next_eagle3.overlay.fast.stages import OF_TARGET, Wanted
from sglang_qwen3next_eagle3.overlay.hooks import apply
from tests.support.fast_equality import Drafts, Passes, differs, verified

APART = 61
SHAPES = {
    "1 chain of 4": Drafts.chain(1, 4),
    "2 chains of 4": Drafts.chain(2, 4),
    "8 chains of 4": Drafts.chain(8, 4),
    "1 chain of 8": Drafts.chain(1, 8),
    "4 chains of 8": Drafts.chain(4, 8),
    "1 tree of 8": Drafts.tree(1, 8),
    "4 trees of 8": Drafts.tree(4, 8),
    "2 trees of 16": Drafts.tree(2, 16),
}
say = passes_of_target.say


def prepared(runner: Any, stages: frozenset[Any]) -> Passes:
    """Every pass is ours, captured or not."""
    kernels = kernel_table.Kernels(
        runner.model.model, runner.attn_backend, max(dispatch.LIMITS.values()), runner.device
    )
    path = preparation.build(runner, kernels, stages)

    def ours(batch: Any) -> None:
        path.current = path.prepare(batch, runner.attn_backend)

    path.begin = ours  # type: ignore[method-assign]
    hooks.install(path, runner)
    return Passes(runner, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--stages", default=",".join(OF_TARGET), help="joined by commas")
    arguments = parser.parse_args()
    arguments.requests, arguments.tree, arguments.precision = [8], None, "fp8"
    arguments.tp, arguments.rank, arguments.context = 1, 0, 4096
    stages = passes_of_target.stages_of(arguments.stages)
    with tempfile.TemporaryDirectory() as folder:
        runner = passes_of_target.load(arguments, Path(folder))
    passes_of_target.spread(runner.model)
    apply(hooks.hooks(Wanted(frozenset())))
    dispatch.ROWS = dispatch.LIMITS
    passes = prepared(runner, stages)
    say(f"{torch.cuda.get_device_name()}, {arguments.layers} layers, {sorted(passes.path.stages)}")
    found: dict[str, dict[str, list[str]]] = {}
    logits: dict[str, torch.Tensor] = {}
    for launch in ("dependent", "plain"):
        os.environ[PDL_ENVIRONMENT] = "1" if launch == "dependent" else "0"
        for name, drafts in SHAPES.items():
            started = time.monotonic()
            try:
                different = differs(passes, drafts, APART)
                again = verified(passes, drafts, APART)[0]
                if not torch.equal(logits.setdefault(name, again), again):
                    different.append("logits without dependent launch")
                if not bool(again.isfinite().all()):
                    different.append("logits that are not finite")
            except Exception:
                different = [traceback.format_exc()[-1500:]]
            found.setdefault(launch, {})[name] = different
            verdict = "; ".join(different) or "equal"
            say(f"{launch:10} {name:14} {time.monotonic() - started:5.1f} s  {verdict[:1600]}")
            result = {
                "device": torch.cuda.get_device_name(),
                "layers": arguments.layers,
                "stages": sorted(passes.path.stages),
                "different": found,
            }
            arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            if passes_of_target.lost():
                say("the device is lost")
                sys.stdout.flush()
                os._exit(3)
    wrong = [name for of in found.values() for name, different in of.items() if different]
    say(f"equality: {len(wrong)} of {2 * len(SHAPES)} differ")
    sys.stdout.flush()
    os._exit(bool(wrong))


if __name__ == "__main__":
    main()
