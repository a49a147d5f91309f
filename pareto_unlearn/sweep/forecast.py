"""How long a sweep still takes: its trials, their steps, and what steps and trials took so far.

The trials are known before any of them is planned, by purpose and number; only their epsilons are not. Knows
no clock and no store: whoever calls it says what was measured.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from pareto_unlearn.analysis.robustness import QUARTILES
from pareto_unlearn.catalogue.families import require_recipe
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, ORIGINAL, is_course
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.errors import RangeError
from pareto_unlearn.records import Phase, Role, TrialRecord, TrialSpec
from pareto_unlearn.schedule import Identify, SweepState, wanted_trials


class Task(NamedTuple):
    """What trials of one purpose have in common; ``mixed`` ones are made from the bank of a course."""

    phase: Phase
    method: str
    seed: int
    role: Role | None = None
    weight: float | None = None
    mixed: bool = False

    @property
    def kind(self) -> tuple[object, ...]:
        """What decides how long a trial takes."""
        return self.phase, self.method, self.role, self.mixed

    @property
    def spec(self) -> TrialSpec:
        """A trial of this purpose, without its id."""
        return TrialSpec(
            trial_id="",
            phase=self.phase,
            method=self.method,
            seed=self.seed,
            role=self.role,
            weight=self.weight,
            parents="course" if self.mixed else None,
        )


def task_of(trial: TrialSpec | TrialRecord) -> Task:
    """Return the purpose of a trial."""
    mixed = trial.phase is Phase.BASELINE and trial.parents is not None
    weight = trial.weight if trial.phase is Phase.BASELINE else None
    return Task(trial.phase, trial.method, trial.seed, trial.role, weight, mixed)


def tasks_of(config: SweepConfig, *, check_convergence: bool = False) -> list[Task]:
    """Return the purpose of every trial of a sweep, in the order in which they are planned."""
    points = sum(config.epsilon.rounds)
    seeds = config.trial_seeds
    groups: list[Iterator[Task]] = [
        *(_boundaries(seed) for seed in seeds),
        *(iter(points * [Task(Phase.EPSILON, EPSILON_CONSTRAINT, seed)]) for seed in seeds),
        *(_fillers(config, seed) for seed in seeds),
        *(_followers(config, seed, points) for seed in seeds),
        *(_checks(seed, points) for seed in seeds if check_convergence),
    ]
    return list(chain.from_iterable(groups))


def _boundaries(seed: int) -> Iterator[Task]:
    for role in (Role.HIGHEST, Role.LOWEST):
        yield Task(Phase.BOUNDARY, EPSILON_CONSTRAINT, seed, role)


def _fillers(config: SweepConfig, seed: int) -> Iterator[Task]:
    yield Task(Phase.ORIGINAL, ORIGINAL, seed)
    for control in config.controls:
        yield Task(Phase.CONTROL, control.method, seed)
    for baseline in config.baselines:
        for weight in baseline.weights:
            yield Task(Phase.BASELINE, baseline.name, seed, weight=weight)


def _followers(config: SweepConfig, seed: int, points: int) -> Iterator[Task]:
    for baseline in config.baselines:
        for weight in baseline.weights if is_course(baseline.name) else ():
            yield from points * [Task(Phase.BASELINE, baseline.name, seed, weight=weight, mixed=True)]
    if config.solver.relearning is not None:
        yield Task(Phase.HARDENED, EPSILON_CONSTRAINT, seed)


def _checks(seed: int, points: int) -> Iterator[Task]:
    yield Task(Phase.CHECK, EPSILON_CONSTRAINT, seed, Role.HIGHEST)
    yield from min(points, len(QUARTILES)) * [Task(Phase.CHECK, EPSILON_CONSTRAINT, seed)]


def count_ended(config: SweepConfig, progress: SweepState, identify: Identify) -> Counter[Task]:
    """Return how many trials of each purpose have ended for this sweep; other rows of a run do not count."""
    ended: Counter[Task] = Counter()
    try:
        for spec in wanted_trials(config, progress, identify):
            record = progress.committed.get(spec.trial_id)
            if record is not None and (record.trial_id, record.attempt) not in progress.retry:
                ended[task_of(spec)] += 1
    except RangeError:
        pass  # an absolute epsilon outside the range ends the sweep; what came before it is counted
    return ended


def needs_of(task: Task) -> tuple[Task, ...]:
    """Return the purposes whose trials must all have ended before a trial of this one can start."""
    highest, lowest = _boundaries(task.seed)
    if task.phase is Phase.EPSILON:
        return highest, lowest
    if task.phase is Phase.HARDENED:
        return (highest,)
    if task.mixed:
        return highest, lowest, task._replace(mixed=False)
    if task.phase is Phase.CHECK:
        epsilons = Task(Phase.EPSILON, EPSILON_CONSTRAINT, task.seed)
        return (epsilons,) if task.role is not None else (epsilons, task._replace(role=Role.HIGHEST))
    return ()


def steps_of(config: SweepConfig, task: Task) -> int:
    """Return the steps of a trial, with those in which a path or a course finds its step size.

    Where the best step size lies at the edge of the scan, up to two more short paths are followed.
    """
    own = config.steps_of(task.spec)
    if task.mixed or not config.solver.leaves_bank(task.role, task.method) or task.phase is Phase.HARDENED:
        return own
    path = config.for_phase(task.phase).solver.path
    return own + len(path.scan) * path.scan_steps


def weight_of(config: SweepConfig, task: Task) -> float:
    """Return what a step of a trial takes, in steps of a solve.

    Images decide. A control is trained by one process, in batches of its recipe.
    """
    if task.phase is not Phase.CONTROL:
        return 1.0
    recipe = require_recipe(config.model.row, config.model.variant)
    return config.run.ranks * recipe.batch / (2 * config.solver.batch)


@dataclass(slots=True)
class Pace:
    """What steps and whole trials took so far, in seconds.

    ``work`` says of a trial how much it does besides its steps, in any unit: loading, measuring, attacks.
    ``besides`` has what that took of the trials that have ended, and how much it was.
    """

    config: SweepConfig
    work: Callable[[Task], float] = lambda _: 1.0
    steps: float = 0.0
    step_seconds: float = 0.0
    trials: dict[tuple[object, ...], list[float]] = field(default_factory=dict)
    besides: list[tuple[float, float]] = field(default_factory=list)

    def add_steps(self, steps: float, seconds: float) -> None:
        """Count steps of a trial that took so long, in steps of a solve."""
        if steps > 0 and seconds > 0:
            self.steps, self.step_seconds = self.steps + steps, self.step_seconds + seconds

    def add_trial(self, task: Task, seconds: float) -> None:
        """Count a trial that took so long from its start to its end, steps and all else."""
        self.trials.setdefault(task.kind, []).append(seconds)
        besides = max(0.0, seconds - self.solving_seconds(task))
        self.besides.append((besides, self.work(task)))

    @property
    def seconds_per_step(self) -> float:
        """What a step of a solve takes on average; 0 while none was taken."""
        return self.step_seconds / self.steps if self.steps else 0.0

    def solving_seconds(self, task: Task, taken: int = 0) -> float:
        """Return what the steps of a trial take that are left after so many."""
        left = max(0, steps_of(self.config, task) - taken)
        return self.seconds_per_step * weight_of(self.config, task) * left

    @property
    def is_known(self) -> bool:
        """Whether a trial has ended or a step was taken."""
        return self.steps > 0 or bool(self.besides)

    def expect(self, task: Task) -> float:
        """Return the seconds that a trial will take.

        Trials of one kind take what the others of that kind took. Of a kind that is new, the steps count, and
        its other work, at the pace at which the trials that have ended did theirs.
        """
        same = self.trials.get(task.kind)
        if same:
            return sum(same) / len(same)
        done = sum(work for _, work in self.besides)
        pace = sum(seconds for seconds, _ in self.besides) / done if done else 0.0
        return self.solving_seconds(task) + pace * self.work(task)


class UnderWay(NamedTuple):
    """A trial that runs: its purpose, the steps it has taken, and the seconds since its start."""

    task: Task
    steps: int
    seconds: float


def seconds_left(pace: Pace, waiting: Iterable[Task], running: Sequence[UnderWay], slots: int) -> float:
    """Return the seconds until the last trial ends, where each starts as soon as it may and a slot is free.

    Args:
        pace: what was measured so far.
        waiting: the trials that have not started, the most urgent first.
        running: the trials that run.
        slots: how many run at a time.
    """
    under_way = [(one.task, _rest(pace, one)) for one in running]
    return _last_end(under_way, Counter(waiting), pace, max(slots, len(running), 1))


def _rest(pace: Pace, one: UnderWay) -> float:
    by_time = pace.expect(one.task) - one.seconds
    return max(by_time, pace.solving_seconds(one.task, one.steps), 0.0)


def _last_end(running: Sequence[tuple[Task, float]], left: Counter[Task], pace: Pace, slots: int) -> float:
    """Return when the last trial ends, given what running ones still take; ``left`` is used up."""
    open_tasks = Counter(task for task, _ in running) + left
    ends = [(seconds, number, task) for number, (task, seconds) in enumerate(running)]
    heapq.heapify(ends)
    clock, number = 0.0, len(ends)
    while ends or left:
        for task in _startable(left, open_tasks, slots - len(ends)):
            number += 1
            heapq.heappush(ends, (clock + pace.expect(task), number, task))
        if not ends:
            break  # of what is left nothing can start: a boundary is not among the trials
        clock, _, ended = heapq.heappop(ends)
        open_tasks[ended] -= 1
    return clock


def _startable(left: Counter[Task], open_tasks: Mapping[Task, int], free: int) -> list[Task]:
    """Take the next trials out of ``left``, as many as slots are free."""
    chosen: list[Task] = []
    for task in list(left) if free > 0 else []:
        if len(chosen) >= free:
            break
        if any(open_tasks.get(need) for need in needs_of(task)):
            continue
        count = min(left[task], free - len(chosen))
        chosen += count * [task]
        left[task] -= count
        if not left[task]:
            del left[task]
    return chosen
