"""`bench run` where figures could be mixed up, lost, or give something away."""

from pathlib import Path

import pytest
import yaml

from sglang_qwen3next_eagle3.__main__ import main
from sglang_qwen3next_eagle3.bench.results.records import Result
from sglang_qwen3next_eagle3.serving import server
from tests.support.bench_runs import TWO, Behave, words
from tests.support.fake_sglang import serving

NONE = ("--config", "none")


def written(folder: Path) -> str:
    """Everything that a benchmark leaves, but the profiles that start its servers."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".yaml")
    return "\n".join(path.read_text(errors="replace") for path in files)


def test_an_api_key_is_written_nowhere(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "own", *NONE, "--", "--api-key", "s3cret-1")) == 0
    with serving() as fake:
        theirs = ["--base-url", fake.url, "--name", "a", "--api-key=s3cret-2"]
        assert main(words(tmp_path / "theirs", *theirs)) == 0
    said = capsys.readouterr()
    everything = written(tmp_path) + said.out + said.err
    assert "s3cret" not in everything
    assert "--api-key" in everything


@pytest.mark.parametrize("flag", ["--admin-api-key", "--api-k", "--ssl-keyfile-password"])
@pytest.mark.parametrize("between", [" ", "="])
def test_no_secret_of_sglang_s_is_written_in_any_spelling(
    behave: Behave,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flag: str,
    between: str,
) -> None:
    behave(none={"refuse": "ServerArgs(model_path='x', admin_api_key='s3cret-3')"})
    flags = f"{flag}{between}s3cret-4".split()
    assert main(words(tmp_path, *NONE, "--", *flags)) == 1
    said = capsys.readouterr()
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".log"]
    everything = "".join(path.read_text() for path in kept) + said.out + said.err
    assert "s3cret" not in everything
    assert flag in everything


def test_a_secret_in_a_profile_reaches_the_server_and_not_the_folder(
    behave: Behave, tmp_path: Path
) -> None:
    profile = yaml.safe_load((Path("launch") / "demo.yaml").read_text())
    profile["sglang"] = {**profile["sglang"], "api-key": "s3cret-5"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    behave(mine={"key": "s3cret-5"})
    out = tmp_path / "out"
    assert main(words(out, "--config", str(tmp_path / "mine.yaml"))) == 0
    assert "s3cret" not in "".join(p.read_text() for p in out.rglob("*") if p.is_file())
    assert "api-key: '***'" in (out / "servers" / "mine.yaml").read_text()


def test_suites_that_would_share_files_are_refused(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = (Path("benchmarks") / "suites" / "smoke.yaml").read_text()
    for name in ("smoke", "a_b", "a-b"):
        (tmp_path / f"{name}.yaml").write_text(suite)
    for one, other in (("smoke", "smoke"), ("a_b", "a-b")):
        first = "smoke" if one == other else str(tmp_path / f"{one}.yaml")
        asked = ["--suite", first, "--suite", str(tmp_path / f"{other}.yaml")]
        command = ["bench", "run", "--profile", "demo", *asked, *NONE, "--no-plots"]
        assert main([*command, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert f"suite {one} is given twice, or goes by one name with another" in error
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("info", "algorithm", "name", "title"),
    [
        ({"speculative_algorithm": "NGRAM", "speculative_num_draft_tokens": 8}, "ngram", "ngram",
         "NGRAM"),
        ({"speculative_algorithm": "STANDALONE", "speculative_num_steps": 3,
          "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4,
          "model_path": "big", "speculative_draft_model_path": "small"},
         "standalone", "standalone:3,1,4", "STANDALONE 3,1,4"),
        ({"speculative_algorithm": "EAGLE", "speculative_num_steps": 3,
          "speculative_eagle_topk": 1, "speculative_num_draft_tokens": 4,
          "model_path": "big", "speculative_draft_model_path": "big"},
         "nextn", "mtp:3,1,4", "MTP 3,1,4"),
        ({"speculative_algorithm": None}, "none", "none", "no speculation"),
    ],
)  # fmt: skip
def test_a_running_server_is_recorded_as_what_it_is(
    behave: Behave, tmp_path: Path, info: dict[str, object], algorithm: str, name: str, title: str
) -> None:
    with serving(info=info) as fake:
        assert main(words(tmp_path, "--base-url", fake.url)) == 0
    (row,) = Result.load(tmp_path).configurations
    assert (row.name, row.algorithm) == (name, algorithm)
    assert f"| {title} |" in (tmp_path / "report.md").read_text()


def test_a_pass_is_kept_though_the_cache_cannot_be_emptied_after_it(
    behave: Behave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "FLUSH_SECONDS", 0.2)
    # Once after warming up.
    behave(none={"flushes": 1})
    assert main(words(tmp_path, *NONE, "--batch", "1,2")) == 1
    result = Result.load(tmp_path)
    assert result.batches == (1,)
    assert "flush_cache: HTTP 500" in str(result.configuration("none").error)


def test_the_same_command_on_another_server_does_not_go_on(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = yaml.safe_load((Path("launch") / "demo.yaml").read_text())
    mine, out = tmp_path / "mine.yaml", tmp_path / "out"
    mine.write_text(yaml.safe_dump(profile))
    assert main(words(out, *NONE, "--profile", str(mine))) == 0
    before = (out / "result.json").read_text()
    profile["sglang"]["max-running-requests"] = 7
    mine.write_text(yaml.safe_dump(profile))
    assert main(words(out, *NONE, "--profile", str(mine))) == 2
    assert "passes of another server that goes by none" in capsys.readouterr().err
    assert (out / "result.json").read_text() == before


def test_names_that_would_share_files_are_refused(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = yaml.safe_load((Path("launch") / "demo.yaml").read_text())
    (tmp_path / "3-1-4.yaml").write_text(yaml.safe_dump(profile))
    own = ["--config", "3,1,4", "--config", str(tmp_path / "3-1-4.yaml")]
    assert main(words(tmp_path / "out", *own)) == 2
    assert "given twice, or goes by one name" in capsys.readouterr().err


def test_a_typo_does_not_bind_the_folder(behave: Behave, tmp_path: Path) -> None:
    behave(none={"refuse": "no GPU"})
    assert main(words(tmp_path, *NONE, "--limit", "2")) == 1
    behave()
    assert main(words(tmp_path, *NONE, "--limit", "3")) == 0


def test_a_failure_that_was_made_up_for_is_none(behave: Behave, tmp_path: Path) -> None:
    behave(none={"crash_at": 3})
    assert main(words(tmp_path, *TWO)) == 1
    failed = Result.load(tmp_path).configuration("none")
    assert (failed.status, failed.ready_seconds is not None) == ("failed", True)
    behave()
    # Another one does not make up for it.
    assert main(words(tmp_path, "--config", "3,1,4")) == 0
    assert Result.load(tmp_path).configuration("none").status == "failed"
    assert main(words(tmp_path, *TWO)) == 0
    mended = Result.load(tmp_path).configuration("none")
    assert (mended.status, mended.error, mended.log_tail) == ("ok", None, ())


def test_a_repetition_that_failed_is_not_hidden_by_the_next(behave: Behave, tmp_path: Path) -> None:
    # The server of the first repetition answers, that of the second, the same again, does not.
    assert main(words(tmp_path, *NONE)) == 0
    behave(none={"crash_at": 1})
    assert main(words(tmp_path, *NONE, "--repeats", "2")) == 1
    result = Result.load(tmp_path)
    assert len(result.of("none", "smoke", 1)) == 1
    assert result.configuration("none").status == "failed"


def test_a_log_s_folders_stay_on_the_machine(behave: Behave, tmp_path: Path) -> None:
    behave(none={"refuse": 'File "/home/somebody/site/x.py", see /var/log/y.log: gone'})
    assert main(words(tmp_path, *NONE)) == 1
    (line,) = Result.load(tmp_path).configuration("none").log_tail
    assert line == 'error: File "x.py", see y.log: gone'


def test_a_server_that_says_nothing_of_itself_needs_a_name(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving() as fake:
        assert main(words(tmp_path, "--base-url", fake.url, "--tokenizer", "demo")) == 2
    assert "does not say how it serves (a router?): give it a --name" in capsys.readouterr().err


def test_a_server_that_goes_away_is_reported(behave: Behave, tmp_path: Path) -> None:
    with serving(stall_at=4) as fake:
        asked = ["--base-url", fake.url, "--name", "theirs", "--stall-seconds", "1"]
        assert main(words(tmp_path, *asked)) == 1
    assert "stalled" in str(Result.load(tmp_path).configuration("theirs").error)
    assert "stalled" in (tmp_path / "report.md").read_text()


def test_a_proxy_is_not_asked(
    behave: Behave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with serving() as fake:
        assert main(words(tmp_path, "--base-url", fake.url, "--name", "theirs")) == 0


def test_sampled_answers_are_not_compared(behave: Behave, tmp_path: Path) -> None:
    suite = {
        "description": "d", "licence": "l", "temperature": 0.8, "max-tokens": 4, "seed": 0,
        "sample-count": None, "prompt": {"id": "id", "template": "{text}"},
        "source": {"records": [{"id": "a", "text": "x"}]},
    }  # fmt: skip
    (tmp_path / "warm.yaml").write_text(yaml.safe_dump(suite))
    command = ["bench", "run", "--profile", "demo", "--suite", str(tmp_path / "warm.yaml")]
    assert main([*command, *TWO, "--no-plots", "--out", str(tmp_path / "out")]) == 0
    assert [m.equality for m in Result.load(tmp_path / "out").measurements] == [None, None]


def test_fewer_prompts_than_requests_in_flight_are_noted(behave: Behave, tmp_path: Path) -> None:
    assert main(words(tmp_path, *NONE, "--batch", "1,32")) == 0
    assert any("smoke at B=32: fewer requests" in note for note in Result.load(tmp_path).notes)


def test_flags_that_win_name_the_tree(behave: Behave, tmp_path: Path) -> None:
    behave(**{"3-1-4": {"per_chunk": 3}})
    flags = ["--speculative-num-steps", "5", "--speculative-num-draft-tokens", "6"]
    assert main(words(tmp_path, "--config", "3,1,4", "--", *flags)) == 0
    result = Result.load(tmp_path)
    assert result.configuration("3,1,4").tree == (5, 1, 6)
    (found,) = result.measurements
    assert found.figures.accept_length is not None
    assert found.figures.card_accept_rate == pytest.approx(found.figures.accept_length / 6)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_a_damaged_folder_is_one_line(
    behave: Behave, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    assert main(words(tmp_path, *NONE)) == 0
    capsys.readouterr()
    (tmp_path / "configurations.json").write_text(content)
    assert main(words(tmp_path, *NONE)) == 2
    error = capsys.readouterr().err
    assert "configurations.json is damaged" in error
    assert error.count("\n") == 1
