"""The prefill runner on stock SGLang against transformers' `hidden_states`, fp32, and its ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_qwen3next_eagle3.base.errors import UserError
from sglang_qwen3next_eagle3.calibrate import prompts
from sglang_qwen3next_eagle3.demo.pair import DemoPair, demo_pair
from sglang_qwen3next_eagle3.model import aux_layers
from sglang_qwen3next_eagle3.model.aux_layers import AuxSelection
from sglang_qwen3next_eagle3.model.target import Target
from sglang_qwen3next_eagle3.overlay import contract
from sglang_qwen3next_eagle3.overlay.contract import Installed, read_manifest
from sglang_qwen3next_eagle3.overlay.prefill.runner import PrefillRunner, every_stream, plan_batches
from tests.support.demo_server import cpu_environment, cpu_flags
from tests.support.server import PATIENCE

PROMPTS = [list(range(20, 97)), list(range(5, 200)), [7], list(range(30, 50))]
MAX_LENGTH = 200
TOKENS = 48
QUESTIONS = [
    "Write a Python function to merge two sorted lists.",
    "Why?",
    "Write a Python function that returns the most common word of a text, regardless of case.",
    "Write a C function that reverses a string in place.",
    "Explain what a hash table is and how it handles collisions of its keys.",
]


@pytest.fixture(scope="module")
def pair() -> DemoPair:
    return demo_pair()


@pytest.fixture(scope="module")
def runner(pair: DemoPair) -> Iterator[PrefillRunner]:
    with PrefillRunner(pair.target, device="cpu", max_length=MAX_LENGTH) as runner:
        yield runner


@pytest.fixture(scope="module")
def model(pair: DemoPair) -> Any:
    from transformers import Qwen3NextForCausalLM

    return Qwen3NextForCausalLM.from_pretrained(pair.target, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def expected(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """transformers' streams by depth [layers + 1, T, hidden] and normed states of each prompt."""
    last: list[torch.Tensor] = []

    def keep(_module: object, _arguments: object, output: Any) -> None:
        last.append(output[0] if isinstance(output, tuple) else output)

    model.model.layers[-1].register_forward_hook(keep)
    states = []
    for prompt in PROMPTS:
        with torch.no_grad():
            ran = model.model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
        *streams, normed = ran.hidden_states
        streams.append(last[-1].reshape(normed.shape))
        states.append((torch.cat(streams), normed[0]))
    return states


def select(pair: DemoPair, text: str) -> AuxSelection:
    target = Target.from_path(pair.target)
    return aux_layers.on_target(text, target, count=None, allow_gdn=True)


