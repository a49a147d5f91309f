"""What a sweep plans and what it commits, for tests that go without one."""

from typing import Any

from pareto_unlearn.records import Phase, Scales, TrialRecord, TrialSpec, TrialState

SCALES = Scales(
    f1_floor=0.5,
    f1_original=1.5,
    variance_retain=0.4,
    f1_floor_heldout=0.5,
    f1_original_heldout=1.5,
    variance_retain_heldout=0.4,
)
"""Of a made-up model whose f1 has a range of one."""


def epsilon_spec(scales: Scales, e: float) -> TrialSpec:
    """Return the trial that holds f1 at e, in the units of a model, over its whole range."""
    return TrialSpec(
        trial_id="0" * 16,
        phase=Phase.EPSILON,
        method="epsilon_constraint",
        seed=0,
        epsilon=scales.f1_floor + e * scales.f1_range,
        range_width=scales.f1_range,
    )


def finished_record(trial_id: str, **changes: Any) -> TrialRecord:
    """Return the row of an epsilon trial that is done; ``changes`` are columns."""
    values = {
        "trial_id": trial_id,
        "attempt": 1,
        "phase": Phase.EPSILON,
        "role": None,
        "method": "epsilon_constraint",
        "seed": 0,
        "start": "original",
        "state": TrialState.DONE,
        "reason": "",
    }
    return TrialRecord(**(values | changes))
