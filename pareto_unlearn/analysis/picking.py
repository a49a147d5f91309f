"""Picks one model of a run: by criteria, or where it pays least to go on in either direction.

How complete a model is, is measured on the images that were to be forgotten; held-out forget images were
never asked for. Quality is measured held out unless told otherwise, because training flatters it. Pure
functions of records; no torch and no store.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pareto_unlearn.analysis.front import is_non_dominated
from pareto_unlearn.analysis.naming import name_trial
from pareto_unlearn.analysis.pooling import Pooled, pool_gaps, pool_seeds
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT
from pareto_unlearn.config import AuditPolicy
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, TrialRecord, TrialState, ValidRange

HIDDEN = AuditPolicy().suppressed
"""Completeness from which a model's outputs no longer show the forget images."""
_ROUNDING = 0.0005
"""Half the last digit of an epsilon in a label, so that a label's own epsilon finds its trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """What a model must keep; all that is given must hold.

    ``epsilon`` is a fraction of the valid range, from above; ``min_quality`` is retained quality on
    ``split`` (``heldout`` or ``train``); ``min_completeness`` is the mean over the forget images, or with
    ``worst_class`` that of the class forgotten least; ``max_gap`` is the relearning gap of the audit.
    ``knee`` takes the knee of what is left whatever is bounded.
    """

    knee: bool = False
    epsilon: float | None = None
    min_quality: float | None = None
    split: str = "heldout"
    min_completeness: float | None = None
    worst_class: bool = False
    max_gap: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        shares = {"epsilon": self.epsilon, "min-quality": self.min_quality}
        for name, value in (shares | {"min-completeness": self.min_completeness}).items():
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"--{name}: expected a share between 0 and 1 (0.98), found {value:g}")
        if self.split not in ("heldout", "train"):
            raise ConfigError(f"--split: expected heldout or train, found {self.split!r}")
        if self.worst_class and self.min_completeness is None:
            raise ConfigError("--worst-class: expected --min-completeness beside it, found none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The model that was picked, why, and why not its neighbours on the front (the more complete first)."""

    record: TrialRecord
    why: str
    why_not: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Bound:
    """One criterion: what is bounded in words, how much of it a model has, and how much it must have."""

    words: str
    limit: float
    value: Callable[[TrialRecord], float | None]
    is_upper: bool = False
    form: str = ".1%"

    def shortfall(self, record: TrialRecord) -> float:
        """Return by how much a model misses the bound; 0 if it holds, infinity if it is not known."""
        value = _finite(self.value(record))
        if value is None:
            return math.inf
        return max(value - self.limit if self.is_upper else self.limit - value, 0.0)

    def asked(self) -> str:
        """Return the criterion in words."""
        return f"{self.words} {'up to' if self.is_upper else 'of at least'} {self.limit:{self.form}}"

    def found(self, record: TrialRecord) -> str:
        """Return what a model has of it, in words."""
        value = _finite(self.value(record))
        return f"{self.words} {'not measured' if value is None else f'{value:{self.form}}'}"


