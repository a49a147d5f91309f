"""Lists the trials of a sweep: a pure function of its file and of the trials that ended or are running.

``wanted_trials`` covers Phase I, the grid, list and adaptive schedules, seeds, baselines and checks. It knows
no torch and does no I/O. So stored records replay a sweep, and resuming is the same call over the same store.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache

import numpy as np
from jaxtyping import Float

from pareto_unlearn.analysis.robustness import QUARTILES, choose_checked
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, ORIGINAL, is_course
from pareto_unlearn.config import AdaptiveEpsilon, GridEpsilon, SweepConfig
from pareto_unlearn.errors import RangeError
from pareto_unlearn.records import (
    HAS_MODEL,
    BankEntry,
    Phase,
    Role,
    Scales,
    TrialRecord,
    TrialSpec,
    TrialState,
    ValidRange,
    name_bounded,
)

GEOMETRIC_RATIO = 24.0
"""Ratio of the largest to the smallest step of a geometric grid.

The grid is dense near the floor, where f2 rises steeply.
"""

LEAST_WIDTH = 0.01
"""Width of the narrowest valid range, as a share of f1's own range."""

Costs = tuple[float, float]
"""(level, f2) of a solution; the level is raw f1 of what epsilon bounds."""


class NoTrial(StrEnum):
    """Why no trial is to start."""

    WAIT = "wait"
    FINISHED = "finished"


Identify = Callable[[TrialSpec], str]
"""Returns the id of a planned trial, whose ``trial_id`` is empty yet: ``config.trial_id`` for this sweep."""


@dataclass(frozen=True, slots=True)
class SweepState:
    """All facts that planning uses: committed records by id, ids of live trials, the run's scales once known.

    ``retry`` has the (trial_id, attempt) of each attempt that may be repeated once; a later attempt of the
    same trial is not among them. ``banks`` has the checkpoints of every committed path by its trial id. With
    ``check_convergence``, checks are planned too: trials that are solved again with twice the steps.
    """

    committed: Mapping[str, TrialRecord]
    live: Collection[str] = ()
    scales: Scales | None = None
    retry: frozenset[tuple[str, int]] = frozenset()
    banks: Mapping[str, tuple[BankEntry, ...]] = field(default_factory=dict)
    check_convergence: bool = False


def count_trials(config: SweepConfig, *, check_convergence: bool = False) -> int:
    """Return how many trials a sweep will run in all."""
    points = sum(config.epsilon.rounds)
    baselines = sum(
        len(baseline.weights) * (1 + points if is_course(baseline.name) else 1)
        for baseline in config.baselines
    )
    checks = 1 + min(points, len(QUARTILES)) if check_convergence else 0
    others = len(config.controls) + (config.solver.relearning is not None)
    return len(config.trial_seeds) * (3 + points + baselines + others + checks)


def derive_range(
    seed: int,
    highest: TrialRecord | None,
    lowest: TrialRecord | None,
    scales: Scales,
    top: float = math.inf,
) -> ValidRange:
    """Return the valid range of epsilon: from the highest boundary to the lowest (section 4.3).

    Both ends are raw f1 of what epsilon bounds: the mean, or of the worst class. The range ends at the top of
    the path if that is lower than the lowest boundary: mixtures of its checkpoints reach every epsilon below.
    Where the lowest boundary has no model, missed its tolerance, or is dominated by the highest, the original
    model, whose f2 is zero, takes its place. The reason is recorded.

    Args:
        seed: seed of both boundaries.
        highest: the highest boundary, for the lower end; None if it was not solved.
        lowest: the lowest boundary, for the upper end; None if it was not solved.
        scales: scales of the run.
        top: the largest level among the path's checkpoints; infinite without a path.

    Raises:
        RangeError: the highest boundary has no model, or the range is narrower than 1 % of f1's own range.
    """
    if highest is None or highest.reached is None or highest.state not in HAS_MODEL:
        reason = "it was not solved" if highest is None else f"{highest.state}: {highest.reason}"
        raise RangeError(f"seed {seed}: no valid epsilon range: the highest boundary has no model ({reason})")
    upper, source, reason = _upper_end(highest, lowest, scales, top)
    if upper - highest.reached < LEAST_WIDTH * scales.f1_range:
        raise RangeError(
            f"seed {seed}: no valid epsilon range: the lower end {_bounded_by(highest)} = "
            f"{highest.reached:.6g} (highest boundary) is not clearly below the upper end {upper:.6g}; give "
            "Phase I more solver.steps, or a larger solver.boundary.alpha"
        )
    return ValidRange(
        seed=seed,
        lower=highest.reached,
        upper=upper,
        upper_source=source,
        reason=reason,
    )


