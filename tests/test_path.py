"""The path in closed form: its course, when checkpoints are taken, and which are kept."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy import QuadraticPair, ellipsoids, spheres

from pareto_unlearn.solver import (
    EpsilonSolver,
    LevelControl,
    PathClock,
    PathPlan,
    StepRow,
    StopRule,
    UpdateSettings,
    prune,
    ramp,
    solve,
)

BOTH_DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
BOTH_UPDATES = pytest.mark.parametrize("kind", ["paper", "averaged"])
PLANS = pytest.mark.parametrize(
    "plan",
    [
        PathPlan(steps=steps, end=0.015, checkpoints=checkpoints)
        for steps in (1, 2, 3, 7, 50, 200, 801)
        for checkpoints in (1, 3, 12, 40)
    ],
    ids=lambda plan: f"{plan.steps}-{plan.checkpoints}",
)
NEVER = StopRule(window=10_000)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# when checkpoints are taken


@PLANS
def test_checkpoints_are_taken_at_rising_steps_of_the_path_and_at_its_last(plan: PathPlan):
    steps = plan.capture_times()
    assert all(early < late for early, late in pairwise(steps))
    assert steps[0] >= 1
    assert steps[-1] == plan.steps


@PLANS
def test_no_more_checkpoints_are_taken_than_asked_for(plan: PathPlan):
    assert 1 <= len(plan.capture_times()) <= max(min(plan.checkpoints, plan.steps), 2)


@pytest.mark.parametrize("checkpoints", [3, 12, 40])
def test_a_long_path_takes_all_the_checkpoints_asked_for(checkpoints: int):
    assert len(PathPlan(steps=10_000, end=0.1, checkpoints=checkpoints).capture_times()) == checkpoints


def test_five_checkpoints_lie_where_worked_out_by_hand():
    # Two at the stay (steps 150 to 450) and three at the rise (450 to 1000).
    assert PathPlan(steps=1000, checkpoints=5).capture_times() == (300, 450, 633, 817, 1000)


# the course of epsilon and of the step size


def test_epsilon_goes_down_stays_low_and_rises():
    plan = PathPlan(steps=1000, end=0.02, top=0.8)
    course = [plan.epsilon_at(step) for step in range(plan.steps)]
    low, high = 150, 450
    assert course[0] == pytest.approx(1 - 0.98 / (0.85 * low), rel=1e-12)
    assert all(early > late for early, late in pairwise(course[:127]))
    assert course[128:low] == [0.02] * (low - 128)
    assert course[(low + high) // 2 - 1] == pytest.approx(0.02 * 2**0.5, rel=1e-12)
    assert course[high - 1] == pytest.approx(0.04, rel=1e-12)
    assert all(early < late for early, late in pairwise(course[low - 1 : 972]))
    # A parabola: a quarter of the way up after half of the rise, which ends after 95 % of its steps.
    assert course[high - 1 + 261] == pytest.approx(0.04 + 0.76 * (261 / 522.5) ** 2, rel=1e-12)
    assert course[973:] == [0.8] * 27


def test_the_step_size_is_full_until_the_stay_and_never_reaches_zero():
    plan = PathPlan(steps=1000)
    rates = [plan.rate_at(step) for step in range(plan.steps)]
    assert rates[:3] == pytest.approx([1 / 25, 2 / 25, 3 / 25])
    assert rates[25:150] == [1.0] * 125
    assert rates[450] == pytest.approx(0.35)
    assert rates[-1] == pytest.approx(0.15)
    assert all(early >= late for early, late in pairwise(rates[25:]))


@PLANS
def test_the_course_is_finite_however_short_the_path(plan: PathPlan):
    for step in range(plan.steps):
        assert plan.end <= plan.epsilon_at(step) <= 1.0
        assert 0.0 < plan.rate_at(step) <= 1.0


def test_a_solver_follows_the_course_of_a_plan():
    plan = PathPlan(steps=10, end=0.2)
    x = torch.nn.Parameter(torch.zeros(1))
    settings = UpdateSettings(steps=10, learning_rate=0.5, shape=plan.rate_at)
    solver = EpsilonSolver([x], LevelControl(), settings, epsilon=plan.epsilon_at)
    assert [solver.epsilon_at(step) for step in range(10)] == [plan.epsilon_at(step) for step in range(10)]
    assert settings.learning_rate_at(9) == pytest.approx(0.5 * 0.15)


# waiting


def run_clock(clock: PathClock, f2: Callable[[int, float], float], start: int = 0) -> list[float]:
    """Move a clock to its end, f2 a function of step and epsilon; return epsilon at the steps taken."""
    watched = clock.watch(lambda step: torch.tensor(f2(step, clock.epsilon_at(step))))
    found = []
    for step in range(start, clock.plan.steps):
        found.append(clock.epsilon_at(step))
        watched(step)
    return found


def due(clock: PathClock) -> tuple[int, ...]:
    return tuple(step for step in range(1, clock.plan.steps + 1) if clock.is_due(step))


@pytest.mark.parametrize("f2", [0.05, math.nan, math.inf])
@PLANS
def test_time_is_the_step_where_f2_is_small_or_not_finite(plan: PathPlan, f2: float):
    clock = PathClock(plan)
    assert run_clock(clock, lambda *_: f2) == [plan.epsilon_at(step) for step in range(plan.steps)]
    assert [clock.rate_at(step) for step in range(plan.steps)] == [plan.rate_at(s) for s in range(plan.steps)]
    assert due(clock) == plan.capture_times()


def test_the_descent_waits_while_f2_is_large_and_then_goes_on():
    clock = PathClock(PathPlan(steps=1000))
    found = run_clock(clock, lambda step, e: 0.9 if e < 0.5 and step < 400 else 0.05)
    held = found[100]
    assert 0.35 < held < 0.5
    assert found[100:400] == [held] * 300
    assert found[420] < held
    assert min(found) == pytest.approx(0.015)
    assert clock.rate_at(300) == 1.0


def test_what_is_left_after_a_wait_is_all_of_the_plan():
    clock = PathClock(PathPlan(steps=1000))
    found = run_clock(clock, lambda step, e: 0.9 if e < 0.5 and step < 600 else 0.05)
    plain = clock.plan
    assert found[-1] == plain.epsilon_at(999)
    assert clock.rate_at(999) == pytest.approx(plain.rate_at(999))
    taken = due(clock)
    assert (taken[-1], len(taken)) == (1000, plain.checkpoints)
    assert taken[0] > 600


def test_the_descent_waits_no_longer_than_most_of_the_steps():
    found = run_clock(PathClock(PathPlan(steps=1000)), lambda *_: 0.9)
    first = found[24]
    assert found[40:800] == [pytest.approx(first, abs=0.1)] * 760
    assert min(found[800:]) < 0.02
    assert found[-1] == 0.85


def test_nothing_waits_once_epsilon_is_at_its_lowest():
    plan = PathPlan(steps=1000)
    found = run_clock(PathClock(plan), lambda _, e: 0.9 if e <= plan.end else 0.05)
    assert found == [plan.epsilon_at(step) for step in range(1000)]


def test_what_counts_as_large_is_in_the_unit_of_f2():
    plan = PathPlan(steps=500, wait_above=0.3)
    found = [run_clock(PathClock(plan, variance), lambda *_: 0.9) for variance in (2.9, 3.1)]
    assert found[0] != found[1] == [plan.epsilon_at(step) for step in range(500)]


@pytest.mark.parametrize("at", [30, 150, 397, 450])
def test_a_clock_goes_on_from_its_state(at: int):
    def f2(step: int, e: float) -> float:
        return 0.9 if e < 0.5 and step < 400 else 0.05

    whole, again = PathClock(PathPlan(steps=500)), PathClock(PathPlan(steps=500))
    watched = whole.watch(lambda step: torch.tensor(f2(step, whole.epsilon_at(step))))
    for step in range(at):
        watched(step)
    for name, tensor in again.state.items():
        tensor.copy_(whole.state[name])
    assert run_clock(again, f2, at) == run_clock(whole, f2, at)
    assert due(again) == due(whole)


# averages of the weights


@pytest.mark.parametrize(
    ("steps", "horizon", "expected"),
    [(800, 0.03, 23 / 24), (100, 0.03, 2 / 3), (100, 0.5, 0.98), (34, 0.03, 1 - 1 / 1.02)],
)
def test_the_average_looks_back_over_the_horizon(steps: int, horizon: float, expected: float):
    plan = PathPlan(steps=steps, end=0.1, horizon=horizon)
    assert plan.weight_average == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("steps", [1, 10, 33])
def test_a_path_too_short_for_its_horizon_averages_nothing(steps: int):
    decay = PathPlan(steps=steps, end=0.1, horizon=0.03).weight_average
    assert decay == 0.0
    settings = UpdateSettings(weight_average=decay)
    solver = EpsilonSolver([torch.nn.Parameter(torch.ones(2))], LevelControl(), settings)
    assert "averaged_values" not in solver.state_dict()


# which checkpoints are kept


@dataclass(frozen=True)
class Point:
    """A member of a bank that can be told from an equal one."""

    level: float
    f2: float
    name: int = 0


def random_bank(seed: int, count: int = 30, levels: int = 8) -> list[Point]:
    """Return points on a coarse grid, so that ties and equal points occur."""
    rows = np.random.default_rng(seed).integers(levels, size=(count, 2)).tolist()
    return [Point(float(level), float(f2), name) for name, (level, f2) in enumerate(rows)]


def is_beaten(point: Point, by: Point) -> bool:
    no_worse = by.level <= point.level and by.f2 <= point.f2
    return no_worse and (by.level < point.level or by.f2 < point.f2)


def front_by_definition(points: list[Point]) -> set[tuple[float, float]]:
    return {(a.level, a.f2) for a in points if not any(is_beaten(a, b) for b in points)}


@pytest.mark.parametrize("seed", range(20))
def test_the_kept_members_are_the_front_by_definition_each_once_by_rising_level(seed: int):
    bank = random_bank(seed)
    kept = [(point.level, point.f2) for point in prune(bank)]
    assert kept == sorted(front_by_definition(bank))


@pytest.mark.parametrize("seed", range(5))
def test_of_equal_members_the_first_is_kept(seed: int):
    bank = random_bank(seed, levels=3)
    for kept in prune(bank):
        assert kept.name == min(
            point.name for point in bank if (point.level, point.f2) == (kept.level, kept.f2)
        )


@pytest.mark.parametrize("seed", range(5))
def test_the_kept_members_do_not_depend_on_the_order(seed: int):
    bank = random_bank(seed)
    costs = [[(point.level, point.f2) for point in prune(order)] for order in (bank, bank[::-1])]
    assert costs[0] == costs[1]


def test_pruning_twice_changes_nothing():
    once = prune(random_bank(3))
    assert prune(once) == once


@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_members_that_are_not_finite_are_never_kept(bad: float, position: int):
    bank = [Point(1.0, 3.0), Point(2.0, 2.0)]
    for broken in (Point(bad, 0.5), Point(0.5, bad), Point(bad, bad)):
        assert prune([*bank[:position], broken, *bank[position:]]) == bank


def test_nothing_is_kept_of_a_bank_without_a_finite_member():
    assert prune([Point(math.nan, 1.0), Point(1.0, math.inf)]) == []
    assert prune([]) == []


# the learning rate


def rates(settings: UpdateSettings, *steps: int) -> list[float]:
    return [settings.learning_rate_at(step) for step in steps]


def test_a_linear_decay_goes_along_a_line_to_its_end():
    settings = UpdateSettings(steps=11, learning_rate=0.2, learning_rate_end=0.1, decay="linear")
    assert rates(settings, 0, 1, 5, 10, 50) == pytest.approx([0.2, 0.182, 0.11, 0.02, 0.02], rel=1e-14)


def test_a_warm_up_rises_evenly_over_its_share_of_the_steps():
    settings = UpdateSettings(steps=10, learning_rate=0.2, learning_rate_end=1.0, warm_up=0.4)
    assert rates(settings, *range(6)) == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.2, 0.2], rel=1e-14)


def test_a_warm_up_multiplies_what_the_decay_leaves():
    settings = UpdateSettings(
        steps=5, learning_rate=0.8, learning_rate_end=0.0, decay="linear", warm_up=0.4
    )  # of 5 steps two are warm-up: 1/2 of 1, then 3/4, 2/4, 1/4, 0
    assert rates(settings, *range(5)) == pytest.approx([0.4, 0.6, 0.4, 0.2, 0.0], rel=1e-14, abs=1e-16)


def test_a_warm_up_of_less_than_a_step_changes_nothing():
    settings = {"steps": 10, "learning_rate": 0.2, "learning_rate_end": 0.02}
    short, none = UpdateSettings(**settings, warm_up=0.09), UpdateSettings(**settings)
    assert rates(short, *range(10)) == rates(none, *range(10))


def test_the_log_shows_the_learning_rate_of_the_warm_up():
    x = torch.nn.Parameter(torch.ones(2))
    settings = UpdateSettings(steps=4, learning_rate=0.4, learning_rate_end=1.0, warm_up=0.5)
    solver = EpsilonSolver([x], LevelControl(), settings)
    for _ in range(3):
        solver.step(lambda: x.square().sum(), lambda: (x - 1.0).square().sum())
    assert [row.learning_rate for row in solver.flush()] == pytest.approx([0.2, 0.4, 0.4], rel=1e-14)


# problems with mini-batches


def noisy(pair: QuadraticPair, x: Tensor, share: float = 0.1) -> tuple[Callable[[int], Tensor], ...]:
    """Return constraint and objective whose noise is a function of the step, as that of mini-batches is."""

    def shift(step: int) -> Tensor:
        return share * torch.randn(len(x), generator=seeded(step), dtype=torch.float64).to(x.dtype)

    return lambda step: pair.f1(x + shift(step)), lambda step: pair.f2(x - shift(step))


def make_solver(
    dtype: torch.dtype = torch.float64, size: int = 8, epsilon: float = 1.0, **settings: Any
) -> tuple[EpsilonSolver, Callable[[int], Tensor], Callable[[int], Tensor]]:
    pair = spheres(size).to(dtype)
    x = torch.nn.Parameter(pair.center2 + 1.0)
    chosen = UpdateSettings(**({"steps": 60, "learning_rate": 0.02} | settings))
    solver = EpsilonSolver([x], LevelControl(), chosen, epsilon=ramp(3.0, epsilon, 20))
    return solver, *noisy(pair, x)


def advance(solver: EpsilonSolver, constraint: Callable, objective: Callable, count: int) -> list[Tensor]:
    """Take steps and return the weights after each."""
    seen = []
    for _ in range(count):
        step = solver.step_count
        solver.step(lambda step=step: constraint(step), lambda step=step: objective(step))
        solver.flush()
        seen.append(solver.flat.values.clone())
    return seen


def copied(solver: EpsilonSolver) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in solver.state_dict().items()}


def is_unchanged(solver: EpsilonSolver, before: dict[str, Tensor]) -> bool:
    now = solver.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)


# the average of the weights


@pytest.mark.parametrize("decay", [0.5, 0.9])
@BOTH_UPDATES
def test_the_averaged_weights_are_a_running_average_from_the_start(kind: str, decay: float):
    solver, *losses = make_solver(kind=kind, weight_average=decay)
    average = solver.flat.values.numpy().copy()
    for _ in range(40):
        (values,) = advance(solver, *losses, 1)
        average = decay * average + (1.0 - decay) * values.numpy()
        # 40 roundings of numbers below ten
        np.testing.assert_allclose(solver.state_dict()["averaged_values"].numpy(), average, atol=1e-13)
    assert not np.allclose(average, solver.flat.values.numpy(), atol=1e-4)


@BOTH_UPDATES
@BOTH_DTYPES
def test_averaging_the_weights_does_not_change_them(dtype: torch.dtype, kind: str):
    ends = []
    for decay in (0.0, 0.9):
        solver, *losses = make_solver(dtype, kind=kind, weight_average=decay)
        ends.append(advance(solver, *losses, 30)[-1])
    assert torch.equal(*ends)


# starting from given weights


@BOTH_UPDATES
@BOTH_DTYPES
def test_a_start_at_given_weights_is_that_of_a_solver_of_these_parameters(dtype: torch.dtype, kind: str):
    settings = {"kind": kind, "weight_average": 0.9}
    given, *losses = make_solver(dtype, **settings)
    values = given.flat.values.clone()
    other, *others = make_solver(dtype, **settings)
    other.flat.values.add_(1.0)
    other.start_at(values)
    assert is_unchanged(other, copied(given))
    assert torch.equal(advance(given, *losses, 5)[-1], advance(other, *others, 5)[-1])


@pytest.mark.parametrize("wrong", [torch.zeros(9, dtype=torch.float64), torch.zeros(8)])
def test_weights_that_do_not_fit_start_nothing(wrong: Tensor):
    solver, *_ = make_solver()
    before = copied(solver)
    found = f"expected 8 of torch.float64, found {wrong.numel()} of {wrong.dtype}"
    with pytest.raises(ValueError, match=found):
        solver.start_at(wrong)
    assert is_unchanged(solver, before)


def test_a_state_without_the_age_of_the_moments_is_not_continued():
    solver, *_ = make_solver()
    state = {name: tensor for name, tensor in copied(solver).items() if name != "updates"}
    with pytest.raises(ValueError, match="the solver state does not fit"):
        solver.load_state_dict(state)


# pauses


@pytest.mark.parametrize(
    ("pauses", "expected"),
    [
        ((), [7, 14, 20]),
        ((5,), [5, 12, 19, 20]),
        ((1, 3, 10), [1, 3, 10, 17, 20]),
        ((7, 14), [7, 14, 20]),
        ((20,), [7, 14, 20]),
        ((0, 25), [7, 14, 20]),
    ],
)
def test_a_solve_hands_its_rows_over_at_every_pause_besides(pauses: tuple[int, ...], expected: list[int]):
    solver, *losses = make_solver()
    seen: list[int] = []
    batches: list[list[StepRow]] = []

    def on_rows(rows: list[StepRow]) -> None:
        seen.append(solver.step_count)
        batches.append(rows)

    solve(
        solver, *losses, steps=20, stop=NEVER, on_rows=on_rows, flush_every=7, pause_after=pauses.__contains__
    )
    assert seen == expected
    assert all(batches)
    assert [row.step for rows in batches for row in rows] == list(range(20))


def test_a_continued_solve_does_not_pause_where_it_already_was():
    solver, *losses = make_solver()
    advance(solver, *losses, 10)
    seen: list[int] = []
    pauses = (1, 10, 12)
    solve(
        solver,
        *losses,
        steps=20,
        stop=NEVER,
        on_rows=lambda _: seen.append(solver.step_count),
        flush_every=7,
        pause_after=pauses.__contains__,
    )
    assert seen == [12, 19, 20]


@BOTH_UPDATES
@BOTH_DTYPES
def test_pauses_change_neither_the_weights_nor_the_log(dtype: torch.dtype, kind: str):
    found = []
    for pauses in ((), (1, 2, 11, 59)):
        solver, *losses = make_solver(dtype, kind=kind, weight_average=0.9)
        rows: list[StepRow] = []
        solve(solver, *losses, steps=60, stop=NEVER, on_rows=rows.extend, pause_after=pauses.__contains__)
        found.append((copied(solver), rows))
    (without, rows), (paused, rows_paused) = found
    assert rows == rows_paused
    assert all(torch.equal(tensor, paused[name]) for name, tensor in without.items())


# following a front that is known


@dataclass(frozen=True)
class Checkpoint:
    """The exact costs of averaged weights; ``last`` are those of the weights before averaging."""

    step: int
    level: float
    f2: float
    last: tuple[float, float]


@dataclass(frozen=True)
class Front:
    """A pair in units in which the original is (1, 0), with mini-batch noise in its gradients."""

    pair: QuadraticPair

    @property
    def units(self) -> tuple[float, float]:
        return float(self.pair.f1(self.pair.center2)), float(self.pair.f2(self.pair.center1))

    def costs(self, x: Tensor) -> tuple[float, float]:
        """Return exact f1 and f2."""
        return float(self.pair.f1(x)) / self.units[0], float(self.pair.f2(x)) / self.units[1]

    def excess(self, f1: float, f2: float) -> float:
        """Return how far f2 lies above the front at this f1."""
        best, _ = self.pair.optimum(f1 * self.units[0])
        return f2 - self.costs(best)[1]

    def solver(
        self, settings: UpdateSettings, epsilon: Callable[[int], float]
    ) -> tuple[EpsilonSolver, list[Callable[[int], Tensor]]]:
        """Return a solver that starts from the original, and the losses."""
        x = torch.nn.Parameter(self.pair.center2.clone())
        losses = [
            lambda step, loss=loss, unit=unit: loss(step) / unit
            for loss, unit in zip(noisy(self.pair, x, 0.05), self.units, strict=True)
        ]
        rule = LevelControl(beta=5.0, scaled=True)
        return EpsilonSolver([x], rule, settings, epsilon=epsilon), losses


PLAN = PathPlan(steps=900, end=0.1, checkpoints=24)
RATE = 0.01


def follow(front: Front) -> list[Checkpoint]:
    """Follow the whole path and return the checkpoints taken on the way."""
    settings = UpdateSettings(
        steps=PLAN.steps, learning_rate=RATE, shape=PLAN.rate_at, weight_average=PLAN.weight_average
    )
    solver, losses = front.solver(settings, PLAN.epsilon_at)
    taken: list[Checkpoint] = []

    def take(_: list[StepRow]) -> None:
        if solver.step_count in PLAN.capture_times():
            state = solver.state_dict()
            averaged, last = (front.costs(state[name]) for name in ("averaged_values", "values"))
            taken.append(Checkpoint(solver.step_count, *averaged, last))

    marks = PLAN.capture_times()
    solve(solver, *losses, steps=PLAN.steps, stop=NEVER, on_rows=take, pause_after=marks.__contains__)
    return taken


@pytest.fixture(
    scope="module",
    params=[spheres(), ellipsoids(8, 3.0, seeded(2))],
    ids=["spheres", "ellipsoids"],
)
def path(request: pytest.FixtureRequest) -> tuple[Front, list[Checkpoint]]:
    """A front and the checkpoints of a path along it."""
    front = Front(request.param)
    return front, follow(front)


def test_a_path_takes_every_planned_checkpoint(path: tuple[Front, list[Checkpoint]]):
    _, taken = path
    assert [one.step for one in taken] == list(PLAN.capture_times())


def test_f1_rises_and_f2_falls_from_checkpoint_to_checkpoint(path: tuple[Front, list[Checkpoint]]):
    _, taken = path
    rising = taken[len(taken) * 4 // 10 :]
    noise = 0.01  # of mini-batches; a range of 1 for both
    assert all(early.level < late.level + noise for early, late in pairwise(rising))
    assert all(early.f2 > late.f2 - noise for early, late in pairwise(rising))
    assert rising[-1].level > rising[0].level + 0.3


def test_a_path_spans_the_front_from_its_end_to_near_its_top(path: tuple[Front, list[Checkpoint]]):
    _, taken = path
    levels = sorted(one.level for one in taken)
    assert levels[0] < PLAN.end + 0.02
    assert levels[-1] > 0.6 * PLAN.top
    assert max(high - low for low, high in pairwise(levels)) < 0.12


def test_the_bank_of_a_path_lies_near_the_front(path: tuple[Front, list[Checkpoint]]):
    front, taken = path
    bank = prune(taken)
    assert len(bank) >= 0.8 * len(taken)
    assert max(front.excess(one.level, one.f2) for one in bank) < 2e-3


def test_averaged_weights_lie_nearer_the_front_than_the_last_ones(path: tuple[Front, list[Checkpoint]]):
    front, taken = path
    averaged, last = (
        [front.excess(*costs) for costs in group]
        for group in zip(*[((one.level, one.f2), one.last) for one in taken], strict=True)
    )
    assert sum(averaged) < 0.6 * sum(last)
