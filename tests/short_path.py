"""A sweep whose path takes seconds and leaves a bank."""

from pathlib import Path

from rich.console import Console
from small_sweep import QUICKSTART, SMALL

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.records import Phase, Role, TrialSpec
from pareto_unlearn.sweep import SweepOptions, run_sweep

STEPS, CHECKPOINTS = 80, 24
SHORT = (
    "solver.steps=60",
    f"solver.path.steps={STEPS}",
    "solver.path.learning_rate=0.001",
    "solver.path.scan=[1.5, 3.0]",
    "solver.branch.steps=20",
    f"solver.bank.checkpoints={CHECKPOINTS}",
    "solver.checkpoint_every=20",
    "baselines=[]",
)
"""Overrides for a path of seconds that takes checkpoints which others dominate."""
PATH_SPEC = TrialSpec(
    trial_id="0" * 16, phase=Phase.BOUNDARY, role=Role.HIGHEST, method="epsilon_constraint", seed=0
)


def short_config(storage: Path, *overrides: str) -> SweepConfig:
    """Return the sweep, solved in this process and stored in a folder."""
    return load_config(
        QUICKSTART, [*SMALL, *SHORT, "run.executor=local", f"run.storage={storage}", *overrides]
    )


def run(config: SweepConfig) -> int:
    """Solve a sweep without a word and return its exit code."""
    return run_sweep(config, SweepOptions(), Console(quiet=True))
