"""What is solved next: every order of events leads through the same trials, and never twice through one."""

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
from trial_rows import SCALES
from unchecked import unchecked_shapes

from pareto_unlearn.config import AdaptiveEpsilon, GridEpsilon, SweepConfig, parse_config, trial_id
from pareto_unlearn.errors import RangeError
from pareto_unlearn.records import (
    HAS_MODEL,
    Phase,
    Role,
    Scales,
    TrialRecord,
    TrialSpec,
    TrialState,
    ValidRange,
)
from pareto_unlearn.schedule import (
    Costs,
    EpsilonError,
    NoTrial,
    SweepState,
    adaptive_fractions,
    boundary_specs,
    count_trials,
    derive_range,
    derive_ranges,
    grid_fractions,
)
from pareto_unlearn.sweep.backlog import Backlog

SWEEP = """
name: test
model: {family: digits_mae, checkpoint: builtin}
data: {dataset: digits, forget_classes: [0, 1]}
controls: []
"""
BASELINES = "baselines=[max_loss, {method: composite, weights: [0.1, 1.0]}]"
COURSES = "baselines=[max_loss, munba_front, {method: pamal, weights: [0.1, 0.3]}]"
Outcome = Callable[[TrialSpec], TrialRecord]


def make_config(*overrides: str) -> SweepConfig:
    return parse_config(SWEEP, "sweep.yaml", overrides)


def identify_in(config: SweepConfig) -> Callable[[TrialSpec], str]:
    """Return what names the trials of a sweep; a name is kept, since plans ask for it again and again."""

    @cache
    def identify(spec: TrialSpec) -> str:
        return trial_id(
            config,
            weights_sha256="0" * 64,
            phase=spec.phase,
            method=spec.method,
            role=spec.role,
            epsilon=spec.epsilon,
            weight=spec.weight,
            seed=spec.seed,
        )

    return identify


def make_record(spec: TrialSpec, f1=None, f2=None, state=TrialState.DONE, reason="") -> TrialRecord:
    shared = {name: getattr(spec, name) for name in TrialSpec.__dataclass_fields__}
    return TrialRecord(**shared, start="original", state=state, reason=reason, f1=f1, f2=f2)


def front_f2(f1: float) -> float:
    """A convex front, steep near the floor, that meets f2 = 0 at the original model."""
    return 0.02 * (1.0 / (f1 - SCALES.f1_floor) - 1.0)


def solve(spec: TrialSpec) -> TrialRecord:
    """End a trial where a perfect solver would; the boundaries of two seeds differ."""
    known = {
        (Phase.BOUNDARY, Role.HIGHEST): 0.52 + 0.01 * spec.seed,
        (Phase.BOUNDARY, Role.LOWEST): 1.3,
        (Phase.ORIGINAL, None): SCALES.f1_original,
        (Phase.BASELINE, None): 1.0,
        (Phase.CONTROL, None): 1.4,
        (Phase.HARDENED, None): 0.53,
    }
    phase = spec.phase_solved
    f1 = spec.epsilon if phase is Phase.EPSILON else known[phase, spec.role]
    return make_record(spec, f1=f1, f2=front_f2(f1) * (0.9 if spec.phase is Phase.CHECK else 1.0))


@dataclass
class Sweep:
    """A sweep without a solver: asks a backlog, keeps trials live, ends them in an order of ``order``."""

    config: SweepConfig
    workers: int = 2
    order: random.Random = field(default_factory=lambda: random.Random(0))
    outcome: Outcome = solve
    scales: Scales | None = SCALES
    check_convergence: bool = False
    committed: dict[str, TrialRecord] = field(default_factory=dict)
    live: dict[str, TrialSpec] = field(default_factory=dict)
    planned: list[TrialSpec] = field(default_factory=list)
    decisions: int = 0

    def __post_init__(self) -> None:
        self.identify = identify_in(self.config)
        self.backlog = Backlog(self.config, self.identify)

    def failed(self) -> frozenset[tuple[str, int]]:
        records = self.committed.values()
        return frozenset((one.trial_id, one.attempt) for one in records if one.state is TrialState.FAILED)

    def next(self, retry: frozenset[tuple[str, int]] = frozenset()) -> TrialSpec | NoTrial:
        progress = SweepState(
            self.committed,
            tuple(self.live),
            self.scales,
            retry,
            check_convergence=self.check_convergence,
        )
        return self.decide(progress)

    def decide(self, progress: SweepState) -> TrialSpec | NoTrial:
        """Decide; every third time, a new backlog, which knows no past, must decide the same."""
        self.decisions += 1
        decision = self.backlog.next(progress)
        if self.decisions % 3 == 0:
            assert Backlog(self.config, self.identify).next(progress) == decision
        return decision

    def start(self) -> TrialSpec:
        spec = self.next()
        assert isinstance(spec, TrialSpec), spec
        self.live[spec.trial_id] = spec
        self.planned.append(spec)
        return spec

    def end(self, spec: TrialSpec) -> None:
        is_new = spec.trial_id not in self.committed
        self.committed[spec.trial_id] = self.outcome(self.live.pop(spec.trial_id))
        self.backlog.ended(self.committed[spec.trial_id], is_new=is_new)

    def run(self, ends: int | None = None) -> "Sweep":
        """Go on until nothing is left, or until that many trials have ended."""
        while ends is None or len(self.committed) < ends:
            while len(self.live) < self.workers and isinstance(self.next(), TrialSpec):
                self.start()
            if not self.live:
                break
            self.end(self.order.choice(list(self.live.values())))
        return self

    def fractions(self) -> list[float]:
        return [spec.epsilon_fraction for spec in self.planned if spec.epsilon_fraction is not None]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """For replays of schedules that other tests plan with their shapes checked."""
    with unchecked_shapes():
        yield


