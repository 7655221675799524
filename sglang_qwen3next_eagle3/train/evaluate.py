"""`train evaluate`: how good is a head? Teacher-forced accuracy by draft step over captured
features, the accept length that this predicts for a chain, and the one that a server measures.

acc_k is what SpecForge reports (acc_0 .. acc_6 for a TTT length of 7): over the queries that stand
on a token of an answer but the text's last one, the share whose draft at step k is the target's own
greedy token, all drafts before it taken to be right. The accept length needs more than these seven
figures, since hits come together: it is counted over whole chains, those that lie in an answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.base.accept_length import accept_length
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.base.records import Record, read_file
from sglang_qwen3next_eagle3.model import hub
from sglang_qwen3next_eagle3.model.chat_format import BadRecord, Conversation, messages_of
from sglang_qwen3next_eagle3.model.target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_qwen3next_eagle3.head.forward import HeadModel

TTT_LENGTH = 7
MAX_TOKENS = 128
"""Of an answer that a server is asked for."""


@dataclass(frozen=True)
class Evaluation:
    """positions: queries behind acc_0; accuracies: acc_0, acc_1, ...; chains: whole chains;
    accept_lengths: predicted for chains of 1, 2, ... drafts, the target's own token included."""

    samples: int
    positions: int
    accuracies: tuple[float, ...]
    chains: int
    accept_lengths: tuple[float, ...]


@dataclass(frozen=True)
class EvaluationOptions:
    """head: a folder; features: of held-out conversations; target: folder, hub name or `demo`.

    aux_layers: by default the head's calibration or config. steps: drafts. max_samples: all by
    default. device: cuda by default if there is one.
    """

    head: Path
    features: Path
    target: str = "demo"
    aux_layers: str | None = None
    steps: int = TTT_LENGTH
    max_samples: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        """Raises UserError."""
        for name, value in (("steps", self.steps), ("max-samples", self.max_samples)):
            if value is not None and value < 1:
                raise UserError(f"--{name} {value}: at least 1")


def evaluate(options: EvaluationOptions) -> Evaluation:
    """Score a head on captured features; their selection must be the head's own.

    Raises:
        UserError: a head that does not fit, features of another selection, target or of a capture
            that is not complete.
    """
    import torch

    from sglang_qwen3next_eagle3.head import captured_layers, record
    from sglang_qwen3next_eagle3.head.check import check
    from sglang_qwen3next_eagle3.head.files import Folder
    from sglang_qwen3next_eagle3.head.forward import HeadModel
    from sglang_qwen3next_eagle3.head.head import Head
    from sglang_qwen3next_eagle3.model.embeddings import EMBEDDING, LM_HEAD, vocabulary_rows
    from sglang_qwen3next_eagle3.train.capture import features

    config = hub.resolve(options.target, what="target", only_config=True)
    target, head = Target.from_path(config), Head.from_path(options.head)
    check(head, target)
    selection = captured_layers.decide(
        target,
        captured_layers.NamedLayers.of(head),
        record.find(Folder(options.head)),
        count=head.aux_count,
        option=options.aux_layers,
        allow_gdn=True,
    ).selection
    manifest = features.read_manifest(options.features)
    # Of a hub's target only the two tensors below are here to be compared.
    features.check_selection(manifest, selection, hub.local_folder(options.target) or target)
    features.check_complete(manifest, options.features)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    folder = hub.resolve(options.target, what="target", only_tensors=(EMBEDDING, LM_HEAD))
    embedding, lm_head = vocabulary_rows(folder, target)
    model = HeadModel.load(options.head, embedding, torch.float32, device, lm_head)
    total = min(manifest.samples, options.max_samples or manifest.samples)
    samples = islice(features.iterate(options.features), total)
    return score(model, lm_head.float().to(device), _shown(samples, total), options.steps)


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
    # One-token answers at the ends of texts have chains of one draft and no query.
    if not sum(map(len, chains)) or not all(seen):
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


def measure(
    base_url: str,
    prompts: Sequence[Sequence[Mapping[str, Any]]],
    max_tokens: int = MAX_TOKENS,
    api_key: str | None = None,
) -> dict[str, Any]:
    """Accept length of a running server: completion tokens over verifications, greedy.

    Raises:
        UserError: no server there, or it serves without speculation.
    """
    from sglang_qwen3next_eagle3.base.progress import Progress
    from sglang_qwen3next_eagle3.serving.client import Client

    client = Client(base_url, api_key=api_key)
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
        "accept_length": accept_length(tokens, verifications),
    }


def read_prompts(path: Path) -> list[Conversation]:
    """The prompts of a JSONL file: `prompt`, or `conversations` up to the first answer.

    Raises:
        UserError: there is no such file, none in it, or a line is neither.
    """
    if not path.is_file():
        raise UserError(f"{path} cannot be read: give a JSONL file with --prompts")
    found = [_prompt(record, f"{path}:{record.line}") for record in read_file(path)]
    if not found:
        raise UserError(f"{path} is empty: give a JSONL file with --prompts")
    return found


def _prompt(record: Record, where: str) -> Conversation:
    entry = record.value
    if isinstance(entry, dict) and isinstance(entry.get("prompt"), str):
        return [{"role": "user", "content": entry["prompt"]}]
    try:
        asked = list(takewhile(lambda turn: turn["role"] != "assistant", messages_of(entry)))
    except BadRecord:
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
