"""What the rows of an audit show: each model's figures beside those of the control and of the original.

A model is *suppressed* when its outputs no longer show the forget images, and *forgotten* when nothing that
was tried brings them back or tells who was forgotten, any more than of a model that never saw them. The two
are verdicts of their own: there is no mean of unlike figures.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pareto_unlearn.catalogue.audits import (
    CHANGED_INPUT,
    EVALUATIONS,
    GAP_ATTACKS,
    OTHER_ATTACKS,
    QUICK_ATTACKS,
    REFITTED_OUTPUTS,
    lowest_error,
)
from pareto_unlearn.catalogue.methods import RETRAINED
from pareto_unlearn.config import AuditPolicy, Limits
from pareto_unlearn.records import HAS_MODEL, MetricRow, Phase, TrialRecord


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


class Standing(StrEnum):
    """What all evaluations of a model say together."""

    SHOWN = "shown"
    """Its outputs still show the forget images."""
    SUPPRESSED = "suppressed"
    FORGOTTEN = "forgotten"


Rows = Mapping[tuple[str, str], MetricRow]
"""The audit rows of one model by (set, metric)."""
NEEDED = ("relearning_gap", "other_attacks", "membership", "give_away_strangers", "retrieval", "features")
"""What a forgotten model must have passed. How its pictures look beside other classes' is told apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One evaluation of one model.

    ``value`` is what the policy bounds; less is better. ``detail`` has the figures behind it in words.
    """

    evaluation: str
    verdict: Verdict
    value: float | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAudit:
    """All findings on a model; ``reason`` explains the standing in one sentence."""

    trial_id: str
    label: str
    standing: Standing
    reason: str
    findings: tuple[Finding, ...]

    def finding(self, evaluation: str) -> Finding:
        """Return the finding of one evaluation."""
        return next(one for one in self.findings if one.evaluation == evaluation)


@dataclass(frozen=True, slots=True)
class Company:
    """The models that others are judged beside: controls, which may be several or none, and the original."""

    controls: tuple[Rows, ...]
    original: Rows | None

    def control(self, image_set: str, metric: str) -> float | None:
        """Return the mean of a figure over the controls; None where one of them lacks it."""
        return _mean(_value(rows, image_set, metric) for rows in self.controls)

    def control_bound(self, metric: str, *, upper: bool) -> float | None:
        """Return the mean upper or lower end of a figure's interval on forget images over the controls."""
        rows = [one.get(("forget", metric)) for one in self.controls]
        return _mean(None if row is None else (row.high if upper else row.low) for row in rows)


def audit_models(
    records: Sequence[TrialRecord], rows: Mapping[str, Rows], policy: AuditPolicy, company: Company
) -> tuple[ModelAudit, ...]:
    """Return the audit of every unlearned model that has audit rows, in the order of the records.

    Args:
        records: of the models.
        rows: the audit rows by trial id.
        policy: thresholds.
        company: whom they are judged beside, of the whole run: ``find_company``.
    """
    chosen = [
        record
        for record in records
        if record.state in HAS_MODEL
        and record.phase not in (Phase.ORIGINAL, Phase.CONTROL)
        and record.trial_id in rows
    ]
    return tuple(_audit(record, rows[record.trial_id], company, policy) for record in chosen)


def find_company(records: Iterable[TrialRecord], rows: Mapping[str, Rows]) -> Company:
    """Return the controls that never saw the forget images, and the original."""
    known = [(record, rows[record.trial_id]) for record in records if record.trial_id in rows]
    controls = tuple(own for record, own in known if record.method == RETRAINED)
    originals = [own for record, own in known if record.phase is Phase.ORIGINAL]
    return Company(controls, originals[0] if originals else None)


def relearning_gap(model: Rows, company: Company, attacks: Sequence[str], least: float) -> float | None:
    """Return (B control - B model) / (B control - E original), at least 0; None where a figure is missing.

    B is the lowest error of held-out forget images that any of the attacks reaches; E is the error before.
    None too where the control's B exceeds E by no more than the share ``least``: then there is nothing to
    bring back, and the quotient is that of two small differences.
    """
    own, control = _lowest(model, attacks), _mean(_lowest(rows, attacks) for rows in company.controls)
    start = None if company.original is None else _value(company.original, "forget", "error_in_hole")
    if own is None or control is None or start is None or control <= start * (1.0 + least):
        return None
    return max((control - own) / (control - start), 0.0)


