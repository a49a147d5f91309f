"""Where on a front a model forgets as much as one that never saw the forget images.

Completeness 100 % is noise, and a model that never saw an image still completes it somewhat: so the f1 of a retrained model says
little. Compared is the error in the hole of held-out forget images, on the front as it was solved, by interpolation over e.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pareto_unlearn.records import Scales, TrialRecord, ValidRange

COMPARED = "mse_hole"
RETRAINED = "retrained"

HOW_TO_READ_LIKENESS = "the retrained model is one training with one seed; the interval is of its error over images, another training may lie outside"


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Mean error of one model, with its interval over images where one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Which e on one seed's front has the error of a model that was retrained with that seed.

    ``e`` is None where no solved model has so large an error (``is_beyond_front``), or the original itself has a larger one. ``e_low`` and ``e_high`` belong to the ends of the interval of ``error`` over images (high error, low e);
    None where the front does not reach that far. ``epsilon`` is raw; ``epsilon_fraction`` its place in the valid range,
    outside (0, 1) where no epsilon trial can reach it.
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
        scales: of the run; nothing is matched without them.
        ranges: valid ranges of the seeds that have one.
    """
    if scales is None:
        return ()
    by_seed = {one.seed: one for one in ranges}
    controls = [one for one in records if one.method == RETRAINED and one.trial_id in errors]
    found = []
    for control in sorted(controls, key=lambda one: (one.seed, one.trial_id)):
        models = [one for one in fronts.get(control.seed, ()) if one.trial_id in errors]
        curve = [(one.e, errors[one.trial_id].value) for one in models if one.e is not None]
        found.append(_match(control, curve, errors[control.trial_id], scales, by_seed.get(control.seed)))
    return tuple(found)


def interpolate_e(curve: Sequence[tuple[float, float]], error: float) -> float | None:
    """Return the largest e at which a front's error reaches a value; None where it stays below, or begins above.

    Args:
        curve: (e, error) of its models; between two of them the error is taken as linear in e.
        error: the value.
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
    epsilon = None if e is None else scales.f1_floor + e * scales.f1_range
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


def explain_likeness(one: Likeness) -> str:
    """Say in a sentence where the match lies, and how sure that is."""
    error = f"The retrained model's error in the hole of held-out forget images, {_with_interval(one.error.value, one.error.low, one.error.high)}"
    if one.e is None:
        where = (
            "is larger than any solved model's" if one.is_beyond_front else "is no larger than the original's"
        )
        return f"{error}, {where}: no epsilon has it ({HOW_TO_READ_LIKENESS})"
    place = "" if one.epsilon_fraction is None else f", {one.epsilon_fraction:.1%} of the valid range"
    return (
        f"{error}, is that of e {_with_interval(one.e, one.e_low, one.e_high)} on the front, completeness "
        f"{1.0 - one.e:.1%}, epsilon {one.epsilon:.5g}{place} ({HOW_TO_READ_LIKENESS})"
    )


def _with_interval(value: float, low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return f"{value:.3g}"
    ends = ("?" if end is None else f"{end:.3g}" for end in (low, high))
    return f"{value:.3g} ({' to '.join(ends)})"
