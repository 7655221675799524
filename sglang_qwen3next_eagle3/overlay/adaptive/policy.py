"""Which number of steps the next cycle drafts: the one that brings most tokens a second, by what
cycles of that many requests cost and what the head accepts at the moment.

A cycle of s steps brings 1 + a_1 + a_1 a_2 + ... tokens a request and takes what was measured for
it. Acceptance is the same at every load, so a change of load changes the choice at once. From time
to time, and where requests are new, some cycles draft one state more, to see whether more is
accepted by now: a trial.

SGLang's own rule compares the accepted drafts with the steps, whatever they cost, and leaves 0
steps after five cycles: where nothing is accepted, it drafts in every second cycle.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sglang_qwen3next_eagle3.overlay.adaptive.acceptance import Acceptance
from sglang_qwen3next_eagle3.overlay.adaptive.states import DraftStates

EVERY = 4
"""Cycles from one choice to the next."""
MARGIN = 1.03
"""How much better another number of steps has to look."""
DRAFTS_IN_VAIN = 4
"""At one position, of all requests, after which a trial is over if none of them was accepted."""
DRAFTS_OF_A_TRIAL = 12
"""The same if some were."""
CYCLES_OF_A_TRIAL = 3
"""At least, if some were: those of one cycle may be alike."""
LONGEST_TRIAL = 16
"""Cycles."""
TIME_OF_TRIALS = 1 / 150
"""What part of the time trials may take, if they bring nothing."""
TIME_OF_NEW = 1 / 60
"""The same once half of the requests are others than in the last one: so that each request of 100
tokens or more that is served alone has one."""
LONGEST_OF_NEW = 100
"""Cycles for which these wait at most."""
DOUBLED = 1
"""How often the time to the next one is doubled while they bring nothing and no request is new."""
HOLD = 3
"""Cycles for which more steps have to look better before they are drafted: a load that comes and
goes with every cycle switches nothing."""
FIRST_TRIAL = 64
"""Cycles before the first one, and at least between two where no request is new."""
_FORGOTTEN = 64
"""Numbers of requests whose choices are kept."""


class SlotsOfSglang(Protocol):
    """What is used of SGLang's AdaptiveSpeculativeParams: which graphs are captured for what."""

    @property
    def candidate_steps(self) -> list[int]: ...

    def set_cuda_graph_bs(self, cuda_graph_bs: list[int] | None) -> None: ...

    def cuda_graph_bs_for_step(self, step: int) -> list[int] | None: ...

    def _pad_to_cuda_graph_bs(self, batch_size: int) -> int: ...


@dataclass
class Trial:
    """Some cycles of more steps than seem to pay. before: what they are more than."""

    steps: int
    before: int
    began: int
    captured: int
    """Requests of the graph that it began in."""
    cycles: int = 0
    """Those that are judged."""
    asked: int = 0
    """Requests that were served in them."""
    drafts: int = 0
    """Drafts at the first position that is tried: those before it were accepted."""
    accepted: int = 0
    """Of these."""
    waits: int | None = None
    """The cycle that drafts no more than before, until results are read."""

    def observe(self, correct: Sequence[int]) -> None:
        self.cycles += 1
        self.asked += len(correct)
        self.drafts += sum(n >= self.before for n in correct)
        self.accepted += sum(n > self.before for n in correct)

    def is_over(self, now: int) -> bool:
        if now - self.began >= LONGEST_TRIAL:
            return True
        if self.accepted:
            return self.cycles >= CYCLES_OF_A_TRIAL and self.drafts >= DRAFTS_OF_A_TRIAL
        # Without any draft, the steps before are too many already.
        return self.drafts >= DRAFTS_IN_VAIN or (not self.drafts and self.asked >= DRAFTS_IN_VAIN)

    def has_to_wait(self, now: int, requests: int) -> bool:
        """Whether enough is drafted to end it in vain, and the last of that is not read yet: with
        overlap scheduling a cycle begins before the result of the one before is there."""
        if self.waits is None:
            # The first cycle behind one of 0 steps is not judged.
            drafted = now - self.began - (self.before == 0)
            enough = drafted * requests >= DRAFTS_IN_VAIN
            if self.accepted or not enough or self.cycles >= drafted:
                return False
            self.waits = now
        return self.waits == now


