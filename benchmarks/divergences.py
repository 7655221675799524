"""How close the target held the two tokens at which greedy answers part, in fp32.

    python benchmarks/divergences.py FOLDER --suite humaneval --data-dir DATA

FOLDER: of `bench run`, with its passes. Answers of every configuration are compared with those
without speculation at the same batch size, if there are any, and the latter with those of the
smallest. Where two part, transformers asks the target in fp32, given the prompt and all tokens that
both share: if it all but ties them with its best, rounding decided; a wide margin would be a wrong
answer. Beside it stands how many of the shared positions have as narrow a margin between their two
best tokens. Runs on a CPU, for a small target; first turns only.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sglang_qwen3next_eagle3.base.errors import exit_status
from sglang_qwen3next_eagle3.bench.load.load import Pass
from sglang_qwen3next_eagle3.bench.results.journal import Journal, Key
from sglang_qwen3next_eagle3.bench.results.records import NONE
from sglang_qwen3next_eagle3.bench.suites import prompts, suites
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", default="humaneval")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--target", help="a folder (default: the demo's)")
    arguments = parser.parse_args()
    target = arguments.target or str(demo_pair().target)
    passes = {
        key: found
        for key, found in Journal(arguments.folder).passes().items()
        if key.suite == arguments.suite and key.repetition == 0
    }
    if not any(key.configuration == NONE for key in passes):
        parser.error(f"{arguments.folder}/passes has none of {arguments.suite} without speculation")
    chat = ChatFormat(target)
    selection = prompts.select(suites.load(arguments.suite), arguments.data_dir)
    asked = {
        prompt.id: list(chat.conversation(prompt).turns(()) or ()) for prompt in selection.prompts
    }
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    smallest = min(key.batch for key in passes)
    for key, found in sorted(passes.items()):
        batch = smallest if key.configuration == NONE else key.batch
        against = Key(NONE, key.suite, batch, 0)
        if key != against and against in passes:
            figures = compare(model, asked, found, passes[against])
            print(json.dumps({"configuration": key.configuration, "batch": key.batch, **figures}))
    return 0


def compare(model: Any, asked: dict[str, list[int]], one: Pass, other: Pass) -> dict[str, object]:
    """Margins in nats: from the best token to the worse of the two where answers part, and between
    the best two elsewhere."""
    plain = {sample.prompt: sample.output_ids for sample in other.samples if sample.turn == 1}
    parted: list[float] = []
    shared: list[float] = []
    outside = 0
    for sample in one.samples:
        if sample.turn != 1 or sample.prompt not in plain:
            continue
        pair = sample.output_ids, plain[sample.prompt]
        common = next((i for i, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), None)
        if common is None:
            continue
        prompt = asked[sample.conversation]
        ids = torch.tensor([[*prompt, *pair[0][:common]]])
        with torch.inference_mode():
            logits = model(ids).logits[0, len(prompt) - 1 :]
        best = logits.topk(2).indices[-1].tolist()
        held = logits[-1, [pair[0][common], pair[1][common]]]
        parted.append(float(logits[-1].max() - held.min()))
        outside += pair[0][common] not in best or pair[1][common] not in best
        two = logits[:-1].topk(2).values
        shared += (two[:, 0] - two[:, 1]).tolist()
    if not parted:
        return {"parted": 0}
    widest = max(parted)
    return {
        "parted": len(parted),
        "of": len(plain),
        "not among the best two": outside,
        "margin, median": round(float(np.median(parted)), 4),
        "margin, widest": round(widest, 4),
        "shared positions": len(shared),
        "their margin, median": round(float(np.median(shared)), 4),
        "as narrow as the widest": round(float(np.mean(np.array(shared) <= widest)), 4),
    }


if __name__ == "__main__":
    sys.exit(exit_status(main))