def pick_model(
    records: Sequence[TrialRecord],
    criteria: Criteria,
    ranges: Sequence[ValidRange] = (),
    gaps: Mapping[str, float] | None = None,
) -> Pick:
    """Return the model that keeps all criteria and is best in what they do not bound.

    - Forgetting alone bounded (``epsilon``, ``min_completeness``): the model with the most quality.
    - Quality alone bounded: the most complete model.
    - Both, neither, or ``knee``: the knee of the front of the models left, see ``knee_distances``. Where
      nothing bounds forgetting it is the front of models that hide the forget images (completeness of 90 % or
      more), if there is one: below that no trade-off is a good one.

    Of several seeds, the models of one label stand as one: criteria hold for the medians over seeds, and the
    model of the seed nearest to them is picked; see ``pool_seeds``. ``criteria.seed`` takes one seed alone.

    Ties go to the more complete model, then to the one that cost fewer gradient pairs. Models are the
    boundaries and epsilon trials that ended DONE; with ``max_gap`` also those that resist relearning.

    Args:
        records: of a run.
        criteria: what must hold.
        ranges: valid ranges of epsilon, for ``epsilon``.
        gaps: relearning gap by trial id, for ``max_gap``.

    Raises:
        ConfigError: no model keeps all criteria; names the nearest.
    """
    models, gaps = _models(records, criteria), gaps or {}
    seeds = sorted({one.seed for one in models})
    pooled = pool_seeds(models)
    if pooled:
        models, gaps = [one.record for one in pooled], pool_gaps(pooled, gaps)
    bounds = _bounds(criteria, {valid.seed: valid for valid in ranges}, gaps)
    left = [one for one in models if all(bound.shortfall(one) == 0.0 for bound in bounds)]
    if not left:
        raise ConfigError(_explain_nothing(models, bounds, criteria, [] if pooled else seeds))
    rule = _rule(criteria)
    pool = [one for one in left if (one.completeness or 0.0) >= HIDDEN] if rule == "knee" else []
    if not pool or _bounds_forgetting(criteria):
        pool = left
    chosen = _best(pool, rule, criteria)
    why = _why(chosen, pool, left, bounds, rule, criteria)
    own = models if pooled else [one for one in models if one.seed == chosen.seed]
    why_not = _why_not(chosen, pool, own, bounds, rule, criteria, [] if pooled else seeds)
    if not pooled:
        return Pick(record=chosen, why=why, why_not=why_not)
    group = next(one for one in pooled if one.record is chosen)
    return Pick(
        record=group.nearest, why=f"{why}; {_spread_in_words(group, seeds, criteria)}", why_not=why_not
    )


def _spread_in_words(group: Pooled, seeds: Sequence[int], criteria: Criteria) -> str:
    """Return what the seeds of a group have, median and range, and which of them is taken."""
    quality = "retained_quality" if criteria.split == "train" else "retained_quality_heldout"
    worst = f", worst class {group.spread('completeness_worst_class')}" if criteria.worst_class else ""
    return (
        f"medians over {len(group.members)} of {len(seeds)} seeds (with their range): completeness "
        f"{group.spread('completeness')}{worst}, {_words(criteria.split)} quality {group.spread(quality)}; "
        f"this is seed {group.record.seed}, the nearest to them"
    )


def recommend(records: Sequence[TrialRecord]) -> Pick | None:
    """Return what ``pick_model`` picks without criteria; None where no model is measured held out."""
    return pick_model(records, Criteria()) if _models(records, Criteria()) else None


def knee_distances(records: Sequence[TrialRecord], split: str = "heldout") -> dict[str, float]:
    """Return how far each model lies from the chord of the front of these models, by trial id.

    The front are the models that no other beats in both e (of the images to forget) and quality loss (on
    ``split``). Both are scaled to 0 to 1 between the front's two ends, and the chord joins the ends. The
    distance is positive towards less of both; that of an end is 0. Dominated models are left out. The model
    with the largest distance is the knee: beside it, a step along the front pays less than it costs.
    """
    costs = np.array([(_e(one), 1.0 - _quality(one, split)) for one in records], dtype=np.float64)
    kept = is_non_dominated(costs.reshape(-1, 2))
    front = costs.reshape(-1, 2)[kept]
    width = np.ptp(front, axis=0)
    width[width == 0.0] = 1.0
    scaled = (front - front.min(axis=0)) / width
    distances = (1.0 - scaled.sum(axis=1)) / math.sqrt(2.0)
    if len(front) < 3:
        distances = np.zeros(len(front))
    names = [one.trial_id for one, is_kept in zip(records, kept.tolist(), strict=True) if is_kept]
    return dict(zip(names, distances.tolist(), strict=True))


