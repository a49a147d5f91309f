"""The audit of a run for the report: every model's findings, and the curves of relearning."""

import re
from collections.abc import Sequence

from pareto_unlearn.analysis.audit import Rows, audit_models, find_company
from pareto_unlearn.catalogue.audits import GAP_ATTACKS, QUICK_ATTACKS, at_step
from pareto_unlearn.config import AuditPolicy
from pareto_unlearn.report.charts import AuditFacts, RelearningCurve
from pareto_unlearn.report.lines import run_line
from pareto_unlearn.report.solution import Solution
from pareto_unlearn.store import StoredRun

_STEP = re.compile(r", after ([0-9]+)$")


def gather_audit(run: StoredRun, solutions: Sequence[Solution]) -> AuditFacts:
    """Return what the stored audit rows of a run show, by the built-in policy."""
    rows = run.audit_rows()
    keys = {solution.trial_id: key for key, solution in enumerate(solutions)}
    company = find_company(run.records, rows)
    curves = {keys[trial_id]: _curve(own) for trial_id, own in rows.items() if trial_id in keys}
    return AuditFacts(
        models=tuple(
            one for one in audit_models(run.records, rows, AuditPolicy(), company) if one.trial_id in keys
        ),
        keys=keys,
        curves={key: curve for key, curve in curves.items() if curve is not None},
        control=_curve(company.controls[0]) if company.controls else None,
        original=None if company.original is None else _curve(company.original),
        line=run_line(run, "audit", loads_models=True),
    )


def _curve(rows: Rows) -> RelearningCurve | None:
    """Return how fast a model relearns: under the first attack of the gap, or else under the short one."""
    for attack in (GAP_ATTACKS[0], QUICK_ATTACKS[0]):
        start = at_step(attack, 0).removesuffix("0")
        points = {
            int(found[1]): row.value
            for (_, metric), row in rows.items()
            if metric.startswith(start) and (found := _STEP.search(metric)) is not None
        }
        if points:
            steps = tuple(sorted(points))
            return RelearningCurve(attack=attack, steps=steps, errors=tuple(points[step] for step in steps))
    return None