def start_all(sweep: Sweep, count: int) -> list[TrialSpec]:
    return [sweep.start() for _ in range(count)]


# The order of phases


def test_both_boundaries_come_first_and_side_by_side():
    roles = [spec.role for spec in start_all(Sweep(make_config(BASELINES)), 2)]
    assert roles == [Role.HIGHEST, Role.LOWEST]


def test_boundaries_of_all_seeds_come_before_anything_else():
    specs = start_all(Sweep(make_config(BASELINES, "seeds=[0, 7]")), 4)
    expected = [(0, Role.HIGHEST), (0, Role.LOWEST), (7, Role.HIGHEST), (7, Role.LOWEST)]
    assert [(spec.seed, spec.role) for spec in specs] == expected


def test_the_original_and_the_baselines_fill_slots_while_phase_one_runs():
    specs = start_all(Sweep(make_config(BASELINES)), 6)[2:]
    expected = [("original", None), ("max_loss", 1.0), ("composite", 0.1), ("composite", 1.0)]
    assert [(spec.method, spec.weight) for spec in specs] == expected


def test_one_boundary_alone_gives_no_epsilons():
    sweep = Sweep(make_config(BASELINES))
    highest, _ = start_all(sweep, 2)
    sweep.end(highest)
    assert sweep.start().phase is Phase.ORIGINAL


def test_epsilons_come_as_soon_as_both_boundaries_ended_before_the_remaining_baselines():
    sweep = Sweep(make_config(BASELINES))
    highest, lowest, _ = start_all(sweep, 3)
    sweep.end(lowest)
    sweep.end(highest)
    phases = [spec.phase for spec in start_all(sweep, 6)]
    assert phases == [Phase.EPSILON] * 3 + [Phase.BASELINE] * 3


def test_epsilons_of_a_seed_do_not_wait_for_the_boundaries_of_another():
    sweep = Sweep(make_config("seeds=[0, 7]"))
    specs = start_all(sweep, 4)
    sweep.end(specs[2])
    sweep.end(specs[3])
    assert {(spec.phase, spec.seed) for spec in start_all(sweep, 3)} == {(Phase.EPSILON, 7)}


def test_without_the_scales_of_the_run_there_are_no_epsilons():
    sweep = Sweep(make_config(), scales=None).run()
    assert {spec.phase for spec in sweep.planned} == {Phase.BOUNDARY, Phase.ORIGINAL}


# Baselines with a front of their own


def mixed_of_baselines(sweep: Sweep) -> list[TrialSpec]:
    return [spec for spec in sweep.planned if spec.phase is Phase.BASELINE and spec.epsilon is not None]


def test_a_course_gets_the_epsilons_of_its_seed_once_for_every_weight():
    sweep = Sweep(make_config("epsilon={points: 3}", "seeds=[0, 7]", COURSES)).run()
    courses = [one for one in sweep.committed.values() if one.method in ("munba_front", "pamal")]
    courses = [one for one in courses if one.epsilon is None]
    assert len(courses) == 6
    for course in courses:
        own = [spec for spec in mixed_of_baselines(sweep) if spec.parents == course.trial_id]
        assert {(one.method, one.weight, one.seed) for one in own} == {
            (course.method, course.weight, course.seed)
        }
        ours = [one for one in sweep.planned if one.phase is Phase.EPSILON and one.seed == course.seed]
        asked = [(one.epsilon, one.epsilon_fraction, one.range_width) for one in ours]
        assert sorted(asked) == sorted((one.epsilon, one.epsilon_fraction, one.range_width) for one in own)
    assert {spec.method for spec in mixed_of_baselines(sweep)} == {"munba_front", "pamal"}