def _models(records: Sequence[TrialRecord], criteria: Criteria) -> list[TrialRecord]:
    phases = [Phase.BOUNDARY, Phase.EPSILON, *([] if criteria.max_gap is None else [Phase.HARDENED])]
    return [
        one
        for one in records
        if one.state is TrialState.DONE
        and one.method == EPSILON_CONSTRAINT
        and one.phase in phases
        and criteria.seed in (None, one.seed)
        and _finite(one.completeness) is not None
        and math.isfinite(_quality(one, criteria.split))
    ]


def _bounds(criteria: Criteria, ranges: Mapping[int, ValidRange], gaps: Mapping[str, float]) -> list[_Bound]:
    found = []
    if criteria.epsilon is not None:
        limit = criteria.epsilon + _ROUNDING
        found.append(_Bound("epsilon", limit, lambda one: _fraction(one, ranges), is_upper=True))
    if criteria.min_completeness is not None:
        name = "completeness of the worst class" if criteria.worst_class else "completeness"
        found.append(
            _Bound(name, criteria.min_completeness, lambda one: _completeness(one, criteria.worst_class))
        )
    if criteria.min_quality is not None:
        name = f"{_words(criteria.split)} retained quality"
        found.append(_Bound(name, criteria.min_quality, lambda one: _quality(one, criteria.split)))
    if criteria.max_gap is not None:
        found.append(
            _Bound(
                "relearning gap",
                criteria.max_gap,
                lambda one: gaps.get(one.trial_id),
                is_upper=True,
                form=".2f",
            )
        )
    return found


def _bounds_forgetting(criteria: Criteria) -> bool:
    return criteria.epsilon is not None or criteria.min_completeness is not None


def _rule(criteria: Criteria) -> str:
    """Return what decides among the models left: completeness, quality or the knee."""
    forgetting, quality = _bounds_forgetting(criteria), criteria.min_quality is not None
    if criteria.knee or forgetting == quality:
        return "knee"
    return "quality" if forgetting else "completeness"


def _best(pool: Sequence[TrialRecord], rule: str, criteria: Criteria) -> TrialRecord:
    distances = knee_distances(pool, criteria.split)

    def rank(one: TrialRecord) -> tuple[float, ...]:
        complete, quality = _completeness(one, criteria.worst_class), _quality(one, criteria.split)
        first = {
            "completeness": (complete, quality),
            "quality": (quality, complete),
            "knee": (distances.get(one.trial_id, -math.inf), complete),
        }[rule]
        return *first, float(-one.gradient_pairs)

    best = max(rank(one) for one in pool)
    return min((one for one in pool if rank(one) == best), key=lambda one: one.trial_id)


def _why(
    chosen: TrialRecord,
    pool: Sequence[TrialRecord],
    left: Sequence[TrialRecord],
    bounds: Sequence[_Bound],
    rule: str,
    criteria: Criteria,
) -> str:
    asked = f" with {' and '.join(bound.asked() for bound in bounds)}" if bounds else ""
    if len(pool) == 1:
        return f"the only model{asked}" if len(left) == 1 else f"the only model of {HIDDEN:.0%} completeness"
    if rule == "completeness":
        return f"the most complete of {len(pool)} models{asked}"
    split = _words(criteria.split)
    if rule == "quality":
        quality = f"{split} {_quality(chosen, criteria.split):.1%}"
        return f"keeps the most quality, {quality}, of {len(pool)} models{asked}"
    if len(knee_distances(pool, criteria.split)) < 3:
        return f"the most complete of {len(pool)} models{asked}; their front is too short for a knee"
    hidden = f" that hide the forget images ({HIDDEN:.0%} complete or more)" if len(pool) < len(left) else ""
    return (
        f"the knee of the {split} front of {len(pool)} models{asked}{hidden}: up to it much is forgotten for "
        "little quality, beyond it little for much"
    )


