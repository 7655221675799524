from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate.prompts import Sample
from sglang_qwen3next_eagle3.calibrate.states import StoredTexts
from tests.support.calibration import target


@dataclass
class State:
    streams: Tensor
    last_hidden: Tensor


def test_texts_are_kept_one_a_file_and_read_again_and_again() -> None:
    samples = [Sample([1, 2, 3]), Sample([4, 5], start=1)]
    # Views of one batch, as the runner hands them out: no text may carry the others' bytes.
    batch = State(torch.randn(13, 5, 16), torch.randn(5, 16))
    views = [
        State(batch.streams[:, :3], batch.last_hidden[:3]),
        State(batch.streams[:, 3:], batch.last_hidden[3:]),
    ]
    done = []
    with StoredTexts() as texts:
        texts.fill(samples, iter(views), lambda: done.append(1))
        folder = texts._folder
        assert len(texts) == len(done) == 2
        assert (folder / "1.pt").stat().st_size < 2 * 13 * 16 * 4 * 2 + 4096
        for _ in range(2):
            first, second = texts
            assert (first.ids.tolist(), first.start) == ([1, 2, 3], 0)
            assert (second.ids.tolist(), second.start) == ([4, 5], 1)
            assert torch.equal(second.streams, views[1].streams)
            assert torch.equal(first.last_hidden, views[0].last_hidden)
    assert not folder.exists()


def test_the_disk_is_asked_before_the_target_is_loaded() -> None:
    with StoredTexts() as texts:
        assert texts.require_room(1000, target(), torch.bfloat16) == 1000 * 14 * 16 * 2
        with pytest.raises(UserError, match="set TMPDIR to another disk"):
            texts.require_room(10**15, target(), torch.bfloat16)
