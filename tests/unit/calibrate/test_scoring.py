from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.calibrate import scoring
from sglang_qwen3next_eagle3.calibrate.scoring import Fuse, Text
from sglang_qwen3next_eagle3.head.forward import (
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
    made = calibration.head(tmp_path)
    model, depths = made.model, (2, 7, 11)
    texts = calibration.texts(model, depths, count=3)
    (score,) = made.scorer.score(texts, [depths], STEPS)
    hits, overlaps = [], []
    for text in texts:
        aux = torch.cat([text.streams[depth] for depth in depths], dim=-1)
        logits = model.predict(aux, text.ids, STEPS)
        hits.append(calibration.chain_hits(logits, model.target_ids, calibration.greedy_of(text)))
        own = logits[0].softmax(-1)
        theirs = (text.last_hidden @ calibration.LM_HEAD.T).softmax(-1)
        for root in range(len(text.ids) - STEPS):
            pairs = zip(own[root], theirs[root + 1][model.target_ids], strict=True)
            overlaps.append(sum(float(min(mine, its)) for mine, its in pairs))
    together = torch.cat(hits)
    assert score.top1 == pytest.approx(together.float().mean(0).tolist())
    assert score.top1[0] == 1.0
    assert score.top1[2] < 0.5, "further drafts are not made to be right"
    expected = predicted_accept_length(conditional_accuracies(together))
    assert score.accept_length == pytest.approx(expected)
    assert score.mean_overlap == pytest.approx(sum(overlaps) / len(overlaps), rel=1e-4)
    assert score.roots.tolist() == [calibration.LENGTH - STEPS] * 3


def test_no_chain_begins_before_a_text_s_start(tmp_path: Path) -> None:
    """The answer's own figures, though the head reads all of the text."""
    made = calibration.head(tmp_path)
    depths, start = (2, 7, 11), 15
    (text,) = calibration.texts(made.model, depths, count=1)
    aux = torch.cat([text.streams[depth] for depth in depths], dim=-1)
    logits = made.model.predict(aux, text.ids, STEPS)
    hits = calibration.chain_hits(logits, made.model.target_ids, calibration.greedy_of(text))[
        start:
    ]
    (whole,) = made.scorer.score([text], [depths], STEPS)
    (score,) = made.scorer.score([replace(text, start=start)], [depths], STEPS)
    assert score.roots.tolist() == [calibration.LENGTH - STEPS - start]
    assert score.hits.tolist() == [hits.sum(0).tolist()]
    assert score.overlap[0] < whole.overlap[0]
    swept = made.scorer.sweep([replace(text, start=start)], depths, 1)
    assert swept[7].roots.tolist() == [calibration.LENGTH - 1 - start]
    assert swept[7].top1 == [1.0]


def test_top5_counts_what_is_among_the_five_best(tmp_path: Path) -> None:
    made = calibration.head(tmp_path)
    model, depths = made.model, (2, 7, 11)
    (text,) = calibration.texts(model, depths, count=1)
    aux = torch.cat([text.streams[depth] for depth in depths], dim=-1)
    ranked = model.predict(aux, text.ids, 1)[0].argsort(dim=-1, descending=True)
    for place, inside in ((4, 1.0), (5, 0.0)):
        greedy = calibration.greedy_of(text)
        greedy[1:] = model.target_ids[ranked[:, place]]
        moved = calibration.text_of(text.ids, text.streams, greedy)
        (score,) = made.scorer.score([moved], [depths], 1)
        assert score.top5 == [inside]
        assert score.top1 == [0.0]


def test_a_token_outside_the_draft_vocabulary_is_a_miss(tmp_path: Path) -> None:
    made = calibration.head(tmp_path)
    (text,) = calibration.texts(made.model, (2, 7, 11), count=1)
    absent = next(token for token in range(40) if token not in made.model.target_ids.tolist())
    greedy = calibration.greedy_of(text)
    greedy[1:] = absent
    missed = calibration.text_of(text.ids, text.streams, greedy)
    (before,) = made.scorer.score([text], [(2, 7, 11)], 1)
    (after,) = made.scorer.score([missed], [(2, 7, 11)], 1)
    assert before.top1 == [1.0]
    assert after.top1 == [0.0]
    assert after.mean_overlap < 0.01 < before.mean_overlap


def test_a_sweep_is_the_score_of_every_stream_in_the_slot(tmp_path: Path) -> None:
    made = calibration.head(tmp_path)
    texts = calibration.texts(made.model, (2, 7, 11), count=2)
    swept = made.scorer.sweep(texts, (2, 5, 11), 1)
    scored = made.scorer.score(texts, [(2, depth, 11) for depth in range(13)], 1)
    assert len(swept) == 13
    for one, other in zip(swept, scored, strict=True):
        assert one.top1 == other.top1
        assert one.mean_overlap == pytest.approx(other.mean_overlap, rel=1e-4)
    assert swept[7].top1 == [1.0]


def test_the_control_reads_the_states_of_other_places(tmp_path: Path) -> None:
    made = calibration.head(tmp_path)
    (text,) = calibration.texts(made.model, (2, 7, 11), count=1)
    half = len(text.ids) // 2
    away = torch.cat([text.streams[:, half:], text.streams[:, :half]], dim=1)
    (control,) = made.scorer.score([text], [(2, 7, 11)], 1, displaced=True)
    (expected,) = made.scorer.score([Text(text.ids, away, text.last_hidden)], [(2, 7, 11)], 1)
    assert torch.equal(control.overlap, expected.overlap)
    assert control.top1[0] < 0.5


def test_predictions_do_not_depend_on_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calibration.head(tmp_path)
    (text,) = calibration.texts(made.model, (2, 7, 11), count=1)
    teacher = scoring.Teacher(made.model, calibration.LM_HEAD)
    greedy, shares = teacher(text)
    monkeypatch.setattr(scoring, "BLOCK", 7)
    again = teacher(text)
    assert torch.equal(greedy, again[0])
    torch.testing.assert_close(shares, again[1])