def test_every_stream_and_the_normed_states_equal_transformers(
    pair: DemoPair, runner: PrefillRunner, expected: list[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    target = Target.from_path(pair.target)
    assert (runner.layers, runner.loaded.hidden_size) == (target.num_layers, target.hidden_size)
    runner.select(None)
    states = list(runner.prefill(PROMPTS, torch.float32))
    assert len(states) == len(PROMPTS)
    for prompt, got, (streams, normed) in zip(PROMPTS, states, expected, strict=True):
        assert got.streams.shape == (target.num_layers + 1, len(prompt), target.hidden_size)
        assert (got.streams - streams).abs().max() < 1e-4
        assert (got.last_hidden - normed).abs().max() < 1e-4
    # What makes this mean something: neighbouring depths differ by far more.
    steps = [(s[1:] - s[:-1]).abs().amax(dim=(1, 2)).min() for s, _ in expected]
    assert min(steps) > 1e-2


@pytest.mark.parametrize("text", ["card", "fork", "sglang", "input:0", "output:5,input:10"])
def test_a_selection_is_its_streams_among_all(
    pair: DemoPair, runner: PrefillRunner, text: str
) -> None:
    runner.select(None)
    (every,) = runner.prefill(PROMPTS[:1], torch.float32)
    runner.select(select(pair, text))
    (some,) = runner.prefill(PROMPTS[:1], torch.float32)
    assert torch.equal(some.streams, every.streams[list(runner.selection.depths)])
    assert torch.equal(some.last_hidden, every.last_hidden)


def test_prompts_of_one_batch_do_not_see_each_other_nor_the_batch_before(
    runner: PrefillRunner,
) -> None:
    runner.select(None)
    alone = [next(iter(runner.prefill([prompt], torch.float32))) for prompt in PROMPTS]
    assert len(runner.plan([len(prompt) for prompt in PROMPTS])) == 1
    for one, other in zip(alone, runner.prefill(PROMPTS, torch.float32), strict=True):
        assert (one.streams - other.streams).abs().max() < 1e-4
    again = list(runner.prefill(PROMPTS * 20, torch.float32))
    first, last = again[: len(PROMPTS)], again[-len(PROMPTS) :]
    for one, other in zip(first, last, strict=True):
        assert (one.streams - other.streams).abs().max() < 1e-4


def until_it_loops(answer: list[int]) -> list[int]:
    for end in range(1, len(answer) + 1):
        loop = prompts._loop(answer[:end])
        if loop:
            return answer[: end - loop]
    return answer


def test_answers_are_transformers_greedy_ones_to_their_end_or_their_cut(
    pair: DemoPair, runner: PrefillRunner, model: Any
) -> None:
    """Prompts of unlike length decoded together, in two batches, and states captured afterwards."""
    chats = [[{"role": "user", "content": text}] for text in QUESTIONS]
    asked = prompts.questions(chats, pair.target, Target.from_path(pair.target), MAX_LENGTH)
    assert len({len(ids) for ids in asked.ids}) == len(QUESTIONS)
    plan = runner.plan
    runner.plan = lambda lengths: [range(3), range(3, len(lengths))]  # type: ignore[method-assign]
    try:
        samples = prompts.answer(runner, asked, TOKENS, fewest=1)
    finally:
        runner.plan = plan  # type: ignore[method-assign]
    for ids, sample in zip(asked.ids, samples, strict=True):
        with torch.no_grad():
            generated = model.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=TOKENS,
                eos_token_id=sorted(asked.ends),
            )[0].tolist()  # fmt: skip
        assert sample.ids == [*ids, *until_it_loops(generated[len(ids) :])]
    ended = [sample for sample in samples if sample.ids[-1] in asked.ends]
    cut = [sample for sample in samples if sample.answer_tokens == TOKENS]
    assert ended
    assert cut
    runner.select(None)
    fresh = list(runner.prefill([sample.ids for sample in samples], torch.float32))
    (alone,) = runner.prefill([samples[0].ids], torch.float32)
    assert (fresh[0].streams - alone.streams).abs().max() < 1e-4


def test_states_come_in_the_dtype_that_is_asked_for(runner: PrefillRunner) -> None:
    (exact,) = runner.prefill(PROMPTS[:1], torch.float32)
    (rounded,) = runner.prefill(PROMPTS[:1])
    assert torch.equal(rounded.streams, exact.streams.bfloat16())
    assert torch.equal(rounded.last_hidden, exact.last_hidden.bfloat16())


def test_who_stops_listening_gets_other_states_next(runner: PrefillRunner) -> None:
    batches = [[prompt] for prompt in PROMPTS]
    states = runner.prefill_batches(batches, torch.float32)
    next(states)
    states.close()
    (one,) = runner.prefill(PROMPTS[3:], torch.float32)
    assert one.last_hidden.shape[0] == len(PROMPTS[3])


def test_a_prompt_that_does_not_fit_is_refused_and_the_runner_goes_on(
    runner: PrefillRunner,
) -> None:
    for prompt in ([], [1] * (MAX_LENGTH + 1)):
        with pytest.raises(ValueError, match="1 to 200 tokens"):
            list(runner.prefill([prompt]))
    assert len(list(runner.prefill(PROMPTS))) == len(PROMPTS)


def test_the_streams_are_those_that_the_server_s_hooks_capture(
    pair: DemoPair, runner: PrefillRunner, tmp_path: Path
) -> None:
    """Against the model runner with the plugin loaded by SGLang itself, prefill and decode."""
    script = Path(__file__).parents[1] / "support" / "dump_streams.py"
    out, steps = tmp_path / "streams.pt", 3
    command = [sys.executable, str(script), str(pair.target), str(out), "card", "fork"]
    command += ["--prompt", ",".join(map(str, PROMPTS[0])), "--steps", str(steps)]
    environment = {**os.environ, **cpu_environment()}
    subprocess.run([*command, "--", *cpu_flags()], check=True, env=environment)
    dumped = torch.load(out)
    prompt = dumped["tokens"][:-1].tolist()
    for text in ("card", "fork"):
        runner.select(select(pair, text))
        (mine,) = runner.prefill([prompt], torch.float32)
        assert (mine.streams - dumped[text]).abs().max() < 1e-4


def test_flags_that_sglang_refuses_are_one_line_with_a_log(pair: DemoPair, tmp_path: Path) -> None:
    log = tmp_path / "sglang.log"
    cause = r"rank 0: .*unrecognized arguments: --no-such-flag \(log: .*sglang\.log\)"
    with pytest.raises(UserError, match=cause) as refused:
        PrefillRunner(pair.target, device="cpu", extra=["--no-such-flag"], log=log)
    assert "\n" not in str(refused.value)
    assert log.is_file()


def test_a_target_that_is_damaged_is_one_line(pair: DemoPair, tmp_path: Path) -> None:
    for path in pair.target.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(UserError, match="stopped in rank 0: ") as refused:
        PrefillRunner(tmp_path, device="cpu", log=tmp_path / "log")
    assert "\n" not in str(refused.value)


def test_dummy_weights_pass_through(pair: DemoPair, tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(pair.target / "config.json")
    extra = ["--load-format", "dummy"]
    with PrefillRunner(tmp_path, device="cpu", max_length=64, extra=extra) as runner:
        (states,) = runner.prefill([PROMPTS[3]])
        assert states.streams.isfinite().all()


def test_a_rank_that_is_killed_ends_the_run_with_one_line(pair: DemoPair, tmp_path: Path) -> None:
    log = tmp_path / "sglang.log"
    runner = PrefillRunner(pair.target, device="cpu", max_length=MAX_LENGTH, log=log)
    ((child, _),) = runner._ranks
    process = child.process
    states = runner.prefill_batches([[prompt] for prompt in PROMPTS])
    next(states)
    process.send_signal(signal.SIGKILL)
    with pytest.raises(UserError, match="stopped in rank 0: SIGKILL, out of memory"):
        list(states)
    with pytest.raises(ValueError, match="closed"):
        list(runner.prefill(PROMPTS))
    runner.close()


WAITING = """
import sys, time
from pathlib import Path
from sglang_qwen3next_eagle3.overlay.prefill import PrefillRunner
target, log = map(Path, sys.argv[1:])
runner = PrefillRunner(target, device="cpu", max_length=64, log=log)
print(runner._ranks[0][0].process.pid, flush=True)
time.sleep(600)
"""


def test_ranks_end_with_a_parent_that_is_killed(pair: DemoPair, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WAITING, str(pair.target), str(tmp_path / "sglang.log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        rank = int(parent.stdout.readline())
        assert alive(rank)
        parent.kill()
    deadline = time.monotonic() + PATIENCE
    while alive(rank) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(rank)


def alive(pid: int) -> bool:
    """A zombie that nobody reaps is dead, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_release_without_the_prefill_part_is_refused_before_sglang_is_started(
    pair: DemoPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = contract.installed_sglang()
    assert found is not None
    without = read_manifest(found.release)
    kept = tuple(symbol for symbol in without.symbols if symbol.part != "prefill")
    changed = contract.ReleaseManifest(without.release, without.reviewed, kept)
    monkeypatch.setattr(contract, "read_manifest", lambda release: changed)
    monkeypatch.setattr(contract, "installed_sglang", lambda: Installed("0.5.17", found.root))
    with pytest.raises(UserError, match="no prefill part"):
        PrefillRunner(pair.target, device="cpu")


def test_all_streams_are_one_more_than_the_layers() -> None:
    assert every_stream(3).depths == (0, 1, 2, 3)


def test_batches_are_consecutive_and_within_both_limits() -> None:
    batches = plan_batches([4, 4, 4, 30, 1, 1, 1, 1], max_tokens=10, max_prompts=3)
    assert batches == [range(2), range(2, 3), range(3, 4), range(4, 7), range(7, 8)]
    assert plan_batches([], 10, 3) == []
