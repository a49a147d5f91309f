"""Runs trials on Ray Tune: one Tuner whose searcher gets trials from the planner, which reads the store.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pareto_unlearn.config import RunSection
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.sweep.executors import Observer, terminable
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Assignment, execute

QUIET_ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run` Ray would build a second environment for workers
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0 the old output prints nothing
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a logger would import torch: half a gigabyte in the driver
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
}
LOOPBACK_ENVIRONMENT = {
    # Despite its name: on Linux too, every Ray process then binds 127.0.0.1.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
OBJECT_STORE_BYTES = 128 * 2**20
"""Trials exchange a few kilobytes; targets are shared through memory-mapped files."""
ABORTS_SURVIVED = 5
NO_STEP = {"step": -1, "f1": 0.0, "f2": 0.0}

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
            ConfigError: the cluster cannot be reached or can never hold one trial.
        """
        if self.dashboard:
            check_dashboard()
        address = cluster_address(self.run_section)
        self.say("starting Ray on this machine ..." if address is None else f"connecting to Ray at {address} ...")
        set_environment(local=address is None)
        import ray  # here, since it takes two seconds and must come after the environment is set

        with _own_sigterm() as received:
            url = start_ray(self.run_section, dashboard=self.dashboard)
            if self.dashboard:
                self.say(
                    f"Ray dashboard: http://{url}" if url else "Ray dashboard: none runs on this cluster"
                )
            folder = tempfile.mkdtemp(prefix="pareto-unlearn-tune-")
            try:
                resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
                slots = count_slots(self.run_section, resources)
                with terminable() as later:
                    self._run_tuners(planner, observer, slots, folder)
                received += later
            finally:
                ray.shutdown()
                shutil.rmtree(folder, ignore_errors=True)
        return received[0] if received else None

    def _run_tuners(self, planner: Planner, observer: Observer, slots: int, folder: str) -> None:
        from ray.tune import TuneError

        for abort in range(ABORTS_SURVIVED):
            try:
                _fit(planner, observer, self.run_section, slots, folder)
                break
            except (RuntimeError, TuneError) as error:
                logger.warning("Ray Tune aborted, continuing from the store (%d): %s", abort + 1, error)


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
        if threading.current_thread() is threading.main_thread():
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


def cluster_address(section: RunSection) -> str | None:
    """Return the address of the cluster to use; None if a local Ray is to be started on this machine."""
    return section.address or os.environ.get("RAY_ADDRESS")


def set_environment(*, local: bool) -> None:
    """Set the environment variables that Ray reads while it is imported; values set by the user are kept.

    Args:
        local: a local Ray is going to be started, which no other machine needs to reach.
    """
    wanted = QUIET_ENVIRONMENT | (LOOPBACK_ENVIRONMENT if local else {})
    os.environ.update({name: os.environ.get(name, value) for name, value in wanted.items()})


def start_ray(section: RunSection, *, dashboard: bool) -> str | None:
    """Connect to the cluster of the sweep file or environment, or start a local Ray on loopback.

    Returns:
        The dashboard's address; None if no dashboard runs.

    Raises:
        ConfigError: no cluster answers at the address.
    """
    import ray

    address = cluster_address(section)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": dashboard,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        options["address"] = address
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        context = ray.init(**options)
    except (ConnectionError, ValueError) as error:
        raise ConfigError(f"run.address: no Ray cluster answers at {address}: {error}") from error
    return context.dashboard_url or None


def count_slots(section: RunSection, resources: Mapping[str, float]) -> int:
    """Return how many trials fit side by side.

    Raises:
        ConfigError: not even one trial fits, so a sweep would wait for ever.
    """
    fits = resources.get("CPU", 0.0) // section.cpus_per_trial
    if section.gpus_per_trial > 0:
        fits = min(fits, resources.get("GPU", 0.0) // section.gpus_per_trial)
    if fits < 1:
        raise ConfigError(
            f"run: a trial needs {section.cpus_per_trial} CPU and {section.gpus_per_trial:g} GPU, but the "
            f"cluster has {resources.get('CPU', 0.0):g} CPU and {resources.get('GPU', 0.0):g} GPU: lower "
            "run.cpus_per_trial or run.gpus_per_trial, or give the address of a larger cluster as run.address"
        )
    return int(min(fits, section.max_concurrent or fits))


def _fit(planner: Planner, observer: Observer, section: RunSection, slots: int, folder: str) -> None:
    from ray import tune

    from pareto_unlearn.sweep.tune_parts import (  # imports Ray
        ObserverCallback,
        PlannerSearcher,
        PlannerStopper,
    )

    resources: dict[str, float] = {"cpu": section.cpus_per_trial, "gpu": section.gpus_per_trial}
    if section.memory_bytes is not None:
        resources["memory"] = section.memory_bytes
    tuner = tune.Tuner(
        tune.with_resources(_trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=PlannerSearcher(planner, observer),
            num_samples=-1,
            max_concurrent_trials=slots,
            reuse_actors=section.reuse_workers,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=folder,
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=section.max_failures),
            callbacks=[ObserverCallback(observer)],
            stop=PlannerStopper(planner),
        ),
    )
    tuner.fit()


def _trainable(values: dict[str, Any]) -> None:
    """Run one trial on a worker of Tune: the result goes to the store, Tune receives progress only."""
    from ray import tune

    from pareto_unlearn.sweep.tune_parts import SCAN, STAGE  # imports Ray

    execute(
        Assignment.from_plain(values),
        lambda step, f1, f2: tune.report({"step": step, "f1": f1, "f2": f2}),
        lambda progress: tune.report({**NO_STEP, SCAN: asdict(progress)}),
        lambda doing: tune.report({**NO_STEP, STAGE: doing}),
    )
    tune.report(NO_STEP)
