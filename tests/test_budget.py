"""A budget becomes steps of the path, or of every trial from the original, never more than was given."""

import heapq
import itertools

import pytest
from test_schedule import Sweep, make_config

from pareto_unlearn.config import (
    SweepConfig,
    config_hash,
    count_front_steps,
    dump_config,
    known_slots,
    parse_config,
    trial_id,
)
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.sweep.progress import describe_budget

NINE = "epsilon={schedule: grid, points: 9}"
NO_SCAN = "solver.path.scan=[]"
SCHEDULES = (
    "epsilon={schedule: grid, points: 1}",
    NINE,
    "epsilon={schedule: list, values: [0.1, 0.3, 0.5, 0.9]}",
    "epsilon={schedule: adaptive, points: 3}",
    "epsilon={schedule: adaptive, points: 10, per_round: 3}",
)
IDENTITY = {"phase": Phase.EPSILON, "method": "m", "role": None, "epsilon": 0.5, "weight": None, "seed": 0}


def with_total(size: int, *overrides: str) -> SweepConfig:
    return make_config(f"solver.budget.total_steps={size}", *overrides)


def with_wall(size: int, slots: int, *overrides: str) -> SweepConfig:
    return make_config(f"solver.budget.wall_steps={size}", f"run.max_concurrent={slots}", *overrides)


