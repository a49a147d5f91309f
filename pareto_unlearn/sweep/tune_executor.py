"""Runs trials on Ray Tune: one Tuner whose searcher gets trials from the planner.

Tune's own experiment state is never restored and lies in a folder that is removed afterwards; an interrupted
sweep is continued by a new Tuner over the same store. An exception that leaves a callback or a stopper would
abort the whole sweep; ``PlannedWork`` raises none. Imported after Ray's environment is set.
"""

import logging
import shutil
import signal
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from pareto_unlearn.errors import MachineError
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.sweep.planned_work import PlannedWork, chain_of
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.ray_executor import is_main_thread
from pareto_unlearn.sweep.store_searcher import ExhaustedError, FailureCallback, StoreSearcher
from pareto_unlearn.sweep.task import Task, describe_trial
from pareto_unlearn.sweep.trainable import SweepTrial

ABORTS_SURVIVED = 5
"""In a row, without a committed trial between them."""

logger = logging.getLogger(__name__)


def run_tuners(work: PlannedWork) -> None:
    """Start Tuners until nothing is left or the user stops: one is enough if nothing happens.

    In current Ray an out-of-memory kill aborts the whole Tuner; a new Tuner then continues from the same
    store.

    Raises:
        ConfigError: no trial could be placed for too long.
        MachineError: Tune aborted again and again, or ended before its time.
    """
    aborts, committed = 0, -1
    while True:
        work.wait()
        try:
            with _temporary_folder() as folder:
                was_interrupted = _fit(work, folder)
        except (RuntimeError, tune.TuneError) as error:
            aborts = aborts + 1 if work.planner.num_committed == committed else 1
            committed = work.planner.num_committed
            logger.warning("Ray Tune aborted, continuing from the store (%d): %s", aborts, error)
            work.aborted(error)
            if aborts == ABORTS_SURVIVED:
                raise MachineError(
                    f"Ray Tune aborted {aborts} times without a committed trial between them: "
                    f"{chain_of(error)[-1]!r:.300}; start the same command again once that is mended"
                ) from error
        else:
            if was_interrupted or not work.is_paused:
                break
    if not was_interrupted and not work.planner.has_ended() and not work.planner.is_finished():
        raise MachineError(
            "Ray Tune ended although trials are left and nobody stopped it; start the same command "
            "again, or run without Ray: `-o run.executor=local`"
        )


@contextmanager
def _temporary_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="pareto-unlearn-tune-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fit(work: PlannedWork, folder: str) -> bool:
    """Run one Tuner; return whether a signal ended it before its time."""
    searcher = StoreSearcher(TuneWork(work))
    tuner = tune.Tuner(
        SweepTrial,
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=work.planner.config.run.reuse_workers,
            trial_name_creator=lambda trial: describe_trial(Task.from_config(trial.config).spec),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=folder,
            verbose=0,
            # Which failures count is for ``Losses`` to say.
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=[WorkCallback(work), FailureCallback(searcher)],
            stop=PlannerStopper(work.planner),
        ),
    )
    handler = signal.getsignal(signal.SIGINT)
    try:
        tuner.fit()
        # Tune's own handler puts the earlier one back when it is called, and tells nobody else.
        return signal.getsignal(signal.SIGINT) is handler and is_main_thread()
    finally:
        if is_main_thread():
            signal.signal(signal.SIGINT, handler)


def _without_state(_: object) -> dict[str, Any]:
    """Return an empty state to pickle: Tune saves these objects to a file that is never read."""
    return {}


class TuneWork:
    """Planned work as a ``StoreSearcher`` asks for it; see its ``Work``."""

    def __init__(self, work: PlannedWork) -> None:
        self._work = work

    def next(self, live: Collection[str]) -> tuple[str, dict[str, Any]] | None:
        """Return the next trial's id and its task."""
        task = self._work.next_task()
        if task is NoTrial.WAIT:
            return None  # with trials alive; else Tune would wait here for ten minutes
        if isinstance(task, NoTrial):
            raise ExhaustedError
        return task.spec.trial_id, task.to_config()

    def ended(self, key: str, result: Mapping[str, Any]) -> None:
        """Pass an answer on."""
        self._work.ended(key, result)

    def failed(self, key: str, error: str) -> None:
        """Pass a loss on."""
        self._work.failed(key, error)


class WorkCallback(tune.Callback):
    """Passes starts and progress on."""

    __getstate__ = _without_state

    def __init__(self, work: PlannedWork) -> None:
        self._work = work

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial starts on a worker."""
        self._work.started(_key_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has news."""
        self._work.heard(_key_of(trial), result)


def _key_of(trial: Trial) -> str:
    """Return the id of the planned trial that a trial of Tune runs."""
    return str(trial.config["assignment"]["spec"]["trial_id"])


class PlannerStopper(tune.Stopper):
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
