"""The evaluations of an audit, each beside the control and the original: what is bounded, and the verdict."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from scipy.special import betaincinv

from pareto_unlearn.analysis.klom import LEAST, find_klom
from pareto_unlearn.catalogue.audits import (
    BYSTANDERS,
    CHANGED_INPUT,
    GAP_ATTACKS,
    OTHER_ATTACKS,
    OTHER_HOLES,
    QUICK_ATTACKS,
    REFITTED_OUTPUTS,
    RHO,
    image_of,
    lowest_error,
)
from pareto_unlearn.config import AuditPolicy, Limits
from pareto_unlearn.records import MetricRow


class Verdict(StrEnum):
    """What an evaluation found."""

    PASSED = "PASSED"
    WARNED = "WARNED"
    FAILED = "FAILED"
    NO_CONTROL = "NO CONTROL"
    """Nothing to compare with: the figure alone shows nothing."""
    NO_BASELINE = "NO BASELINE"
    """The original itself is no better than the control, so there is nothing to bring back."""
    NOT_MEASURED = "NOT MEASURED"


Rows = Mapping[tuple[str, str], MetricRow]
"""The audit rows of one model by (set, metric)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One evaluation of one model.

    ``value`` is what the policy bounds; less is better. ``detail`` has the figures behind it in words.
    """

    evaluation: str
    verdict: Verdict
    value: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Company:
    """The models that others are judged beside: controls, which may be several or none, and the original.

    ``names`` are the unlearned models by name; several seeds share one.
    """

    controls: tuple[Rows, ...]
    original: Rows | None
    names: Mapping[str, tuple[Rows, ...]] = field(default_factory=dict)

    def namesakes(self, model: Rows) -> tuple[Rows, ...]:
        """Return the models of all seeds that have a model's name, itself among them."""
        named = (models for models in self.names.values() if any(one is model for one in models))
        return next(named, (model,))

    def control(self, image_set: str, metric: str) -> float | None:
        """Return the mean of a figure over the controls; None where one of them lacks it."""
        return _mean(_value(rows, image_set, metric) for rows in self.controls)

    def control_bound(self, metric: str, *, upper: bool) -> float | None:
        """Return the mean upper or lower end of a figure's interval on forget images over the controls."""
        rows = [one.get(("forget", metric)) for one in self.controls]
        return _mean(None if row is None else (row.high if upper else row.low) for row in rows)


@dataclass(frozen=True, slots=True)
class _Relearnt:
    """The lowest error of held-out forget images that attacks reach, and the original's before any attack."""

    own: float | None
    control: float | None
    original: float | None

    def gap(self, least: float) -> float | None:
        """Return the relearning gap; see ``relearning_gap``."""
        if self.own is None or self.control is None or self.original is None:
            return None
        if self.control <= self.original * (1.0 + least):
            return None
        return max((self.control - self.own) / (self.control - self.original), 0.0)


def _relearn(model: Rows, company: Company, attacks: Sequence[str]) -> _Relearnt:
    original = None if company.original is None else _value(company.original, "forget", "error_in_hole")
    control = _mean(_lowest(rows, attacks) for rows in company.controls)
    return _Relearnt(_lowest(model, attacks), control, original)


def relearning_gap(model: Rows, company: Company, attacks: Sequence[str], least: float) -> float | None:
    """Return (B control - B model) / (B control - E original), at least 0; None where a figure is missing.

    B is the lowest error of held-out forget images that any of the attacks reaches; E is the error before.
    None too where the control's B exceeds E by no more than the share ``least``: then there is nothing to
    bring back, and the quotient is that of two small differences.
    """
    return _relearn(model, company, attacks).gap(least)


def _judge(key: str, value: float, limits: Limits, detail: str) -> Finding:
    verdict = Verdict.FAILED
    if value <= limits.warned:
        verdict = Verdict.WARNED
    if value <= limits.passed:
        verdict = Verdict.PASSED
    return Finding(evaluation=key, verdict=verdict, value=value, detail=detail)


