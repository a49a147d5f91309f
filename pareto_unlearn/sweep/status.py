"""How far a run is, from its files alone: nothing is written, locked or asked of a cluster."""

import dataclasses
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pareto_unlearn.analysis.naming import short_id
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.records import (
    BROKEN,
    HAS_MODEL,
    Phase,
    RunInfo,
    TrialRecord,
    TrialSpec,
    ValidRange,
)
from pareto_unlearn.schedule import SweepState, count_trials
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.forecast import count_ended
from pareto_unlearn.sweep.progress import as_percent, describe_duration, describe_range, describe_time_left
from pareto_unlearn.sweep.progress_file import RunningTrial, SweepProgress, read_progress


class RunState(StrEnum):
    """Whether anybody works on a run, and whether anything is left to do."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    FINISHED = "finished"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """What the files of a run say.

    ``done`` and ``failed`` are the trials of the sweep that ended, ``others`` rows that it did not ask for,
    such as those of a dial. ``total`` and ``planned`` are None where the sweep file of the run cannot be
    read. ``running`` are the trials that run, or ran when the driver was last heard of (``heard``, seconds
    since 1970). ``kept`` has the newest step to resume from of every trial that is not committed.
    ``best_quality`` is the retained quality of the most complete model that is ``DONE``.
    """

    path: str
    name: str
    state: RunState
    holder: str | None
    total: int | None
    done: int
    failed: int
    planned: int | None
    others: int
    states: dict[str, int]
    running: tuple[RunningTrial, ...]
    kept: dict[str, int]
    seconds_left: float | None
    is_least: bool
    slots: int | None
    heard: float | None
    changed: float | None
    ranges: tuple[ValidRange, ...]
    best_quality: float | None
    best_completeness: float | None
    info: RunInfo

    @property
    def signature(self) -> tuple[object, ...]:
        """What two looks differ in if anything but time has passed."""
        running = tuple((one.trial_id, one.step, one.doing) for one in self.running)
        return self.state, self.done, self.failed, self.others, self.ranges, running

    def to_plain(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        content = dataclasses.asdict(self)
        del content["info"], content["is_least"]
        return content | {"seconds_left_is_least": self.is_least}


def look_at(store: RunStore) -> RunStatus:
    """Return how far a run is.

    A store that is looked at again reads only what has been committed since.

    Raises:
        StoreError: a committed file is damaged.
    """
    info = store.read_info()
    if info is None:
        raise StoreError(f"{store} lost its run.json while it was looked at")
    records, progress, holder = store.records(), read_progress(store), store.holder()
    config = _read_config(store)
    total, ended = _count(config, store, records, info, progress)
    failed = sum(record.state in BROKEN for record in records.values())
    running = tuple(one for one in (progress.running if progress else ()) if _still_runs(one, records))
    planned = None if total is None else max(0, total - ended - (len(running) if holder else 0))
    best = _best(records.values())
    return RunStatus(
        path=store.path,
        name=info.name,
        state=_state(holder is not None, planned),
        holder=None if holder is None else holder.describe(),
        total=total,
        done=max(0, ended - failed),
        failed=failed,
        planned=planned,
        others=len(records) - ended,
        states=dict(Counter(str(record.state) for record in records.values())),
        running=running,
        kept={} if holder else store.kept_steps(),
        seconds_left=_seconds_left(progress, is_held=holder is not None, planned=planned),
        is_least=progress is not None and progress.is_least,
        slots=None if progress is None else progress.slots,
        heard=None if progress is None else progress.written,
        changed=_changed(store, progress),
        ranges=info.ranges,
        best_quality=None if best is None else best.retained_quality,
        best_completeness=None if best is None else best.completeness,
        info=info,
    )


def _state(is_held: bool, planned: int | None) -> RunState:
    if is_held:
        return RunState.RUNNING
    if planned is None:
        return RunState.UNKNOWN
    return RunState.INTERRUPTED if planned else RunState.FINISHED


def _read_config(store: RunStore) -> SweepConfig | None:
    """Return the sweep of a run; None where its file is lost, of another release, or needs foreign code."""
    try:
        return parse_config(store.read_text("sweep.yaml"), f"{store.path}/sweep.yaml", stored=True)
    except (ConfigError, StoreError):
        return None


def _count(
    config: SweepConfig | None,
    store: RunStore,
    records: dict[str, TrialRecord],
    info: RunInfo,
    progress: SweepProgress | None,
) -> tuple[int | None, int]:
    """Return how many trials the sweep has in all, None if unknown, and how many of them have ended."""
    if config is None:
        return (None if progress is None else progress.total), len(records)
    checks = any(record.phase is Phase.CHECK for record in records.values())
    checks |= progress is not None and progress.total > count_trials(config)
    total = count_trials(config, check_convergence=checks)
    by_purpose = {_purpose(record): record for record in records.values()}
    paths = [record for record in records.values() if record.role is not None or record.checks is not None]
    state = SweepState(
        by_purpose,
        scales=info.scales,
        banks={record.trial_id: _bank(store, record) for record in paths},
        check_convergence=checks,
    )
    return total, sum(count_ended(config, state, _purpose).values())


def _bank(store: RunStore, record: TrialRecord) -> tuple[Any, ...]:
    try:
        return store.read_bank(record.trial_id)
    except StoreError:
        return ()


def _purpose(trial: TrialSpec | TrialRecord) -> str:
    """Return what tells the trials of one sweep apart, as their ids do, without the weights' hash."""
    return repr((trial.phase, trial.method, trial.role, trial.epsilon, trial.weight, trial.seed))