def _audit(record: TrialRecord, rows: Rows, company: Company, policy: AuditPolicy) -> ModelAudit:
    findings = tuple(
        _FINDERS[key](rows, company, policy) if key in _FINDERS else _unmeasured(key) for key in EVALUATIONS
    )
    standing, reason = _stand(record, findings, policy)
    return ModelAudit(
        trial_id=record.trial_id, label=record.label, standing=standing, reason=reason, findings=findings
    )


def _stand(record: TrialRecord, findings: Sequence[Finding], policy: AuditPolicy) -> tuple[Standing, str]:
    """Return what all findings say together."""
    if record.completeness is None or record.completeness < policy.suppressed:
        share = "unknown" if record.completeness is None else f"{record.completeness:.1%}"
        return Standing.SHOWN, f"completeness is {share}, below {policy.suppressed:.0%}"
    needed = [one for one in findings if one.evaluation in NEEDED]
    short = [one for one in needed if one.verdict is not Verdict.PASSED]
    if not short:
        return Standing.FORGOTTEN, "no attack that was tried tells it from a model that never saw the images"
    named: dict[Verdict, list[str]] = {}
    for one in short:
        named.setdefault(one.verdict, []).append(EVALUATIONS[one.evaluation].title)
    parts = (f"{verdict}: {', '.join(titles)}" for verdict, titles in named.items())
    return Standing.SUPPRESSED, "; ".join(parts)


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
    """Judge the gap of the fixed attacks; of a model that was not put to them, that of the short ones."""
    key = "relearning_gap"
    attacks = GAP_ATTACKS if _lowest(rows, GAP_ATTACKS) is not None else QUICK_ATTACKS
    own = _lowest(rows, attacks)
    if own is None:
        return _unmeasured(key)
    control = _mean(_lowest(one, attacks) for one in company.controls)
    if control is None:
        return _unmeasured(key, Verdict.NO_CONTROL, f"error {own:.4f} after the attack")
    start = None if company.original is None else _value(company.original, "forget", "error_in_hole")
    if start is None:
        return _unmeasured(key, Verdict.NO_BASELINE, "the original was not audited")
    if control <= start * (1.0 + policy.least_relearned):
        return _unmeasured(key, Verdict.NO_BASELINE, f"control {control:.4f}, original {start:.4f}")
    value = max((control - own) / (control - start), 0.0)
    if attacks is QUICK_ATTACKS:  # two of unlike kinds: a trap for one of them must not hide behind the other
        gaps = (relearning_gap(rows, company, (attack,), policy.least_relearned) for attack in attacks)
        value = max(gap or 0.0 for gap in gaps)
    kind = "" if attacks is GAP_ATTACKS else " by the short attacks"
    detail = f"error {own:.4f}{kind}, control {control:.4f}, original {start:.4f}"
    return _judge(key, value, policy.relearning_gap, detail)


def _find_other(rows: Rows, company: Company, policy: AuditPolicy) -> Finding:
    """Judge the worst of the attacks that no solve is trained against, each beside the control's own."""
    key = "other_attacks"
    tried = [
        attack
        for attack in (*OTHER_ATTACKS, CHANGED_INPUT, REFITTED_OUTPUTS)
        if _lowest(rows, (attack,)) is not None
    ]
    if not tried:
        return _unmeasured(key)
    gaps = {attack: relearning_gap(rows, company, (attack,), policy.least_relearned) for attack in tried}
    known = {attack: gap for attack, gap in gaps.items() if gap is not None}
    if not known:
        verdict = Verdict.NO_BASELINE if company.controls else Verdict.NO_CONTROL
        return _unmeasured(key, verdict, f"{len(tried)} attacks")
    worst = max(known, key=lambda attack: known[attack])
    return _judge(key, known[worst], policy.other_attacks, f"{worst}; {len(known)} attacks")


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
    key = "give_away_retain"
    row = rows.get(("forget", key))
    if row is None:
        return _unmeasured(key)
    control = company.control("forget", key)
    if control is None:
        return _unmeasured(key, Verdict.NO_CONTROL, f"AUC {_interval(row)}")
    value = max(_distance(row) - abs(control - 0.5), 0.0)
    return _judge(key, value, policy.give_away_retain, f"AUC {_interval(row)}, control {control:.3f}")


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


_Finder = Callable[[Rows, Company, AuditPolicy], Finding]
_FINDERS: Mapping[str, _Finder] = {
    "relearning_gap": _find_gap,
    "other_attacks": _find_other,
    "membership": _find_membership,
    "membership_retain": _find_members_kept,
    "give_away_strangers": _find_strangers,
    "give_away_retain": _find_class_told,
    "retrieval": _find_retrieval,
    "features": _find_features,
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
