"""A run as Optuna reads it: a study that minimises f1 and f2, which optuna-dashboard opens.

It holds what ``load_run(...).front()`` chooses from. All else has a study of its own, or it would stand in
the front: baselines often lie far away from it, controls never had to forget, checks had twice the steps, and
hardened models solve another problem.
"""

import math
import sys
import warnings
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pareto_unlearn.catalogue.methods import METHODS
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import HAS_MODEL, Phase, Role, TrialState
from pareto_unlearn.trackers.facts import Parameter, Tally, TrackedRun, TrackedTrial

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution

OBJECTIVES = ("f1", "f2")
_BESIDE = frozenset(Phase) - {Phase.ORIGINAL, Phase.BOUNDARY, Phase.EPSILON}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "phase": tuple(map(str, Phase)),
    "role": tuple(map(str, Role)),
    "method": tuple(METHODS),
}
"""Of parameters that are words. A study must list all that may come before the first one does."""
_CONSTRAINTS = "constraints"
"""The attribute by which Optuna and its dashboard know which trials are feasible."""


def export(run: TrackedRun, where: str) -> Tally:
    """Add the trials of a run to studies of an Optuna storage, made if they are missing.

    Optuna never changes a finished trial. So a new attempt of a trial is a trial of its own, and numbers that
    were measured after a trial was exported are counted, not added.

    Args:
        run: the run.
        where: a URL such as sqlite:///optuna.db.

    Raises:
        ConfigError: a study of that name is there that no export has made.
    """
    from optuna import logging

    logging.set_verbosity(logging.WARNING)
    tally = Tally()
    studies = {
        run.info.name: [trial for trial in run.trials if trial.record.phase not in _BESIDE],
        f"{run.info.name}: baselines, controls, checks": [
            trial for trial in run.trials if trial.record.phase in _BESIDE
        ],
    }
    for name, trials in studies.items():
        if trials:
            _export(_open(where, name, run), trials, tally)
    return tally


def _open(url: str, name: str, run: TrackedRun) -> "optuna.Study":
    import optuna

    study = optuna.create_study(
        storage=url, study_name=name, directions=["minimize"] * len(OBJECTIVES), load_if_exists=True
    )
    told = study.user_attrs.get("config_hash")
    if told not in (None, run.info.config_hash) or (told is None and study.get_trials(deepcopy=False)):
        raise ConfigError(
            f"study {name!r}: expected none, or one of this run, found one of another "
            f"({'no export made it' if told is None else f'config {told[:12]}'}): name another file"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(OBJECTIVES))
    for key, value in run.parameters.items():
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)
    return study


def _export(study: "optuna.Study", trials: list[TrackedTrial], tally: Tally) -> None:
    there = study.get_trials(deepcopy=False)
    known = {(one.user_attrs.get("trial_id"), one.user_attrs.get("attempt")): one for one in there}
    agreed = {
        name: one.distributions[name] for one in there for name in one.distributions if name in _CHOICES
    }
    for trial in trials:
        found = known.get((trial.trial_id, trial.record.attempt))
        if found is None:
            study.add_trial(_frozen(trial, agreed))
            tally.added += 1
        elif found.user_attrs.get("content") == trial.content:
            tally.same += 1
        else:
            tally.fixed += 1


def _frozen(trial: TrackedTrial, agreed: "Mapping[str, BaseDistribution]") -> "optuna.trial.FrozenTrial":
    from optuna.trial import TrialState as OptunaState
    from optuna.trial import create_trial

    record = trial.record
    values = [math.nan if value is None else value for value in (record.f1, record.f2)]
    is_whole = record.state in HAS_MODEL and all(map(math.isfinite, values))
    asked = _asked(trial)
    shapes = {name: agreed.get(name) or _distribution(name, value) for name, value in asked.items()}
    kept = {name: shape for name, shape in shapes.items() if _holds(shape, asked[name])}
    frozen = create_trial(
        state=OptunaState.COMPLETE if is_whole else OptunaState.FAIL,
        values=values if is_whole else None,
        params={name: asked[name] for name in kept},
        distributions=kept,
        user_attrs=_attributes(trial),
        system_attrs={_CONSTRAINTS: [_excess(trial)]} if is_whole else None,
    )
    frozen.datetime_start = _local_time(trial.started)
    frozen.datetime_complete = _local_time(trial.ended)
    return frozen


def _asked(trial: TrackedTrial) -> dict[str, Parameter]:
    """Return the parameters that trials can be compared by; what a trial started from is an attribute."""
    return {name: value for name, value in trial.parameters.items() if name != "start"}


def _distribution(name: str, value: Parameter) -> "BaseDistribution":
    """Return what a parameter may be. Words must be the same for all trials of a study, numbers need not."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(value, str):
        return CategoricalDistribution(_CHOICES[name])
    if isinstance(value, int):
        return IntDistribution(0, max(value, 2**32 - 1))
    return FloatDistribution(*((0.0, 1.0) if name == "epsilon_fraction" else (0.0, max(1.0, value))))


def _holds(distribution: "BaseDistribution", value: Parameter) -> bool:
    """Return whether a study knows a word: that of a newer release stays out of its parameters."""
    return not isinstance(value, str) or value in getattr(distribution, "choices", ())


def _excess(trial: TrackedTrial) -> float:
    """Return by how much a trial misses its bound beyond the tolerance; 0 or less is feasible."""
    violation = trial.record.violation or 0.0
    return max(violation, sys.float_info.min) if trial.record.state is TrialState.INFEASIBLE else 0.0


def _attributes(trial: TrackedTrial) -> dict[str, Any]:
    record = trial.record
    told = {
        "trial_id": record.trial_id,
        "attempt": record.attempt,
        "content": trial.content,
        "label": trial.title,
        "state": str(record.state),
        "reason": record.reason,
        "start": record.start,
    }
    # JSON knows no NaN.
    return told | {name: _finite(value) for name, value in trial.numbers.items()}


def _finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _local_time(seconds: float) -> datetime:
    """Return a time as Optuna stores it: local, without a zone."""
    return datetime.fromtimestamp(seconds).replace(tzinfo=None)  # noqa: DTZ006 - Optuna compares with datetime.now()
