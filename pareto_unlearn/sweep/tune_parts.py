"""The searcher, callback and stopper that Ray Tune calls; imported after Ray, without lasting state.

An exception that leaves one of their methods would abort the whole sweep, so errors are kept and logged
instead.
"""

import logging
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from pareto_unlearn.errors import MachineError, ParetoUnlearnError, explain_machine
from pareto_unlearn.records import MACHINE_FAULT, TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.executors import Observer
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import scan_from_plain, spec_from_plain

SCAN = "scan"
"""In a result that a trial reports to Tune: how far a path is with finding its step size."""
STAGE = "stage"
"""In a result that a trial reports to Tune: what it does besides its steps, in words."""
LOST = (
    f"{MACHINE_FAULT}the worker process died and every retry was used up (killed, or out of memory); see the "
    "Ray logs"
)

logger = logging.getLogger(__name__)


def _without_state(_: object) -> dict[str, Any]:
    """Return an empty state to pickle: Tune saves these objects to a file that is never read."""
    return {}


def _explained(error: OSError) -> ParetoUnlearnError:
    """Return the error that ends a sweep whose store cannot be used."""
    return explain_machine(error) or MachineError(f"the store cannot be used: {error}")


class PlannerSearcher(Searcher):
    """Passes Tune's requests for trials on to the planner."""

    __getstate__ = _without_state

    def __init__(self, planner: Planner, observer: Observer) -> None:
        super().__init__()
        self._planner, self._observer = planner, observer
        self._live: dict[str, TrialSpec] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next assignment; None makes Tune ask again later, FINISHED ends the search."""
        try:
            assignment = self._planner.next_trial([spec.trial_id for spec in self._live.values()])
        except (ParetoUnlearnError, OSError) as error:
            self._planner.error = _explained(error) if isinstance(error, OSError) else error
            return Searcher.FINISHED  # type: ignore[return-value]  # Ray annotates it wrongly: it is text
        if assignment is NoTrial.WAIT:
            return None
        if isinstance(assignment, NoTrial):
            return Searcher.FINISHED  # type: ignore[return-value]  # Ray annotates it wrongly: it is text
        self._live[trial_id] = assignment.spec
        return assignment.to_plain()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Make sure that the trial left a row; Tune also calls this for trials that used up their retries."""
        spec = self._live.pop(trial_id, None)
        if spec is None:
            return
        try:
            record = self._planner.commit_lost(spec, LOST) if error else self._planner.record_of(spec)
            if record is not None:
                self._observer.on_end(spec, record)
        except ParetoUnlearnError as problem:
            logger.exception("trial %s (%s) could not be read back", spec.trial_id, spec.label)
            self._planner.error = problem
        except OSError as problem:
            self._planner.error = _explained(problem)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing, since the store holds the state; Tune requires the method."""

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing; see ``save``."""


class ObserverCallback(Callback):
    """Passes starts and progress on to the observer."""

    __getstate__ = _without_state

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial starts on a worker."""
        self._observer.on_start(spec_from_plain(trial.config["spec"]))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial took steps, or a path is on its way to find its step size."""
        spec = spec_from_plain(trial.config["spec"])
        if SCAN in result:
            self._observer.on_scan(spec, scan_from_plain(result[SCAN]))
        elif STAGE in result:
            self._observer.on_stage(spec, result[STAGE])
        elif result.get("step", -1) >= 0:
            self._observer.on_progress(spec, result["step"], result["f1"], result["f2"])


class PlannerStopper(Stopper):
    """Stops all trials once planning has failed; their resume states stay in the store."""

    __getstate__ = _without_state

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: no trial is stopped on its own."""
        return False

    def stop_all(self) -> bool:
        """Return whether planning has failed."""
        return self._planner.error is not None