def test_the_epsilons_of_a_course_wait_for_its_end():
    sweep = Sweep(make_config("epsilon={points: 1}", "baselines=[munba_front]"))
    for spec in start_all(sweep, 2):
        sweep.end(spec)
    epsilon, original, course = start_all(sweep, 3)
    sweep.end(epsilon)
    sweep.end(original)
    assert course.method == "munba_front"
    assert sweep.next() is NoTrial.WAIT
    sweep.end(course)
    assert sweep.start().parents == course.trial_id


def test_the_epsilons_of_a_course_wait_for_the_range():
    sweep = Sweep(make_config("baselines=[munba_front]"))
    *boundaries, original, course = start_all(sweep, 4)
    sweep.end(original)
    sweep.end(course)
    assert sweep.next() is NoTrial.WAIT
    for spec in boundaries:
        sweep.end(spec)
    assert sweep.start().phase is Phase.EPSILON


def test_a_course_without_a_model_gets_no_epsilons():
    def outcome(spec: TrialSpec) -> TrialRecord:
        return make_record(spec, state=TrialState.DIVERGED) if spec.method == "munba_front" else solve(spec)

    sweep = Sweep(make_config("baselines=[munba_front]"), outcome=outcome).run()
    assert mixed_of_baselines(sweep) == []
    assert sweep.next() is NoTrial.FINISHED


# The trial that resists relearning


def hardened_of(sweep: Sweep) -> list[TrialSpec]:
    return [spec for spec in sweep.planned if spec.phase is Phase.HARDENED]


def test_every_seed_gets_one_trial_that_resists_from_its_highest_boundary():
    config = make_config("solver.relearning={}", "seeds=[1, 2]")
    planned = hardened_of(Sweep(config).run())
    assert [(spec.seed, spec.label, spec.epsilon) for spec in planned] == [
        (1, "hardened", None),
        (2, "hardened", None),
    ]
    for spec in planned:
        assert spec.parents == boundary_specs(spec.seed, identify_in(config))[0].trial_id


def test_it_changes_no_other_trial():
    plain, more = (Sweep(make_config(*keys)).run() for keys in ((), ("solver.relearning={}",)))
    others = {spec.trial_id for spec in more.planned} - {spec.trial_id for spec in hardened_of(more)}
    assert others == {spec.trial_id for spec in plain.planned}


def test_it_waits_for_the_model_that_it_starts_from():
    sweep = Sweep(make_config("solver.relearning={}", "epsilon={points: 1}"))
    highest, lowest, original = start_all(sweep, 3)
    sweep.end(lowest)
    sweep.end(original)
    assert sweep.next() is NoTrial.WAIT
    sweep.end(highest)
    assert [spec.phase for spec in start_all(sweep, 2)] == [Phase.EPSILON, Phase.HARDENED]


def test_without_a_model_to_start_from_there_is_none():
    def outcome(spec: TrialSpec) -> TrialRecord:
        return make_record(spec, state=TrialState.DIVERGED) if spec.role is Role.HIGHEST else solve(spec)

    assert hardened_of(Sweep(make_config("solver.relearning={}"), outcome=outcome).run()) == []


# Waiting and finishing


def test_with_nothing_left_to_start_a_sweep_waits_for_live_trials():
    sweep = Sweep(make_config())
    highest, lowest, original = start_all(sweep, 3)
    sweep.end(original)
    assert sweep.next() is NoTrial.WAIT
    sweep.end(highest)
    assert sweep.next() is NoTrial.WAIT
    sweep.end(lowest)
    assert isinstance(sweep.next(), TrialSpec)


def test_a_sweep_is_finished_when_everything_is_committed():
    sweep = Sweep(make_config(BASELINES)).run()
    assert sweep.next() is NoTrial.FINISHED


SCHEDULES = (
    ("epsilon={schedule: grid, points: 4}",),
    ("epsilon={schedule: list, values: [0.1, 0.7]}", BASELINES),
    ("epsilon={schedule: list, values: [0.6, 1.1], absolute: true}", "seeds=[1, 2]"),
    ("epsilon={schedule: adaptive, points: 8, per_round: 3}", BASELINES),
    ("epsilon={schedule: adaptive, points: 5}", "seeds=[3, 4, 5]", BASELINES),
    ("epsilon={schedule: adaptive, points: 5, per_round: 2}", "seeds=[1, 2]", COURSES),
    ("epsilon={schedule: grid, points: 2}", "seeds=[1, 2]", "solver.relearning={}"),
)


