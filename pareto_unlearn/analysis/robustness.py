"""How far a front depends on what should not matter: the seed, the number of steps, and which retain images were trained on.

Pure functions of what a run has stored, for the plan, the summary and the report; no torch and no store.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pareto_unlearn.records import HAS_MODEL, Phase, Scales, TrialRecord, ValidRange

QUARTILES = (0.25, 0.5, 0.75)
LARGEST_GAP = 0.1
"""Retained quality that a model may lose from training to held-out images before it is said."""
HOW_TO_READ_GAINS = (
    "near 0: more steps would not improve the front; large: raise solver.path.steps and solver.branch.steps, or solver.steps "
    "where trials start from the original; where f1 rose too, part of the gain is owed to that"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndSpread:
    """One end of the valid range over several seeds, in e: units of f1's own range."""

    mean: float
    low: float
    high: float

    @property
    def deviation(self) -> float:
        """The largest difference between two seeds."""
        return self.high - self.low


def spread_of_ends(ranges: Sequence[ValidRange], scales: Scales | None) -> tuple[EndSpread, EndSpread] | None:
    """Return how lower and upper end of the valid range differ between seeds.

    Args:
        ranges: one a seed; seeds without a valid range are left out by whoever derives them.
        scales: of the run.

    Returns:
        None with fewer than two ranges, while the scales are not known, or where f1 has no range of its own.
    """
    if len(ranges) < 2 or scales is None or not scales.f1_range:
        return None
    lower, upper = (
        [scales.normalised_f1(f1) for f1 in ends]
        for ends in ([one.lower for one in ranges], [one.upper for one in ranges])
    )
    return _spread(lower), _spread(upper)


def _spread(values: Sequence[float]) -> EndSpread:
    return EndSpread(mean=fmean(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGain:
    """What twice the steps changed of one trial.

    ``gain`` is 1 - f2 (twice the steps) / f2, a ratio; ``f1_change`` is how much larger f1 became, in units of its own range.
    Both are None where either trial has no model, the gain also where f2 was 0 already.
    """

    checked: TrialRecord
    doubled: TrialRecord
    gain: float | None
    f1_change: float | None


def choose_checked(solved: Iterable[TrialRecord]) -> tuple[TrialRecord, ...]:
    """Return the trials nearest to 25, 50 and 75 % of those solved, by rising f1; all of them where they are three or fewer.

    Args:
        solved: epsilon trials of one seed; those without a model are left out.
    """
    known = ((costs, one) for one in solved if (costs := _costs(one)) is not None)
    ranked = [one for _, one in sorted(known, key=lambda pair: (pair[0][0], pair[1].trial_id))]
    chosen: list[int] = []
    for quartile in QUARTILES[: len(ranked)]:
        place = quartile * (len(ranked) - 1)
        free = [index for index in range(len(ranked)) if index not in chosen]
        chosen.append(min(free, key=lambda index: abs(index - place)))
    return tuple(ranked[index] for index in sorted(chosen))


def find_gains(records: Iterable[TrialRecord], scales: Scales | None) -> tuple[StepGain, ...]:
    """Return what twice the steps changed of every trial that was checked: by seed, boundaries first, then by rising epsilon.

    Args:
        records: all rows of a run.
        scales: of the run; no change of f1 is told without them.
    """
    rows = {record.trial_id: record for record in records}
    checks = sorted(
        (one for one in rows.values() if one.phase is Phase.CHECK),
        key=lambda one: (one.seed, -math.inf if one.epsilon is None else one.epsilon, one.trial_id),
    )
    return tuple(
        _gain(checked, one, scales) for one in checks if (checked := rows.get(one.checks or "")) is not None
    )


def _gain(checked: TrialRecord, doubled: TrialRecord, scales: Scales | None) -> StepGain:
    before, after = _costs(checked), _costs(doubled)
    gain = change = None
    if before is not None and after is not None:
        gain = 1.0 - after[1] / before[1] if before[1] > 0 else None
        change = (after[0] - before[0]) / scales.f1_range if scales is not None and scales.f1_range else None
    return StepGain(checked=checked, doubled=doubled, gain=gain, f1_change=change)


def _costs(record: TrialRecord) -> tuple[float, float] | None:
    """Return (f1, f2) of a trial that has a model."""
    if record.state not in HAS_MODEL or record.f1 is None or record.f2 is None:
        return None
    return record.f1, record.f2


def find_gap(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the model of the front that loses most retained quality from training to held-out images.

    None where that is at most ``LARGEST_GAP``.
    """
    gaps = [
        (one.retained_quality - one.retained_quality_heldout, one.trial_id, one)
        for one in records
        if one.state in HAS_MODEL
        and one.phase in (Phase.BOUNDARY, Phase.EPSILON)
        and one.retained_quality is not None
        and one.retained_quality_heldout is not None
    ]
    largest, _, record = max(gaps, default=(0.0, "", None), key=lambda gap: gap[:2])
    return record if largest > LARGEST_GAP else None


def explain_gap(one: TrialRecord) -> str:
    """Say what ``find_gap`` found."""
    return (
        f"{one.label} keeps {one.retained_quality:.1%} of the quality on the retain images of training, but {one.retained_quality_heldout:.1%} "
        "on held-out ones: training saw too few of them, or a proxy; judge and choose by held-out images"
    )
