"""Runs trials on Ray Tune: one Tuner whose searcher gets trials from the planner.

Tune's own experiment state is never restored and lies in a folder that is removed afterwards; an interrupted
sweep is continued by a new Tuner over the same store.
"""

import importlib.util
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pareto_unlearn.config import RunSection
from pareto_unlearn.errors import ConfigError, MachineError
from pareto_unlearn.sweep.cluster import Cluster, cluster_address, start_ray
from pareto_unlearn.sweep.executors import Observer, terminable
from pareto_unlearn.sweep.losses import Losses
from pareto_unlearn.sweep.planner import Planner

if TYPE_CHECKING:
    from pareto_unlearn.sweep.tune_parts import PlannedWork

QUIET_ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would build a second environment for workers
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 the old output prints nothing
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a logger would import torch: half a gigabyte in the driver
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # How many trials may wait in Ray's queue: the searcher gives out no more than there are places.
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",
}
LOOPBACK_ENVIRONMENT = {
    # Despite its name: on Linux too, every Ray process then binds 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
ABORTS_SURVIVED = 5
"""In a row, without a committed trial between them."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TuneExecutor:
    """Runs trials side by side on a Ray cluster, or on a local Ray that it starts and stops."""

    run_section: RunSection
    say: Callable[[str], None]
    dashboard: bool = False

    def run(self, planner: Planner, observer: Observer) -> int | None:
        """Execute trials until none is left; see ``Executor``.

        In current Ray an out-of-memory kill aborts the whole Tuner; a new Tuner then continues from the same
        store.

        Raises:
            ConfigError: the cluster cannot be reached, or holds no trial for too long.
        """
        if self.dashboard:
            check_dashboard()
        address = cluster_address(self.run_section)
        is_local = address is None
        self.say("starting Ray on this machine ..." if is_local else f"connecting to Ray at {address} ...")
        set_environment(local=is_local)
        import ray  # here, since it takes two seconds and must come after the environment is set

        from pareto_unlearn.sweep.tune_parts import PlannedWork  # imports Ray

        with _own_sigterm() as received:
            url = start_ray(self.run_section, self.say, dashboard=self.dashboard)
            if self.dashboard:
                self.say(
                    f"Ray dashboard: http://{url}" if url else "Ray dashboard: none runs on this cluster"
                )
            cluster = Cluster(self.run_section, self.say, is_local, ray.nodes, _demand)
            losses = Losses(self.run_section.max_failures, cluster.dead, time.monotonic)
            try:
                with terminable() as later:
                    self._run_to_the_end(PlannedWork(planner, observer, cluster, losses))
                received += later
            finally:
                ray.shutdown()
        return received[0] if received else None

    def _run_to_the_end(self, work: "PlannedWork") -> None:
        """Start Tuners until nothing is left or the user stops: one is enough if nothing happens."""
        from ray.tune import TuneError

        from pareto_unlearn.sweep.tune_parts import chain_of  # imports Ray

        aborts, committed = 0, -1
        while True:
            work.wait()
            try:
                with _temporary_folder() as folder:
                    was_interrupted = _fit(work, folder)
            except (RuntimeError, TuneError) as error:
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
def _own_sigterm() -> Iterator[list[int]]:
    """Let SIGTERM end what Ray starts as everywhere else, and take Ray's handler away in the end.

    That handler is in place from Ray's start until ours, and stays after Ray's end: it exits with 15, which
    says nothing of a signal.

    Yields:
        A list that holds the signal's number once Ray's handler received it.
    """
    received: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield received
    except SystemExit as stop:
        if stop.code != signal.SIGTERM:
            raise
        received.append(int(signal.SIGTERM))
    finally:
        if is_main_thread():
            signal.signal(signal.SIGTERM, before)


def check_dashboard() -> None:
    """Check that the packages of Ray's dashboard are installed.

    Raises:
        ConfigError: some are missing.
    """
    missing = [name for name in ("aiohttp_cors", "opencensus") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--dashboard: Ray's dashboard needs packages that are not installed ({', '.join(missing)}); "
            "install the extra: `uv run --extra dashboard pareto-unlearn ...` or `pip install "
            "'pareto-unlearn[dashboard]'`"
        )


def set_environment(*, local: bool) -> None:
    """Set the environment variables that Ray reads while it is imported; values set by the user are kept.

    Args:
        local: a local Ray is going to be started, which no other machine needs to reach.
    """
    wanted = QUIET_ENVIRONMENT | (LOOPBACK_ENVIRONMENT if local else {})
    os.environ.update({name: os.environ.get(name, value) for name, value in wanted.items()})


@contextmanager
def _temporary_folder() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="pareto-unlearn-tune-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _demand(resources: Mapping[str, float]) -> Callable[[], None]:
    """Ask for a node with these resources in the way an autoscaler sees; return what takes it back."""
    from ray.util import placement_group, remove_placement_group

    group = placement_group([{name: amount for name, amount in resources.items() if amount}])
    return lambda: remove_placement_group(group)


def _fit(work: "PlannedWork", folder: str) -> bool:
    """Run one Tuner; return whether a signal ended it before its time."""
    from ray import tune

    from pareto_unlearn.sweep.store_searcher import FailureCallback, StoreSearcher
    from pareto_unlearn.sweep.trainable import SweepTrial, Task, describe_trial
    from pareto_unlearn.sweep.tune_parts import PlannerStopper, WorkCallback

    searcher = StoreSearcher(work)
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


def is_main_thread() -> bool:
    """Return whether this is the thread that alone may set handlers of signals."""
    return threading.current_thread() is threading.main_thread()