@pytest.mark.parametrize("overrides", SCHEDULES)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_no_trial_is_planned_twice(overrides, workers):
    sweep = Sweep(make_config(*overrides), workers, random.Random(workers)).run()
    assert set(Counter(spec.trial_id for spec in sweep.planned).values()) == {1}


@pytest.mark.parametrize("overrides", SCHEDULES)
def test_the_number_of_trials_is_known_before_the_first(overrides):
    config = make_config(*overrides)
    assert len(Sweep(config).run().planned) == count_trials(config)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("overrides", SCHEDULES)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 5, 7])
def test_an_interrupted_sweep_goes_through_the_same_trials(overrides, cut):
    config = make_config(*overrides)
    whole = Sweep(config).run()
    broken = Sweep(config, workers=3, order=random.Random(cut)).run(ends=cut)
    resumed = Sweep(config, workers=1, order=random.Random(9), committed=dict(broken.committed)).run()
    assert set(resumed.committed) == {spec.trial_id for spec in whole.planned}
    assert not {spec.trial_id for spec in resumed.planned} & set(broken.committed)


def test_planning_changes_nothing():
    sweep = Sweep(make_config(BASELINES)).run(ends=4)
    committed, live = dict(sweep.committed), dict(sweep.live)
    assert sweep.next() == sweep.next()
    assert (sweep.committed, sweep.live) == (committed, live)


# Seeds


def test_every_trial_is_solved_once_per_seed():
    sweep = Sweep(make_config("seeds=[0, 7]", BASELINES)).run()
    kinds = Counter(
        (spec.phase, spec.method, spec.role, spec.epsilon_fraction, spec.weight) for spec in sweep.planned
    )
    assert set(kinds.values()) == {2}


def test_every_seed_has_epsilons_in_its_own_range():
    sweep = Sweep(make_config("seeds=[0, 7]")).run()
    lower = {0: 0.52, 7: 0.59}
    for spec in sweep.planned:
        if spec.phase is Phase.EPSILON:
            width = 1.3 - lower[spec.seed]
            assert spec.epsilon == pytest.approx(lower[spec.seed] + spec.epsilon_fraction * width, rel=1e-12)
            assert spec.range_width == pytest.approx(width, rel=1e-12)


# Grids and lists


def test_three_linear_points_lie_at_a_quarter_a_half_and_three_quarters():
    assert grid_fractions(GridEpsilon(points=3)) == (0.25, 0.5, 0.75)


@pytest.mark.parametrize("spacing", ["linear", "geometric"])
@pytest.mark.parametrize("points", [1, 2, 7, 999])
def test_grid_points_rise_strictly_inside_the_range(spacing, points):
    fractions = (0.0, *grid_fractions(GridEpsilon(points=points, spacing=spacing)), 1.0)
    assert len(fractions) == points + 2
    assert all(low < high for low, high in itertools.pairwise(fractions))


@pytest.mark.parametrize("points", [1, 2, 7, 50])
def test_gaps_of_a_geometric_grid_grow_by_one_ratio_to_24_times_the_first(points):
    ends = (0.0, *grid_fractions(GridEpsilon(points=points, spacing="geometric")), 1.0)
    gaps = [high - low for low, high in itertools.pairwise(ends)]
    assert gaps[-1] / gaps[0] == pytest.approx(24.0, rel=1e-6)
    assert {round(large / small, 6) for small, large in itertools.pairwise(gaps)} == {
        round(24 ** (1 / points), 6)
    }


def test_a_list_of_fractions_is_solved_at_those_fractions():
    sweep = Sweep(make_config("epsilon={schedule: list, values: [0.9, 0.1]}")).run()
    assert sweep.fractions() == [0.9, 0.1]


def test_absolute_epsilons_are_solved_as_given():
    sweep = Sweep(make_config("epsilon={schedule: list, values: [0.6, 1.1], absolute: true}")).run()
    epsilons = [
        (spec.epsilon, spec.epsilon_fraction) for spec in sweep.planned if spec.phase is Phase.EPSILON
    ]
    expected = [(0.6, pytest.approx(0.08 / 0.78)), (1.1, pytest.approx(0.58 / 0.78))]
    assert epsilons == expected


