"""The dial in the report: which line makes a model between two trials of the slider."""

import shlex

from pareto_unlearn.records import Role
from pareto_unlearn.report.facts import EpsilonRange, Report
from pareto_unlearn.report.solution import Kind, Solution


def slider_fraction(solution: Solution, ranges: tuple[EpsilonRange, ...]) -> float | None:
    """Return where a model of the slider lies in the valid range, 0 to 1; None if it lies at no end of it.

    The original is the upper end only where the range says so.
    """
    if solution.kind is Kind.EPSILON:
        return solution.epsilon_fraction
    if solution.kind is Kind.BOUNDARY:
        return 0.0 if solution.label.startswith(Role.HIGHEST) else 1.0
    return 1.0 if any(one.upper_source == "original" for one in ranges) else None


def dial_line(report: Report) -> list[str] | None:
    """Return the parts of the line before and after the name of the file; None if no trial has a file."""
    exports = (one.export for one in report.solutions if one.export)
    words = next((shlex.split(line) for line in exports), None)
    if words is None:
        return None
    run, file = words[2], words[3].rpartition("-")[0]
    return [f"{shlex.join(words[:2])} {shlex.quote(run)} ", file]
