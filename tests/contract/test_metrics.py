"""Our metrics against the installed SGLang: its own counts, and the names that deploy/ asks for."""

import random
import re
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req
from sglang.srt.managers.scheduler_components.batch_result_processor import (
    SchedulerBatchResultProcessor,
)
from sglang.srt.managers.utils import GenerationBatchResult
from sglang.srt.sampling.sampling_params import SamplingParams

from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.metrics import hooks, table
from sglang_qwen3next_eagle3.overlay.metrics.families import Refusals, Verifications
from tests.support import deployed

STEPS, DRAFT_TOKENS = 3, 8
LABELS = {"model_name": "demo"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def request(number: int) -> Req:
    sampling = SamplingParams(max_new_tokens=100, temperature=0.0)
    return Req(str(number), "", array("q", [1]), sampling, vocab_size=64)


def result(accepted: list[int]) -> GenerationBatchResult:
    """Of a cycle in which each request accepted so many drafts."""
    return GenerationBatchResult(
        next_token_ids=torch.zeros(len(accepted) * DRAFT_TOKENS, dtype=torch.int64),
        accept_lens=torch.tensor([n + 1 for n in accepted]),
        speculative_num_draft_tokens=DRAFT_TOKENS,
    )


def test_what_is_counted_is_what_sglang_counts_for_each_request(
    registry: CollectorRegistry,
) -> None:
    """With SGLang's own arithmetic, on cycles in which requests end, are retracted and come."""
    cycles = Verifications(LABELS, STEPS, None, registry)
    refusals = Refusals(LABELS, table.REASONS, registry)
    (hook,) = (h for h in hooks.scheduler_hooks(cycles, refusals) if "_resolve" in h.target)
    original = SchedulerBatchResultProcessor._resolve_spec_v2_tokens
    processor: Any = SimpleNamespace(
        model_worker=SimpleNamespace(on_verify_complete_cpu=lambda *_, **__: None),
        advance_grammar_fsm=lambda *_: None,
        metrics_reporter=SimpleNamespace(snapshot_spec_decode_metrics=lambda *_: None),
    )
    chance = random.Random(1)
    everybody: list[Req] = []
    running: list[Req] = []
    for number in range(200):
        running += [request(number)] if len(running) < 6 else []
        everybody += [one for one in running if one not in everybody]
        drafts = [chance.randint(0, STEPS) for _ in running]
        batch: Any = SimpleNamespace(reqs=list(running), forward_iter=number)
        tokens = hook.replacement(original, processor, result(drafts), batch)
        assert [len(one) for one in tokens] == [n + 1 for n in drafts]
        # One that ended is in the next cycle once more, as overlapped scheduling has it.
        running = [one for one in running if not one.finished() and not one.is_retracted]
        if chance.random() < 0.2:
            running[0].finished_reason = FINISH_LENGTH(length=1)
        if chance.random() < 0.1:
            running[-1].is_retracted = True

    def told(metric: str, **own: str) -> float | None:
        found: float | None = registry.get_sample_value(metric, {**LABELS, **own})
        return found

    verified = sum(one.spec_verify_ct for one in everybody)
    assert told(table.VERIFICATIONS.name) == verified > 500
    assert told(table.PROPOSED.name) == verified * (DRAFT_TOKENS - 1)
    positions = [told(table.ACCEPTED.name, position=str(n + 1)) for n in range(STEPS)]
    assert sum(filter(None, positions)) == sum(one.spec_num_correct_drafts for one in everybody)
    histograms = [one.spec_correct_drafts_histogram for one in everybody]
    assert positions == [
        sum(sum(histogram[position + 1 :]) for histogram in histograms) for position in range(STEPS)
    ]


def test_every_metric_that_deploy_asks_for_is_one_of_sglang_s_or_ours() -> None:
    installed = contract.installed_sglang()
    assert installed is not None
    source = Path(installed.root) / "sglang" / "srt"
    files = [*source.glob("observability/*.py"), source / "utils" / "common.py"]
    theirs = {
        name
        for file in files
        for name in re.findall(r'name="(sglang:\w+)"', file.read_text(encoding="utf-8"))
    }
    asked = {rule["expr"] for rule in deployed.rules()}
    asked |= {query.expression for query in deployed.queries()}
    names = {re.sub(r"_bucket$", "", name) for text in asked for name in deployed.metrics(text)}
    of_theirs = {name for name in names if name.startswith("sglang:")}
    assert len(of_theirs) > 10
    assert of_theirs <= theirs