@pytest.mark.parametrize("outside", [0.3, 0.52, 1.3, 1.45])
def test_absolute_epsilons_outside_the_range_are_refused_with_the_range(outside):
    sweep = Sweep(make_config(f"epsilon={{schedule: list, values: [0.6, {outside}], absolute: true}}"))
    for spec in start_all(sweep, 2):
        sweep.end(spec)
    with pytest.raises(
        EpsilonError, match=rf"{outside:g} lies outside the valid range \(0\.52, 1\.3\)"
    ) as caught:
        sweep.next()
    assert caught.value.exit_code == 3


# The adaptive schedule


ADAPTIVE = "epsilon={schedule: adaptive, points: 11, per_round: 2}"


def ended_fractions(config: SweepConfig, workers: int, seed: int, outcome: Outcome = solve) -> set[float]:
    return set(Sweep(config, workers, random.Random(seed), outcome).run().fractions())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_adaptive_epsilons_do_not_depend_on_the_order_in_which_trials_end(workers):
    config = make_config(ADAPTIVE, BASELINES)
    expected = ended_fractions(config, 1, 0)
    assert len(expected) == 11
    assert all(ended_fractions(config, workers, seed) == expected for seed in range(5))


def test_an_adaptive_schedule_opens_with_the_quarters():
    assert Sweep(make_config(ADAPTIVE), workers=8).run().fractions()[:3] == [0.25, 0.5, 0.75]


def test_an_adaptive_round_starts_when_the_one_before_has_ended():
    sweep = Sweep(make_config(ADAPTIVE))
    for spec in start_all(sweep, 2):
        sweep.end(spec)
    first = start_all(sweep, 3)
    assert sweep.start().phase is Phase.ORIGINAL
    for spec in first[:2]:
        sweep.end(spec)
        assert sweep.next() is NoTrial.WAIT
    sweep.end(first[2])
    assert [spec.phase for spec in start_all(sweep, 2)] == [Phase.EPSILON] * 2
    assert sweep.next() is NoTrial.WAIT


def largest_gap(fractions: list[float]) -> float:
    """The longest step along the front, in units of its box."""
    low, high = 0.52, 1.3
    points = [low + fraction * (high - low) for fraction in (0.0, *sorted(fractions), 1.0)]
    box = front_f2(low) - front_f2(high)
    steps = itertools.pairwise(points)
    return max(math.hypot((b - a) / (high - low), (front_f2(b) - front_f2(a)) / box) for a, b in steps)


def test_adaptive_epsilons_gather_where_the_front_is_steep():
    fractions = Sweep(make_config(ADAPTIVE)).run().fractions()
    assert sum(fraction < 0.25 for fraction in fractions) > 2 * sum(fraction > 0.75 for fraction in fractions)


def test_adaptive_epsilons_cover_a_steep_front_better_than_as_many_on_a_linear_grid():
    fractions = Sweep(make_config(ADAPTIVE)).run().fractions()
    assert largest_gap(fractions) < 0.5 * largest_gap(list(grid_fractions(GridEpsilon(points=11))))


def test_on_a_straight_front_adaptive_epsilons_spread_evenly():
    schedule = AdaptiveEpsilon(points=7, per_round=4)
    fractions = adaptive_fractions(
        schedule, lambda fraction: (fraction, 1.0 - fraction), ((0.0, 1.0), (1.0, 0.0))
    )
    assert sorted(fractions) == [k / 8 for k in range(1, 8)]


@pytest.mark.parametrize("bad", [0.25, 0.5, 0.75])
def test_on_a_straight_front_a_point_without_a_model_moves_no_other(bad):
    def solved(fraction: float) -> Costs:
        return (math.nan, math.nan) if fraction == bad else (fraction, 1.0 - fraction)

    schedule, ends = AdaptiveEpsilon(points=5, per_round=2), ((0.0, 1.0), (1.0, 0.0))
    whole = adaptive_fractions(schedule, lambda fraction: (fraction, 1.0 - fraction), ends)
    assert adaptive_fractions(schedule, solved, ends) == whole


def failing_at(bad: float, state: TrialState, value: float | None) -> Outcome:
    def outcome(spec: TrialSpec) -> TrialRecord:
        if spec.epsilon_fraction == bad:
            return make_record(spec, f1=value, f2=value, state=state, reason="injected")
        return solve(spec)

    return outcome


BROKEN_ENDINGS = [(TrialState.FAILED, None), (TrialState.DIVERGED, math.nan), (TrialState.DIVERGED, math.inf)]


