"""Processes that compile kernels: begun, asked, and lost."""

import io
import json
import os
import pickle
import sys
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_qwen3next_eagle3.overlay import variants
from sglang_qwen3next_eagle3.overlay.fast import (
    compile_pool,
    compile_server,
    conditions,
    hooks,
    preparation,
)
from sglang_qwen3next_eagle3.overlay.fast.compile_job import Job, describe
from sglang_qwen3next_eagle3.overlay.fast.stages import COMPILERS, PREFILLS, STAGES, Wanted

OURS = "sglang_qwen3next_eagle3.overlay.fast.kernels"


def job(name: str, module: str = f"{OURS}.tree") -> Job:
    return Job(module, name, b"", "00", f"{name}.json", {}, "", "", "", "", b"", {})


class Server:
    """A process that answers what it is told to, and is silent then."""

    def __init__(self, *lines: str) -> None:
        self.stdin, self.stdout = io.BytesIO(), io.BytesIO("".join(lines).encode())
        self.killed = threading.Event()

    def kill(self) -> None:
        self.killed.set()

    def asked(self) -> list[Job]:
        size, text = self.stdin.getvalue()[:8], self.stdin.getvalue()[8:]
        assert int.from_bytes(size, "big") == len(text)
        jobs: list[Job] = pickle.loads(text)
        return jobs


def line(number: int, reason: str | None = None) -> str:
    return f"{json.dumps([number, 1.5, reason])}\n"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[Server]:
    """Of ours and of SGLang's kernels."""
    found = [Server(line(1), line(0, "Unlike: settings")), Server(line(0))]
    rest = iter(found)
    monkeypatch.setattr(compile_pool, "_begun", lambda modules: next(rest))
    return found


def test_each_kernel_is_asked_of_the_process_that_has_imported_it(servers: list[Server]) -> None:
    compilers = compile_pool.Compilers(["ours"], ["others"])
    one, stock, skinny = job("one"), job("stock", "sglang.kernels.ops.x"), job("_skinny_gemm")
    few, many = replace(job("_scores"), key="01"), replace(job("_scores"), key="02")
    # Of the first process the second that was asked for, and not the first, which differed.
    assert compilers.compile([one, few, many, stock, skinny]) == [(many, 1.5), (stock, 1.5)]
    # The longest first, and of one kernel what was noted last.
    assert servers[0].asked() == [skinny, many, few, one]
    assert servers[1].asked() == [stock]


def test_a_process_that_is_gone_costs_nothing(
    servers: list[Server], caplog: pytest.LogCaptureFixture
) -> None:
    compilers = compile_pool.Compilers([], [])
    servers[1].stdin.close()
    with caplog.at_level("DEBUG"):
        made = compilers.compile([job("one"), job("two"), job("three"), job("x", "sglang.y")])
    assert [one.job.name for one in made] == ["two"]
    said = [one.message for one in caplog.records if one.levelname == "INFO"]
    prefix = "sglang-qwen3next-eagle3: fast path: a process"
    gone = f"{prefix} that compiles has ended or was too slow"
    # Of three one differs, one is compiled and one has no answer.
    refused = f"{prefix} did not compile 1 of 3 kernels, first {OURS}.tree.three: Unlike: settings"
    assert sorted(said) == sorted(
        [refused, f"{gone}: 1 of 3 kernels are left", f"{gone}: 1 of 1 kernels are left"]
    )


def test_one_that_does_not_answer_in_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = Server()
    silent.stdout = SimpleNamespace(readline=lambda: silent.killed.wait(30) and b"")  # type: ignore
    assert compile_pool._asked(silent, [job("one")], time.monotonic() + 0.1) == []
    assert silent.killed.is_set()


