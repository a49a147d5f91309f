"""How the hypervolume of each method grew with its models and with what they cost, in boxes of fixed size."""

from collections.abc import Sequence, Set
from itertools import accumulate

import numpy as np
from jaxtyping import Float

from pareto_unlearn.analysis.front import hypervolume
from pareto_unlearn.analysis.scores import BOXES
from pareto_unlearn.catalogue.methods import ORIGINAL
from pareto_unlearn.records import TrialRecord
from pareto_unlearn.report.charts import Progress
from pareto_unlearn.report.solution import Kind
from pareto_unlearn.report.views import finite, group

UNSCORED = (Kind.CHECK, Kind.CONTROL, Kind.HARDENED)
"""Trials that belong to no front."""
_POINTS = 60
"""Prefixes of a method's trials at most, so that a thousand trials take no minute."""


def gather_progress(records: Sequence[TrialRecord], scored: Set[str]) -> tuple[Progress, ...]:
    """Return the growth of every method and seed, over its trials in the order of the plan.

    Args:
        records: of a run, in reading order; when each trial ended is not stored.
        scored: ids of the trials that count.
    """
    own = [one for one in records if one.trial_id in scored and one.method != ORIGINAL]
    found = group(own, lambda one: (one.method, one.seed))
    return tuple(_grow(method, seed, members) for (method, seed), members in found.items())


def _grow(method: str, seed: int, records: Sequence[TrialRecord]) -> Progress:
    pairs = list(accumulate(one.gradient_pairs + (finite(one.measuring_pairs) or 0.0) for one in records))
    count = min(_POINTS, len(records))
    ends = sorted({round(end) for end in np.linspace(1, len(records), count)})
    costs = {
        "heldout": _costs(records, "retained_quality_heldout"),
        "train": _costs(records, "retained_quality"),
    }
    return Progress(
        method=method,
        seed=seed,
        trials=tuple(ends),
        pairs=tuple(pairs[end - 1] for end in ends),
        areas={
            split: tuple(
                tuple(round(hypervolume(values[:end], (0.0, 0.0), (1.0, box)), 5) for end in ends)
                for box in BOXES
            )
            for split, values in costs.items()
        },
    )


def _costs(records: Sequence[TrialRecord], quality: str) -> Float[np.ndarray, "n 2"]:
    """Return (e of the forget set, quality loss) of every trial, NaN of one without a model."""
    values = [(finite(one.e), finite(getattr(one, quality))) for one in records]
    rows = [(np.nan, np.nan) if e is None or kept is None else (e, 1.0 - kept) for e, kept in values]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