class Policy:
    """The choice alone, without SGLang: `steps` before a cycle, `observe` behind it."""

    def __init__(self, states: DraftStates) -> None:
        self._states = states
        self._acceptance = Acceptance(states.shares)
        self._now = states.start
        self._cycles = 0
        self._chosen: dict[tuple[int, int], int] = {}
        self._trial: Trial | None = None
        self._next_trial = self._next_of_new = FIRST_TRIAL
        self._doubled = 0
        self._new = 0
        """Requests that began since the last trial."""
        self._rising: int | None = None
        self._before = states.start

    def steps(self, requests: int, captured: int | None = None) -> int:
        """For a cycle of so many requests. captured: of the graph that it runs in, if other."""
        captured = requests if captured is None else captured
        trial = self._trial
        if trial is not None and trial.steps in self._states.candidates_at(captured):
            waits = trial.has_to_wait(self._cycles, requests)
            return trial.before if waits else trial.steps
        key = requests, captured
        if key not in self._chosen:
            if len(self._chosen) > _FORGOTTEN:
                self._chosen.clear()
            self._chosen[key] = self._best(requests, captured)
        self._now = self._held(self._chosen[key], captured)
        due = self._next_of_new if self._are_new(requests) else self._next_trial
        # One that has begun goes on where its steps have a graph.
        if self._trial is None and self._cycles >= due:
            self._trial = trial = self._begun(requests, captured)
            if trial is not None:
                return trial.steps
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

    def observe(self, correct: Sequence[int], steps: int, new: int = 0) -> None:
        """A cycle of so many steps is done; correct: accepted drafts of each of its requests; new:
        of how many of these it was the first one.

        Those of the first cycle behind one of 0 steps say nothing: the head may have left no first
        draft (overlay/fast/head.py)."""
        if new and correct:
            self._acceptance.begin(new, len(correct))
            self._new += new
        judged, self._before = self._before > 0, steps
        if judged:
            self._acceptance.observe(correct, steps)
        self._cycles += 1
        if (trial := self._trial) is not None:
            if judged and steps == trial.steps:
                trial.observe(correct)
            if trial.is_over(self._cycles):
                self._end(trial, len(correct))
        elif self._cycles % EVERY == 0:
            self._chosen.clear()

    def _are_new(self, requests: int) -> bool:
        return 2 * self._new >= requests

    def _begun(self, requests: int, captured: int) -> Trial | None:
        """A trial of the next larger number of steps; None: there is none, or whatever is accepted
        there, it would not pay."""
        deeper = [n for n in self._states.candidates_at(captured) if n > self._now]
        if not deeper or not self._may_pay(requests, deeper[0]):
            self._plan_trial(0.0)
            return None
        self._acceptance.forget(self._now)
        return Trial(deeper[0], self._now, self._cycles, captured)

    def _may_pay(self, requests: int, steps: int) -> bool:
        lengths, cost = self._acceptance.lengths(), self._states.cost
        last = lengths[self._now] - lengths[self._now - 1] if self._now else 1.0
        most = lengths[self._now] + last * (steps - self._now)
        now = lengths[self._now] / cost(requests, self._now)
        return most / cost(requests, steps) > MARGIN * now

    def _end(self, trial: Trial, requests: int) -> None:
        # What is drafted needs no margin to go on.
        self._now, self._trial = trial.steps, None
        self._chosen.clear()
        pays = self._best(requests, trial.captured) > trial.before
        if pays or self._are_new(requests):
            self._doubled = 0
        else:
            self._doubled = min(self._doubled + 1, DOUBLED)
        self._new = 0
        cost = self._states.cost
        more = cost(requests, trial.steps) / cost(requests, trial.before) - 1
        self._plan_trial((self._cycles - trial.began) * max(0.0, more))
        if pays:
            self._next_trial = self._next_of_new  # Still more may pay.

    def _plan_trial(self, cost: float) -> None:
        """cost: of the last one, in cycles as they were before it."""
        wait = max(FIRST_TRIAL, round(cost / TIME_OF_TRIALS) << self._doubled)
        self._next_trial = self._cycles + wait
        wait = max(EVERY, round(cost / TIME_OF_NEW))
        self._next_of_new = self._cycles + min(LONGEST_OF_NEW, wait)

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
        new_of_result: Callable[[], int] = lambda: 0,
    ) -> None:
        """steps_of_result: of the cycle whose result is being read, perhaps other ones than those
        that are drafted by now; new_of_result: of how many requests it was the first. forced:
        steps that a benchmark asks for, in place of any choice; measured: asked behind that, the
        states with the costs that it found, of the same steps or fewer."""
        self._sglang = sglang
        self._states = states
        self._policy = Policy(states)
        self._steps_of_result = steps_of_result
        self._new_of_result = new_of_result
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
            self._policy.observe(num_correct_drafts_per_req, steps, self._new_of_result())