def test_few_cpus_are_not_shared_with_more_processes(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, begun in ((3, False), (4, True)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=count: set(range(n)))
        assert (compile_pool.begin() is not None) is begun
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert compile_pool.at_a_time() == 16


def test_all_modules_of_kernels_are_imported_ahead() -> None:
    names = compile_pool.modules_of_ours()
    assert {f"{OURS}.attention", f"{OURS}.skinny_gemm"} < set(names)


def test_what_is_no_kernel_of_a_module_cannot_be_told() -> None:
    def compile_fn() -> None: ...

    assert describe("key", compile_fn) is None


def child(status: int) -> int:
    return os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", f"exit({status})"])


def test_a_child_that_dies_is_told_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("signal.alarm", lambda seconds: 0)
    running: set[int] = set()
    most: list[int] = []
    told: list[tuple[int, str | None]] = []

    def answer(number: int, seconds: float, reason: str | None) -> None:
        told.append((number, reason))

    def forked(number: int, one: Job, answer: compile_server.Answer) -> int:
        if one.name != "dies":
            answer(number, 1.0, None)
        process = child(9 if one.name == "dies" else 0)
        running.add(process)
        most.append(len(running))
        return process

    wait = os.waitpid

    def waited(process: int, options: int) -> tuple[int, int]:
        ended, status = wait(process, options)
        running.discard(ended)
        return ended, status

    monkeypatch.setattr(compile_server, "_child", forked)
    monkeypatch.setattr(os, "waitpid", waited)
    compile_server.serve([job("one"), job("dies"), job("two"), job("three")], 2, answer)
    assert sorted(told, key=str) == [
        (0, None),
        (1, f"it ended with status {9 << 8}"),
        (2, None),
        (3, None),
    ]
    assert max(most) == 2
    assert not running


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(variants, "arguments_of", lambda owner: owner.arguments)
    monkeypatch.setattr(conditions, "of_device", lambda device: None)
    monkeypatch.setattr(conditions, "of_server", lambda arguments: None)
    monkeypatch.setattr(
        compile_pool, "begin", lambda: SimpleNamespace(stop=lambda: stopped.append(1))
    )
    stopped: list[int] = []
    arguments = SimpleNamespace(tp_size=1, speculative_adaptive=False)
    return SimpleNamespace(
        is_draft_worker=False, device="cuda", arguments=arguments, stopped=stopped,
        model_config=SimpleNamespace(hf_config=None),
    )  # fmt: skip


WANTED = Wanted(frozenset(STAGES))


def test_they_begin_with_the_weights_and_end_with_the_last_check(
    runner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SimpleNamespace()
    monkeypatch.setattr(preparation, "prepare", lambda *_: path)
    monkeypatch.setattr(preparation, "prepare_head", lambda *_: None)
    monkeypatch.setattr(hooks, "install", lambda *_: None)
    monkeypatch.setattr("sglang_qwen3next_eagle3.overlay.contract.not_on_gpus", lambda: None)
    runner.model = None
    table = {hook.target: hook.replacement for hook in hooks.hooks(WANTED)}
    seen: list[bool] = []

    def original(*_: Any) -> None:
        seen.append(COMPILERS in runner.__dict__)

    table[hooks.LOAD](original, runner)
    table[hooks.CAPTURE_GRAPHS](original, runner)
    worker: Any = SimpleNamespace(
        target_worker=SimpleNamespace(model_runner=runner),
        draft_runner=SimpleNamespace(model=SimpleNamespace()),
        arguments=runner.arguments,
    )
    assert runner.stopped == []
    table[hooks.CAPTURE_DRAFTS](original, worker)
    assert seen == [True, True, False]
    assert runner.stopped == [1]
    assert PREFILLS not in runner.__dict__


@pytest.mark.parametrize("why", ["no path", "it fails"])
def test_they_end_where_nothing_will_ask_them(
    runner: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(preparation, "prepare", lambda *_: None)
    table = {hook.target: hook.replacement for hook in hooks.hooks(WANTED)}
    table[hooks.LOAD](lambda runner: None, runner)

    def original(*_: Any) -> None:
        if why == "it fails":
            raise MemoryError

    if why == "it fails":
        with pytest.raises(MemoryError):
            table[hooks.CAPTURE_GRAPHS](original, runner)
    else:
        table[hooks.CAPTURE_GRAPHS](original, runner)
    assert runner.stopped == [1]


@pytest.mark.parametrize("why", ["ranks", "device", "server", "proof", "process"])
def test_they_are_not_begun_where_there_will_be_nothing_to_compile(
    runner: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    def failing() -> Any:
        raise OSError("no more processes")

    if why == "ranks":
        runner.arguments.tp_size = 2
    elif why == "process":
        monkeypatch.setattr(compile_pool, "begin", failing)
    elif why == "proof":
        monkeypatch.setattr(conditions, "of_proofs", lambda wanted, *_: (wanted, "not proved"))
    else:
        monkeypatch.setattr(conditions, f"of_{why}", lambda _: "it cannot be")
    assert preparation.compilers_for(runner, WANTED) is None
