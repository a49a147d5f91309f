"""Measures of a finished model what it lacks, as its trial would have, without training."""

from collections.abc import Collection

from safetensors.torch import load as load_safetensors

from pareto_unlearn.audit import audit_full, audit_quick
from pareto_unlearn.config import Measurement, SweepConfig, for_measuring, measurements_of
from pareto_unlearn.config.measurements import FULL_AUDIT, QUICK_AUDIT
from pareto_unlearn.records import MetricRow
from pareto_unlearn.trial.auditing import audit_subject
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.loading import load_original
from pareto_unlearn.trial.measuring import measure_metrics
from pareto_unlearn.trial.numerics import exact_float32


@exact_float32()
def measure_missing(
    config: SweepConfig, material: Material, names: Collection[str], weights: bytes | None
) -> dict[Measurement, list[MetricRow]]:
    """Return the rows of some measurements of a model.

    Args:
        config: the sweep.
        material: loaded for ``for_measuring(config, names)``; its model gets the weights.
        names: of measurements of the sweep.
        weights: the file of the model; None for the original.

    Raises:
        ValueError: the model's pictures are not finite.
    """
    if weights is not None:
        material.model.load_state_dict(load_safetensors(weights))
    wanted = [one for one in measurements_of(config) if one.name in names]
    rows: list[MetricRow] = []
    if any(one.key for one in wanted):
        rows = measure_metrics(for_measuring(config, names), material)
    found = {
        one: [row for row in rows if row.protocol == one.protocol and row.metric in one.metrics]
        for one in wanted
        if one.key
    }
    audits = [one for one in wanted if not one.key]
    if audits:
        subject = audit_subject(config, material)
        if QUICK_AUDIT in audits:
            found[QUICK_AUDIT] = audit_quick(subject)
        if FULL_AUDIT in audits:
            found[FULL_AUDIT] = audit_full(subject, load_original(config, material.device))
    return found
