"""Runs a sweep on a Ray cluster, or on a local Ray that it starts and stops, in one of two ways.

``tune`` hands trials to Ray Tune, ``pool`` to long-lived actors of Ray Core. Both get the same work and make
the same of what comes back.
"""

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pareto_unlearn.config import RunSection
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.sweep.cluster import Cluster, cluster_address, start_ray
from pareto_unlearn.sweep.executors import Observer, terminable
from pareto_unlearn.sweep.losses import Losses
from pareto_unlearn.sweep.planner import Planner

if TYPE_CHECKING:
    from pareto_unlearn.sweep.planned_work import PlannedWork

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


@dataclass(slots=True)
class RayExecutor:
    """Runs trials side by side, in the way that ``run.executor`` names."""

    run_section: RunSection
    say: Callable[[str], None]
    dashboard: bool = False

    def run(self, planner: Planner, observer: Observer) -> int | None:
        """Execute trials until none is left; see ``Executor``.

        Raises:
            ConfigError: the cluster cannot be reached, or holds no trial for too long.
            MachineError: Ray ended the sweep before its time.
        """
        if self.dashboard:
            check_dashboard()
        address = cluster_address(self.run_section)
        is_local = address is None
        self.say("starting Ray on this machine ..." if is_local else f"connecting to Ray at {address} ...")
        set_environment(local=is_local)
        import ray  # here, since it takes two seconds and must come after the environment is set

        with _own_sigterm() as received:
            url = start_ray(self.run_section, self.say, dashboard=self.dashboard)
            if self.dashboard:
                self.say(
                    f"Ray dashboard: http://{url}" if url else "Ray dashboard: none runs on this cluster"
                )
            try:
                with terminable() as later:
                    cluster = Cluster(self.run_section, self.say, is_local, ray.nodes, _demand)
                    self._run_to_the_end(planner, observer, cluster)
                received += later
            finally:
                ray.shutdown()
        return received[0] if received else None

    def _run_to_the_end(self, planner: Planner, observer: Observer, cluster: Cluster) -> None:
        from pareto_unlearn.sweep.planned_work import PlannedWork  # imports Ray

        losses = Losses(self.run_section.max_failures, cluster.dead, time.monotonic)
        self._way()(PlannedWork(planner, observer, cluster, losses))

    def _way(self) -> "Callable[[PlannedWork], None]":
        if self.run_section.executor == "pool":
            from pareto_unlearn.sweep.pool_executor import run_pool  # imports Ray

            return run_pool
        from pareto_unlearn.sweep.tune_executor import run_tuners  # imports Ray Tune

        return run_tuners


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


def _demand(resources: Mapping[str, float]) -> Callable[[], None]:
    """Ask for a node with these resources in the way an autoscaler sees; return what takes it back."""
    from ray.util import placement_group, remove_placement_group

    group = placement_group([{name: amount for name, amount in resources.items() if amount}])
    return lambda: remove_placement_group(group)


def is_main_thread() -> bool:
    """Return whether this is the thread that alone may set handlers of signals."""
    return threading.current_thread() is threading.main_thread()
