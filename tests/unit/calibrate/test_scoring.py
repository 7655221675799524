from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.calibrate import scoring
from sglang_qwen3next_eagle3.calibrate.scoring import Fuse, Text
from sglang_qwen3next_eagle3.head_model import (
    chain_hits,
    conditional_accuracies,
    predicted_accept_length,
)
from tests.support import calibration

STEPS = 3


@pytest.mark.parametrize(
    "changes",
    [{}, {"bias": True}, {"fc_norm": True}, {"norm_before_fc": True}, {"num_aux_hidden_states": 4}],
    ids=lambda changes: ",".join(changes) or "published",
)
def test_slots_fused_one_by_one_are_fc_over_all_of_them(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    model = calibration.head(tmp_path, **changes).model
    (text,) = calibration.texts(model, None, count=1)
    depths = (4, 0, 12, 9)[: model.head.aux_count]
    aux = torch.cat([text.streams[depth] for depth in depths], dim=-1)
    fused = Fuse(model, text.streams).project(depths)
    torch.testing.assert_close(fused, model.project(aux), rtol=1e-5, atol=1e-5)


def test_figures_are_those_of_the_chains(tmp_path: Path) -> None:
    """Agreement, runs and likelihood against the chains' logits, text by text."""
    model = calibration.head(tmp_path).model
    depths = (2, 7, 11)
    texts = calibration.texts(model, depths, count=3)
    (score,) = scoring.score(model, texts, [depths], STEPS)
    hits, logliks = [], []
    for text in texts:
        aux = torch.cat([text.streams[depth] for depth in depths], dim=-1)
        logits = model.predict(aux, text.ids, STEPS)
        hits.append(chain_hits(logits, model.target_ids, text.greedy))
        for root in range(len(text.ids) - STEPS):
            place = (model.target_ids == text.greedy[root + 1]).nonzero()
            if len(place):
                logliks.append(logits[0][root].log_softmax(-1)[place.item()].item())
    together = torch.cat(hits)
    assert score.top1 == pytest.approx(together.float().mean(0).tolist())
    assert score.top1[0] == 1.0
    assert score.top1[2] < 0.5, "further drafts are not made to be right"
    expected = predicted_accept_length(conditional_accuracies(together))
    assert score.accept_length == pytest.approx(expected)
    assert score.mean_loglik == pytest.approx(sum(logliks) / len(logliks), rel=1e-5)
    assert score.roots.tolist() == [calibration.LENGTH - STEPS] * 3


def test_top5_counts_what_is_among_the_five_best(tmp_path: Path) -> None:
    model = calibration.head(tmp_path).model
    depths = (2, 7, 11)
    (text,) = calibration.texts(model, depths, count=1)
    aux = torch.cat([text.streams[depth] for depth in depths], dim=-1)
    ranked = model.predict(aux, text.ids, 1)[0].argsort(dim=-1, descending=True)
    for place, inside in ((4, 1.0), (5, 0.0)):
        greedy = text.greedy.clone()
        greedy[1:] = model.target_ids[ranked[:, place]]
        (score,) = scoring.score(model, [Text(text.ids, text.streams, greedy)], [depths], 1)
        assert score.top5 == [inside]
        assert score.top1 == [0.0]


def test_a_token_outside_the_draft_vocabulary_is_a_miss(tmp_path: Path) -> None:
    model = calibration.head(tmp_path).model
    (text,) = calibration.texts(model, (2, 7, 11), count=1)
    absent = next(token for token in range(40) if token not in model.target_ids.tolist())
    greedy = text.greedy.clone()
    greedy[1:21] = absent
    (score,) = scoring.score(model, [Text(text.ids, text.streams, greedy)], [(2, 7, 11)], 1)
    assert score.top1 == [19 / 39]
    assert score.positions.tolist() == [19]


def test_a_sweep_is_the_score_of_every_stream_in_the_slot(tmp_path: Path) -> None:
    model = calibration.head(tmp_path).model
    texts = calibration.texts(model, (2, 7, 11), count=2)
    swept = scoring.sweep(model, texts, (2, 5, 11), 1)
    scored = scoring.score(model, texts, [(2, depth, 11) for depth in range(13)], 1)
    assert len(swept) == 13
    for one, other in zip(swept, scored, strict=True):
        assert one.top1 == other.top1
        assert one.mean_loglik == pytest.approx(other.mean_loglik, rel=1e-5)
    assert swept[7].top1 == [1.0]


def test_the_control_reads_the_states_of_other_places(tmp_path: Path) -> None:
    model = calibration.head(tmp_path).model
    (text,) = calibration.texts(model, (2, 7, 11), count=1)
    half = len(text.ids) // 2
    away = torch.cat([text.streams[:, half:], text.streams[:, :half]], dim=1)
    moved = Text(text.ids, away, text.greedy)
    (control,) = scoring.score(model, [text], [(2, 7, 11)], 1, displaced=True)
    (expected,) = scoring.score(model, [moved], [(2, 7, 11)], 1)
    assert torch.equal(control.loglik, expected.loglik)
    assert control.top1[0] < 0.5
