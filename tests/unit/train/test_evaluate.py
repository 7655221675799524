"""Scores by hand; tests/contract/test_specforge.py holds them against SpecForge's own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.demo.pair import demo_pair
from sglang_qwen3next_eagle3.model import aux_layers, hub
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.serving import client
from sglang_qwen3next_eagle3.serving.client import Answer
from sglang_qwen3next_eagle3.train import evaluate
from sglang_qwen3next_eagle3.train.capture import features
from sglang_qwen3next_eagle3.train.capture.features import FeaturesManifest
from tests.support.actions import action

VOCAB, STEPS = 12, 2
GREEDY = [1, 2, 3, 4, 5, 6, 7, 8]
MASK = [0, 0, 0, 1, 1, 1, 1, 1]
# Roots whose draft at a step is the target's greedy token.
RIGHT = {0: {1, 3, 4, 6}, 1: {1, 2, 3}}


class StandIn:
    """A head that drafts what it is told to. Draft token i is the target's token i + 1."""

    target_ids = torch.arange(1, VOCAB)

    def project(self, aux: Tensor) -> Tensor:
        return aux

    def steps(self, projected: Tensor, ids: Tensor, steps: int) -> Iterator[Tensor]:
        for k in range(steps):
            roots = range(len(ids) - 1 - k)
            wanted = [GREEDY[t + k + 1] if t in RIGHT[k] else VOCAB - 1 for t in roots]
            yield torch.nn.functional.one_hot(torch.tensor(wanted) - 1, VOCAB - 1).float()


def sample(mask: list[int]) -> dict[str, Tensor]:
    """A text whose last hidden states make GREEDY of a lm_head that is the identity."""
    length = len(mask)
    hidden = torch.nn.functional.one_hot(torch.tensor(GREEDY[:length]), VOCAB).bfloat16()
    return {
        "input_ids": torch.arange(length),
        "loss_mask": torch.tensor(mask),
        "hidden_state": hidden[None],
        "aux_hidden_state": torch.zeros(1, length, 3),
    }


def score(*masks: list[int]) -> evaluate.Evaluation:
    head: Any = StandIn()
    return evaluate.score(head, torch.eye(VOCAB), map(sample, masks), STEPS)


def test_accuracies_are_of_queries_that_stand_in_an_answer() -> None:
    # Queries 3 .. 6: the last token's draft could not be checked. At step 1 their roots are 2 .. 5.
    result = score(MASK)
    assert result.positions == 4
    assert result.accuracies == (3 / 4, 2 / 4)


def test_accept_lengths_are_of_chains_that_lie_in_an_answer() -> None:
    # Roots 1 .. 4 draft the tokens 3 .. 7: runs of 2, 0, 2 and 1 hits.
    result = score(MASK)
    assert result.chains == 4
    assert result.accept_lengths == pytest.approx((1 + 3 / 4, 1 + 5 / 4))


def test_samples_add_up_and_a_short_one_has_no_chain() -> None:
    # Of the short one's queries 0 and 1 (roots 0, 1 at step 0; root 0 at step 1), one is a hit.
    both, short = score(MASK, [1, 1, 1]), score(MASK, [1, 0, 0])
    assert both.samples == 2
    assert both.accuracies == (4 / 6, 2 / 5)
    assert short.accuracies == (3 / 5, 2 / 4)
    assert both.accept_lengths == score(MASK).accept_lengths


def test_answers_shorter_than_a_chain_are_refused() -> None:
    with pytest.raises(UserError, match="no answer in the features has 2 tokens in a row"):
        score([0, 0, 0, 1, 0, 1, 0, 0])


def test_answers_of_one_token_at_the_end_of_texts_are_refused() -> None:
    head: Any = StandIn()
    with pytest.raises(UserError, match="no answer in the features has 1 tokens in a row"):
        evaluate.score(head, torch.eye(VOCAB), [sample([0, 0, 0, 0, 0, 0, 0, 1])], 1)