def error(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        make_config(*overrides)
    return str(caught.value)


def identity(config: SweepConfig) -> str:
    return trial_id(config, weights_sha256="0" * 64, **IDENTITY)


# What a budget buys


def test_a_total_goes_to_the_path_once_the_lowest_boundary_is_paid():
    solver = with_total(2800, NINE, NO_SCAN).solver
    assert (solver.steps, solver.path.steps, solver.hold.steps) == (400, 2400, 0)


def test_steps_from_start_to_end_go_to_the_path_beside_which_the_lowest_boundary_is_solved():
    assert with_wall(1500, 2, NINE, NO_SCAN).solver.path.steps == 1500


def test_the_scan_is_paid_before_the_path():
    assert with_total(400 + 2400 + 360, NINE).solver.path.steps == 2400  # three times 5 % of 2400


def test_steps_that_hold_an_epsilon_are_paid_before_the_path():
    held = ("solver.hold.steps=100", NINE, NO_SCAN)
    assert with_total(3700, *held).solver.path.steps == 3700 - 400 - 9 * 100
    assert with_wall(1500, 2, *held).solver.path.steps == 1500 - 5 * 100
    assert with_wall(1500, 9, *held).solver.path.steps == 1500 - 100


def test_with_one_slot_steps_from_start_to_end_are_the_total():
    assert with_wall(3000, 1, NINE).solver == with_total(3000, NINE).solver


def test_the_local_executor_has_one_slot_whatever_the_file_says():
    config = with_wall(3000, 4, NINE, "run.executor=local")
    assert known_slots(config.run) == 1
    assert config.solver == with_total(3000, NINE).solver


def test_from_the_original_a_total_goes_evenly_to_boundaries_and_epsilons():
    assert with_total(1111, NINE, "solver.start=original").solver.steps == 101


def test_from_the_original_steps_from_start_to_end_go_evenly_to_the_turns_of_a_slot():
    assert with_wall(660, 2, NINE, "solver.start=original").solver.steps == 660 // (1 + 5)
    assert with_wall(660, 1, NINE, "solver.start=original").solver.steps == 660 // 11


@pytest.mark.parametrize(("points", "per_round", "turns"), [(3, 2, 2), (9, 2, 2 + 3), (9, 3, 2 + 2 + 2)])
def test_an_adaptive_round_takes_whole_turns(points, per_round, turns):
    schedule = f"epsilon={{schedule: adaptive, points: {points}, per_round: {per_round}}}"
    assert with_wall(660, 2, schedule, "solver.start=original").solver.steps == 660 // (1 + turns)


@pytest.mark.parametrize("start", ["path", "original"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_a_front_takes_no_more_than_its_budget_and_nearly_all_of_it(start, schedule, slots):
    for size in (2000, 2001, 2357, 9999):
        config = with_wall(size, slots, schedule, f"solver.start={start}")
        spent = count_front_steps(config, slots)
        assert size - 16 < spent <= size  # less than a step for each trial of a slot, and for the scan


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_larger_budget_never_buys_less(schedule):
    bought = [with_total(size, schedule).solver for size in range(900, 1300, 7)]
    for less, more in itertools.pairwise(bought):
        assert less.path.steps <= more.path.steps


def steps_of(config: SweepConfig, spec: TrialSpec) -> int:
    scan = len(config.solver.path.scan) * config.solver.path.scan_steps if spec.role == "highest" else 0
    return config.solver.steps_of(spec.phase, spec.role) + scan * (config.solver.start == "path")


def replay(config: SweepConfig, slots: int) -> int:
    """Solve the plan on a clock that counts steps; return what it shows at the end."""
    sweep, clock, running = Sweep(config), 0, []
    while True:
        while len(running) < slots and isinstance(sweep.next(), TrialSpec):
            spec = sweep.start()
            heapq.heappush(running, (clock + steps_of(config, spec), len(sweep.planned), spec))
        if not running:
            return clock
        clock, _, spec = heapq.heappop(running)
        sweep.end(spec)


@pytest.mark.parametrize("start", ["path", "original"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("slots", [1, 2, 3, 16])
def test_counted_steps_are_those_of_the_plan_itself(start, schedule, slots):
    config = make_config(schedule, f"solver.start={start}")
    assert replay(config, slots) == count_front_steps(config, slots)


def test_without_a_number_of_slots_every_round_takes_one_turn():
    config = make_config("epsilon={schedule: adaptive, points: 9, per_round: 2}", NO_SCAN)
    assert count_front_steps(config, None) == 2400
    held = make_config(
        "epsilon={schedule: adaptive, points: 9, per_round: 2}", NO_SCAN, "solver.hold.steps=50"
    )
    assert count_front_steps(held, None) == 2400 + 4 * 50


# Identity and the resolved sweep


def test_a_budget_is_the_same_sweep_as_the_steps_it_buys():
    bought = with_total(2800, NINE, NO_SCAN)
    written = make_config(NINE, NO_SCAN, "solver.path.steps=2400")
    assert bought == written
    assert identity(bought) == identity(written)
    assert config_hash(bought, "a") == config_hash(written, "a")


def test_two_budgets_that_buy_the_same_steps_make_the_same_trials():
    assert identity(with_total(2800, NINE)) == identity(with_wall(2800, 1, NINE))
    assert identity(with_total(2800, NINE)) != identity(with_total(3800, NINE))


def test_a_budget_from_the_original_is_the_same_sweep_as_its_steps():
    bought = with_total(1111, NINE, "solver.start=original")
    assert bought == make_config(NINE, "solver.start=original", "solver.steps=101")


def test_the_resolved_sweep_shows_the_steps_and_loads_back_equal():
    config = with_wall(1500, 2, NINE, NO_SCAN)
    dump = dump_config(config)
    assert "budget" not in dump
    assert "    steps: 1500\n" in dump
    assert parse_config(dump, "dump") == config


def test_null_is_no_budget():
    assert make_config("solver.budget={total_steps: null, wall_steps: null}") == make_config()


# Errors


def test_both_budgets_are_refused():
    line = error("solver.budget={total_steps: 2000, wall_steps: 900}")
    assert "solver.budget.wall_steps: expected at most one of total_steps and wall_steps, found both" in line


@pytest.mark.parametrize("budget", ["total_steps", "wall_steps"])
def test_steps_beside_a_budget_are_refused_by_both_names(budget):
    key = "solver.path.steps"
    line = error(f"solver.budget.{budget}=2000", f"{key}=60", "run.max_concurrent=2")
    assert line.startswith(
        f"-o {key}=60: {key}: expected nothing beside solver.budget.{budget}, which decides {key}"
    )


def test_steps_from_the_original_beside_a_budget_are_refused():
    line = error("solver.budget.total_steps=2000", "solver.start=original", "solver.steps=50")
    assert "solver.steps: expected nothing beside solver.budget.total_steps" in line


def test_steps_of_the_lowest_boundary_may_stand_beside_a_budget():
    config = with_total(2400, NINE, NO_SCAN, "solver.steps=300")
    assert (config.solver.steps, config.solver.path.steps) == (300, 2100)


def test_steps_from_start_to_end_need_the_number_of_slots():
    line = error("solver.budget.wall_steps=2000")
    assert line.startswith(
        "-o solver.budget.wall_steps=2000: solver.budget.wall_steps: expected run.max_concurrent"
    )


@pytest.mark.parametrize("start", ["path", "original"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("slots", [1, 2, 16])
def test_a_budget_too_small_is_refused_with_the_least_that_works(start, schedule, slots):
    settings = (slots, schedule, f"solver.start={start}")
    with pytest.raises(ConfigError, match="expected at least") as caught:
        with_wall(5, *settings)
    least = int(str(caught.value).partition("expected at least ")[2].partition(",")[0])
    solver = with_wall(least, *settings).solver
    assert solver.steps >= 10 if start == "original" else solver.path.steps >= 67
    with pytest.raises(ConfigError, match=f"expected at least {least}, found the number {least - 1}"):
        with_wall(least - 1, *settings)


def test_a_budget_too_small_says_what_it_must_buy():
    assert error("solver.budget.total_steps=5").endswith(
        "with 3 epsilons it must buy at least solver.path.steps 67, beside the path's "
        "scan and the lowest boundary, which takes 400 (solver.steps)"
    )


@pytest.mark.parametrize("value", ["0", "-5", "2.5", "many"])
def test_a_budget_is_a_positive_number_of_steps(value):
    assert "solver.budget.total_steps: expected" in error(f"solver.budget.total_steps={value}")


# In words


def test_the_words_tell_total_and_steps_from_start_to_end():
    assert describe_budget(with_wall(1500, 2, NINE, "solver.hold.steps=50")) == (
        "a path of 1088 steps and 162 to find its step size, 50 to hold each epsilon, 400 for every other "
        "trial; one seed's front of 9 epsilons takes 2,100 steps in all, 1,500 from start to end with 2 "
        "trials at a time"
    )


def test_the_words_for_one_slot_and_for_slots_that_only_the_cluster_knows():
    config = make_config(NINE, "solver.start=original", "solver.steps=100", "run.executor=local")
    assert describe_budget(config) == (
        "every trial takes 100 steps from the original model; one seed's front of 9 epsilons takes 1,100 "
        "steps in all, one trial at a time"
    )
    config = make_config(NINE, NO_SCAN)
    assert describe_budget(config) == (
        "a path of 2400 steps, from which every epsilon is mixed, 400 for every other trial; one seed's "
        "front of 9 epsilons takes 2,800 steps in all, at least 2,400 from start to end"
    )