@pytest.mark.parametrize(("state", "value"), BROKEN_ENDINGS)
def test_an_adaptive_schedule_goes_on_when_a_point_has_no_model(state, value):
    sweep = Sweep(make_config(ADAPTIVE), outcome=failing_at(0.25, state, value)).run()
    assert len(set(sweep.fractions())) == 11


@pytest.mark.parametrize(("state", "value"), BROKEN_ENDINGS)
def test_the_surroundings_of_a_point_without_a_model_are_searched_on(state, value):
    # 0.25 bounds the steepest part: giving up its neighbourhood would leave that part with no points.
    sweep = Sweep(make_config(ADAPTIVE), outcome=failing_at(0.25, state, value)).run()
    assert 0.125 in sweep.fractions()


def test_an_adaptive_schedule_ends_even_when_every_point_fails():
    def outcome(spec: TrialSpec) -> TrialRecord:
        return make_record(spec, state=TrialState.FAILED) if spec.phase is Phase.EPSILON else solve(spec)

    assert len(set(Sweep(make_config(ADAPTIVE), outcome=outcome).run().fractions())) == 11


def test_with_few_points_an_adaptive_round_is_cut_to_fit():
    schedule = AdaptiveEpsilon(points=4, per_round=3)
    assert len(adaptive_fractions(schedule, lambda fraction: (fraction, 0.0), ((0.0, 0.0), (1.0, 0.0)))) == 4


def test_adaptive_fractions_of_an_unsolved_round_are_the_quarters():
    unsolved: Callable[[float], Costs | None] = lambda fraction: None  # noqa: E731
    assert adaptive_fractions(AdaptiveEpsilon(), unsolved, ((0.0, 1.0), (1.0, 0.0))) == (0.25, 0.5, 0.75)


# The valid range


HIGHEST, LOWEST = boundary_specs(0, lambda spec: str(spec.role))


def boundary(spec: TrialSpec, f1: float | None, f2: float | None, **changes) -> TrialRecord:
    return make_record(spec, f1, f2, **changes)


def test_the_range_lies_between_the_two_boundaries():
    found = derive_range(0, boundary(HIGHEST, 0.6, 0.3), boundary(LOWEST, 1.2, 0.01), SCALES)
    assert found == ValidRange(seed=0, lower=0.6, upper=1.2, upper_source="lowest")


@pytest.mark.parametrize(
    ("lowest", "reason"),
    [
        (None, "was not solved"),
        (boundary(LOWEST, 0.7, 0.4), "dominated by the highest"),
        (boundary(LOWEST, 0.6, 0.3), "dominated by the highest"),
        (boundary(LOWEST, 1.2, 0.01, state=TrialState.INFEASIBLE, reason="f2 too large"), "f2 too large"),
        (
            boundary(LOWEST, None, None, state=TrialState.FAILED, reason="out of memory"),
            "FAILED: out of memory",
        ),
        (
            boundary(LOWEST, math.nan, math.nan, state=TrialState.DIVERGED, reason="step 9"),
            "DIVERGED: step 9",
        ),
    ],
)
def test_without_a_usable_lowest_boundary_the_range_ends_at_the_original_and_says_why(lowest, reason):
    found = derive_range(0, boundary(HIGHEST, 0.6, 0.3), lowest, SCALES)
    assert (found.lower, found.upper, found.upper_source) == (0.6, SCALES.f1_original, "original")
    assert reason in found.reason


@pytest.mark.parametrize("state", sorted(HAS_MODEL))
def test_a_highest_boundary_with_a_model_gives_a_range(state):
    highest = boundary(HIGHEST, 0.6, 0.3, state=state)
    assert derive_range(0, highest, boundary(LOWEST, 1.2, 0.01), SCALES).lower == 0.6


@pytest.mark.parametrize(
    ("highest", "reason"),
    [
        (None, "it was not solved"),
        (boundary(HIGHEST, None, None, state=TrialState.FAILED, reason="killed"), "FAILED: killed"),
        (
            boundary(HIGHEST, math.nan, math.nan, state=TrialState.DIVERGED, reason="step 3"),
            "DIVERGED: step 3",
        ),
    ],
)
def test_without_a_highest_boundary_there_is_no_range(highest, reason):
    with pytest.raises(RangeError, match="the highest boundary has no model") as caught:
        derive_range(0, highest, boundary(LOWEST, 1.2, 0.01), SCALES)
    assert reason in str(caught.value)
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("upper", [0.59, 0.6, 0.609])
def test_a_range_narrower_than_a_hundredth_of_that_of_f1_is_refused(upper):
    with pytest.raises(RangeError, match=r"f1 = 0\.6 \(highest boundary\) is not clearly below") as caught:
        derive_range(0, boundary(HIGHEST, 0.6, 0.3), boundary(LOWEST, upper, 0.01), SCALES)
    assert caught.value.exit_code == 7


