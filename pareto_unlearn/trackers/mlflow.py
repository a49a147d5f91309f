"""A run as MLflow reads it: an experiment with a run for the sweep, and a child run for each trial."""

import logging
import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pareto_unlearn.records import BROKEN, HAS_MODEL
from pareto_unlearn.trackers.facts import Tally, TrackedRun, TrackedTrial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_TRIAL, _ATTEMPT, _CONTENT, _CONFIG = (
    f"pareto_unlearn.{name}" for name in ("trial_id", "attempt", "content", "config_hash")
)
_PARENT = "mlflow.parentRunId"
_AT_A_TIME = 500
"""MLflow takes 1,000 metrics at a time, and 1,000 runs a page."""


def export(run: TrackedRun, where: str) -> Tally:
    """Write the trials of a run to a tracking server, or to a database file.

    A child run is found again by its tags. One that another attempt has replaced, or whose export was cut
    short, is deleted and written anew; metrics that were measured since are added.

    Args:
        run: the run.
        where: a tracking URI such as http://host:5000 or sqlite:///mlflow.db.

    Raises:
        MlflowException: MLflow refuses or does not answer.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=where)
    experiment = _experiment(client, run.info.name)
    parent = _parent(client, experiment, run)
    known = {one.data.tags[_TRIAL]: one for one in _runs(client, experiment, _PARENT, parent)}
    tally = Tally()
    for trial in run.trials:
        _export_trial(client, experiment, parent, trial, known.get(trial.trial_id), tally)
    return tally


def _experiment(client: "MlflowClient", name: str) -> str:
    found = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if found is None else found.experiment_id)


def _runs(client: "MlflowClient", experiment: str, tag: str, value: str) -> "list[Run]":
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment], f"tags.`{tag}` = '{value}'", max_results=_AT_A_TIME, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def _parent(client: "MlflowClient", experiment: str, run: TrackedRun) -> str:
    """Return the id of the run that stands for the sweep."""
    for found in _runs(client, experiment, _CONFIG, run.info.config_hash):
        return str(found.info.run_id)
    started = min((trial.started for trial in run.trials), default=None)
    created = client.create_run(
        experiment,
        run_name=run.info.name,
        start_time=None if started is None else _milliseconds(started),
        tags={_CONFIG: run.info.config_hash, "pareto_unlearn.phase": "sweep"} | run.parameters,
    )
    client.set_terminated(created.info.run_id, "FINISHED")
    return str(created.info.run_id)


def _export_trial(
    client: "MlflowClient",
    experiment: str,
    parent: str,
    trial: TrackedTrial,
    known: "Run | None",
    tally: Tally,
) -> None:
    is_whole = known is not None and _CONTENT in known.data.tags
    if known is None or not is_whole or known.data.tags[_ATTEMPT] != str(trial.record.attempt):
        if known is not None:
            client.delete_run(known.info.run_id)
        _add(client, experiment, parent, trial)
        tally.added += 1
    elif known.data.tags[_CONTENT] != trial.content:
        logged = set(known.data.metrics)
        _log(client, known.info.run_id, [one for one in _numbers(trial) if one.key not in logged])
        client.set_tag(known.info.run_id, _CONTENT, trial.content)
        tally.updated += 1
    else:
        tally.same += 1


def _add(client: "MlflowClient", experiment: str, parent: str, trial: TrackedTrial) -> None:
    record = trial.record
    created = client.create_run(
        experiment,
        run_name=trial.title,
        start_time=_milliseconds(trial.started),
        tags={
            _PARENT: parent,
            _TRIAL: trial.trial_id,
            _ATTEMPT: str(record.attempt),
            "pareto_unlearn.phase": str(record.phase),
            "pareto_unlearn.state": str(record.state),
            "pareto_unlearn.reason": record.reason[:4000],
        },
    )
    run_id = created.info.run_id
    for name, value in trial.parameters.items():
        client.log_param(run_id, name, value)
    _log(client, run_id, [*_curves(trial), *_numbers(trial)])
    client.set_terminated(run_id, _status(trial), end_time=_milliseconds(trial.ended))
    # Last, since a run without it was cut short.
    client.set_tag(run_id, _CONTENT, trial.content)


def _status(trial: TrackedTrial) -> str:
    if trial.record.state in HAS_MODEL:
        return "FINISHED"
    return "FAILED" if trial.record.state in BROKEN else "KILLED"


def _curves(trial: TrackedTrial) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(f"curve/{name}", value, _milliseconds(trial.moment(step)), step)
        for step, values in trial.curves
        for name, value in values.items()
    ]


def _numbers(trial: TrackedTrial) -> list[Any]:
    from mlflow.entities import Metric

    moment = _milliseconds(trial.ended)
    return [Metric(name, value, moment, trial.record.steps) for name, value in trial.numbers.items()]


def _log(client: "MlflowClient", run_id: str, metrics: Sequence[Any]) -> None:
    left: Iterable[Any] = iter(metrics)
    while some := list(islice(left, _AT_A_TIME)):
        client.log_batch(run_id, metrics=some)


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)