def test_part_of_a_capture_is_refused_before_any_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = demo_pair()
    target = Target.from_path(pair.target)
    card = aux_layers.named("card", target)
    manifest = FeaturesManifest(
        selection=str(card), selection_name="card", depths=card.depths, target="org/name",
        config_sha256=features.config_sha256(target.config), weights_sha256="w", hidden_size=8,
        data_sha256="d", max_length=64, max_samples=None, backend="sglang", device="cpu",
        compute_dtype="auto", tp=1, flags=(), versions={}, samples=2, tokens=30, samples_done=1,
    )  # fmt: skip
    (tmp_path / features.MANIFEST).write_text(json.dumps(manifest.as_json()))
    asked: list[dict[str, Any]] = []

    def resolve(name: str, **options: Any) -> Path:
        asked.append(options)
        return pair.target

    monkeypatch.setattr(hub, "resolve", resolve)
    options = evaluate.EvaluationOptions(pair.head, tmp_path, "org/name")
    with pytest.raises(UserError, match="is not complete"):
        evaluate.evaluate(options)
    assert asked == [{"what": "target", "only_config": True}]


def run(*words: str) -> int:
    return action("train", "evaluate", "--head", "h", "--features", "f", *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base-url", "http://h"], "--base-url and --prompts go together"),
        (["--prompts", "p"], "--base-url and --prompts go together"),
        (["--steps", "0"], "--steps 0: at least 1"),
        (["--max-samples", "0"], "--max-samples 0: at least 1"),
        (["--base-url", "http://h", "--prompts", "none"], "none cannot be read"),
    ],
)
def test_options_are_checked_before_anything_is_loaded(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*words)


def write(path: Path, *entries: object) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_prompts_are_questions_or_what_comes_before_the_first_answer(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s"}, {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"}, {"role": "user", "content": "q2"},
    ]  # fmt: skip
    path = write(tmp_path / "p.jsonl", {"prompt": "p"}, {"id": "x", "conversations": turns})
    assert evaluate.read_prompts(path) == [[{"role": "user", "content": "p"}], turns[:2]]


@pytest.mark.parametrize("entry", [[], {}, {"conversations": [{"role": "assistant"}]}, "text"])
def test_a_line_that_asks_nothing_is_named(tmp_path: Path, entry: object) -> None:
    with pytest.raises(UserError, match=r"p\.jsonl:2: neither"):
        evaluate.read_prompts(write(tmp_path / "p.jsonl", {"prompt": "p"}, entry))


def test_an_empty_file_of_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is empty"):
        evaluate.read_prompts(write(tmp_path / "p.jsonl"))


def serve(monkeypatch: pytest.MonkeyPatch, *steps: int | None) -> None:
    """A server that answers ten tokens a prompt, in so many verify steps."""
    pending = iter(steps)

    def chat(self: client.Client, messages: object, **options: object) -> Answer:
        assert options == {"max_tokens": 32}
        return Answer("t", "stop", 5, 10, 0.1, verify_steps=next(pending))

    monkeypatch.setattr(client.Client, "chat", chat)


def test_the_served_accept_length_is_tokens_over_verifications(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    serve(monkeypatch, 4, 0, 6)
    served = evaluate.measure("http://h", [[{"role": "user", "content": "q"}]] * 3, 32)
    assert served["accept_length"] == 30 / 10
    assert (served["answers"], served["verifications"]) == (3, 10)


@pytest.mark.parametrize(
    ("words", "environment", "key"),
    [
        ((), {}, None),
        ((), {"SGLANG_API_KEY": "ours", "OPENAI_API_KEY": "theirs"}, "ours"),
        ((), {"OPENAI_API_KEY": "theirs"}, "theirs"),
        (("--api-key", "given"), {"SGLANG_API_KEY": "ours"}, "given"),
    ],
)
def test_the_served_head_s_key_is_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    words: tuple[str, ...],
    environment: dict[str, str],
    key: str | None,
) -> None:
    for name in ("SGLANG_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "q"}\n')
    asked: list[str | None] = []

    def measure(*_: object) -> dict[str, float]:
        asked.append(_[-1])  # type: ignore[arg-type]
        return {"accept_length": 1.0, "answers": 1, "completion_tokens": 1, "verifications": 1}

    found = evaluate.Evaluation(1, 1, (1.0,), 1, (2.0,))
    monkeypatch.setattr(evaluate, "evaluate", lambda options: found)
    monkeypatch.setattr(evaluate, "measure", measure)
    prompts = ("--base-url", "http://h", "--prompts", tmp_path / "prompts.jsonl")
    assert action("train", "evaluate", "--head", "h", "--features", "f", *prompts, *words) == 0
    assert asked == [key]


def test_a_server_without_speculation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, None)
    with pytest.raises(UserError, match="it serves without speculation"):
        evaluate.measure("http://h", [[{"role": "user", "content": "q"}]], 32)
