"""Measures how far a front depends on the seed, the number of steps, and the retain images trained on.

None of these should matter. Pure functions of a run's stored rows, for the plan, the summary and the report;
no torch and no store.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pareto_unlearn.records import HAS_MODEL, Phase, Scales, TrialRecord, ValidRange

QUARTILES = (0.25, 0.5, 0.75)
LARGEST_GAP = 0.1
"""Gap above which summary and report warn: retained quality that a model loses on held-out images."""
HOW_TO_READ_GAINS = (
    "near 0: more steps would not improve the front; large: raise solver.path.steps and solver.hold.steps, "
    "or solver.steps where trials start from the original; where f1 rose too, part of the gain comes from "
    "that"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSpread:
    """An end of the valid range over several seeds, in e, that is, in units of f1's own range."""

    mean: float
    low: float
    high: float

    @property
    def deviation(self) -> float:
        """The largest difference between two seeds."""
        return self.high - self.low


def spread_of_ends(ranges: Sequence[ValidRange], scales: Scales | None) -> tuple[EndSpread, EndSpread] | None:
    """Return how the lower and the upper end of the valid range differ between seeds.

    None with fewer than two ranges, while the scales are not known, or where f1 has no range of its own.

    Args:
        ranges: the valid range of every seed that has a valid range.
        scales: scales of the run.
    """
    if len(ranges) < 2 or scales is None or not scales.f1_range:
        return None
    lower = [scales.normalised_f1(valid.lower) for valid in ranges]
    upper = [scales.normalised_f1(valid.upper) for valid in ranges]
    return _spread(lower), _spread(upper)


def _spread(values: Sequence[float]) -> EndSpread:
    return EndSpread(mean=fmean(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGain:
    """The change of a trial by twice the steps.

    ``gain`` is 1 - f2 (twice the steps) / f2, a ratio; ``f1_change`` is the rise of f1, in units of its own
    range. Both are None where either trial has no model, ``gain`` also where f2 was 0 already, ``f1_change``
    also without scales.
    """

    checked: TrialRecord
    doubled: TrialRecord
    gain: float | None
    f1_change: float | None


def choose_checked(solved: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Return the trials nearest to the quartiles of the solved trials, by rising f1; all of three or fewer.

    Args:
        solved: epsilon trials of one seed; trials without a model are left out.
    """
    known = ((costs, record) for record in solved if (costs := _costs(record)) is not None)
    ranked = [record for _, record in sorted(known, key=lambda pair: (pair[0][0], pair[1].trial_id))]
    chosen: list[int] = []
    for quartile in QUARTILES[: len(ranked)]:
        place = quartile * (len(ranked) - 1)
        free = [index for index in range(len(ranked)) if index not in chosen]
        chosen.append(min(free, key=lambda index: abs(index - place)))
    return tuple(ranked[index] for index in sorted(chosen))


def find_gains(records: Iterable[TrialRecord], scales: Scales | None) -> tuple[StepGain, ...]:
    """Return the change of every checked trial by twice the steps.

    They are sorted by seed; within a seed boundaries come first, then the others by rising epsilon.

    Args:
        records: all rows of a run.
        scales: scales of the run; with None the change of f1 is None.
    """
    rows = {record.trial_id: record for record in records}
    checks = sorted(
        (row for row in rows.values() if row.phase is Phase.CHECK),
        key=lambda row: (row.seed, -math.inf if row.epsilon is None else row.epsilon, row.trial_id),
    )
    pairs = [(rows.get(check.checks or ""), check) for check in checks]
    return tuple(_gain(checked, check, scales) for checked, check in pairs if checked is not None)


def _gain(checked: TrialRecord, doubled: TrialRecord, scales: Scales | None) -> StepGain:
    before, after = _costs(checked), _costs(doubled)
    gain = change = None
    if before is not None and after is not None:
        gain = 1.0 - after[1] / before[1] if before[1] > 0 else None
        change = (after[0] - before[0]) / scales.f1_range if scales is not None and scales.f1_range else None
    return StepGain(checked=checked, doubled=doubled, gain=gain, f1_change=change)


def _costs(record: TrialRecord) -> tuple[float, float] | None:
    """Return (f1, f2) of a trial that has a model, else None."""
    if record.state not in HAS_MODEL or record.f1 is None or record.f2 is None:
        return None
    return record.f1, record.f2


def find_gap(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the model of the front that loses the most retained quality from training to held-out images.

    None where that loss is at most ``LARGEST_GAP``.
    """
    gaps = [
        (row.retained_quality - row.retained_quality_heldout, row.trial_id, row)
        for row in records
        if row.state in HAS_MODEL
        and row.phase in (Phase.BOUNDARY, Phase.EPSILON)
        and row.retained_quality is not None
        and row.retained_quality_heldout is not None
    ]
    largest, _, record = max(gaps, default=(0.0, "", None), key=lambda gap: gap[:2])
    return record if largest > LARGEST_GAP else None


def explain_gap(record: TrialRecord) -> str:
    """Return a sentence about the model that ``find_gap`` returns."""
    return (
        f"{record.label} keeps {record.retained_quality:.1%} of the quality on the retain images it was "
        f"trained on, but {record.retained_quality_heldout:.1%} on held-out retain images: training saw too "
        "few retain images, or a proxy in their place; judge and choose models by held-out images"
    )
