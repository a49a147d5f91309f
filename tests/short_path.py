"""A sweep whose path takes seconds and leaves a bank."""

from pathlib import Path

from small_sweep import small_sweep

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.records import Phase, Role, TrialSpec

STEPS, SCANNED, CHECKPOINTS, HELD = 80, 16, 24, 20
SHORT = (
    "solver.steps=60",
    f"solver.path.steps={STEPS}",
    "solver.path.learning_rate=0.001",
    "solver.path.scan=[1.0, 2.0]",
    "solver.path.wait_above=1000",
    f"solver.hold.steps={HELD}",
    f"solver.bank.checkpoints={CHECKPOINTS}",
    "solver.checkpoint_every=20",
    "baselines=[]",
)
"""Overrides for a path of seconds that takes checkpoints which others dominate, and holds its epsilons.

It does not wait, so its course is known without solving it.
"""
PATH_SPEC = TrialSpec(
    trial_id="0" * 16, phase=Phase.BOUNDARY, role=Role.HIGHEST, method="epsilon_constraint", seed=0
)


def short_config(storage: Path, *overrides: str) -> SweepConfig:
    """Return the sweep, solved in this process and stored in a folder."""
    return small_sweep(storage, *SHORT, *overrides)
