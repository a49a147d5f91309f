"""A run as trackers see it: of each trial its parameters, its numbers by split, its curves, and its end."""

import dataclasses
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pareto_unlearn.analysis.naming import short_id
from pareto_unlearn.records import CurveRow, MetricRow, RunInfo, TrialRecord
from pareto_unlearn.store import StoredRun
from pareto_unlearn.store.names import part_name

PARAMETERS = ("phase", "role", "method", "seed", "epsilon", "epsilon_fraction", "weight", "start")
"""The columns of a trial that say what was asked for; trackers compare trials by them."""
CURVES = tuple(field.name for field in fields(CurveRow) if field.name != "step")
_HELDOUT = "_heldout"
_ON_TRAIN = {field.name.replace(_HELDOUT, "") for field in fields(TrialRecord) if _HELDOUT in field.name}
_NO_NUMBERS = {*PARAMETERS, "attempt"}

Parameter = str | int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedTrial:
    """One committed trial.

    ``numbers`` are named by split: ``train/f1``, ``heldout/forget_fid_standard``, ``trial/steps``. Whatever
    was not measured is left out; NaN stays. ``curves`` has, by rising step, what was recorded then.
    ``content`` is a hash of all that is exported, and ``ended`` when it was committed, in seconds since 1970.
    """

    record: TrialRecord
    title: str
    parameters: Mapping[str, Parameter]
    numbers: Mapping[str, float]
    curves: tuple[tuple[int, Mapping[str, float]], ...]
    content: str
    ended: float

    @property
    def trial_id(self) -> str:
        """The id of the trial in the store."""
        return self.record.trial_id

    @property
    def started(self) -> float:
        """When the trial began, in seconds since 1970."""
        seconds = self.record.seconds
        return self.ended - (seconds if seconds is not None and math.isfinite(seconds) else 0.0)

    def moment(self, step: int) -> float:
        """Return about when a step was taken, in seconds since 1970: the steps are spread evenly."""
        last = max(self.record.steps, step, 1)
        return self.started + (self.ended - self.started) * step / last


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A run and its committed trials, in the order of the store's tables."""

    info: RunInfo
    trials: tuple[TrackedTrial, ...]

    @property
    def parameters(self) -> dict[str, str]:
        """What all trials share."""
        return {
            "objective": self.info.objective,
            "bounded": self.info.bounded or "",
            "config_hash": self.info.config_hash,
            "code_version": self.info.code_version,
            "smoke": str(self.info.smoke).lower(),
        }


@dataclass(slots=True)
class Tally:
    """How many trials an export has added, brought up to date and found as they are.

    ``fixed`` were exported earlier and have numbers since that the tracker cannot add to a finished trial.
    """

    added: int = 0
    updated: int = 0
    same: int = 0
    fixed: int = 0


def gather(run: StoredRun) -> TrackedRun:
    """Return what trackers are told of a run.

    Raises:
        StoreError: a committed file is damaged or of a newer schema.
    """
    curves = _by_trial(run, "curves", _curve_of)
    metrics = _by_trial(run, "metrics", _metric_of)
    trials = [
        _trial(run, record, curves.get(record.trial_id, []), metrics.get(record.trial_id, []))
        for record in run.records
    ]
    return TrackedRun(info=run.info, trials=tuple(trials))


def _by_trial(run: StoredRun, table: str, read: Callable[[Mapping[str, Any]], Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in run.store.table(table).to_pylist():
        found.setdefault(row["trial_id"], []).append(read(row))
    return found


def _curve_of(row: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    return int(row["step"]), {name: float(row[name]) for name in CURVES if row.get(name) is not None}


def _metric_of(row: Mapping[str, Any]) -> MetricRow:
    return MetricRow(**{field.name: row[field.name] for field in fields(MetricRow)})


def _trial(
    run: StoredRun,
    record: TrialRecord,
    curves: list[tuple[int, dict[str, float]]],
    metrics: Iterable[MetricRow],
) -> TrackedTrial:
    asked = ((name, getattr(record, name)) for name in PARAMETERS)
    numbers = _columns(record) | _measured(metrics)
    ordered = tuple(sorted(curves, key=lambda row: row[0]))
    told = json.dumps([dataclasses.asdict(record), sorted(numbers.items()), ordered], default=str)
    return TrackedTrial(
        record=record,
        title=f"{record.label}, seed {record.seed} ({short_id(record.trial_id)})",
        parameters={name: _plain(value) for name, value in asked if value is not None},
        numbers=numbers,
        curves=ordered,
        content=hashlib.sha256(told.encode()).hexdigest()[:16],
        ended=_committed(run, record),
    )


def _plain(value: Parameter) -> Parameter:
    """Return an enum's text as text."""
    return str(value) if isinstance(value, str) else value


def _columns(record: TrialRecord) -> dict[str, float]:
    """Return the columns that are numbers, by split: those with a held-out twin belong to a split."""
    found = {}
    for field in fields(TrialRecord):
        value = getattr(record, field.name)
        if field.name in _NO_NUMBERS or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        bare = field.name.replace(_HELDOUT, "")
        split = "heldout" if bare != field.name else "train" if bare in _ON_TRAIN else "trial"
        found[f"{split}/{bare}"] = float(value)
    return found


def _measured(rows: Iterable[MetricRow]) -> dict[str, float]:
    """Return the metrics of whole sets; those of single classes stay in the store."""
    return {
        re.sub(r"[^A-Za-z0-9_./-]", "_", f"{row.split}/{row.set}_{row.metric}_{row.protocol}"): row.value
        for row in rows
        if row.class_name is None
    }


def _committed(run: StoredRun, record: TrialRecord) -> float:
    """Return when a trial was committed; now, where the storage does not tell."""
    part = Path(run.path) / "trials" / part_name(record.trial_id, record.attempt)
    return part.stat().st_mtime if run.store.is_local and part.exists() else time.time()