def _bounded_by(record: TrialRecord) -> str:
    """Return the f1 that epsilon bounds in words, as the row of a trial shows it."""
    return name_bounded("mean" if record.reached == record.f1 else "per_class")


def derive_ranges(config: SweepConfig, progress: SweepState, identify: Identify) -> tuple[ValidRange, ...]:
    """Return the valid range of every seed that has one and whose two boundaries are committed."""
    ranges = []
    for seed in config.trial_seeds:
        try:
            valid = range_of_seed(seed, progress, identify)
        except RangeError:
            continue
        if valid is not None:
            ranges.append(valid)
    return tuple(ranges)


def check_absolute_epsilons(config: SweepConfig, valid: ValidRange) -> None:
    """Refuse absolute epsilons outside the range.

    Raises:
        EpsilonError: names the values and the valid range.
    """
    schedule = config.epsilon
    if schedule.schedule != "list" or not schedule.absolute:
        return
    outside = [value for value in schedule.values if not valid.lower < value < valid.upper]
    if outside:
        raise EpsilonError(
            f"epsilon.values: {', '.join(f'{value:g}' for value in outside)} lies outside the valid range "
            f"({valid.lower:.6g}, {valid.upper:.6g}) that Phase I found for seed {valid.seed}, in "
            f"{name_bounded(config.solver.completeness)}; Phase I is kept: choose values inside it, or "
            "fractions of it without `absolute: true`, and start the same command again"
        )


class EpsilonError(RangeError):
    """An epsilon of the sweep file lies outside the valid range: the file must change."""

    exit_code = 3


def grid_fractions(schedule: GridEpsilon) -> tuple[float, ...]:
    """Return the fractions of a grid: equal steps, or steps that grow geometrically from the lower end on."""
    return _grid_fractions(schedule.points, schedule.spacing)


@cache
def _grid_fractions(count: int, spacing: str) -> tuple[float, ...]:
    # The sums begin anew for each fraction: running sums could differ in the last bit, and so would ids.
    if spacing == "linear":
        return tuple((index + 1) / (count + 1) for index in range(count))
    ratio = GEOMETRIC_RATIO ** (1.0 / max(count, 1))
    gaps = [ratio**index for index in range(count + 1)]
    return tuple(sum(gaps[: index + 1]) / sum(gaps) for index in range(count))


def adaptive_fractions(
    schedule: AdaptiveEpsilon, solved: Callable[[float], Costs | None], ends: tuple[Costs, Costs]
) -> tuple[float, ...]:
    """Return all fractions known so far: 25, 50 and 75 %, then rounds that halve the worst gaps of the front.

    A round is chosen from the results of earlier rounds alone, so the fractions do not depend on the order in
    which trials end. In units of the front's box, a gap's score is the area that may still be dominated (the
    rectangle that its two ends span) or half the square of its length, whichever is larger.

    Args:
        schedule: the number of points, and the number that a round adds.
        solved: maps a fraction to its committed (f1, f2): None before it is committed, NaN without a model.
        ends: (f1, f2) at the lower and the upper end of the range, finite.
    """
    chosen = [0.25, 0.5, 0.75][: schedule.points]
    while len(chosen) < schedule.points:
        known = {0.0: ends[0], 1.0: ends[1]}
        known |= {fraction: costs for fraction in chosen if (costs := solved(fraction)) is not None}
        if len(known) < len(chosen) + 2:
            break
        chosen += _split_gaps(known, min(schedule.per_round, schedule.points - len(chosen)))
    return tuple(chosen)


