"""The audit in the report: a verdict for each model, and how fast each relearns, from the stored rows."""

import plotly.graph_objects as go

from pareto_unlearn.analysis.audit import ModelAudit, Standing, Verdict
from pareto_unlearn.catalogue.audits import EVALUATIONS
from pareto_unlearn.report.audit_text import cell
from pareto_unlearn.report.charts import AuditFacts
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.figures import Figure, dictionary, styled_axis, styled_layout
from pareto_unlearn.report.fragments import command, mark, section, text
from pareto_unlearn.report.marks import look
from pareto_unlearn.report.solution import Solution

_CLASSES = {
    Verdict.PASSED: "done",
    Verdict.WARNED: "unconverged",
    Verdict.FAILED: "failed",
}
_STANDINGS = {
    Standing.FORGOTTEN: "done",
    Standing.SUPPRESSED: "unconverged",
    Standing.SHOWN: "failed",
}


def audit_section(report: Report) -> str:
    """Return the table of verdicts and the relearning curve; empty if no model was audited."""
    if not report.audit.models:
        return ""
    lead = (
        "Suppressed: the outputs no longer show what was to be forgotten. Forgotten: nothing that was tried "
        "brings it back, or tells who was forgotten, any more than with a model that never saw it. "
        f"{text(_sentence(report.audit))}"
    )
    heads = "".join(
        f'<th scope="col" title="{text(row.question)} Not shown by a pass: {text(row.limits)}.">'
        f"{text(row.title)}</th>"
        for row in EVALUATIONS.values()
    )
    left_out = set(report.left_out)
    left = ", or this page leaves it out" if left_out else ""
    rows = "".join(
        _row(one, report) for one in report.audit.models if report.audit.keys[one.trial_id] not in left_out
    )
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Audit of every model">'
        f'<table class="audit"><thead><tr><th scope="col">model</th><th scope="col">verdict</th>{heads}'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    figure = (
        '<div class="card"><div class="card-bar">How fast it relearns: '
        '<b id="relearning-text" aria-live="polite"></b></div>'
        '<div id="figure-relearning" class="figure figure-embedding" role="img" '
        'aria-label="Error in the hole of held-out forget images while the model trains on others"></div>'
        f'<p id="relearning-none" class="note" hidden>This model was not audited{left}.</p></div>'
    )
    return section("audit", "Gone or hidden", lead, _how_to_audit(report.audit) + table + figure)


def _sentence(audit: AuditFacts) -> str:
    """Return what a reader takes away, in words that promise nothing that was not measured."""
    count = len(audit.models)
    forgotten = [one.label for one in audit.models if one.standing is Standing.FORGOTTEN]
    suppressed = sum(one.standing is Standing.SUPPRESSED for one in audit.models)
    found = f"{', '.join(forgotten) or 'no model'} passed every attack"
    words = f"Of {count} models, {suppressed} are suppressed only; {found}."
    if audit.control is None:
        words += " This run has no control (controls: [retrained]), so most attacks can show nothing."
    return words


def _how_to_audit(audit: AuditFacts) -> str:
    """Return the line that runs all attacks; empty where some of them ran already."""
    if any(one.finding("other_attacks").verdict is not Verdict.NOT_MEASURED for one in audit.models):
        return ""
    return (
        '<p class="minor">Only the quick part was measured. This runs all attacks, for minutes:</p>'
        f"{command(audit.line)}"
    )


def _row(one: ModelAudit, report: Report) -> str:
    key = report.audit.keys[one.trial_id]
    cells = "".join(
        f'<td title="{text(found.detail)}"><span class="state state-{_CLASSES.get(found.verdict, "none")}">'
        f"{text(cell(found))}</span></td>"
        for found in one.findings
    )
    return (
        f'<tr data-key="{key}"><th scope="row">{mark(report.solutions[key])} {text(one.label)}</th>'
        f'<td title="{text(one.reason)}"><span class="state state-{_STANDINGS[one.standing]}">'
        f"{text(one.standing)}</span></td>{cells}</tr>"
    )


def relearning_figure(audit: AuditFacts, key: int, solution: Solution) -> Figure:
    """Draw a model's error in the hole against the steps of relearning, with the control and the original."""
    figure = go.Figure()
    named = (
        ("never saw them", audit.control, "dash", "var(--ink-soft)"),
        ("original", audit.original, "dot", "var(--ink-faint)"),
        (solution.label, audit.curves[key], "solid", look(solution).colour),
    )
    own = audit.curves[key]
    for name, curve, dash, colour in named:
        if curve is None or curve.attack != own.attack:
            continue
        figure.add_trace(
            go.Scatter(
                x=[step + 1 for step in curve.steps],
                y=list(curve.errors),
                customdata=list(curve.steps),
                mode="lines+markers",
                name=name,
                line={"width": 1.8, "dash": dash, "color": colour},
                hovertemplate="%{customdata} steps: error %{y:.4f}",
            )
        )
    drawn = dictionary(figure)
    marks = own.steps
    drawn["layout"] = styled_layout(
        xaxis=styled_axis(
            f"steps of training on {own.attack}",
            type="log",
            tickvals=[step + 1 for step in marks],
            ticktext=[str(step) for step in marks],
        ),
        yaxis=styled_axis("error in the hole, held out", rangemode="tozero"),
        showlegend=True,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"l": 60, "r": 16, "t": 80, "b": 48},
    )
    return drawn
