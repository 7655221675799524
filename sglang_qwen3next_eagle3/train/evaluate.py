"""`train evaluate`: how good is a head? Teacher-forced accuracy by draft step over captured
features, the accept length that this predicts for a chain, and the one that a server measures.

acc_k is what SpecForge reports (acc_0 .. acc_6 for a TTT length of 7): over the queries that stand
on a token of an answer but the text's last one, the share whose draft at step k is the target's own
greedy token, all drafts before it taken to be right. The accept length needs more than these seven
figures, since hits come together: it is counted over whole chains, those that lie in an answer.
"""

import argparse
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, Conversation, messages_of
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.train.trainer import specforge

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_qwen3next_eagle3.head.forward import HeadModel

TTT_LENGTH = 7


@dataclass(frozen=True)
class Evaluation:
    """positions: queries behind acc_0; accuracies: acc_0, acc_1, ...; chains: whole chains;
    accept_lengths: predicted for chains of 1, 2, ... drafts, the target's own token included."""

    samples: int
    positions: int
    accuracies: tuple[float, ...]
    chains: int
    accept_lengths: tuple[float, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--head", type=Path, required=True, metavar="DIR", help="a head, as `train export` writes")
    add("--target", default="demo", help="folder, hub name or `demo` (default)")
    add("--features", type=Path, required=True, metavar="DIR", help="held-out captured features")
    add("--aux-layers", metavar="SELECTION", help="default: the head's calibration or config")
    add("--steps", type=int, default=TTT_LENGTH, help="draft steps (default: %(default)s)")
    add("--max-samples", type=int, metavar="N", help="default: all")
    add("--device", help="default: cuda if there is one")
    add("--base-url", metavar="URL", help="measure a running server too, with --prompts")
    add("--prompts", type=Path, metavar="FILE", help="JSONL with `prompt` or `conversations`")
    add("--max-tokens", type=int, default=128, help="per served answer (default: %(default)s)")
    add("--json", action="store_true", help="print JSON for a script")


def run(arguments: argparse.Namespace) -> int:
    """Raises UserError: features of another selection, a head that does not fit, no server."""
    if (arguments.base_url is None) != (arguments.prompts is None):
        raise UserError("--base-url and --prompts go together: a server is asked with prompts")
    if arguments.steps < 1:
        raise UserError(f"--steps {arguments.steps}: at least 1")
    if arguments.max_samples is not None and arguments.max_samples < 1:
        raise UserError(f"--max-samples {arguments.max_samples}: at least 1")
    prompts = read_prompts(arguments.prompts) if arguments.prompts else []
    result = evaluate(arguments)
    served = measure(arguments.base_url, prompts, arguments.max_tokens) if prompts else None
    if arguments.json:
        print(json.dumps({**asdict(result), "served": served}, indent=2))
        return 0
    print(
        f"{result.positions} positions and {result.chains} chains in answers of "
        f"{result.samples} samples"
    )
    for k, accuracy in enumerate(result.accuracies):
        length = result.accept_lengths[k]
        print(f"acc_{k} {accuracy:.4f}   chain of {k + 1}: accept length {length:.3f} predicted")
    if served is not None:
        print(
            f"served: accept length {served['accept_length']:.3f} over {served['answers']} answers "
            f"({served['completion_tokens']} tokens)"
        )
    return 0


def evaluate(arguments: argparse.Namespace) -> Evaluation:
    """Score a head on captured features; their selection must be the head's own."""
    import torch

    from sglang_qwen3next_eagle3.head import contract, record
    from sglang_qwen3next_eagle3.head import selection as head_selection
    from sglang_qwen3next_eagle3.head.files import Folder
    from sglang_qwen3next_eagle3.head.forward import HeadModel
    from sglang_qwen3next_eagle3.head.head import Head
    from sglang_qwen3next_eagle3.train.capture import features

    folder = specforge.target_folder(arguments.target)
    target, head = Target.from_path(folder), Head.from_path(arguments.head)
    contract.check(head, target)
    selection = head_selection.resolve(
        head,
        target,
        record.find(Folder(arguments.head)),
        count=head.aux_count,
        option=arguments.aux_layers,
        allow_gdn=True,
    ).selection
    manifest = features.read_manifest(arguments.features)
    features.check_selection(manifest, selection, folder)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    embedding, lm_head = target_tensors(folder)
    model = HeadModel.load(arguments.head, embedding, torch.float32, device, lm_head)
    total = min(manifest.samples, arguments.max_samples or manifest.samples)
    samples = islice(features.iterate(arguments.features), total)
    return score(model, lm_head.float().to(device), _shown(samples, total), arguments.steps)


def score(
    model: "HeadModel", lm_head: "Tensor", samples: "Iterable[dict[str, Tensor]]", steps: int
) -> Evaluation:
    """Accuracies by draft step, and accept lengths over whole chains.

    lm_head: the target's, [vocabulary, hidden]; samples: as `features.iterate` yields them.
    Masks: SpecForge 0.2.0, algorithms/eagle3 (data.py clears the last position's, model.py shifts
    it with each step), so that the query of root t at step k counts if t + k is in an answer.

    Raises:
        UserError: no answer is as long as a chain.
    """
    import torch

    from sglang_qwen3next_eagle3.head.forward import conditional_accuracies, greedy_of

    right, seen = [0] * steps, [0] * steps
    chains, count = [], 0
    for sample in samples:
        ids, mask = sample["input_ids"], sample["loss_mask"].bool()
        length = len(ids)
        if length < 2:
            continue
        greedy = greedy_of(sample["hidden_state"][0].to(lm_head.device), lm_head)
        projected = model.project(sample["aux_hidden_state"][0])
        hits = [
            (model.target_ids[logits.argmax(-1)] == greedy[k + 1 :]).cpu()
            for k, logits in enumerate(model.steps(projected, ids, min(steps, length - 1)))
        ]
        for k, hit in enumerate(hits):
            right[k] += int(hit[mask[k : length - 1]].sum())
            seen[k] += int(mask[k : length - 1].sum())
        count += 1
        if length > steps + 1:
            # Root t drafts the tokens t + 2 .. t + 1 + steps: an answer's own, all of them.
            answered = mask[2:].unfold(0, steps, 1).all(-1)
            chains.append(torch.stack([hit[: len(answered)] for hit in hits], dim=-1)[answered])
    if not sum(map(len, chains)):
        raise UserError(
            f"no answer in the features has {steps} tokens in a row: evaluate with fewer --steps, "
            "or on longer answers"
        )
    whole = torch.cat(chains)
    accuracies = tuple(hit / total for hit, total in zip(right, seen, strict=True))
    lengths = _lengths(conditional_accuracies(whole))
    return Evaluation(count, seen[0], accuracies, len(whole), lengths)


def _lengths(conditional: Sequence[float]) -> tuple[float, ...]:
    from sglang_qwen3next_eagle3.head.forward import predicted_accept_length

    return tuple(predicted_accept_length(conditional[: k + 1]) for k in range(len(conditional)))


def target_tensors(folder: Path) -> "tuple[Tensor, Tensor]":
    """The target's embedding and lm_head, [vocabulary, hidden] each.

    Raises:
        UserError: the checkpoint has no such tensors.
    """
    from safetensors import safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as stream:
            for name in {"model.embed_tokens.weight", "lm_head.weight"} & set(stream.keys()):
                found[name] = stream.get_tensor(name)
    try:
        return found["model.embed_tokens.weight"], found["lm_head.weight"]
    except KeyError as error:
        raise UserError(f"the target {folder} has no tensor {error.args[0]}") from None


def measure(
    base_url: str, prompts: Sequence[Sequence[Mapping[str, Any]]], max_tokens: int
) -> dict[str, Any]:
    """Accept length of a running server: completion tokens over verifications, greedy.

    Raises:
        UserError: no server there, or it serves without speculation.
    """
    from sglang_qwen3next_eagle3.base.progress import Progress
    from sglang_qwen3next_eagle3.serving.client import Client

    client = Client(base_url, api_key=os.environ.get("OPENAI_API_KEY"))
    tokens = verifications = 0
    with Progress("asking the server", len(prompts), unit="prompts") as progress:
        for messages in prompts:
            answer = client.chat(messages, max_tokens=max_tokens)
            tokens += answer.completion_tokens
            verifications += answer.verify_steps or 0
            progress.advance()
    if not verifications:
        raise UserError(
            f"{base_url} reports no verifications: it serves without speculation; start it with a "
            "profile of `launch`"
        )
    return {
        "answers": len(prompts),
        "completion_tokens": tokens,
        "verifications": verifications,
        "accept_length": tokens / verifications,
    }


def read_prompts(path: Path) -> list[Conversation]:
    """The prompts of a JSONL file: `prompt`, or `conversations` up to the first answer.

    Raises:
        UserError: there is no such file, none in it, or a line is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read: give a JSONL file with --prompts") from None
    found = [_prompt(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path} is empty: give a JSONL file with --prompts")
    return found


def _prompt(line: str, where: str) -> Conversation:
    try:
        entry = json.loads(line)
        if isinstance(entry, dict) and isinstance(entry.get("prompt"), str):
            return [{"role": "user", "content": entry["prompt"]}]
        said = messages_of(entry)
        asked = list(takewhile(lambda turn: turn["role"] != "assistant", said))
    except (ValueError, BadRecord):
        asked = []
    if not asked:
        raise UserError(
            f"{where}: neither `prompt` nor `conversations` that begin with a question: "
            "correct the line"
        )
    return asked


def _shown(samples: "Iterable[dict[str, Tensor]]", total: int) -> "Iterator[dict[str, Tensor]]":
    from sglang_qwen3next_eagle3.base.progress import Progress

    with Progress("scoring", total, unit="samples") as progress:
        for sample in samples:
            yield sample
            progress.advance()