def _unmeasured(key: str, verdict: Verdict = Verdict.NOT_MEASURED, detail: str = "") -> Finding:
    return Finding(evaluation=key, verdict=verdict, value=None, detail=detail)


def _find_gap(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    """Judge the gap of the fixed attacks, or of the short ones where the model or a control lacks those."""
    key, least = "relearning_gap", policy.least_relearned
    attacks: Sequence[str] = GAP_ATTACKS
    found = _relearn(rows, company, attacks)
    if found.own is None or (company.controls and found.control is None):
        attacks = QUICK_ATTACKS
        found = _relearn(rows, company, attacks)
    if found.own is None:
        return _unmeasured(key)
    if found.control is None:
        return _unmeasured(key, Verdict.NO_CONTROL, f"error {found.own:.4f} after the attack")
    if found.original is None:
        return _unmeasured(key, Verdict.NO_BASELINE, "the original was not audited")
    company_figures = f"control {found.control:.4f}, original {found.original:.4f}"
    value = found.gap(least)
    if value is None:
        return _unmeasured(key, Verdict.NO_BASELINE, company_figures)
    if attacks is QUICK_ATTACKS:  # two of unlike kinds: a trap for one of them must not hide behind the other
        value = max(relearning_gap(rows, company, (attack,), least) or 0.0 for attack in attacks)
    kind = "" if attacks is GAP_ATTACKS else " by the short attacks"
    return _judge(key, value, policy.relearning_gap, f"error {found.own:.4f}{kind}, {company_figures}")


def _find_other(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    """Judge the worst of the attacks that no solve is trained against, each beside the control's own."""
    key = "other_attacks"
    tried = [
        attack
        for attack in (*OTHER_ATTACKS, CHANGED_INPUT, REFITTED_OUTPUTS, *OTHER_HOLES)
        if _lowest(rows, (attack,)) is not None
    ]
    if not tried:
        return _unmeasured(key)
    gaps = {attack: _other_gap(rows, company, attack, policy.least_relearned) for attack in tried}
    known = {attack: gap for attack, gap in gaps.items() if gap is not None}
    if not known:
        verdict = Verdict.NO_BASELINE if company.controls else Verdict.NO_CONTROL
        return _unmeasured(key, verdict, f"{len(tried)} attacks")
    worst = max(known, key=lambda attack: known[attack])
    return _judge(key, known[worst], policy.other_attacks, f"{worst}; {len(known)} attacks")


def _other_gap(rows: Rows, company: Company, attack: str, least: float) -> float | None:
    """Return the gap of one attack; with another hole the original has another error."""
    found = _relearn(rows, company, (attack,))
    if attack in OTHER_HOLES:
        original = None if company.original is None else _lowest(company.original, (attack,))
        found = replace(found, original=original)
    return found.gap(least)


def _distance(row: MetricRow) -> float:
    return abs(row.value - 0.5)


def _interval(row: MetricRow) -> str:
    if row.low is None or row.high is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})"


