"""Numbers of a running sweep for Ray's metrics: the dashboard charts them, and Prometheus collects them.

Every node serves them on its metrics port as ``ray_pareto_unlearn_...``. The tags are few on purpose: the
id of a trial would make a series of each.
"""

from collections import Counter
from collections.abc import Mapping
from functools import cache

from ray.util.metrics import Gauge

from pareto_unlearn.records import BROKEN, TrialRecord, TrialSpec
from pareto_unlearn.sweep.progress import name_phase

PREFIX = "pareto_unlearn_"
OF_TRIALS = {
    "f1": "forget objective: of the last mini-batch, at the end of a trial of the whole set",
    "f2": "retain objective: of the last mini-batch, at the end of a trial of the whole set",
    "epsilon": "bound on f1 of the trial that the slot solves",
    "completeness": "completeness of the last model that the slot finished (0 to 1)",
    "retained_quality": "retained quality of the last model that the slot finished (0 to 1)",
    "steps_done": "steps that the slot's trial has taken",
}
OF_SWEEPS = {"trials": "trials of the sweep that are done, running or failed"}


@cache
def _gauge(name: str) -> Gauge:
    """Return the gauge of a name: one for this process, whichever trials it solves."""
    text, tags = (
        (OF_TRIALS[name], ("sweep", "phase", "slot"))
        if name in OF_TRIALS
        else (
            OF_SWEEPS[name],
            ("sweep", "state"),
        )
    )
    return Gauge(PREFIX + name, description=text, tag_keys=tags)


def show_trial(sweep: str, slot: int, spec: TrialSpec, values: Mapping[str, float | None]) -> None:
    """Show values of a trial; None is left as it was."""
    tags = {"sweep": sweep, "phase": name_phase(spec), "slot": str(slot)}
    for name, value in values.items():
        if value is not None:
            _gauge(name).set(value, tags=tags)


def show_record(sweep: str, slot: int, record: TrialRecord) -> None:
    """Show what a trial ended with."""
    values = {name: getattr(record, name, None) for name in OF_TRIALS}
    show_trial(sweep, slot, record.spec, values | {"steps_done": float(record.steps)})


def show_sweep(sweep: str, rows: Mapping[str, TrialRecord], num_running: int) -> None:
    """Show how many trials of a sweep are done, running and failed."""
    failed = Counter(record.state in BROKEN for record in rows.values())
    for state, count in (("done", failed[False]), ("running", num_running), ("failed", failed[True])):
        _gauge("trials").set(float(count), tags={"sweep": sweep, "state": state})
