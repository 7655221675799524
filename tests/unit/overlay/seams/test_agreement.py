"""Ranks as processes: every turn of each has the requests that the first rank had in that turn."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay.seams import agreement
from sglang_qwen3next_eagle3.overlay.seams.agreement import LEAD, Agreement, RankGone, lives, size

FORK = multiprocessing.get_context("fork")
RANKS, TURNS = 3, 3000


def shared(folder: Path, ranks: int = RANKS) -> Path:
    path = folder / "shared"
    path.write_bytes(bytes(size(ranks)))
    return path


def received(turn: int) -> list[int]:
    """What the first rank has in a turn: in a few it has something, also in some after another."""
    chance = random.Random(turn // 2)
    return list(range(turn, turn + 3)) if chance.random() < 0.05 else []


def loop(path: Path, rank: int, pipes: list[Any], results: Any) -> None:
    """A scheduler's turns; the lists go through pipes, which, as gloo, hold what is not read."""
    ours = Agreement(path, rank, RANKS)
    chance = random.Random(rank)
    seen = {}
    for turn in range(TURNS):
        if chance.random() < 0.01:
            time.sleep(chance.random() / 500)
        if rank == 0:
            mine = received(turn)
            ours.tell(bool(mine))
            if mine:
                for pipe in pipes:
                    pipe.send((turn, mine))
                ours.received_by_all()
        elif ours.ask():
            of, mine = pipes[0].recv()
            assert of == turn
            ours.received()
        else:
            mine = []
        if mine:
            seen[turn] = mine
    results.put((rank, seen))


def test_every_rank_has_the_requests_of_the_first_one_in_the_same_turn(tmp_path: Path) -> None:
    path = shared(tmp_path)
    results = FORK.Queue()
    ends = [FORK.Pipe(duplex=False) for _ in range(1, RANKS)]
    ranks = [FORK.Process(target=loop, args=(path, 0, [sends for _, sends in ends], results))]
    for rank, (receives, _) in enumerate(ends, start=1):
        ranks.append(FORK.Process(target=loop, args=(path, rank, [receives], results)))
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=300) for _ in range(RANKS))
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    expected = {turn: received(turn) for turn in range(TURNS) if received(turn)}
    assert len(expected) > 50
    assert any(turn + 1 in expected for turn in expected), "some come in turns side by side"
    assert found == dict.fromkeys(range(RANKS), expected)


def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Agreement, Agreement]:
    """Two ranks in this process, of which one that would wait gives up at once."""

    class Waits(Exception):
        pass

    def nap(seconds: float) -> None:
        if seconds:
            raise Waits

    monkeypatch.setattr(time, "sleep", nap)
    monkeypatch.setattr(agreement, "_YIELDS", 1)
    path = shared(folder, 2)
    first, second = Agreement(path, 0, 2), Agreement(path, 1, 2)
    first.Waits = Waits  # type: ignore[attr-defined]
    return first, second


def test_a_rank_waits_for_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = alone(tmp_path, monkeypatch)
    with pytest.raises(first.Waits):  # type: ignore[attr-defined]
        second.ask()


def test_the_first_rank_is_never_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = alone(tmp_path, monkeypatch)
    for _ in range(LEAD):
        first.tell(False)
    with pytest.raises(first.Waits):  # type: ignore[attr-defined]
        first.tell(False)
    # Nothing was told in the turn that it gave up, so the other has the turns before it.
    for _ in range(LEAD):
        assert not second.ask()
    with pytest.raises(first.Waits):  # type: ignore[attr-defined]
        second.ask()


def test_a_turn_with_requests_ends_when_all_have_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = alone(tmp_path, monkeypatch)
    first.tell(True)
    with pytest.raises(first.Waits):  # type: ignore[attr-defined]
        first.received_by_all()
    assert second.ask()
    with pytest.raises(first.Waits):  # type: ignore[attr-defined]
        first.received_by_all()
    second.received()
    first.received_by_all()
    first.tell(False)
    assert not second.ask()


def test_a_turn_without_requests_may_be_long_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = alone(tmp_path, monkeypatch)
    first.tell(False)
    first.tell(True)
    assert not second.ask()
    assert second.ask()


def waits_for_ever(path: Path, results: Any) -> None:
    agreement._LOOK_AFTER = 0.05  # type: ignore[misc]
    ours = Agreement(path, 1, 2)
    results.put("waits")
    try:
        ours.ask()
    except RankGone as gone:
        results.put(str(gone))


@pytest.mark.parametrize("how", ["killed", "killed and not waited for"])
def test_a_rank_does_not_wait_for_one_that_is_gone(tmp_path: Path, how: str) -> None:
    path = shared(tmp_path, 2)
    results = FORK.Queue()

    def first() -> None:
        Agreement(path, 0, 2)
        results.put("there")
        time.sleep(600)

    dies = FORK.Process(target=first)
    dies.start()
    assert results.get(timeout=60) == "there"
    other = FORK.Process(target=waits_for_ever, args=(path, results))
    other.start()
    assert results.get(timeout=60) == "waits"
    assert dies.pid is not None
    os.kill(dies.pid, signal.SIGKILL)
    if how == "killed":
        dies.join(60)
    assert f"rank 0 (process {dies.pid}) has ended" in results.get(timeout=60)
    other.join(60)
    dies.join(60)


def test_a_process_that_lives_is_waited_for() -> None:
    assert lives(os.getpid())
    assert not lives(2**30)


def test_a_file_of_another_size_is_none_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not of 4 ranks"):
        Agreement(shared(tmp_path, 2), 0, 4)
