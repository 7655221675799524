"""`train evaluate`: how good is a head? Teacher-forced accuracy by draft step over captured
features, the accept length that this predicts for a chain, and the one that a server measures.

acc_k is the share of positions where the head's draft at step k equals the target's own greedy
token, all drafts before it taken to be right, as SpecForge reports it (acc_0 .. acc_6 for a TTT
length of 7). The accept length needs the accuracies among chains that were right until then.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_qwen3next_eagle3.errors import UserError
from sglang_qwen3next_eagle3.target import Target
from sglang_qwen3next_eagle3.training import specforge

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_qwen3next_eagle3.head_model import HeadModel

TTT_LENGTH = 7


@dataclass(frozen=True)
class Evaluation:
    """positions: chain roots that were scored; accuracies: acc_0, acc_1, ...;
    accept_lengths: predicted for chains of 1, 2, ... drafts."""

    samples: int
    positions: int
    accuracies: tuple[float, ...]
    accept_lengths: tuple[float, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--head", type=Path, required=True, metavar="DIR", help="a head, as `train export` writes")
    add("--target", default="demo", help="folder, hub name or `demo` (default)")
    add("--features", type=Path, required=True, metavar="DIR", help="held-out captured features")
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
    result = evaluate(arguments)
    served = measure(arguments) if arguments.base_url else None
    if arguments.json:
        print(json.dumps({**asdict(result), "served": served}, indent=2))
        return 0
    print(f"{result.positions} positions of {result.samples} samples")
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

    from sglang_qwen3next_eagle3 import aux_layers
    from sglang_qwen3next_eagle3.head import Head
    from sglang_qwen3next_eagle3.head_model import HeadModel
    from sglang_qwen3next_eagle3.training import features
    from sglang_qwen3next_eagle3.training.draft import AUX_LAYERS_KEY

    folder = specforge.target_folder(arguments.target)
    target, head = Target.from_path(folder), Head.from_path(arguments.head)
    head.check(target)
    selection = aux_layers.resolve(
        target,
        wanted=head.config.get(AUX_LAYERS_KEY),
        head_ids=head.layer_ids,
        count=3,
        allow_gdn=True,
    ).selection
    manifest = features.read_manifest(arguments.features)
    features.check_selection(manifest, selection, target)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    embedding, lm_head = target_tensors(folder)
    model = HeadModel.load(arguments.head, embedding, torch.float32, device)
    limit = arguments.max_samples
    samples = _progress(features.iterate(arguments.features), limit or manifest.samples, limit)
    return score(model, lm_head.float().to(device), samples, arguments.steps)


def score(
    model: "HeadModel", lm_head: "Tensor", samples: "Iterator[dict[str, Tensor]]", steps: int
) -> Evaluation:
    """samples: of `features.iterate`; only roots whose whole chain lies in an answer count."""
    import torch

    from sglang_qwen3next_eagle3.head_model import chain_hits, conditional_accuracies, greedy_of

    found, count = [], 0
    for sample in samples:
        ids = sample["input_ids"]
        if len(ids) <= steps + 1:
            continue
        logits = model.predict(sample["aux_hidden_state"][0], ids, steps)
        greedy = greedy_of(sample["hidden_state"][0].to(lm_head.device), lm_head)
        hits = chain_hits(logits, model.target_ids, greedy).cpu()
        # Root t drafts the tokens t + 2 .. t + 1 + steps: an answer's own.
        answered = sample["loss_mask"].bool().unfold(0, steps, 1).all(-1)[2:]
        kept = min(len(hits), len(answered))
        found.append(hits[:kept][answered[:kept]])
        count += 1
    if not found or not sum(map(len, found)):
        raise UserError(f"no answer of more than {steps + 1} tokens in the features")
    hits = torch.cat(found)
    accuracies = tuple(hits.float().mean(0).tolist())
    return Evaluation(count, len(hits), accuracies, _lengths(conditional_accuracies(hits)))


def _lengths(conditional: Sequence[float]) -> tuple[float, ...]:
    from sglang_qwen3next_eagle3.head_model import predicted_accept_length

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


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Accept length of a running server: completion tokens over verifications, greedy."""
    import httpx
    from rich.progress import track

    tokens = verifications = answers = 0
    prompts = list(_prompts(arguments.prompts))
    url = arguments.base_url.rstrip("/")
    try:
        with httpx.Client(timeout=600) as client:
            for messages in track(prompts, "asking the server", disable=arguments.json):
                body = {"model": "default", "messages": messages, "temperature": 0}
                body |= {"max_tokens": arguments.max_tokens, "return_meta_info": True}
                answer = client.post(f"{url}/v1/chat/completions", json=body)
                answer.raise_for_status()
                meta = answer.json()["choices"][0]["meta_info"]
                tokens += meta["completion_tokens"]
                verifications += meta["spec_verify_ct"]
                answers += 1
    except httpx.HTTPError as error:
        raise UserError(f"{url} does not answer: {error}") from None
    except KeyError:
        raise UserError(f"{url} reports no verifications: it serves without speculation") from None
    if not verifications:
        raise UserError(f"{url} reports no verifications: it serves without speculation")
    length = tokens / verifications
    return {
        "answers": answers,
        "completion_tokens": tokens,
        "verifications": verifications,
        "accept_length": length,
    }


def _prompts(path: Path) -> Iterator[list[dict[str, str]]]:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            try:
                entry = json.loads(line)
            except ValueError:
                raise UserError(f"{path} line {number}: not JSON") from None
            if isinstance(entry.get("prompt"), str):
                yield [{"role": "user", "content": entry["prompt"]}]
            elif isinstance(entry.get("conversations"), list):
                yield [turn for turn in entry["conversations"] if turn["role"] == "user"][:1]
            else:
                raise UserError(f"{path} line {number}: neither `prompt` nor `conversations`")


def _progress(
    samples: "Iterator[dict[str, Tensor]]", total: int, limit: int | None
) -> "Iterator[dict[str, Tensor]]":
    from itertools import islice

    from rich.console import Console
    from rich.progress import track

    yield from track(islice(samples, limit), "scoring", total=total, console=Console(stderr=True))
