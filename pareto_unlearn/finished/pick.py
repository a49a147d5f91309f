"""Picks one model of a finished run and keeps a note of it in the run: ``pick.json``."""

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pareto_unlearn import __version__
from pareto_unlearn.analysis.audit import find_gaps
from pareto_unlearn.analysis.naming import export_command, name_trial
from pareto_unlearn.analysis.picking import Criteria, Pick, pick_model
from pareto_unlearn.config import AuditPolicy
from pareto_unlearn.store import StoredRun, open_run, write_pick

__all__ = ["Picked", "pick_from", "pick_run"]

SHOWN = {
    "completeness": ("completeness", ".1%"),
    "completeness_worst_class": ("worst class", ".1%"),
    "retained_quality_heldout": ("retained quality held out", ".1%"),
    "retained_quality": ("on training images", ".1%"),
    "relearning_gap": ("relearning gap", ".2f"),
}
"""Numbers that stand beside the choice, with their words and their form; all but the last are columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picked:
    """A choice with what people and programs are told of it.

    ``command`` exports the model; ``note`` is the content of ``pick.json``.
    """

    pick: Pick
    command: str
    note: dict[str, object]

    def lines(self) -> list[str]:
        """Return what a person reads; the last line can be copied."""
        shown = [
            f"{words} {value:{form}}"
            for name, (words, form) in SHOWN.items()
            if (value := self.note[name]) is not None
        ]
        return [
            name_trial(self.pick.record, []),
            ", ".join(shown),
            f"why: {self.pick.why}",
            *(f"not {line}" for line in self.pick.why_not),
            self.command,
        ]


def pick_run(run_path: str, criteria: Criteria) -> Picked:
    """Pick a model, see ``pick_model``, and record the choice in the run in place of an older one.

    Raises:
        ConfigError: no model keeps all criteria; nothing is recorded then.
        OSError: the run cannot be written to.
    """
    run = open_run(run_path)
    pick, gaps = pick_from(run, criteria)
    record = pick.record
    note: dict[str, object] = {
        "schema": 1,
        "trial_id": record.trial_id,
        "label": record.label,
        "seed": record.seed,
        "criteria": {name: value for name, value in asdict(criteria).items() if value not in (None, False)},
        **{name: _plain(getattr(record, name, gaps.get(record.trial_id))) for name in SHOWN},
        "why": pick.why,
        "why_not": list(pick.why_not),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }
    write_pick(run.store, note)
    command = export_command(
        run_path.rstrip("/"), record, smoke=run.info.smoke, allow_import=run.needs_import
    )
    return Picked(pick=pick, command=command, note=note)


def pick_from(run: StoredRun, criteria: Criteria) -> tuple[Pick, dict[str, float]]:
    """Return the model of an opened run that keeps the criteria, and all relearning gaps by trial id.

    Raises:
        ConfigError: no model keeps all criteria.
    """
    gaps = find_gaps(run.records, run.audit_rows(), AuditPolicy())
    return pick_model(run.records, criteria, run.info.ranges, gaps), gaps


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
