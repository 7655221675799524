from pathlib import Path

import pytest

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.bench.results.journal import PassKey, claim
from sglang_qwen3next_eagle3.bench.results.records import Configuration, Pass
from tests.support.bench_results import plain

KEY = PassKey("3,4,8", "humaneval", 8, 1)


def test_a_pass_is_there_again_as_it_was(tmp_path: Path) -> None:
    measured = Pass([plain("a", (1, 2))], [("b", "HTTP 500")], 2.5)
    with claim(tmp_path, {"x": 1}) as journal:
        journal.add(KEY, measured)
    with claim(tmp_path, {"x": 1}) as journal:
        assert journal.has(KEY)
        assert journal.passes() == {KEY: measured}


def test_the_text_of_simulated_acceptance_is_not_kept(tmp_path: Path) -> None:
    key = PassKey("3,4,8", "synthetic", 8, 1, 2.46)
    with claim(tmp_path, {}) as journal:
        journal.add(key, Pass([plain("a", (1, 2))], [], 1.0))
        (sample,) = journal.passes()[key].samples
    assert sample.output_ids == ()
    assert sample.completion_tokens == 2


def test_no_two_passes_share_a_file() -> None:
    keys = [PassKey(c, s, b, r, a) for c in ("none", "3,4,8") for s in ("x", "y") for b in (1, 8)
            for r in (0, 1) for a in (None, 1.0, 2.46)]  # fmt: skip
    assert len({key.file for key in keys}) == len(keys)


def test_what_is_known_of_a_server_is_replaced(tmp_path: Path) -> None:
    failed = Configuration(name="none", algorithm="none", status="failed", error="no GPU")
    with claim(tmp_path, {}) as journal:
        journal.note(failed)
        journal.note(Configuration(name="mtp", algorithm="nextn"))
        journal.note(failed.model_copy(update={"status": "ok", "error": None}))
        assert {name: c.status for name, c in journal.configurations().items()} == {
            "none": "ok",
            "mtp": "ok",
        }


def test_a_damaged_pass_is_named(tmp_path: Path) -> None:
    with claim(tmp_path, {}) as journal:
        journal.add(KEY, Pass([plain("a", (1,))], [], 1.0))
        path = tmp_path / "passes" / KEY.file
        path.write_text(path.read_text()[:50])
        with pytest.raises(UserError, match=r"is damaged .* delete it"):
            journal.passes()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        claim(tmp_path, {}),
        pytest.raises(UserError, match="another benchmark writes"),
        claim(tmp_path, {}),
    ):
        pass


def test_another_request_is_refused_by_the_name_of_what_differs(tmp_path: Path) -> None:
    with claim(tmp_path, {"limit": 2, "seed": 0}):
        pass
    with claim(tmp_path, {"limit": 3, "seed": 0}) as journal:
        journal.add(KEY, Pass([plain("a", (1,))], [], 1.0))
    with (
        pytest.raises(UserError, match=r"begun with other arguments \(limit: 3, now 4\)"),
        claim(tmp_path, {"limit": 4, "seed": 0}),
    ):
        pass


def test_another_server_of_the_same_name_is_refused(tmp_path: Path) -> None:
    with claim(tmp_path, {}) as journal:
        journal.note(Configuration(name="3,4,8", algorithm="eagle3", argv=("--tp", "1")))
        journal.admit(Configuration(name="3,4,8", algorithm="eagle3", argv=("--tp", "1")))
        journal.admit(Configuration(name="5,1,6", algorithm="eagle3", argv=("--tp", "2")))
        for other in (
            Configuration(name="3,4,8", algorithm="eagle3", argv=("--tp", "2")),
            Configuration(name="3-4-8", algorithm="eagle3", argv=("--tp", "1")),
        ):
            with pytest.raises(UserError, match="another server that goes by 3,4,8"):
                journal.admit(other)


def test_what_passes_were_made_with_is_kept(tmp_path: Path) -> None:
    for commit in ("a", "b", "b"):
        with claim(tmp_path, {}, {"commit": commit}) as journal:
            number = len(journal.passes())
            journal.add(PassKey("none", "x", 1, number), Pass([plain("a", (1,))], [], 1.0))
            stamps = journal.stamps()
    assert stamps == [{"commit": "a"}, {"commit": "b"}]


@pytest.mark.parametrize("content", ["[]", "{", '{"none": {"name": 3}}'])
def test_damaged_configurations_are_one_line(tmp_path: Path, content: str) -> None:
    with claim(tmp_path, {}) as journal:
        (tmp_path / "configurations.json").write_text(content)
        with pytest.raises(UserError, match="damaged"):
            journal.configurations()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), claim(tmp_path / "file" / "x", {}):
        pass
