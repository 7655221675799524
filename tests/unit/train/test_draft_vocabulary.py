import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train import draft_vocabulary
from tests.support.checkpoints import CODER_NEXT
from tests.support.small_target import conversation, write_target

COUNTS = Counter({7: 50, 2: 30, 9: 30, 4: 1})


def test_the_most_frequent_tokens_are_chosen_the_lower_id_first() -> None:
    chosen = draft_vocabulary.choose(COUNTS, 2, 10)
    assert chosen.tokens == (2, 7)
    assert (chosen.covered, chosen.total) == (80, 111)
    assert chosen.coverage == 80 / 111


def test_special_tokens_are_in_whatever_their_count() -> None:
    assert draft_vocabulary.choose(COUNTS, 3, 10, always={0, 8}).tokens == (0, 7, 8)


def test_unused_tokens_fill_up() -> None:
    assert draft_vocabulary.choose(COUNTS, 6, 10).tokens == (0, 1, 2, 4, 7, 9)


def test_the_maps_are_offsets_and_membership() -> None:
    tensors = draft_vocabulary.choose(COUNTS, 3, 10).tensors()
    assert tensors["d2t"].tolist() == [2 - 0, 7 - 1, 9 - 2]
    assert tensors["d2t"].dtype == torch.int64
    assert tensors["t2d"].nonzero().flatten().tolist() == [2, 7, 9]
    assert tensors["t2d"].dtype == torch.bool


@pytest.mark.parametrize(
    ("size", "always", "message"),
    [
        (0, (), "from 1 to the target's 10"),
        (11, (), "from 1 to the target's 10"),
        (2, (0, 1, 3), "smaller than the 3 special tokens"),
        (4, (10,), "token 10 is outside the target's vocabulary of 10"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    size: int, always: tuple[int, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        draft_vocabulary.choose(COUNTS, size, 10, always)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [conversation("qqq", "aab", "one"), conversation("zz", "ab", "two")]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def run(data: Path, tmp_path: Path, *more: str) -> int:
    target = write_target(tmp_path / "target")
    words = ["train", "vocab", "--data", str(data), "--target", str(target)]
    return main([*words, "--out", str(tmp_path / "vocab"), *more])


def test_only_answers_are_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    assert run(data, tmp_path, "--size", "4", "--json") == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    # a a b and a b, each with the token that ends the turn.
    assert (report["answer_tokens"], report["coverage"]) == (7, 1.0)
    assert report["target_vocabulary"] == CODER_NEXT["vocab_size"]
    assert draft_vocabulary.read_report(tmp_path / "vocab" / draft_vocabulary.MAPPING) == report
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "target")
    mapping = tmp_path / "vocab" / draft_vocabulary.MAPPING
    kept = torch.load(mapping)["t2d"].nonzero().flatten().tolist()
    kept_tokens = set(tokenizer.convert_ids_to_tokens(kept))
    assert kept_tokens == {"a", "b", "<|im_start|>", "<|im_end|>"}
    assert draft_vocabulary.sizes(mapping) == (4, CODER_NEXT["vocab_size"])


def test_low_coverage_is_warned_of(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, "--size", "3") == 0
    printed = capsys.readouterr()
    assert "cover 71.43% of 7 answer tokens in 2 conversations" in printed.out
    assert "warning: 28.6% of the answers' tokens can never be drafted" in printed.err


def test_data_without_an_answer_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.jsonl"
    assert run(path, tmp_path) == 2
    assert "`train prepare` writes train.jsonl" in capsys.readouterr().err
    path.write_text(json.dumps({"conversations": [{"role": "user", "content": "q"}]}) + "\n")
    assert run(path, tmp_path) == 2
    assert "no conversation with an answer" in capsys.readouterr().err


def test_another_file_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.pt"
    for content in (b"", b"no torch file"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no draft vocabulary"):
            draft_vocabulary.sizes(path)
    assert draft_vocabulary.read_report(path) is None