def _find_membership(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    return _chance_of("membership", rows, company, policy.membership)


def _find_strangers(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    return _chance_of("give_away_strangers", rows, company, policy.give_away_strangers)


def _chance_of(key: str, rows: Rows, company: Company, limits: Limits) -> Finding:
    """Judge an AUC that should be .5; held-out images of the same classes are the control."""
    row = rows.get(("forget", key))
    if row is None:
        return _unmeasured(key)
    before = None if company.original is None else company.original.get(("forget", key))
    detail = f"AUC {_interval(row)}" + ("" if before is None else f", original {before.value:.3f}")
    return _judge(key, _distance(row), limits, detail)


def _find_members_kept(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    key = "membership_retain"
    row = rows.get(("retain", "membership"))
    before = None if company.original is None else company.original.get(("retain", "membership"))
    if row is None:
        return _unmeasured(key)
    if before is None:
        return _unmeasured(key, Verdict.NO_BASELINE, f"AUC {_interval(row)}")
    detail = f"AUC {_interval(row)}, original {before.value:.3f}"
    return _judge(key, max(_distance(row) - _distance(before), 0.0), policy.membership_retain, detail)


def _find_class_told(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    return _told("give_away_retain", rows, company, policy.give_away_retain)


def _find_told_from_bystanders(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    return _told("give_away_bystanders", rows, company, policy.give_away_bystanders)


def _told(key: str, rows: Rows, company: Company, limits: Limits) -> Finding:
    """Judge how much more a picture tells of its class than the control's does."""
    row = rows.get(("forget", key))
    if row is None:
        return _unmeasured(key)
    control = company.control("forget", key)
    if control is None:
        return _unmeasured(key, Verdict.NO_CONTROL, f"AUC {_interval(row)}")
    value = max(_distance(row) - abs(control - 0.5), 0.0)
    return _judge(key, value, limits, f"AUC {_interval(row)}, control {control:.3f}")


def _find_bystanders(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    key, (image_set, _) = "bystanders", BYSTANDERS
    own = _value(rows, image_set, "error_in_hole")
    if own is None:
        return _unmeasured(key)
    before = None if company.original is None else _value(company.original, image_set, "error_in_hole")
    if not before:
        return _unmeasured(key, Verdict.NO_BASELINE, f"error {own:.4f}")
    detail = f"error {own:.4f}, original {before:.4f}"
    return _judge(key, max(own / before - 1.0, 0.0), policy.bystanders, detail)


def _find_retrieval(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    key = "retrieval"
    row = rows.get(("forget", key))
    if row is None:
        return _unmeasured(key)
    chance = f"{row.value:.1%} of {row.n}, chance {1 / row.n:.1%}"
    bound, control = company.control_bound(key, upper=True), company.control("forget", key)
    if bound is None or control is None:
        return _unmeasured(key, Verdict.NO_CONTROL, chance)
    return _judge(key, max(row.value - bound, 0.0), policy.retrieval, f"{chance}, control {control:.1%}")


def _find_features(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    """Judge the probe that gets most out of the features beside what it gets out of the control's.

    The original's decoder is not judged: it reads no features of a training from another start, so the
    control's figure says nothing of what it holds.
    """
    key = "features"
    shares, parts, is_measured = [], [], False
    for metric, is_error in (("class_probe", False), ("ridge_decoder", True)):
        own = _value(rows, "forget", metric)
        control = company.control("forget", metric)
        is_measured |= own is not None
        if own is None or control is None or control <= 0.0:
            continue
        shares.append((control - own if is_error else own - control) / control)
        parts.append(f"{metric.replace('_', ' ')} {own:.3f}, control {control:.3f}")
    swapped = _value(rows, "forget", "swapped_decoder")
    if swapped is not None:
        parts.append(f"error with the original's decoder {swapped:.3f}")
    if not shares:
        return _unmeasured(key, Verdict.NO_CONTROL if is_measured else Verdict.NOT_MEASURED)
    return _judge(key, max(*shares, 0.0), policy.features, "; ".join(parts))


def _find_worst_images(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    """Judge the share of images whose error is nearer, as a ratio, to the original's than to the control's.

    Images that the original fills no better than the control are left out: there is nothing to keep of them.
    """
    key = "worst_images"
    own = _errors_by_image(rows)
    if not own:
        return _unmeasured(key)
    controls, before = [_errors_by_image(one) for one in company.controls], _errors_by_image(company.original)
    if not controls:
        return _unmeasured(key, Verdict.NO_CONTROL, f"{len(own)} images")
    control = {image: _mean(one.get(image) for one in controls) for image in own}
    known = [
        _Place(image, error, before[image], other)
        for image, error in own.items()
        if image in before
        and (other := control[image]) is not None
        and other > before[image] * (1.0 + policy.least_relearned)
    ]
    if not known:
        return _unmeasured(key, Verdict.NO_BASELINE, f"{len(own)} images")
    kept = sum(place.nearness > 0.5 for place in known)
    bound = _upper_bound(kept, len(known))
    nearest = max(known, key=lambda place: place.nearness)
    detail = f"{kept} of {len(known)}, at most {bound:.1%}; the nearest {nearest.describe()}"
    return _judge(key, kept / len(known), policy.worst_images, detail)


@dataclass(frozen=True, slots=True)
class _Place:
    """The errors of one image by the model, the original and the control."""

    image: str
    error: float
    before: float
    control: float

    @property
    def nearness(self) -> float:
        """Return 1 at the original's error, 0 at the control's, along their logarithms."""
        return math.log(self.control / max(self.error, 1e-12)) / math.log(
            self.control / max(self.before, 1e-12)
        )

    def describe(self) -> str:
        """Return the image with its three errors."""
        return f"is {self.image}: {self.error:.4f}, control {self.control:.4f}, original {self.before:.4f}"


def _upper_bound(hits: int, count: int) -> float:
    """Return the upper end of Clopper and Pearson's 95 % interval of a share."""
    return 1.0 if hits == count else float(betaincinv(hits + 1, count - hits, 0.975))


def _errors_by_image(rows: Rows | None) -> dict[str, float]:
    named = ((image_of(metric), row.value) for (_, metric), row in (rows or {}).items())
    return {image: error for image, error in named if image is not None and math.isfinite(error)}


def _find_closeness(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    key = "closeness"
    rho = _value(rows, "forget", RHO)
    if rho is None:
        return _unmeasured(key, Verdict.NOT_MEASURED if company.controls else Verdict.NO_CONTROL)
    return _judge(key, rho, policy.closeness, f"rho {rho:.2f}")


def _find_klom(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    key = "klom"
    if not company.controls or not _errors_by_image(rows):
        return _unmeasured(key, Verdict.NOT_MEASURED if company.controls else Verdict.NO_CONTROL)
    kinds = [[_errors_by_image(one) for one in side] for side in (company.namesakes(rows), company.controls)]
    apart = find_klom(*kinds)
    if apart is None:
        return _unmeasured(key, detail=f"it takes {LEAST} seeds of the model and of its control")
    detail = (
        f"{apart.nats:.1f} nats, {apart.alike:.1f} where models change sides, as far in {apart.share:.1%} of "
        f"these; {apart.models[0]} models and {apart.models[1]} controls, {apart.images} images"
    )
    return _judge(key, max(apart.nats - apart.alike, 0.0), policy.klom, detail)


_Finder = Callable[[Rows, Company, AuditPolicy], Finding]
FINDERS: Mapping[str, _Finder] = {
    "relearning_gap": _find_gap,
    "other_attacks": _find_other,
    "membership": _find_membership,
    "membership_retain": _find_members_kept,
    "give_away_strangers": _find_strangers,
    "give_away_retain": _find_class_told,
    "give_away_bystanders": _find_told_from_bystanders,
    "bystanders": _find_bystanders,
    "retrieval": _find_retrieval,
    "worst_images": _find_worst_images,
    "features": _find_features,
    "closeness": _find_closeness,
    "klom": _find_klom,
}


def _value(rows: Rows, image_set: str, metric: str) -> float | None:
    row = rows.get((image_set, metric))
    return None if row is None or not math.isfinite(row.value) else row.value


def _lowest(rows: Rows, attacks: Sequence[str]) -> float | None:
    """Return the lowest error that any of the attacks reaches; None if one of them was not run."""
    errors = [_value(rows, "forget", lowest_error(attack)) for attack in attacks]
    known = [error for error in errors if error is not None]
    return min(known) if known and len(known) == len(errors) else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None
