"""What the planner makes of a bank: where the valid range ends, and what epsilons start from."""

import math
from pathlib import Path
from typing import Any

import pytest
from short_path import short_config
from trial_rows import SCALES

from pareto_unlearn.records import BankEntry, Phase, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.schedule import SweepState, boundary_specs, derive_range, range_of_seed
from pareto_unlearn.sweep.backlog import Backlog

HIGHEST, LOWEST = boundary_specs(0, lambda spec: f"{spec.role}-of-{spec.seed}")


def boundary(spec: TrialSpec, f1: float | None, f2: float | None, **changes: Any) -> TrialRecord:
    shared = {name: getattr(spec, name) for name in TrialSpec.__dataclass_fields__}
    values = {"start": "original", "state": TrialState.DONE, "reason": "", "f1": 0.0, "level": f1, "f2": f2}
    return TrialRecord(**(shared | values | changes))


PATH_END = boundary(HIGHEST, 0.6, 0.3)
GOOD_LOWEST = boundary(LOWEST, 1.2, 0.001)
MISSED_LOWEST = boundary(LOWEST, 1.1, 0.01, state=TrialState.INFEASIBLE, reason="f2 too large")


def bank_of(*costs: tuple[float, float]) -> tuple[BankEntry, ...]:
    return tuple(
        BankEntry(step=step, epsilon=level, f1=0.0, level=level, f2=f2, learning_rate=0.1, sha256="00")
        for step, (level, f2) in enumerate(costs, start=1)
    )


def found_range(lowest: TrialRecord, *costs: tuple[float, float]):
    committed = {record.trial_id: record for record in (PATH_END, lowest)}
    progress = SweepState(committed, (), SCALES, banks={HIGHEST.trial_id: bank_of(*costs)})
    return range_of_seed(0, progress, lambda spec: f"{spec.role}-of-{spec.seed}")


@pytest.mark.parametrize("top", [0.7, 1.0, 1.1999])
def test_a_path_that_ends_below_the_lowest_boundary_ends_the_range(top):
    found = derive_range(0, PATH_END, GOOD_LOWEST, SCALES, top)
    assert (found.lower, found.upper, found.upper_source) == (0.6, top, "path")
    assert found.reason == "the path ends below it"


@pytest.mark.parametrize("top", [1.2, 1.3, 2.0, math.inf])
def test_a_lowest_boundary_below_the_top_of_the_path_ends_the_range(top):
    found = derive_range(0, PATH_END, GOOD_LOWEST, SCALES, top)
    assert (found.upper, found.upper_source, found.reason) == (1.2, "lowest", "")


@pytest.mark.parametrize("lowest", [None, MISSED_LOWEST, boundary(LOWEST, 0.7, 0.4)])
@pytest.mark.parametrize("top", [0.9, 1.4])
def test_without_a_usable_lowest_boundary_the_path_ends_the_range_and_the_reason_is_kept(lowest, top):
    found = derive_range(0, PATH_END, lowest, SCALES, top)
    without = derive_range(0, PATH_END, lowest, SCALES)
    assert (found.upper, found.upper_source) == (top, "path")
    assert without.reason
    assert found.reason == f"{without.reason}; the path ends there"


@pytest.mark.parametrize("top", [1.5, 1.6, math.inf])
def test_where_neither_works_the_range_ends_at_the_original(top):
    found = derive_range(0, PATH_END, MISSED_LOWEST, SCALES, top)
    assert (found.upper, found.upper_source) == (SCALES.f1_original, "original")
    assert "f2 too large" in found.reason


def test_the_largest_level_of_the_checkpoints_counts_whatever_their_f1():
    found = found_range(GOOD_LOWEST, (0.7, 0.2), (1.0, 0.002), (0.9, 0.0021))
    assert (found.upper, found.upper_source) == (1.0, "path")


def test_without_a_bank_the_boundaries_decide():
    assert found_range(GOOD_LOWEST) == derive_range(0, PATH_END, GOOD_LOWEST, SCALES)
    assert found_range(MISSED_LOWEST).upper_source == "original"


def planned_epsilon(*overrides: str) -> TrialSpec:
    """Return the first epsilon trial after both boundaries."""
    config = short_config(Path("unused"), *overrides)
    committed = {record.trial_id: record for record in (PATH_END, GOOD_LOWEST)}
    progress = SweepState(committed, (), SCALES, banks={HIGHEST.trial_id: bank_of((1.0, 0.001))})
    found = Backlog(config, lambda spec: f"{spec.role}-of-{spec.seed}").next(progress)
    assert isinstance(found, TrialSpec)
    assert found.phase is Phase.EPSILON
    return found


def test_a_planned_epsilon_names_the_path_of_its_seed():
    assert planned_epsilon().parents == HIGHEST.trial_id


def test_a_planned_start_from_the_original_names_no_parents():
    assert planned_epsilon("solver.start=original").parents is None


def test_planned_epsilons_lie_below_the_top_of_the_path():
    found = planned_epsilon()
    assert found.range_width == pytest.approx(0.4)
    assert 0.6 < found.epsilon < 1.0
