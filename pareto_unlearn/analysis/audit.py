"""What the rows of an audit show: each model's figures beside those of the control and of the original.

A model is *suppressed* when its outputs no longer show the forget images, and *forgotten* when nothing that
was tried brings them back or tells who was forgotten, any more than of a model that never saw them. The two
are verdicts of their own: there is no mean of unlike figures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pareto_unlearn.analysis.audit_findings import (
    FINDERS,
    Company,
    Finding,
    Rows,
    Verdict,
    relearning_gap,
)
from pareto_unlearn.catalogue.audits import EVALUATIONS
from pareto_unlearn.catalogue.methods import RETRAINED
from pareto_unlearn.config import AuditPolicy
from pareto_unlearn.records import HAS_MODEL, Phase, TrialRecord

__all__ = [
    "Company",
    "Finding",
    "ModelAudit",
    "Rows",
    "Standing",
    "Verdict",
    "audit_models",
    "find_company",
    "find_gaps",
    "relearning_gap",
]


class Standing(StrEnum):
    """What all evaluations of a model say together."""

    SHOWN = "shown"
    """Its outputs still show the forget images."""
    SUPPRESSED = "suppressed"
    FORGOTTEN = "forgotten"


NEEDED = (
    "relearning_gap",
    "other_attacks",
    "membership",
    "give_away_strangers",
    "retrieval",
    "worst_images",
    "features",
)
"""What a forgotten model must have passed. How its pictures look beside other classes' or the control's is
told apart."""


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
    chosen = [record for record in records if _is_unlearned(record) and record.trial_id in rows]
    return tuple(_audit(record, rows[record.trial_id], company, policy) for record in chosen)


def find_company(records: Iterable[TrialRecord], rows: Mapping[str, Rows]) -> Company:
    """Return the controls that never saw the forget images, the original, and the others by their names."""
    known = [(record, rows[record.trial_id]) for record in records if record.trial_id in rows]
    controls = tuple(own for record, own in known if record.method == RETRAINED)
    originals = [own for record, own in known if record.phase is Phase.ORIGINAL]
    names: dict[str, tuple[Rows, ...]] = {}
    for record, own in known:
        if _is_unlearned(record):
            names[record.label] = (*names.get(record.label, ()), own)
    return Company(controls, originals[0] if originals else None, names)


def _is_unlearned(record: TrialRecord) -> bool:
    return record.state in HAS_MODEL and record.phase not in (Phase.ORIGINAL, Phase.CONTROL)


def find_gaps(
    records: Sequence[TrialRecord], rows: Mapping[str, Rows], policy: AuditPolicy
) -> dict[str, float]:
    """Return the relearning gap of each audited model that has one, by trial id."""
    audits = audit_models(records, rows, policy, find_company(records, rows))
    values = {one.trial_id: one.finding("relearning_gap").value for one in audits}
    return {trial_id: value for trial_id, value in values.items() if value is not None}


def _audit(record: TrialRecord, rows: Rows, company: Company, policy: AuditPolicy) -> ModelAudit:
    findings = tuple(FINDERS[key](rows, company, policy) for key in EVALUATIONS)
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
