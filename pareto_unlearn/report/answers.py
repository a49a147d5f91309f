"""Answers to what is asked of a solve: is the constraint met, is it active, has the solve converged."""

from collections.abc import Sequence

from pareto_unlearn.records import TrialState
from pareto_unlearn.report.charts import Curve
from pareto_unlearn.report.solution import Solution, Split
from pareto_unlearn.report.words import NONE, number, share

_TENTH = 10
_NOT_ACTIVE = "constraint not active"
"""How the reason of a trial begins whose f1 ended further below epsilon than the tolerance."""


def answers(solution: Solution, curve: Curve | None) -> list[tuple[str, str, str]]:
    """Return (question, yes, no or a dash, evidence) for the figure of convergence.

    Args:
        solution: a trial.
        curve: what is stored of its solve.
    """
    return [_met(solution), _active(solution), _converged(solution, curve)]


def _met(solution: Solution) -> tuple[str, str, str]:
    question = "constraint met?"
    gap = solution.gap_to_epsilon(Split.TRAIN)
    if solution.epsilon is None:
        return question, NONE, "no epsilon bounds this trial"
    if gap is None or not solution.has_model:
        return question, NONE, "not measured: there is no model"
    where = f"f1 ends {number(abs(gap), 2)} {'above' if gap > 0.0 else 'below'} epsilon"
    if solution.state is TrialState.INFEASIBLE:
        return question, "no", f"{where}, more than the tolerance"
    return question, "yes", f"{where}, within the tolerance" if gap > 0.0 else where


def _active(solution: Solution) -> tuple[str, str, str]:
    question = "active?"
    if solution.epsilon is None or not solution.has_model:
        return question, NONE, ""
    eta = "" if solution.multiplier is None else f"last eta {number(solution.multiplier, 3)}"
    if solution.reason.startswith(_NOT_ACTIVE):
        return question, "no", eta or "f1 lies further below epsilon than the tolerance"
    return question, "yes", eta or "f1 lies at epsilon"


def _converged(solution: Solution, curve: Curve | None) -> tuple[str, str, str]:
    question = "converged?"
    if solution.mixed_from and not solution.steps:
        return question, NONE, f"mixed from {solution.mixed_from}, nothing was solved"
    moved = "" if curve is None else _moves(curve)
    if solution.state is TrialState.DONE:
        return question, "yes", moved
    if solution.state is TrialState.UNCONVERGED and not solution.reason.startswith(_NOT_ACTIVE):
        return question, "no", moved
    if solution.has_model:
        return question, NONE, moved
    return question, "no", "the trial ended without a model"


def _moves(curve: Curve) -> str:
    """Return how far the mini-batch means of the last tenth lie from those of the tenth before."""
    found = [(name, _move(curve.columns[name])) for name in ("f1", "f2")]
    said = " and ".join(f"{name} moved by {share(move)}" for name, move in found if move is not None)
    return f"over the last tenth of its steps {said}" if said else ""


def _move(values: Sequence[float | None]) -> float | None:
    size = len(values) // _TENTH
    known = [value for value in values[-2 * size :] if value is not None]
    if not size or len(known) < 2 * size:
        return None
    before, after = sum(known[:size]) / size, sum(known[size:]) / size
    return (after - before) / abs(before) if before else None
