from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate import states
from sglang_qwen3next_eagle3.calibrate.prompts import Sample
from sglang_qwen3next_eagle3.calibrate.states import StoredTexts
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.calibration import SMALL_TARGET, target


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


def test_embedding_and_output_rows_are_read_from_the_shards_that_have_them(tmp_path: Path) -> None:
    embedding, lm_head = torch.randn(40, 16), torch.randn(40, 16)
    save_file({"model.embed_tokens.weight": embedding}, tmp_path / "model-1.safetensors")
    with pytest.raises(UserError, match=r"has no lm_head\.weight: give a whole checkpoint"):
        states.vocabulary_rows(tmp_path, target())
    tied = Target({**SMALL_TARGET, "tie_word_embeddings": True})
    assert torch.equal(states.vocabulary_rows(tmp_path, tied)[1], embedding)
    save_file({"lm_head.weight": lm_head, "x": torch.zeros(1)}, tmp_path / "model-2.safetensors")
    found = states.vocabulary_rows(tmp_path, target())
    assert torch.equal(found[0], embedding)
    assert torch.equal(found[1], lm_head)


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read .*download it again"):
        states.vocabulary_rows(tmp_path, target())