def test_a_range_that_is_too_narrow_says_when_it_is_that_of_the_worst_class():
    highest = replace(boundary(HIGHEST, 0.6, 0.3), level=0.8)
    with pytest.raises(RangeError, match=r"lower end f1 of the worst class = 0\.8 \(highest boundary\)"):
        derive_range(0, highest, boundary(LOWEST, 0.8, 0.01), SCALES)


def broken_seed(spec: TrialSpec) -> TrialRecord:
    broken = spec.role is Role.HIGHEST and spec.seed == 7
    return make_record(spec, state=TrialState.FAILED) if broken else solve(spec)


def test_a_seed_without_a_range_does_not_stop_the_others():
    sweep = Sweep(make_config("seeds=[7, 0]", BASELINES), outcome=broken_seed).run()
    assert {spec.seed for spec in sweep.planned if spec.phase is Phase.EPSILON} == {0}
    assert sum(spec.phase is Phase.BASELINE for spec in sweep.planned) == 6


def test_ranges_are_derived_for_the_seeds_that_have_one():
    sweep = Sweep(make_config("seeds=[7, 0, 3]"), outcome=broken_seed).run()
    progress = SweepState(sweep.committed, (), SCALES)
    assert [one.seed for one in derive_ranges(sweep.config, progress, identify_in(sweep.config))] == [0, 3]


# Failed trials


def failing_baselines(spec: TrialSpec) -> TrialRecord:
    states = {"max_loss": TrialState.FAILED, "composite": TrialState.DIVERGED}
    return make_record(spec, state=states[spec.method]) if spec.method in states else solve(spec)


def test_failed_trials_are_left_alone_unless_asked_for():
    sweep = Sweep(make_config(BASELINES), outcome=failing_baselines).run()
    assert sweep.next() is NoTrial.FINISHED


def test_on_request_a_failed_trial_and_no_other_starts_its_next_attempt():
    sweep = Sweep(make_config(BASELINES), outcome=failing_baselines).run()
    failed = sweep.failed()
    again = sweep.next(failed)
    (first,) = (spec for spec in sweep.planned if spec.method == "max_loss")
    assert again == replace(first, attempt=2)
    sweep.committed[again.trial_id] = make_record(again, f1=1.0, f2=0.1)
    assert sweep.next(failed) is NoTrial.FINISHED


def test_a_trial_that_fails_again_is_not_retried_for_ever():
    sweep = Sweep(make_config(BASELINES), outcome=failing_baselines).run()
    failed = sweep.failed()
    again = sweep.next(failed)
    sweep.committed[again.trial_id] = make_record(again, state=TrialState.FAILED)
    assert sweep.next(failed) is NoTrial.FINISHED


def test_a_failed_trial_that_runs_again_is_waited_for():
    sweep = Sweep(make_config(BASELINES), outcome=failing_baselines).run()
    failed = sweep.failed()
    again = sweep.next(failed)
    sweep.live[again.trial_id] = again
    assert sweep.next(failed) is NoTrial.WAIT


# Checks


def checks_of(sweep: Sweep) -> list[TrialSpec]:
    return [spec for spec in sweep.planned if spec.phase is Phase.CHECK]


