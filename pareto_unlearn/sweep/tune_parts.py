"""What a sweep hands to Ray Tune: its work, the callback and the stopper; imported after Ray.

An exception that leaves one of their methods would abort the whole sweep, so errors are kept and logged
instead.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial

from pareto_unlearn.errors import MachineError, ParetoUnlearnError, explain_machine
from pareto_unlearn.records import TrialSpec
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.cluster import COUNT_EVERY_SECONDS, Cluster, resources_of
from pareto_unlearn.sweep.executors import Observer
from pareto_unlearn.sweep.gauges import show_sweep
from pareto_unlearn.sweep.losses import Loss, Losses, explain_loss, pid_named_in
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.store_searcher import ExhaustedError
from pareto_unlearn.sweep.trainable import ANSWER, SCAN, STAGE, STEP, Task
from pareto_unlearn.sweep.worker import Answer, scan_from_plain

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Live:
    """A trial that was handed out: the node and the process that it was last heard of from.

    ``slot`` is the smallest number that no other live trial has.
    """

    spec: TrialSpec
    slot: int
    node: str | None = None
    pid: int | None = None


@dataclass(slots=True)
class PlannedWork:
    """The trials of a planner as work for a ``StoreSearcher``, as many at a time as the cluster holds.

    ``is_paused`` is True once the search was ended for want of a place or because all that is left waits for
    another try: a new Tuner goes on then.
    """

    planner: Planner
    observer: Observer
    cluster: Cluster
    losses: Losses
    is_paused: bool = False
    live: dict[str, _Live] = field(default_factory=dict)

    def wait(self) -> None:
        """Wait until a trial can be placed and one may run.

        Raises:
            ConfigError: no trial could be placed for too long.
        """
        self.is_paused = False
        self.cluster.wait()
        while (held := self.losses.held()) and self.planner.next_trial(held) is NoTrial.WAIT:
            self.cluster.sleep(COUNT_EVERY_SECONDS)

    def next(self, live: Collection[str]) -> tuple[str, dict[str, Any]] | None:
        """Return the next trial's id and assignment; see ``Work``."""
        try:
            if not self.planner.has_ended() and len(live) >= self.cluster.slots():
                self._pause_unless(live)
                return None
            assignment = self.planner.next_trial([*live, *self.losses.held()])
        except (ParetoUnlearnError, OSError) as error:
            self._end(error)
            raise ExhaustedError from error
        if assignment is NoTrial.WAIT:
            self._pause_unless(live)
            return None
        if isinstance(assignment, NoTrial):
            raise ExhaustedError
        taken = {trial.slot for trial in self.live.values()}
        slot = min(set(range(len(taken) + 1)) - taken)
        self.live[assignment.spec.trial_id] = _Live(assignment.spec, slot)
        self._show()
        config = self.planner.config
        task = Task(
            assignment=assignment,
            resources=resources_of(config.run),
            sweep=config.name,
            slot=slot,
            is_reused=config.run.reuse_workers,
        )
        return assignment.spec.trial_id, task.to_config()

    def heard(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A trial reports."""
        if (trial := self.live.get(trial_id)) is None:
            return
        trial.node, trial.pid = result.get("node"), result.get("worker")
        if SCAN in result:
            self.losses.moved(trial_id)
            self.observer.on_scan(trial.spec, scan_from_plain(result[SCAN]))
        elif STAGE in result:
            self.losses.moved(trial_id)
            self.observer.on_stage(trial.spec, result[STAGE])
        elif STEP in result:
            self.losses.moved(trial_id)
            self.observer.on_progress(trial.spec, result[STEP], result["f1"], result["f2"])

    def ended(self, key: str, result: Mapping[str, Any]) -> None:
        """Count a trial's answer; see ``Work``. Without one the sweep ends, or it would run for ever."""
        trial = self.live.pop(key)
        try:
            if ANSWER not in result:
                raise MachineError(
                    f"trial {key} ({trial.spec.label}) ended without an answer: expected its row in Ray "
                    "Tune's last result, found none; start the same command again"
                )
            record = self.planner.take(trial.spec, Answer.from_text(result[ANSWER]))
            if record is not None:
                self.observer.on_end(trial.spec, record)
        except (ParetoUnlearnError, OSError) as error:
            self._end(error)
        self._show()

    def failed(self, key: str, error: str) -> None:
        """Count a loss; see ``Work``. A trial that is given up gets a row with the reason."""
        trial = self.live.pop(key)
        self._lose(trial.spec, explain_loss(error, trial.node))

    def aborted(self, error: BaseException) -> None:
        """The Tuner was aborted, as an out-of-memory kill does: the trial of the process it names lost it."""
        live, self.live = self.live, {}
        text = "\n".join(str(one) for one in chain_of(error))
        pid = pid_named_in(text)
        for trial in live.values():
            if pid is not None and trial.pid == pid:
                self._lose(trial.spec, explain_loss(text, trial.node))

    def _lose(self, spec: TrialSpec, loss: Loss) -> None:
        logger.warning("trial %s (%s): %s", spec.trial_id, spec.label, loss.reason)
        try:
            given_up = self.losses.add(spec.trial_id, loss)
            if given_up is not None:
                self.observer.on_end(spec, self.planner.commit_lost(spec, given_up))
        except (ParetoUnlearnError, OSError) as problem:
            self._end(problem)
        self._show()

    def _show(self) -> None:
        show_sweep(self.planner.config.name, self.planner.rows, len(self.live))

    def _pause_unless(self, live: Collection[str]) -> None:
        """Do nothing while trials run; else end the search, or Tune would wait here for ten minutes."""
        if not live:
            self.is_paused = True
            raise ExhaustedError

    def _end(self, error: ParetoUnlearnError | OSError) -> None:
        logger.error("the sweep ends: %s", error)
        if isinstance(error, OSError):
            error = explain_machine(error) or MachineError(f"the store cannot be used: {error}")
        self.planner.error = error


def _without_state(_: object) -> dict[str, Any]:
    """Return an empty state to pickle: Tune saves these objects to a file that is never read."""
    return {}


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an error and those behind it, the first cause at the end."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    return chain


def key_of(trial: Trial) -> str:
    """Return the id of the planned trial that a trial of Tune runs."""
    return str(trial.config["assignment"]["spec"]["trial_id"])


class WorkCallback(Callback):
    """Passes starts and progress on."""

    __getstate__ = _without_state

    def __init__(self, work: PlannedWork) -> None:
        self._work = work

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial starts on a worker."""
        live = self._work.live.get(key_of(trial))
        if live is not None:
            self._work.observer.on_start(live.spec)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial took steps, or a path is on its way to find its step size."""
        self._work.heard(key_of(trial), result)


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
        return self._planner.has_ended()
