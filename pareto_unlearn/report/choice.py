"""The model that the page opens at: the one that ``pick`` noted in the run, or else the recommended one."""

import json
from collections.abc import Sequence

from pareto_unlearn.analysis.picking import recommend
from pareto_unlearn.errors import StoreError
from pareto_unlearn.report.facts import Recommendation, Solution
from pareto_unlearn.store import StoredRun

PICK_FILE = "pick.json"
"""Written by ``finished.pick``, which the report may not import."""


def choose(run: StoredRun, solutions: Sequence[Solution]) -> tuple[Recommendation | None, str]:
    """Return the picked or else the recommended model, and a sentence if a note could not be followed.

    No model is recommended in a smoke run, and where none is measured held out.
    """
    keys = {solution.trial_id: key for key, solution in enumerate(solutions) if solution.has_model}
    note = _read_note(run)
    if note is not None and note[0] in keys:
        return Recommendation(key=keys[note[0]], why=note[1], name="picked"), ""
    pick = None if run.info.smoke else recommend(run.records)
    found = None if pick is None else Recommendation(key=keys[pick.record.trial_id], why=pick.why)
    if note is None:
        return found, ""
    remedy = "`pareto-unlearn pick` writes it again"
    return found, f" Attention: {PICK_FILE} names no model of this run; {remedy}."


def _read_note(run: StoredRun) -> tuple[str, str] | None:
    """Return id and reason of the picked model; empty words if the note is damaged, None without a note."""
    try:
        text = run.store.read_text(PICK_FILE)
    except StoreError:
        return None
    try:
        note = json.loads(text)
        return str(note["trial_id"]), str(note["why"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return "", ""
