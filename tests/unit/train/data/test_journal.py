from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.train.data.regenerate import AnswerJournal

HEADER = {"served": "target"}


def entry(number: int) -> dict[str, object]:
    return {"id": f"a-{number}", "text": "ä\u2028" * number}


def test_entries_are_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with AnswerJournal(path, HEADER) as journal:
        for number in range(3):
            journal.append(entry(number))
            assert journal[f"a-{number}"] == entry(number)
    with AnswerJournal(path, HEADER) as journal:
        assert len(journal) == 3
        assert "a-1" in journal
        assert "a-3" not in journal
        journal.append(entry(3))
        assert [journal[f"a-{n}"] for n in range(4)] == [entry(n) for n in range(4)]


def test_wherever_it_is_cut_the_whole_entries_stay_and_writing_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with AnswerJournal(path, HEADER) as journal:
        journal.append(entry(1))
        journal.append(entry(2))
    whole = path.read_bytes()
    first, second, _ = (i + 1 for i, byte in enumerate(whole) if byte == ord("\n"))
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        with AnswerJournal(path, HEADER) as journal:
            kept = (end >= second) + (end == len(whole))
            assert len(journal) == kept, f"cut at {end}, header ends at {first}"
            for number in range(kept + 1, 3):
                journal.append(entry(number))
        assert path.read_bytes() == whole


def test_an_entry_is_on_disk_once_append_returns(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with AnswerJournal(path, HEADER) as journal:
        journal.append(entry(1))
        assert path.read_bytes().endswith(b"}\n")
        assert path.read_bytes().count(b"\n") == 2


def test_another_header_or_a_broken_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with AnswerJournal(path, HEADER) as journal:
        journal.append(entry(1))
    with pytest.raises(UserError, match="begun with .*target.* now it is .*other"):
        AnswerJournal(path, {"served": "other"})
    path.write_bytes(path.read_bytes() + b'{"id": \n{"id": "a-2"}\n')
    with pytest.raises(UserError, match=":3 is broken"):
        AnswerJournal(path, HEADER)
