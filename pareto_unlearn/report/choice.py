"""The model that the page opens at: the one that ``pick`` noted in the run, or else the recommended one."""

from collections.abc import Sequence

from pareto_unlearn.analysis.picking import recommend
from pareto_unlearn.report.facts import Recommendation
from pareto_unlearn.report.lines import run_line
from pareto_unlearn.report.solution import Solution
from pareto_unlearn.store import PICK_FILE, StoredRun, read_pick


def choose(run: StoredRun, solutions: Sequence[Solution]) -> tuple[Recommendation | None, str]:
    """Return the picked or else the recommended model, and a sentence if a note could not be followed.

    No model is recommended in a smoke run, and where none is measured held out.
    """
    keys = {solution.trial_id: key for key, solution in enumerate(solutions) if solution.has_model}
    note = read_pick(run.store)
    key = None if note is None else keys.get(str(note.get("trial_id")))
    if note is not None and key is not None:
        return Recommendation(key=key, why=str(note.get("why", "")), name="picked"), ""
    pick = None if run.info.smoke else recommend(run.records)
    found = None if pick is None else Recommendation(key=keys[pick.record.trial_id], why=pick.why)
    if note is None:
        return found, ""
    remedy = f"`{run_line(run, 'pick')}` writes it again"
    return found, f" Attention: {PICK_FILE} names no model of this run; {remedy}."
