"""Which number of steps the next cycle drafts: the one that brings most tokens a second, by what
cycles of that many requests cost and what the head accepts at the moment.

A cycle of s steps brings 1 + a_1 + a_1 a_2 + ... tokens a request and takes what was measured for
it. Acceptance is the same at every load, so a change of load changes the choice at once. From time
to time some cycles draft one state more, to see whether more is accepted by now.

SGLang's own rule compares the accepted drafts with the steps, whatever they cost, and leaves 0
steps after five cycles: where nothing is accepted, it drafts in every second cycle.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from sglang_qwen3next_eagle3.overlay.adaptive.acceptance import Acceptance
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates

EVERY = 4
"""Cycles from one choice to the next."""
MARGIN = 1.01
"""How much better another number of steps has to look."""
DRAFTS_OF_A_TRIAL = 8
"""At one position, of all requests, after which a trial is judged."""
CYCLES_OF_A_TRIAL = 4
"""At least, for every trial is two switches."""
BETWEEN_TRIALS = 48
"""Cycles from one trial to the next, for each cycle that it takes: where a step more costs a fifth
and brings nothing, trials cost 0.4 %."""
HOLD = 3
"""Cycles for which more steps have to look better before they are drafted: a load that comes and
goes with every cycle switches nothing."""
FIRST_TRIAL = 64
"""Cycles before the first one."""
_FORGOTTEN = 64
"""Numbers of requests whose choices are kept."""


class SlotsOfSglang(Protocol):
    """What is used of SGLang's AdaptiveSpeculativeParams: which graphs are captured for what."""

    @property
    def candidate_steps(self) -> list[int]: ...

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None: ...

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None: ...

    def _pad_to_cuda_graph_bs(self, batch_size: int) -> int: ...


class Policy:
    """The choice alone, without SGLang: `steps` before a cycle, `observe` behind it."""

    def __init__(self, states: DraftStates) -> None:
        self._states = states
        self._acceptance = Acceptance(states.shares)
        self._now = states.start
        self._cycles = 0
        self._chosen: dict[tuple[int, int], int] = {}
        self._trial: int | None = None
        self._trial_cycles = 0
        self._next_trial = FIRST_TRIAL
        self._rising: int | None = None
        self._before = states.start

    def steps(self, requests: int, captured: int | None = None) -> int:
        """For a cycle of so many requests. captured: of the graph that it runs in, if other."""
        captured = requests if captured is None else captured
        if self._trial is not None and self._trial in self._states.candidates_at(captured):
            return self._trial
        key = requests, captured
        if key not in self._chosen:
            if len(self._chosen) > _FORGOTTEN:
                self._chosen.clear()
            self._chosen[key] = self._best(requests, captured)
        self._now = self._held(self._chosen[key], captured)
        if self._cycles >= self._next_trial and self._begin_trial(requests, captured):
            assert self._trial is not None
            return self._trial
        return self._now

    def _held(self, wanted: int, captured: int) -> int:
        """Fewer steps at once, more of them once they were wanted for some cycles."""
        if wanted <= self._now:
            self._rising = None
            return wanted
        if self._rising is None:
            self._rising = self._cycles
        if self._cycles - self._rising >= HOLD:
            self._rising = None
            return wanted
        candidates = self._states.candidates_at(captured)
        return max((n for n in candidates if n <= self._now), default=candidates[0])

    def observe(self, correct: Sequence[int], steps: int) -> None:
        """A cycle of so many steps is done; correct: accepted drafts of each of its requests.

        Those of the first cycle behind one of 0 steps say nothing: the head may have left no first
        draft (overlay/fast/head.py)."""
        if self._before:
            self._acceptance.observe(correct, steps)
        self._before = steps
        self._cycles += 1
        if self._trial is not None:
            self._trial_cycles -= 1
            if self._trial_cycles <= 0:
                self._now, self._trial = self._trial, None
                self._chosen.clear()
        elif self._cycles % EVERY == 0:
            self._chosen.clear()

    def _begin_trial(self, requests: int, captured: int) -> bool:
        """Draft a few cycles more than seems to pay, for what is accepted there may have changed.

        False: nothing is deeper.
        """
        deeper = [n for n in self._states.candidates_at(captured) if n > self._now]
        length = max(CYCLES_OF_A_TRIAL, -(-DRAFTS_OF_A_TRIAL // max(1, requests)))
        length += self._now == 0  # The first one is not judged.
        self._next_trial = self._cycles + length * BETWEEN_TRIALS
        if not deeper:
            return False
        self._trial, self._trial_cycles = deeper[0], length
        self._acceptance.forget(self._now)
        return True

    def _best(self, requests: int, captured: int) -> int:
        candidates = self._states.candidates_at(captured)
        lengths = self._acceptance.lengths()
        gain = {n: lengths[n] / self._states.cost(requests, n) for n in candidates}
        best = max(candidates, key=gain.__getitem__)
        if self._now in gain and gain[best] < MARGIN * gain[self._now]:
            return self._now
        return best


class CostedSteps:
    """Stands in for SGLang's AdaptiveSpeculativeParams (0.5.17): its interface, our choice."""

    def __init__(
        self,
        sglang: SlotsOfSglang,
        states: DraftStates,
        steps_of_result: Callable[[], int | None],
        forced: Callable[[], int | None] = lambda: None,
        measured: Callable[[], DraftStates | None] = lambda: None,
    ) -> None:
        """steps_of_result: of the cycle whose result is being read, perhaps other ones than those
        that are drafted by now. forced: steps that a benchmark asks for, in place of any choice;
        measured: asked behind that, the states with the costs that it found, of the same steps or
        fewer."""
        self._sglang = sglang
        self._states = states
        self._policy = Policy(states)
        self._steps_of_result = steps_of_result
        self._forced, self._measured = forced, measured
        self._was_forced = forced() is not None

    @property
    def candidate_steps(self) -> list[int]:
        return self._sglang.candidate_steps

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None:
        self._sglang.set_cuda_graph_bs(cuda_graph_bs)

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None:
        return self._sglang.cuda_graph_bs_for_step(step)

    def get_steps_for_batch(self, batch_size: int) -> int:
        """Before every cycle, perhaps more than once."""
        captured = self._sglang._pad_to_cuda_graph_bs(batch_size)
        forced = self._forced()
        if self._was_forced and forced is None:
            self._begin_anew()
        self._was_forced = forced is not None
        if forced is None:
            return self._policy.steps(batch_size, captured)
        allowed = self._states.candidates_at(captured)
        return max((n for n in allowed if n <= forced), default=allowed[0])

    def _begin_anew(self) -> None:
        found = self._measured()
        if found is not None and set(found.steps) <= set(self._sglang.candidate_steps):
            self._states = found
        self._policy = Policy(self._states)

    def on_verify_complete(self, num_correct_drafts_per_req: list[int], batch_size: int) -> None:
        """Behind every cycle, while the next one may be under way.

        None: a switch is for the start of a cycle, when no other is under way on this state.
        """
        steps = self._steps_of_result()
        if steps is not None and max(num_correct_drafts_per_req, default=0) <= steps:
            self._policy.observe(num_correct_drafts_per_req, steps)