def _why_not(
    chosen: TrialRecord,
    pool: Sequence[TrialRecord],
    own: Sequence[TrialRecord],
    bounds: Sequence[_Bound],
    rule: str,
    criteria: Criteria,
    seeds: Sequence[int],
) -> tuple[str, ...]:
    """Return a line for the next more and the next less complete model on the front."""
    front = knee_distances(own, criteria.split)
    line = sorted((one for one in own if one.trial_id in front or one is chosen), key=_e)
    place = line.index(chosen)
    beside = [*line[max(place - 1, 0) : place], *line[place + 1 : place + 2]]
    distances = knee_distances(pool, criteria.split)
    return tuple(
        f"{name_trial(one, seeds)}: {_compare(one, chosen, criteria)}; "
        f"{_drawback(one, chosen, bounds, rule, distances)}"
        for one in beside
    )


def _compare(one: TrialRecord, chosen: TrialRecord, criteria: Criteria) -> str:
    complete = [_completeness(model, criteria.worst_class) for model in (one, chosen)]
    quality = [_quality(model, criteria.split) for model in (one, chosen)]
    return (
        f"completeness {complete[0]:.1%} against {complete[1]:.1%}, {_words(criteria.split)} quality "
        f"{quality[0]:.1%} against {quality[1]:.1%}"
    )


def _drawback(
    one: TrialRecord,
    chosen: TrialRecord,
    bounds: Sequence[_Bound],
    rule: str,
    distances: Mapping[str, float],
) -> str:
    broken = [bound for bound in bounds if bound.shortfall(one) > 0.0]
    if broken:
        return f"misses {' and '.join(bound.asked() for bound in broken)}"
    if rule != "knee":
        return "less complete" if rule == "completeness" else "keeps less"
    if one.trial_id not in distances:
        return f"shows the forget images (less than {HIDDEN:.0%} complete)"
    if len(distances) < 3:
        return "less complete"
    return f"nearer to the chord ({distances[one.trial_id]:.2f} against {distances[chosen.trial_id]:.2f})"


def _explain_nothing(
    models: Sequence[TrialRecord], bounds: Sequence[_Bound], criteria: Criteria, seeds: Sequence[int]
) -> str:
    """Return a sentence on what was asked of how many models, and on the one that comes nearest."""
    seed = "" if criteria.seed is None else f" of seed {criteria.seed}"
    if not models:
        return (
            f"expected a boundary or epsilon trial{seed} that ended DONE and was measured on "
            f"{_words(criteria.split)} images; found none"
        )
    asked = " and ".join(bound.asked() for bound in bounds)
    known = [one for one in models if all(math.isfinite(bound.shortfall(one)) for bound in bounds)]
    if not known:
        return (
            f"expected a model{seed} with {asked}; of {len(models)} models none has all of these measured; "
            "`audit` measures relearning gaps"
        )
    nearest = min(known, key=lambda one: (max(bound.shortfall(one) for bound in bounds), one.trial_id))
    reached = ", ".join(bound.found(nearest) for bound in bounds)
    return (
        f"expected a model{seed} with {asked}, found none among {len(models)}; the nearest is "
        f"{name_trial(nearest, seeds)}: {reached}"
    )


def _words(split: str) -> str:
    return "held-out" if split == "heldout" else "training"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _e(record: TrialRecord) -> float:
    return 1.0 - (record.completeness or 0.0)


def _quality(record: TrialRecord, split: str) -> float:
    value = record.retained_quality if split == "train" else record.retained_quality_heldout
    return math.nan if value is None else value


def _completeness(record: TrialRecord, worst_class: bool) -> float:
    value = record.completeness_worst_class if worst_class else record.completeness
    return math.nan if value is None else value


def _fraction(record: TrialRecord, ranges: Mapping[int, ValidRange]) -> float | None:
    """Return the epsilon that a model keeps: the one it was solved for, or where a boundary ended."""
    if record.epsilon_fraction is not None:
        return record.epsilon_fraction
    valid = ranges.get(record.seed)
    return None if valid is None or record.reached is None else valid.fraction_of(record.reached)
