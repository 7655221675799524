"""How close the target held the two tokens at which greedy answers part, in fp32.

Answers of every configuration are compared with those without speculation at the same batch size,
if there are any, and the latter with those of the smallest. Where two part, transformers asks the
target in fp32, given the prompt and all tokens that both share: if it all but ties them with its
best, rounding decided; a wide margin would be a wrong answer. Beside it stands how many of the
shared positions have as narrow a margin between their two best tokens. Runs on a CPU, for a small
target; first turns only.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.progress import Progress
from sglang_qwen3next_eagle3.bench.load import Dialogue
from sglang_qwen3next_eagle3.bench.results.journal import PassKey, reading
from sglang_qwen3next_eagle3.bench.results.records import NONE, Pass
from sglang_qwen3next_eagle3.bench.suites import load_suite, select
from sglang_qwen3next_eagle3.head.files import Folder
from sglang_qwen3next_eagle3.model import hub, shards
from sglang_qwen3next_eagle3.model.chat_format import ChatFormat


def find_divergences(
    folder: Path, suite: str, target: str, data_dir: Path | None = None
) -> Iterator[dict[str, Any]]:
    """A row of `margins` for each configuration and batch of a folder of `bench run`.

    target: a folder, a hub name or `demo`. data_dir: where the suite's files are.

    Raises:
        UserError: the folder has no passes of the suite without speculation, or is being measured;
            the target's weights are not whole.
    """
    with reading(folder) as journal:
        passes = {
            key: found
            for key, found in journal.passes().items()
            if key.suite == suite and key.repetition == 0
        }
    if not any(key.configuration == NONE for key in passes):
        raise UserError(f"{folder}/passes has none of {suite} without speculation")
    chat = ChatFormat(target)
    chat.require_template("give --target with one")
    prompts = select(load_suite(suite), data_dir).prompts
    asked = {prompt.id: list(Dialogue.of(prompt, chat).turns(()) or ()) for prompt in prompts}
    weights = hub.resolve(target, None, "target")
    shards.check(Folder(weights))
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    smallest = min(key.batch for key in passes)
    with Progress("bench divergences", len(passes), unit="passes") as progress:
        for key, found in sorted(passes.items()):
            batch = smallest if key.configuration == NONE else key.batch
            against = PassKey(NONE, key.suite, batch, 0)
            if key != against and against in passes:
                figures = margins(model, asked, found, passes[against])
                yield {"configuration": key.configuration, "batch": key.batch, **figures}
            progress.advance()


def margins(
    model: Any, asked: Mapping[str, Sequence[int]], one: Pass, other: Pass
) -> dict[str, object]:
    """Margins in nats: from the best token to the worse of the two where answers part, and between
    the best two elsewhere.

    model: of token ids [1, T] to an object with `logits` [1, T, vocabulary]. asked: a prompt's ids
    by its name.
    """
    import torch

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
