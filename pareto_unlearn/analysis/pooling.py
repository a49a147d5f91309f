"""Models of several seeds as one: what stands under one label in each seed, by the medians over seeds."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pareto_unlearn.records import Phase, TrialRecord

POOLED = ("completeness", "completeness_worst_class", "retained_quality", "retained_quality_heldout")
"""Columns of a record that become medians."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """The models of one label, a seed each.

    ``record`` is the member nearest to the medians, with the medians in the columns ``POOLED``.
    """

    record: TrialRecord
    members: tuple[TrialRecord, ...]

    @property
    def nearest(self) -> TrialRecord:
        """The member itself that ``record`` was made of."""
        return next(one for one in self.members if one.trial_id == self.record.trial_id)

    def spread(self, column: str) -> str:
        """Return the median of a column and its range in words."""
        values = _values(self.members, column)
        return (
            f"{np.median(values):.1%} ({min(values):.1%} to {max(values):.1%})" if values else "not measured"
        )


def pool_seeds(models: Sequence[TrialRecord]) -> list[Pooled]:
    """Return the models of each label together, those of labels that most seeds have.

    A trial may have failed in a seed. A label that few seeds have is left out: it would win by chance. Empty
    for one seed, and where the seeds share no epsilon, as under an adaptive schedule.
    """
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for one in models:
        groups[one.label].append(one)
    num_seeds = len({one.seed for one in models})
    shared = [group for group in groups.values() if 2 * len(group) > num_seeds]
    if num_seeds < 2 or not any(group[0].phase is Phase.EPSILON for group in shared):
        return []
    return [_pool(tuple(sorted(group, key=lambda one: one.seed))) for group in shared]


def pool_gaps(pooled: Sequence[Pooled], gaps: Mapping[str, float]) -> dict[str, float]:
    """Return the median gap of each group by the id of its record, where every member has one."""
    known = {one.record.trial_id: [gaps.get(member.trial_id) for member in one.members] for one in pooled}
    return {
        trial_id: float(np.median([gap for gap in found if gap is not None]))
        for trial_id, found in known.items()
        if None not in found
    }


def _pool(members: tuple[TrialRecord, ...]) -> Pooled:
    medians = {column: float(np.median(values)) for column in POOLED if (values := _values(members, column))}

    def distance(one: TrialRecord) -> tuple[float, int]:
        apart = [
            abs(value - medians[column]) for column in medians if (value := _value(one, column)) is not None
        ]
        return sum(apart), one.seed

    return Pooled(record=replace(min(members, key=distance), **medians), members=members)  # type: ignore[arg-type]


def _values(members: Sequence[TrialRecord], column: str) -> list[float]:
    return [value for one in members if (value := _value(one, column)) is not None]


def _value(one: TrialRecord, column: str) -> float | None:
    value = getattr(one, column)
    return value if value is not None and math.isfinite(value) else None
