"""What an executor is, and the one that runs in this process."""

from typing import Protocol

from pareto_unlearn.records import TrialRecord, TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import execute


class Observer(Protocol):
    """Hears what happens in a sweep; must not raise."""

    def on_start(self, spec: TrialSpec) -> None:
        """A trial starts."""
        ...

    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None:
        """A trial took steps; f1 and f2 are of its last mini-batch."""
        ...

    def on_end(self, spec: TrialSpec, record: TrialRecord) -> None:
        """A trial is committed."""
        ...


class Executor(Protocol):
    """Runs trials until the planner has none left."""

    def run(self, planner: Planner, observer: Observer) -> None:
        """Ask ``planner`` for trials and execute them; return when it is finished or was interrupted."""
        ...


class LocalExecutor:
    """One trial at a time in this process: for tests, debugging, and machines without Ray."""

    def run(self, planner: Planner, observer: Observer) -> None:
        """Execute trials one after the other."""
        while not isinstance(assignment := planner.next_trial(()), NoTrial):
            spec = assignment.spec
            observer.on_start(spec)
            record = execute(
                assignment, lambda step, f1, f2, spec=spec: observer.on_progress(spec, step, f1, f2)  # type: ignore[misc]
            )
            observer.on_end(spec, record)
