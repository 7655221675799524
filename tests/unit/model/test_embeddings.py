from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.model.embeddings import vocabulary_rows
from sglang_qwen3next_eagle3.model.target import Target
from tests.support.calibration import SMALL_TARGET, target


def test_embedding_and_output_rows_are_read_from_the_shards_that_have_them(tmp_path: Path) -> None:
    embedding, lm_head = torch.randn(40, 16), torch.randn(40, 16)
    save_file({"model.embed_tokens.weight": embedding}, tmp_path / "model-1.safetensors")
    with pytest.raises(UserError, match=r"has no lm_head\.weight: give a whole checkpoint"):
        vocabulary_rows(tmp_path, target())
    tied = Target({**SMALL_TARGET, "tie_word_embeddings": True})
    assert torch.equal(vocabulary_rows(tmp_path, tied)[1], embedding)
    save_file({"lm_head.weight": lm_head, "x": torch.zeros(1)}, tmp_path / "model-2.safetensors")
    found = vocabulary_rows(tmp_path, target())
    assert torch.equal(found[0], embedding)
    assert torch.equal(found[1], lm_head)


def test_a_damaged_shard_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read .*download it again"):
        vocabulary_rows(tmp_path, target())
