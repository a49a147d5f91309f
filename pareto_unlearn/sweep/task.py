"""What a trial is for the worker that runs it on Ray: an assignment, what it reserves, and its names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pareto_unlearn.records import TrialSpec
from pareto_unlearn.sweep.progress import name_phase
from pareto_unlearn.sweep.worker import Assignment


def describe_trial(spec: TrialSpec) -> str:
    """Return the name of a trial in the dashboard: "Phase II, epsilon 9.8%, seed 0"."""
    names = dict.fromkeys((name_phase(spec), spec.label))  # both are "original" of the original
    return f"{', '.join(names)}, seed {spec.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A planned trial for a worker, what it reserves there, and how its numbers are shown.

    With ``is_reused``, the process solves other trials afterwards.
    """

    assignment: Assignment
    resources: Mapping[str, float]
    sweep: str
    slot: int
    is_reused: bool

    def to_config(self) -> dict[str, Any]:
        """Return the task as JSON-like values."""
        return {
            "assignment": self.assignment.to_plain(),
            "resources": dict(self.resources),
            "sweep": self.sweep,
            "slot": self.slot,
            "is_reused": self.is_reused,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Task":
        """Return the task whose ``to_config`` gave these values."""
        return cls(
            assignment=Assignment.from_plain(config["assignment"]),
            resources=config["resources"],
            sweep=config["sweep"],
            slot=config["slot"],
            is_reused=config["is_reused"],
        )

    @property
    def spec(self) -> TrialSpec:
        """The trial that was planned."""
        return self.assignment.spec

    @property
    def process_name(self) -> str:
        """The name of the process that starts with this trial; Ray asks for it once."""
        name = describe_trial(self.spec)
        return f"slot {self.slot}, from {name} on" if self.is_reused else name
