"""Finds where on a front a model forgets as much as a model that never saw the forget images.

At completeness 100 % the outputs are noise, but a model that never saw an image still completes it in part,
so the f1 of a retrained model says little about its forgetting. Its error in the hole of held-out forget
images is compared instead, with the errors of the solved front, interpolated over e.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pareto_unlearn.catalogue.methods import RETRAINED
from pareto_unlearn.records import Scales, TrialRecord, ValidRange

COMPARED = "mse_hole"
"""The metric of the errors that are compared."""

HOW_TO_READ_LIKENESS = (
    "the retrained model is one training with one seed; the interval covers the choice of images only, so "
    "another training may lie outside it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Mean error of a model, with its interval over images if that was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """The e on a seed's front where the error equals that of the model retrained with this seed.

    ``e`` is None where every solved model has a smaller error (``is_beyond_front``), or the original already
    has a larger one. ``e_low`` and ``e_high`` belong to the ends of the interval of ``error`` over images (a
    high error to a low e); each is None where the front does not reach that error. ``epsilon`` is raw f1;
    ``epsilon_fraction`` is its position in the valid range, outside (0, 1) where no trial can reach it.
    """

    seed: int
    error: Errors
    e_retrained: float | None
    e: float | None
    e_low: float | None = None
    e_high: float | None = None
    epsilon: float | None = None
    epsilon_fraction: float | None = None
    is_beyond_front: bool = False


def find_likeness(
    records: Iterable[TrialRecord],
    fronts: Mapping[int, Sequence[TrialRecord]],
    errors: Mapping[str, Errors],
    scales: Scales | None,
    ranges: Iterable[ValidRange],
) -> tuple[Likeness, ...]:
    """Return the match of every retrained model, by seed.

    Args:
        records: all rows of a run.
        fronts: the non-dominated rows of every seed.
        errors: error in the hole of held-out forget images, by trial id.
        scales: scales of the run; None matches nothing.
        ranges: valid ranges of the seeds that have a valid range.
    """
    if scales is None:
        return ()
    range_of = {valid.seed: valid for valid in ranges}
    controls = [record for record in records if record.method == RETRAINED and record.trial_id in errors]
    matches = []
    for control in sorted(controls, key=lambda record: (record.seed, record.trial_id)):
        models = [record for record in fronts.get(control.seed, ()) if record.trial_id in errors]
        curve = [(record.e, errors[record.trial_id].value) for record in models if record.e is not None]
        matches.append(_match(control, curve, errors[control.trial_id], scales, range_of.get(control.seed)))
    return tuple(matches)


def interpolate_e(curve: Sequence[tuple[float, float]], error: float) -> float | None:
    """Return the largest e at which the error along a front reaches a value.

    None where the error stays below the value, or is above it at the largest e already.

    Args:
        curve: (e, error) of the front's models; between two models the error is taken as linear in e.
        error: the value to reach.
    """
    falling = sorted(curve, reverse=True)
    if not falling or falling[0][1] > error:
        return None
    for (e, before), (next_e, after) in pairwise(falling):
        if after >= error:
            share = (error - before) / (after - before) if after > before else 0.0
            return e + share * (next_e - e)
    return None


def _match(
    control: TrialRecord,
    curve: Sequence[tuple[float, float]],
    error: Errors,
    scales: Scales,
    valid: ValidRange | None,
) -> Likeness:
    e = interpolate_e(curve, error.value)
    epsilon = None if e is None else scales.f1_at(e)
    return Likeness(
        seed=control.seed,
        error=error,
        e_retrained=control.e,
        e=e,
        e_low=None if error.high is None else interpolate_e(curve, error.high),
        e_high=None if error.low is None else interpolate_e(curve, error.low),
        epsilon=epsilon,
        epsilon_fraction=None if epsilon is None or valid is None else valid.fraction_of(epsilon),
        is_beyond_front=bool(curve) and max(value for _, value in curve) < error.value,
    )


def explain_likeness(likeness: Likeness) -> str:
    """Return a sentence that says where on the front the match lies, and how certain that is."""
    error, e = likeness.error, likeness.e
    start = (
        "The retrained model's error in the hole of held-out forget images, "
        f"{_with_interval(error.value, error.low, error.high)},"
    )
    if e is None:
        beyond, before = "is larger than any solved model's", "is no larger than the original's"
        where = beyond if likeness.is_beyond_front else before
        return f"{start} {where}: no epsilon matches it ({HOW_TO_READ_LIKENESS})"
    fraction = likeness.epsilon_fraction
    place = "" if fraction is None else f", {fraction:.1%} of the valid range"
    return (
        f"{start} equals that of the front at e {_with_interval(e, likeness.e_low, likeness.e_high)}: "
        f"completeness {1.0 - e:.1%}, epsilon {likeness.epsilon:.5g}{place} ({HOW_TO_READ_LIKENESS})"
    )


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return f"{value:.3g}"
    ends = ("?" if end is None else f"{end:.3g}" for end in (low, high))
    return f"{value:.3g} ({' to '.join(ends)})"