def _still_runs(running: RunningTrial, records: dict[str, TrialRecord]) -> bool:
    record = records.get(running.trial_id)
    return record is None or record.state in BROKEN


def _seconds_left(progress: SweepProgress | None, *, is_held: bool, planned: int | None) -> float | None:
    """Return the driver's own estimate, less the time since unless nobody works on the run."""
    if progress is None or progress.seconds_left is None:
        return None
    if not is_held:
        return progress.seconds_left if planned else 0.0
    return max(0.0, progress.seconds_left - (time.time() - progress.written))


def _changed(store: RunStore, progress: SweepProgress | None) -> float | None:
    """Return when the run last changed, in seconds since 1970; None if nothing tells."""
    heard = [] if progress is None else [progress.written]
    if store.is_local:
        places = [Path(store.path) / name for name in ("run.json", "trials")]
        heard += [place.stat().st_mtime for place in places if place.exists()]
    return max(heard, default=None)


def _best(records: Iterable[TrialRecord]) -> TrialRecord | None:
    """Return the solution that forgets most completely; of two alike, the one that keeps more quality."""
    solutions = [
        record
        for record in records
        if record.phase in (Phase.BOUNDARY, Phase.EPSILON)
        and record.state in HAS_MODEL
        and record.completeness is not None
        and record.retained_quality is not None
    ]
    return max(solutions, key=lambda one: (one.completeness, one.retained_quality), default=None)


def describe_status(status: RunStatus) -> RenderableType:
    """Return a status for a person."""
    lines = [
        Text.assemble((status.path, "bold"), ": ", *_describe_state(status)),
        Text.assemble("trials   ", *_describe_trials(status)),
    ]
    lines += [Text(f"range    {describe_range(valid, status.info)}") for valid in status.ranges]
    if status.kept:
        kept = ", ".join(f"{short_id(trial)} from step {step}" for trial, step in status.kept.items())
        lines.append(Text(f"resumes  {kept}"))
    return Group(*lines, *([_running_table(status)] if status.running else []))


def _describe_state(status: RunStatus) -> tuple[str | tuple[str, str], ...]:
    """Return the parts of a line, some with a colour."""
    match status.state:
        case RunState.RUNNING:
            heard = f", last heard of {_ago(status.heard)}" if status.heard else ""
            return ("running", "green"), f", {status.holder}{heard}"
        case RunState.INTERRUPTED:
            return ("interrupted", "yellow"), "; start the same sweep command again to continue"
        case RunState.FINISHED:
            return (f"finished {_ago(status.changed)}",)
        case RunState.UNKNOWN:
            return ("no driver; its sweep.yaml cannot be read here, so what is left is unknown",)


def _describe_trials(status: RunStatus) -> list[str | tuple[str, str]]:
    """Return the parts of a line, some with a colour."""
    total = "" if status.total is None else f" of {status.total}"
    parts: list[str | tuple[str, str]] = [f"{status.done}{total} done"]
    if status.state is RunState.RUNNING:
        parts.append(f"{len(status.running)} running")
    parts.append((f"{status.failed} failed", "red") if status.failed else "0 failed")
    if status.planned:
        parts.append(f"{status.planned} planned")
    if status.others:
        parts.append(f"{status.others} beside the sweep")
    if status.state in (RunState.RUNNING, RunState.INTERRUPTED):
        parts.append(describe_time_left(status.seconds_left, status.is_least))
    return [part for one in parts for part in (", ", one)][1:]


def _running_table(status: RunStatus) -> Table:
    is_running = status.state is RunState.RUNNING
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("runs" if is_running else "ran", "trial", "seed", "step", "f1", "f2", "for", ""):
        table.add_column(name)
    since = time.time() - status.heard if status.heard and is_running else 0.0
    for one in status.running:
        table.add_row(
            one.phase,
            Text(one.label),
            str(one.seed),
            f"{one.step}/{one.steps}" if one.steps else "",
            "" if one.f1 is None else f"{one.f1:.4g}",
            "" if one.f2 is None else f"{one.f2:.3g}",
            describe_duration(one.seconds + max(0.0, since)),
            Text(one.doing),
        )
    return table


def runs_table(statuses: Iterable[RunStatus]) -> Table:
    """Return a table of runs, one a line."""
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("state")
    for name in ("done", "failed", "running", "planned", "complete", "quality", "changed"):
        table.add_column(name, justify="right")
    for one in statuses:
        of = "" if one.total is None else f"/{one.total}"
        table.add_row(
            Text(one.name),
            str(one.state),
            f"{one.done}{of}",
            str(one.failed),
            str(len(one.running) if one.state is RunState.RUNNING else 0),
            "?" if one.planned is None else str(one.planned),
            as_percent(one.best_completeness),
            as_percent(one.best_quality),
            _ago(one.changed),
        )
    return table


def _ago(moment: float | None) -> str:
    """Return how long ago a moment was, in its largest unit."""
    if moment is None:
        return ""
    seconds = max(0.0, time.time() - moment)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
