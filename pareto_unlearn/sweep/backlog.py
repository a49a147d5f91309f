"""The trials of a sweep that have not started, in the order of ``schedule.wanted_trials``.

That list is long and changes seldom: once a boundary or a course has ended, or a seed's round of epsilons. It
is built then and not at every decision, so that a decision takes as long with 10,000 trials as with ten.
"""

import heapq
from collections import Counter
from dataclasses import replace

from pareto_unlearn.catalogue.methods import is_course
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.errors import RangeError
from pareto_unlearn.records import Phase, TrialRecord, TrialSpec
from pareto_unlearn.schedule import Identify, NoTrial, SweepState, wanted_trials


class Backlog:
    """Decides which trial comes next; it must be told of every row, by ``ended``, that is committed."""

    def __init__(self, config: SweepConfig, identify: Identify) -> None:
        self._config, self._identify = config, identify
        self._specs: list[TrialSpec] = []
        self._waiting: list[int] = []
        self._handed_out: set[int] = set()
        self._open: Counter[int] = Counter()
        self._error: RangeError | None = None
        self._built_for: object = None
        self._is_old = True
        self._told = 0
        self._rounds_count = True

    def next(self, state: SweepState) -> TrialSpec | NoTrial:
        """Return the next trial to start, or whether to wait for live trials or finish.

        Boundaries come first; then epsilons as soon as a seed's range is known; the original model, controls
        and baselines fill slots in between, so that no worker idles between the phases. A baseline that
        leaves a whole front gets the same epsilons once it is committed; the trial that resists relearning
        follows them. The checks of a seed come last, once its epsilons have ended.

        A seed whose boundaries leave no valid range gets no epsilons; ``derive_range`` raises the reason.

        Raises:
            EpsilonError: an absolute epsilon lies outside the range.
        """
        live = frozenset(state.live)
        self._renew(state, live)
        for place in [one for one in self._handed_out if self._specs[one].trial_id not in live]:
            self._handed_out.remove(place)
            heapq.heappush(self._waiting, place)
        while self._waiting:
            spec = self._specs[self._waiting[0]]
            if spec.trial_id in live:
                self._handed_out.add(heapq.heappop(self._waiting))
            elif (attempt := _attempt_of(spec, state)) is None:
                heapq.heappop(self._waiting)
            else:
                return replace(spec, attempt=attempt)
        if self._error is not None:
            raise self._error
        return NoTrial.WAIT if live else NoTrial.FINISHED

    def ended(self, record: TrialRecord, *, is_new: bool) -> None:
        """Count a row that was committed; ``is_new`` says that its trial had none."""
        self._told += is_new
        self._open[record.seed] -= is_new and record.phase is Phase.EPSILON
        opens = record.phase in (Phase.BOUNDARY, Phase.CHECK) or (
            record.phase is Phase.BASELINE and is_course(record.method) and record.parents is None
        )
        round_ended = self._rounds_count and record.phase is Phase.EPSILON and self._open[record.seed] <= 0
        self._is_old |= opens or round_ended or not is_new

    def _renew(self, state: SweepState, live: frozenset[str]) -> None:
        """Build the list again if anything has happened that may change it."""
        again = frozenset(trial_id for trial_id in live if trial_id in state.committed)
        built_for = (again, state.scales is None, state.check_convergence, state.retry)
        if not self._is_old and built_for == self._built_for and self._told == len(state.committed):
            return
        self._specs, self._error = [], None
        try:
            self._specs.extend(wanted_trials(self._config, state, self._identify))
        except RangeError as error:  # what comes before it in the list can still be solved
            self._error = error
        self._waiting, self._handed_out = list(range(len(self._specs))), set()
        self._open = Counter(
            spec.seed
            for spec in self._specs
            if spec.phase is Phase.EPSILON and spec.trial_id not in state.committed
        )
        self._rounds_count = state.check_convergence or self._config.epsilon.schedule == "adaptive"
        self._built_for, self._is_old, self._told = built_for, False, len(state.committed)


def _attempt_of(spec: TrialSpec, state: SweepState) -> int | None:
    """Return the number of the attempt that is to be made of a trial, None if it has ended."""
    record = state.committed.get(spec.trial_id)
    if record is None:
        return spec.attempt
    return record.attempt + 1 if (record.trial_id, record.attempt) in state.retry else None
