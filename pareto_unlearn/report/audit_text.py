"""An audit as text: a table of models and evaluations, and what each verdict rests on."""

from collections.abc import Sequence

from pareto_unlearn.analysis.audit import Finding, ModelAudit
from pareto_unlearn.catalogue.audits import EVALUATIONS
from pareto_unlearn.report.table_text import plain_table


def write_audit(audits: Sequence[ModelAudit]) -> str:
    """Return the table, a line on each model, and the questions that the columns ask; ends with a newline."""
    if not audits:
        return "no unlearned model has been audited\n"
    head = ["model", *(row.title for row in EVALUATIONS.values()), "verdict"]
    rows = [[one.label, *(cell(found) for found in one.findings), str(one.standing)] for one in audits]
    lines = [f"{one.label}: {one.standing}; {one.reason}" for one in audits]
    questions = [f"{row.title}: {row.question}" for row in EVALUATIONS.values()]
    return "\n".join([plain_table(head, rows), *lines, "", *questions, ""])


def cell(finding: Finding) -> str:
    """Return a finding in a cell: its figure, less is better, and its verdict."""
    value = "" if finding.value is None else f"{finding.value:.3f} "
    return f"{value}{finding.verdict}"


def describe(audit: ModelAudit) -> list[str]:
    """Return a line for each evaluation of one model, with the figures behind its verdict."""
    return [
        f"{EVALUATIONS[one.evaluation].title}: {cell(one)}{f' ({one.detail})' if one.detail else ''}"
        for one in audit.findings
    ]
