"""Copies of a run for trackers of experiments, made from its store alone; none is ever read back.

An export is idempotent: a second one adds nothing, and that of a run which has grown adds what is new.
"""

import importlib.util
import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from pathlib import Path

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.file_lock import exclusive
from pareto_unlearn.foreign_text import without_secrets
from pareto_unlearn.store import open_run
from pareto_unlearn.store.filesystem import is_uri
from pareto_unlearn.trackers import mlflow, optuna, tensorboard, wandb
from pareto_unlearn.trackers.facts import Tally, TrackedRun, gather

__all__ = ["Tally", "Tracker", "export_run", "viewer_command"]


class Tracker(StrEnum):
    """A tracker, by the name of its extra."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"
    OPTUNA = "optuna"


_NEEDED = {
    Tracker.TENSORBOARD: ("tensorboardX",),
    Tracker.MLFLOW: ("mlflow", "sqlalchemy", "alembic"),
    Tracker.WANDB: ("wandb",),
    Tracker.OPTUNA: ("optuna",),
}
_EXPORTS: Mapping[Tracker, Callable[[TrackedRun, str], Tally]] = {
    Tracker.TENSORBOARD: tensorboard.export,
    Tracker.MLFLOW: mlflow.export,
    Tracker.WANDB: wandb.export,
    Tracker.OPTUNA: optuna.export,
}
_VIEWERS = {
    Tracker.TENSORBOARD: "tensorboard --logdir {folder}",
    Tracker.MLFLOW: "mlflow ui --backend-store-uri {url}",
    Tracker.WANDB: "wandb sync {folder}/wandb/offline-run-*",
    Tracker.OPTUNA: "optuna-dashboard {url}",
}
_DATABASE = "sqlite:///"
_TAKES_URLS = {Tracker.MLFLOW, Tracker.OPTUNA}


def export_run(run_path: str, tracker: Tracker, where: str) -> Tally:
    """Export the committed trials of a run, running or finished, to a tracker; see its module.

    Args:
        run_path: the run directory, local or a URI.
        tracker: which one.
        where: a folder; for ``mlflow`` and ``optuna`` a database file or a URL.

    Raises:
        ConfigError: there is no run there, the tracker is not installed, or ``where`` is not of its kind.
        StoreError: a committed file is damaged.
    """
    _check_installed(tracker)
    if is_uri(where) and tracker not in _TAKES_URLS:
        raise ConfigError(
            f"track: {tracker} writes into a folder of this machine, found {without_secrets(where)}"
        )
    target = database_url(where) if tracker in _TAKES_URLS else where
    run = gather(open_run(run_path))
    with _alone(target):  # two exports at once would both find a trial missing
        return _EXPORTS[tracker](run, target)


def viewer_command(tracker: Tracker, where: str) -> str:
    """Return the command that shows, or for Weights & Biases sends, what was exported; secrets are masked."""
    shown = shlex.quote(without_secrets(where))
    return _VIEWERS[tracker].format(folder=shown, url=without_secrets(database_url(where)))


def database_url(where: str) -> str:
    """Return a URL as it is, and the path of a database file as the URL of SQLite."""
    return where if is_uri(where) else f"{_DATABASE}{where}"


def _alone(target: str) -> AbstractContextManager[None]:
    """Return what keeps other exports of this machine from the target meanwhile."""
    if target.startswith(_DATABASE):
        path = Path(target.removeprefix(_DATABASE).partition("?")[0])
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        return exclusive(path)
    return nullcontext() if is_uri(target) else exclusive(Path(target) / ".export")


def _check_installed(tracker: Tracker) -> None:
    missing = [name for name in _NEEDED[tracker] if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"track: {tracker} needs packages that are not installed ({', '.join(missing)}); install "
            f"the extra: `uv run --extra {tracker} pareto-unlearn ...` or `pip install "
            f"'pareto-unlearn[{tracker}]'`"
        )