def _split_gaps(known: Mapping[float, Costs], count: int) -> list[float]:
    fractions = sorted(known)
    costs = _bridged(np.array(fractions), np.array([known[fraction] for fraction in fractions]))
    span = np.ptp(costs, axis=0)
    steps = np.abs(np.diff(costs, axis=0)) / np.where(span > 0, span, 1.0)
    scores = np.maximum(steps[:, 0] * steps[:, 1], np.hypot(steps[:, 0], steps[:, 1]) ** 2 / 2)
    worst = np.argsort(-scores, kind="stable")[:count]
    return [(fractions[index] + fractions[index + 1]) / 2 for index in sorted(worst.tolist())]


def _bridged(fractions: Float[np.ndarray, " n"], costs: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Return the costs with each point that is not finite moved to the line between its neighbours.

    So the search goes on around such a point.
    """
    finite = np.all(np.isfinite(costs), axis=1)
    return np.stack([np.interp(fractions, fractions[finite], column[finite]) for column in costs.T], axis=1)


def wanted_trials(config: SweepConfig, progress: SweepState, identify: Identify) -> Iterator[TrialSpec]:
    """Yield all trials that can be planned now, ended or not, the most urgent first.

    Raises:
        EpsilonError: an absolute epsilon lies outside the range.
    """
    for seed in config.trial_seeds:
        yield from boundary_specs(seed, identify)
    for seed in config.trial_seeds:
        yield from _epsilon_specs(config, seed, progress, identify)
    for seed in config.trial_seeds:
        yield _identified(identify, phase=Phase.ORIGINAL, method=ORIGINAL, seed=seed)
        # Before the baselines: a training from scratch is the longest of all trials.
        for control in config.controls:
            yield _identified(identify, phase=Phase.CONTROL, method=control.method, seed=seed)
        yield from _baseline_specs(config, seed, identify)
    for seed in config.trial_seeds:
        yield from _course_epsilon_specs(config, seed, progress, identify)
        yield from _hardened_specs(config, seed, progress, identify)
    for seed in config.trial_seeds:
        yield from _check_specs(config, seed, progress, identify)


def boundary_specs(seed: int, identify: Identify) -> tuple[TrialSpec, TrialSpec]:
    """Return the two Phase I trials of a seed: highest, then lowest."""
    highest, lowest = (
        _identified(identify, phase=Phase.BOUNDARY, method=EPSILON_CONSTRAINT, seed=seed, role=role)
        for role in (Role.HIGHEST, Role.LOWEST)
    )
    return highest, lowest


def _baseline_specs(config: SweepConfig, seed: int, identify: Identify) -> Iterator[TrialSpec]:
    for baseline in config.baselines:
        for weight in baseline.weights:
            yield _identified(identify, phase=Phase.BASELINE, method=baseline.name, seed=seed, weight=weight)


def _epsilon_specs(
    config: SweepConfig, seed: int, progress: SweepState, identify: Identify
) -> Iterator[TrialSpec]:
    try:
        valid = range_of_seed(seed, progress, identify)
    except RangeError:
        return  # the driver reports the error; the other seeds and the baselines go on
    if valid is None or progress.scales is None:
        return
    check_absolute_epsilons(config, valid)
    path, _ = boundary_specs(seed, identify)
    for epsilon, fraction in _epsilons(config, seed, valid, progress, identify):
        yield _epsilon_spec(config, path, epsilon, fraction, valid, identify)


def _epsilons(
    config: SweepConfig, seed: int, valid: ValidRange, progress: SweepState, identify: Identify
) -> list[tuple[float, float]]:
    """Return the (epsilon, fraction) pairs known so far."""
    schedule = config.epsilon
    if schedule.schedule == "list" and schedule.absolute:
        return [(value, valid.fraction_of(value)) for value in schedule.values]
    if schedule.schedule == "list":
        fractions = schedule.values
    elif schedule.schedule == "grid":
        fractions = grid_fractions(schedule)
    else:
        path, _ = boundary_specs(seed, identify)

        def solved(fraction: float) -> Costs | None:
            spec = _epsilon_spec(config, path, valid.epsilon_at(fraction), fraction, valid, identify)
            record = progress.committed.get(spec.trial_id)
            return None if record is None else _costs(record)

        fractions = adaptive_fractions(schedule, solved, _ends(seed, valid, progress, identify))
    return [(valid.epsilon_at(fraction), fraction) for fraction in fractions]


def _ends(seed: int, valid: ValidRange, progress: SweepState, identify: Identify) -> tuple[Costs, Costs]:
    """Return the costs at both ends of the range; the upper may be the path's top or the original."""
    highest, lowest = (progress.committed[spec.trial_id] for spec in boundary_specs(seed, identify))
    if valid.upper_source == "lowest":
        return _costs(highest), _costs(lowest)
    bank = progress.banks.get(highest.trial_id, ()) if valid.upper_source == "path" else ()
    f2 = max(((entry.level, entry.f2) for entry in bank), default=(valid.upper, 0.0))[1]
    return _costs(highest), (valid.upper, f2)


def _epsilon_spec(
    config: SweepConfig,
    path: TrialSpec,
    epsilon: float,
    fraction: float,
    valid: ValidRange,
    identify: Identify,
) -> TrialSpec:
    return _identified(
        identify,
        phase=Phase.EPSILON,
        method=EPSILON_CONSTRAINT,
        seed=path.seed,
        epsilon=epsilon,
        epsilon_fraction=fraction,
        range_width=valid.upper - valid.lower,
        parents=path.trial_id if config.solver.start == "path" else None,
    )


def _course_epsilon_specs(
    config: SweepConfig, seed: int, progress: SweepState, identify: Identify
) -> Iterator[TrialSpec]:
    """Yield the epsilons of a seed known so far, mixed from every bank that a baseline has left."""
    for baseline in _baseline_specs(config, seed, identify):
        course = _ended(baseline, progress)
        if not is_course(baseline.method) or course is None or course.state not in HAS_MODEL:
            continue
        for spec in _epsilon_specs(config, seed, progress, identify):
            own = replace(
                spec,
                trial_id="",
                phase=Phase.BASELINE,
                method=course.method,
                weight=course.weight,
                parents=course.trial_id,
            )
            yield replace(own, trial_id=identify(own))


def _hardened_specs(
    config: SweepConfig, seed: int, progress: SweepState, identify: Identify
) -> Iterator[TrialSpec]:
    """Yield the trial of a seed that resists relearning, once the model that it starts from is committed."""
    highest, _ = boundary_specs(seed, identify)
    start = _ended(highest, progress)
    if config.solver.relearning is None or start is None or start.state not in HAS_MODEL:
        return
    yield _identified(
        identify,
        phase=Phase.HARDENED,
        method=EPSILON_CONSTRAINT,
        seed=seed,
        parents=start.trial_id,
    )


def _check_specs(
    config: SweepConfig, seed: int, progress: SweepState, identify: Identify
) -> Iterator[TrialSpec]:
    """Yield the checks of a seed: the highest boundary, and three epsilons mixed from its check's path.

    There are none before all epsilons have ended, so that the order in which they end decides nothing.
    """
    if not progress.check_convergence:
        return
    specs = list(_epsilon_specs(config, seed, progress, identify))
    epsilons = [record for spec in specs if (record := _ended(spec, progress)) is not None]
    if len(epsilons) < sum(config.epsilon.rounds):
        return
    highest, _ = boundary_specs(seed, identify)
    path = _check_spec(highest, None, identify)
    yield path
    on_path, ended = config.solver.start == "path", _ended(path, progress)
    if on_path and (ended is None or ended.state not in HAS_MODEL):
        return
    for record in choose_checked(epsilons):
        yield _check_spec(record.spec, path.trial_id if on_path else None, identify)


def _ended(spec: TrialSpec, progress: SweepState) -> TrialRecord | None:
    """Return the row of a trial that has ended; None while it is not committed or runs once more."""
    return None if spec.trial_id in progress.live else progress.committed.get(spec.trial_id)


def _check_spec(checked: TrialSpec, parents: str | None, identify: Identify) -> TrialSpec:
    spec = replace(
        checked, trial_id="", phase=Phase.CHECK, parents=parents, checks=checked.trial_id, attempt=1
    )
    return replace(spec, trial_id=identify(spec))


def range_of_seed(seed: int, progress: SweepState, identify: Identify) -> ValidRange | None:
    """Return a seed's range, or None while a boundary is not committed or the scales are not known.

    Raises:
        RangeError: as ``derive_range``.
    """
    highest, lowest = (progress.committed.get(spec.trial_id) for spec in boundary_specs(seed, identify))
    if highest is None or lowest is None or progress.scales is None:
        return None
    top = max((entry.level for entry in progress.banks.get(highest.trial_id, ())), default=math.inf)
    return derive_range(seed, highest, lowest, progress.scales, top)


def _upper_end(
    highest: TrialRecord, lowest: TrialRecord | None, scales: Scales, top: float
) -> tuple[float, str, str]:
    """Return the range's upper end, its source, and the reason if that is not the lowest boundary."""
    trouble = _why_not_upper_end(highest, lowest, scales)
    end = math.inf if trouble or lowest is None or lowest.reached is None else lowest.reached
    if top < min(end, scales.f1_original):
        return top, "path", f"{trouble}; the path ends there" if trouble else "the path ends below it"
    if trouble:
        return scales.f1_original, "original", trouble
    return end, "lowest", ""


def _why_not_upper_end(highest: TrialRecord, lowest: TrialRecord | None, scales: Scales) -> str:
    """Return the reason why the lowest boundary cannot be the upper end; empty if it can."""
    if lowest is None:
        return "the lowest boundary was not solved"
    if lowest.state not in HAS_MODEL or lowest.reached is None or lowest.f2 is None:
        return f"the lowest boundary has no model ({lowest.state}: {lowest.reason})"
    if lowest.state is TrialState.INFEASIBLE:
        return f"the lowest boundary missed its tolerance ({lowest.reason})"
    if lowest.reached > scales.f1_original:
        return "the lowest boundary forgets less than the original model"
    first = _costs(highest)
    if first[0] <= lowest.reached and first[1] <= lowest.f2:
        return "the lowest boundary is dominated by the highest"
    return ""


def _costs(record: TrialRecord) -> Costs:
    """Return (level, f2); both are NaN if either was not measured."""
    if record.reached is None or record.f2 is None:
        return math.nan, math.nan
    return record.reached, record.f2


def _identified(
    identify: Identify,
    *,
    phase: Phase,
    method: str,
    seed: int,
    role: Role | None = None,
    epsilon: float | None = None,
    epsilon_fraction: float | None = None,
    range_width: float | None = None,
    weight: float | None = None,
    parents: str | None = None,
) -> TrialSpec:
    spec = TrialSpec(
        trial_id="",
        phase=phase,
        method=method,
        seed=seed,
        role=role,
        epsilon=epsilon,
        epsilon_fraction=epsilon_fraction,
        range_width=range_width,
        weight=weight,
        parents=parents,
    )
    return replace(spec, trial_id=identify(spec))
