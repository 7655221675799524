"""The head's forward against one that drafts token by token with a growing cache."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.head.forward import (
    HeadModel,
    conditional_accuracies,
    greedy_of,
    predicted_accept_length,
)
from tests.support import calibration
from tests.support.heads import CONFIG, random_tensors, write

LENGTH, STEPS = 13, 4


class TokenByToken:
    """One chain of drafts: each call reads one token and one state and appends to its cache.

    Written from the model card of the network, one position and one head at a time, with rotary
    positions as complex numbers.
    """

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor], embed: Tensor) -> None:
        self.c = config
        self.t = {name: tensor.double() for name, tensor in tensors.items()}
        self.embed = embed.double()
        self.cache: list[list[tuple[Tensor, Tensor]]] = [
            [] for _ in range(config["num_hidden_layers"])
        ]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean() + self.c["rms_norm_eps"]).sqrt() * self.t[f"{name}.weight"]

    def turn(self, x: Tensor, position: int) -> Tensor:
        half = len(x) // 2
        angles = position * self.c["rope_theta"] ** (-torch.arange(half).double() / half)
        turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half).double(), angles)
        return torch.cat([turned.real, turned.imag])

    def fuse(self, aux: Tensor) -> Tensor:
        aux = aux.double()
        if self.c.get("norm_before_fc"):
            aux = self.norm(aux, "input_norm")
        if self.c.get("fc_norm"):
            parts = aux.chunk(self.c.get("num_aux_hidden_states", 3))
            aux = torch.cat([self.norm(part, f"fc_norm.{i}") for i, part in enumerate(parts)])
        return self.t["fc.weight"] @ aux + self.t.get("fc.bias", torch.tensor(0.0))

    def step(self, token: int, state: Tensor, position: int) -> tuple[Tensor, Tensor]:
        """Logits over the draft vocabulary and the state that the next step reads."""
        x = state
        for layer, cache in enumerate(self.cache):
            name = f"layers.{layer}" if layer else "midlayer"
            into = self.norm(x, f"{name}.hidden_norm")
            if not layer:
                into = torch.cat([self.norm(self.embed[token], f"{name}.input_layernorm"), into])
            x = x + self.attend(name, into, position, cache)
            into = self.norm(x, f"{name}.post_attention_layernorm")
            gate = self.t[f"{name}.mlp.gate_proj.weight"] @ into
            up = self.t[f"{name}.mlp.up_proj.weight"] @ into
            x = x + self.t[f"{name}.mlp.down_proj.weight"] @ (gate * gate.sigmoid() * up)
        normed = self.norm(x, "norm")
        return self.t["lm_head.weight"] @ normed, normed if self.c.get("norm_output") else x

    def attend(
        self, name: str, into: Tensor, position: int, cache: list[tuple[Tensor, Tensor]]
    ) -> Tensor:
        heads, kv_heads = self.c["num_attention_heads"], self.c["num_key_value_heads"]
        q, k, v = (
            (self.t[f"{name}.self_attn.{kind}_proj.weight"] @ into).view(count, -1)
            for kind, count in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        cache.append((torch.stack([self.turn(row, position) for row in k]), v))
        out = []
        for head in range(heads):
            row, group = self.turn(q[head], position), head // (heads // kv_heads)
            scores = torch.stack([key[group] @ row for key, _ in cache]) / len(row) ** 0.5
            weights = scores.softmax(0)
            out.append(sum(w * v[group] for w, (_, v) in zip(weights, cache, strict=True)))
        weight = self.t[f"{name}.self_attn.o_proj.weight"]
        bias = self.t.get(f"{name}.self_attn.o_proj.bias", torch.tensor(0.0))
        return weight @ torch.cat(out) + bias


def chain(
    config: dict[str, Any], tensors: dict[str, Tensor], embed: Tensor, aux: Tensor, ids: Tensor,
    root: int, steps: int,
) -> list[Tensor]:  # fmt: skip
    """Logits of one root's drafts: the text up to the root is read, then its own tokens."""
    draft = TokenByToken(config, tensors, embed)
    for position in range(root + 1):
        logits, state = draft.step(int(ids[position + 1]), draft.fuse(aux[position]), position)
    found = [logits]
    for k in range(1, steps):
        logits, state = draft.step(int(ids[root + 1 + k]), state, root + k)
        found.append(logits)
    return found


