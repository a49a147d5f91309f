"""What is measured of a model besides f1 and f2: sweeps that differ in this alone may share a run."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pareto_unlearn.catalogue.audits import AUDIT, FULL_GROUP, GAP_ATTACKS, QUICK_GROUP, lowest_error
from pareto_unlearn.catalogue.metrics import BUILTIN, BUILTIN_ROWS, METRICS, keys_of, second_name
from pareto_unlearn.config.schema import SweepConfig

MEASURING_KEYS = ("protocol", "metrics", "second_reconstruction", "audit")
"""The keys of ``evaluate`` that only say what is measured; what they add may be added to a run."""
COUNTED_MEASURING: Mapping[str, Any] = {
    "protocol": BUILTIN,
    "metrics": list(keys_of(BUILTIN)),
    "second_reconstruction": False,
    "audit": "quick",
}
"""What hashes of runs hold for them: their defaults while they counted."""


class Measurement(NamedTuple):
    """One thing to measure of every model.

    A model has it if the store holds a row of it with this protocol and one of these metrics; an audit, any
    row of its protocol where it names none. ``key`` is that of ``evaluate.metrics``; an audit has none and is
    stored as a ``group`` of rows.
    """

    name: str
    protocol: str
    metrics: tuple[str, ...]
    key: str = ""
    group: str = ""


QUICK_AUDIT = Measurement(f"{AUDIT}.{QUICK_GROUP}", AUDIT, (), group=QUICK_GROUP)
FULL_AUDIT = Measurement(f"{AUDIT}.{FULL_GROUP}", AUDIT, (lowest_error(GAP_ATTACKS[0]),), group=FULL_GROUP)
_AUDITS = {"off": (), "quick": (QUICK_AUDIT,), "full": (QUICK_AUDIT, FULL_AUDIT)}


def measurements_of(config: SweepConfig) -> tuple[Measurement, ...]:
    """Return what a sweep measures of every model."""
    evaluate = config.evaluate
    seconds = [key for key in evaluate.metrics if evaluate.second_reconstruction and key in BUILTIN_ROWS]
    plain = (_plain(key, evaluate.protocol) for key in evaluate.metrics)
    return (*plain, *map(_second, seconds), *_AUDITS[evaluate.audit])


def dropped_measurements(old: SweepConfig, new: SweepConfig) -> list[str]:
    """Return the names of what one sweep measures and another does not."""
    kept = {one.name for one in measurements_of(new)}
    return [one.name for one in measurements_of(old) if one.name not in kept]


def for_measuring(config: SweepConfig, names: Collection[str]) -> SweepConfig:
    """Return a sweep that measures no more than some of its metrics need, and audits nothing."""
    wanted = [one for one in measurements_of(config) if one.name in names]
    keys = {one.key for one in wanted}
    narrow = {
        "metrics": tuple(key for key in config.evaluate.metrics if key in keys),
        "second_reconstruction": any(one == _second(one.key) for one in wanted if one.key in BUILTIN_ROWS),
        "audit": "off",
    }
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update=narrow)})


def _plain(key: str, protocol: str) -> Measurement:
    row = BUILTIN_ROWS.get(key)
    if row is not None:
        return Measurement(f"{row.source.value}.{key}", row.source.value, (row.name,), key)
    # Which of several metrics with a key is meant depends on the data set; a run has one.
    names = tuple(metric.name for metric in METRICS.values() if metric.key == key)
    return Measurement(f"{protocol}.{key}", protocol, names, key)


def _second(key: str) -> Measurement:
    row = BUILTIN_ROWS[key]
    name = second_name(row.name)
    return Measurement(f"{row.source.value}.{name}", row.source.value, (name,), key)
