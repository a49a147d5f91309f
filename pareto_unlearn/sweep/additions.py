"""Models of a run that lack a measurement, since `evaluate` names more than when their trials ended.

They are measured on workers like trials, from their checkpoints; nothing is trained.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Self

from pareto_unlearn.config import SweepConfig, measurements_of
from pareto_unlearn.records import HAS_MODEL, TrialRecord
from pareto_unlearn.store import RunStore, Wanted, find_measured


@dataclass(slots=True)
class Additions:
    """What is still to be measured, by trial id, and why some of it could not be.

    ``asked`` holds all trials that lacked something when the sweep started.
    """

    missing: dict[str, tuple[str, ...]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    asked: dict[str, tuple[str, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.asked = dict(self.missing)

    @classmethod
    def of_run(cls, config: SweepConfig, store: RunStore, rows: Iterable[TrialRecord]) -> Self:
        """Return what the models of a run lack of a sweep's measurements.

        Raises:
            StoreError: a file of its metrics is damaged.
        """
        models = [row.trial_id for row in rows if row.state in HAS_MODEL]
        if not models:
            return cls()
        wanted = {one.name: Wanted(one.protocol, one.metrics) for one in measurements_of(config)}
        measured = find_measured(store, wanted)
        lacking = {
            trial_id: tuple(name for name in wanted if trial_id not in measured[name]) for trial_id in models
        }
        return cls({trial_id: names for trial_id, names in lacking.items() if names})

    def next(self, live: Collection[str]) -> str | None:
        """Return the id of the next trial to measure, None where all are measured or at work."""
        return next((trial_id for trial_id in self.missing if trial_id not in live), None)

    def ended(self, trial_id: str, reason: str) -> None:
        """Count a trial as measured, or as given up for a reason; the next sweep tries it again."""
        del self.missing[trial_id]
        if reason:
            self.failed[trial_id] = reason

    def outcome(self, trial_id: str) -> str:
        """Return in words what became of a trial that was to be measured."""
        if trial_id in self.failed:
            return f"not measured: {self.failed[trial_id]}"
        return f"measured {', '.join(self.asked[trial_id])}"

    def describe(self) -> str:
        """Return in words how many models lack what; empty where none does."""
        if not self.missing:
            return ""
        names = dict.fromkeys(name for lacking in self.missing.values() for name in lacking)
        count = len(self.missing)
        models = "1 model that is committed lacks" if count == 1 else f"{count} committed models lack"
        return f"{models} {', '.join(names)}: they are measured, nothing is trained for it"