@pytest.mark.parametrize("overrides", SCHEDULES)
@pytest.mark.parametrize("start", ["path", "original"])
def test_checks_add_trials_and_change_no_other(overrides, start):
    config = make_config(*overrides, f"solver.start={start}")
    plain, checked = Sweep(config).run(), Sweep(config, check_convergence=True).run()
    assert not checks_of(plain)
    assert {spec for spec in checked.planned if spec.phase is not Phase.CHECK} == set(plain.planned)
    assert len(checked.planned) == count_trials(config, check_convergence=True)
    points = sum(spec.phase is Phase.EPSILON for spec in plain.planned) // len(config.trial_seeds)
    assert len(checks_of(checked)) == len(config.trial_seeds) * (1 + min(points, 3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("overrides", SCHEDULES)
@pytest.mark.parametrize("cut", [4, 9, 11, 13])
def test_an_interrupted_sweep_checks_the_same_trials(overrides, cut):
    config = make_config(*overrides)
    whole = Sweep(config, check_convergence=True).run()
    order = random.Random(cut)
    broken = Sweep(config, workers=3, order=order, check_convergence=True).run(ends=cut)
    committed = dict(broken.committed)
    resumed = Sweep(config, order=random.Random(9), check_convergence=True, committed=committed).run()
    assert set(resumed.committed) == set(whole.committed)


def test_checks_of_a_finished_sweep_are_all_that_is_left():
    sweep = Sweep(make_config(BASELINES)).run()
    again = Sweep(sweep.config, check_convergence=True, committed=dict(sweep.committed)).run()
    assert checks_of(again) == again.planned
    assert len(again.planned) == 4


def test_a_check_names_what_it_checks_and_asks_for_the_same():
    sweep = Sweep(make_config("epsilon={schedule: grid, points: 9}"), check_convergence=True).run()
    path, *branches = checks_of(sweep)
    checked = [sweep.committed[spec.checks].spec for spec in (path, *branches)]
    assert [one.label for one in checked] == ["highest", "epsilon 30.0%", "epsilon 50.0%", "epsilon 70.0%"]
    assert [spec.label for spec in (path, *branches)] == [
        "check highest",
        "check 30.0%",
        "check 50.0%",
        "check 70.0%",
    ]
    assert {spec.parents for spec in branches} == {path.trial_id}
    for spec, one in zip((path, *branches), checked, strict=True):
        assert spec == replace(
            one, trial_id=spec.trial_id, phase=Phase.CHECK, checks=one.trial_id, parents=spec.parents
        )


def test_checks_that_start_from_the_original_have_no_parents():
    sweep = Sweep(make_config("solver.start=original"), check_convergence=True).run()
    assert {spec.parents for spec in checks_of(sweep)} == {None}


def test_checks_wait_for_every_epsilon_and_branches_for_their_path():
    sweep = Sweep(make_config(), workers=9, check_convergence=True)
    highest, lowest, original = start_all(sweep, 3)
    for spec in (highest, lowest, original):
        sweep.end(spec)
    epsilons = start_all(sweep, 3)
    sweep.end(epsilons[0])
    sweep.end(epsilons[1])
    assert sweep.next() is NoTrial.WAIT
    sweep.end(epsilons[2])
    path = sweep.start()
    assert (path.phase, path.role) == (Phase.CHECK, Role.HIGHEST)
    assert sweep.next() is NoTrial.WAIT
    sweep.end(path)
    assert {spec.parents for spec in start_all(sweep, 3)} == {path.trial_id}


def test_checks_from_the_original_do_not_wait_for_one_another():
    sweep = Sweep(make_config("solver.start=original")).run()
    again = Sweep(sweep.config, check_convergence=True, committed=sweep.committed)
    assert len(start_all(again, 4)) == 4


def test_no_epsilon_is_checked_where_the_doubled_path_has_no_model():
    def outcome(spec: TrialSpec) -> TrialRecord:
        failed = spec.phase is Phase.CHECK and spec.role is Role.HIGHEST
        return make_record(spec, state=TrialState.FAILED) if failed else solve(spec)

    sweep = Sweep(make_config(), outcome=outcome, check_convergence=True).run()
    assert [spec.role for spec in checks_of(sweep)] == [Role.HIGHEST]
    assert sweep.next() is NoTrial.FINISHED


def test_epsilons_without_a_model_are_not_checked():
    def outcome(spec: TrialSpec) -> TrialRecord:
        failed = spec.phase is Phase.EPSILON and spec.epsilon_fraction > 0.3
        return (
            make_record(spec, state=TrialState.DIVERGED, f1=math.nan, f2=math.nan) if failed else solve(spec)
        )

    sweep = Sweep(make_config(), outcome=outcome, check_convergence=True).run()
    assert [spec.epsilon_fraction for spec in checks_of(sweep)] == [None, 0.25]


def test_a_seed_without_a_range_is_not_checked():
    def outcome(spec: TrialSpec) -> TrialRecord:
        return make_record(spec, f1=1.5, f2=0.1) if spec.seed == 7 else solve(spec)

    sweep = Sweep(make_config("seeds=[0, 7]"), outcome=outcome, check_convergence=True).run()
    assert {spec.seed for spec in checks_of(sweep)} == {0}
    assert sweep.next() is NoTrial.FINISHED


def test_controls_are_solved_once_a_seed_and_counted():
    config = make_config("controls=[retrained]", "seeds=[0, 1]", BASELINES)
    sweep = Sweep(config).run()
    controls = [spec for spec in sweep.planned if spec.phase is Phase.CONTROL]
    assert [(spec.method, spec.seed) for spec in controls] == [("retrained", 0), ("retrained", 1)]
    assert len(sweep.planned) == count_trials(config)