def inputs(config: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """An embedding, auxiliary states and a text."""
    generator = torch.Generator().manual_seed(1)
    embed = torch.randn(config["vocab_size"], config["hidden_size"], generator=generator)
    width = config.get("num_aux_hidden_states", 3) * config.get("target_hidden_size", 16)
    aux = torch.randn(LENGTH, width, generator=generator) * 3
    return embed, aux, torch.randint(0, config["vocab_size"], (LENGTH,), generator=generator)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_output": True},
        {"num_hidden_layers": 2},
        {"bias": True, "num_aux_hidden_states": 4},
        {"norm_before_fc": True},
        {"fc_norm": True},
        {"num_key_value_heads": 4, "rope_theta": 100.0},
    ],
    ids=lambda changes: ",".join(changes) or "published",
)
def test_teacher_forced_steps_are_the_chains_drafted_token_by_token(
    tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Smaller than the text, so that roots of later blocks are among those compared.
    monkeypatch.setattr("sglang_qwen3next_eagle3.head.forward.QUERY_BLOCK", 5)
    config = {**CONFIG, **changes}
    tensors = random_tensors(config)
    embed, aux, ids = inputs(config)
    model = HeadModel.load(write(tmp_path, config, tensors), embed)
    steps = model.predict(aux, ids, STEPS)
    assert [len(step) for step in steps] == [12, 11, 10, 9]
    for root in range(LENGTH - STEPS):
        expected = chain(config, tensors, embed, aux, ids, root, STEPS)
        for k in range(STEPS):
            torch.testing.assert_close(
                steps[k][root], expected[k].float(), rtol=1e-4, atol=1e-4, msg=f"root {root} {k=}"
            )


def test_a_chain_does_not_see_the_drafts_of_another(tmp_path: Path) -> None:
    """Only the tokens and states up to a root's own draft have a say in it."""
    tensors = random_tensors(CONFIG)
    embed, aux, ids = inputs(CONFIG)
    model = HeadModel.load(write(tmp_path, CONFIG, tensors), embed)
    before = model.predict(aux, ids, 3)
    aux[6:], ids[9:] = 0.0, 0
    after = model.predict(aux, ids, 3)
    assert torch.equal(before[2][5], after[2][5]), "root 5 reads states 0..5 and tokens 1..8"
    assert not torch.equal(before[2][6], after[2][6])


def test_draft_tokens_are_offsets_into_the_target_s_vocabulary(tmp_path: Path) -> None:
    tensors = random_tensors(CONFIG)
    model = HeadModel.load(write(tmp_path, CONFIG, tensors), torch.zeros(40, 16))
    assert model.target_ids.tolist() == tensors["t2d"].nonzero().flatten().tolist()


def test_the_target_s_embedding_replaces_the_head_s_own(tmp_path: Path) -> None:
    """As in SGLang, which shares the target's whatever the file holds."""
    embed, aux, ids = inputs(CONFIG)
    plain = HeadModel.load(write(tmp_path / "a", CONFIG, random_tensors(CONFIG)), embed)
    tensors = {**random_tensors(CONFIG), "embed_tokens.weight": torch.randn(40, 16)}
    with_own = HeadModel.load(write(tmp_path / "b", CONFIG, tensors), embed)
    assert torch.equal(plain.predict(aux, ids, 1)[0], with_own.predict(aux, ids, 1)[0])


def test_a_head_without_a_draft_vocabulary_borrows_the_target_s_output_rows(
    tmp_path: Path,
) -> None:
    config = {**CONFIG, "draft_vocab_size": None}
    tensors = random_tensors(CONFIG)
    for name in ("lm_head.weight", "d2t", "t2d"):
        del tensors[name]
    folder = write(tmp_path, config, tensors)
    embed, aux, ids = inputs(CONFIG)
    with pytest.raises(UserError, match="no lm_head.weight"):
        HeadModel.load(folder, embed)
    model = HeadModel.load(folder, embed, target_lm_head=torch.randn(40, 16))
    assert model.predict(aux, ids, 1)[0].shape == (LENGTH - 1, 40)


def test_hits_are_drafts_that_the_target_would_have_chosen() -> None:
    # Draft vocabulary 0..2 is target tokens 5, 7, 9. Text of 5 tokens, 2 steps: roots 0, 1, 2.
    target_ids = torch.tensor([5, 7, 9])
    greedy = torch.tensor([0, 7, 9, 5, 8])  # at position p, of token p + 1
    first = torch.eye(3)[[1, 2, 2, 0]]  # root 0 drafts 7, 1: 9, 2: 9
    second = torch.eye(3)[[2, 1, 1]]  # root 0 drafts 9, 1: 7, 2: 7
    hits = calibration.chain_hits([first, second], target_ids, greedy)
    # Step 0 of root t is held against greedy[t + 1]: 7, 9, 5; step 1 against 9, 5, 8. The last
    # one, 8, is outside the draft vocabulary.
    assert hits.tolist() == [[True, True], [True, False], [False, False]]
    assert conditional_accuracies(hits) == [2 / 3, 1 / 2]
    assert predicted_accept_length([2 / 3, 1 / 2]) == pytest.approx(2.0), "mean run (2 + 1 + 0) / 3"


def test_an_accept_length_counts_the_target_s_own_token() -> None:
    assert predicted_accept_length([]) == 1.0
    assert predicted_accept_length([0.0, 1.0]) == 1.0
    assert predicted_accept_length([0.5, 0.5, 1.0]) == 2.0
    assert predicted_accept_length([1.0] * 3) == 4.0


def test_a_chain_that_never_survives_has_accuracy_zero() -> None:
    assert conditional_accuracies(torch.zeros(4, 3, dtype=torch.bool)) == [0.0, 0.0, 0.0]


def test_greedy_tokens_do_not_depend_on_the_block() -> None:
    generator = torch.Generator().manual_seed(2)
    hidden, lm_head = (
        torch.randn(7, 16, generator=generator), torch.randn(40, 16, generator=generator),
    )  # fmt: skip
    assert torch.equal(greedy_of(hidden, lm_head, block=3), (hidden @ lm_head.T).argmax(-1))


def test_a_text_shorter_than_a_chain_is_refused(tmp_path: Path) -> None:
    embed, aux, ids = inputs(CONFIG)
    model = HeadModel.load(write(tmp_path, CONFIG, random_tensors(CONFIG)), embed)
    with pytest.raises(ValueError, match="more than 3 tokens"):
        model.predict(aux[:3], ids[:3], 3)
