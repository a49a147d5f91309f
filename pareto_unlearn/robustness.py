"""How far a front depends on what should not matter: the seed.

Pure functions of what a run has stored, for the summary and the report; no torch and no store.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from pareto_unlearn.records import Scales, ValidRange


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
