"""The parent's side of the prefill runner, with ranks that only pretend to be SGLang."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.overlay.prefill import runner as prefill
from sglang_qwen3next_eagle3.overlay.prefill.runner import PrefillRunner
from sglang_qwen3next_eagle3.overlay.prefill.wire import Channel
from tests.support import fake_rank
from tests.support.fake_rank import HIDDEN, LAYERS


@contextmanager
def started(folder: Path, **options: Any) -> Iterator[PrefillRunner]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefill, "_start_rank", fake_rank.start)
        patch.setattr(prefill.contract, "require", lambda parts: None)
        with PrefillRunner(folder, log=folder / "log", max_length=8, **options) as runner:
            yield runner


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefillRunner]:
    """One for all tests that leave its ranks alive."""
    with started(tmp_path_factory.mktemp("shared"), tp=2) as runner:
        yield runner


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[PrefillRunner]:
    """One whose ranks a test may end."""
    with started(tmp_path, tp=2) as runner:
        yield runner


def test_states_of_many_batches_come_in_the_prompts_order(runner: PrefillRunner) -> None:
    prompts = [[100 + i] * (i % 8 + 1) for i in range(20)]
    states = list(runner.prefill(prompts, torch.float32))
    assert [len(s.last_hidden) for s in states] == [len(prompt) for prompt in prompts]
    for prompt, got in zip(prompts, states, strict=True):
        assert got.streams.shape == (LAYERS + 1, len(prompt), HIDDEN)
        assert got.last_hidden.unique().tolist() == [prompt[0]]
        assert got.streams[4].unique().tolist() == [prompt[0] + 4]


def test_no_batch_is_larger_than_sglang_s_pool(runner: PrefillRunner) -> None:
    assert [len(batch) for batch in runner.plan([1] * 7)] == [3, 3, 1]


def test_the_next_batch_is_asked_for_before_the_last_one_is_used(runner: PrefillRunner) -> None:
    asked = []

    def batches() -> Any:
        for number in range(3):
            asked.append(number)
            yield [[number]]

    states = runner.prefill_batches(batches())
    next(states)
    assert asked == [0, 1]
    assert len(list(states)) == 2


def test_a_failing_rank_ends_all_of_them_with_its_own_words(ours: PrefillRunner) -> None:
    """Rank 0 says nothing more, as one that waits in a collective for the other."""
    processes = [child.process for child, _ in ours._ranks]
    with pytest.raises(UserError, match=r"stopped in rank 1: out of luck \(log: .*log\)"):
        list(ours.prefill([[1], [13], [2]]))
    assert all(process.poll() is not None for process in processes)
    ours.close()


def test_decoding_goes_on_from_the_caller_s_tokens_in_every_rank(ours: PrefillRunner) -> None:
    """The pretended rank's next token is the sum of all that it was told."""
    assert ours.begin([[7, 8], [5]]) == [9, 6]
    assert ours.step([1, 2]) == [9, 7]
    assert ours.step([10, 20]) == [19, 27]
    assert len(list(ours.prefill([[1], [2]]))) == 2, "states come again afterwards"
    with pytest.raises(UserError, match=r"stopped in rank 1: out of luck at \[32, 27\]"):
        ours.step([13, 0])


def test_prompts_to_continue_are_refused_as_others_are(runner: PrefillRunner) -> None:
    with pytest.raises(ValueError, match="1 to 8 tokens"):
        runner.begin([[1], []])


def test_a_pool_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"room for 7 tokens, 8192 are needed .*mem-fraction"),
        started(tmp_path, extra=["--max-total-tokens", "7"]),
    ):
        pass


def test_messages_and_tensors_of_any_kind_cross_a_socket() -> None:
    ours, theirs = map(Channel, socket.socketpair())
    tensors = [
        torch.randn(3, 1000, 100).bfloat16(),
        torch.zeros(0, 5),
        torch.arange(6).reshape(2, 3).T,
        torch.tensor(3.0),
    ]
    thread = threading.Thread(target=ours.send, args=({"a": 1}, tensors))
    thread.start()
    message, received = theirs.receive()
    thread.join()
    assert message == {"a": 1}
    for sent, got in zip(tensors, received, strict=True):
        assert got.dtype == sent.dtype
        assert torch.equal(got, sent)
    ours.close()
    with pytest.raises(EOFError):
        theirs.receive()
