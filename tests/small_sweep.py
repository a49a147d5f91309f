"""A sweep on the embedded digits, small enough for tests, and what tests read of it."""

import dataclasses
from pathlib import Path
from typing import Any

from rich.console import Console

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.sweep import SweepOptions, run_sweep

QUICKSTART = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"

SMALL = (
    "data.train_per_class=32",
    "data.heldout_per_class=8",
    "solver.steps=40",
    "solver.batch=16",
    "solver.checkpoint_every=20",
    "solver.path.scan=[1.0]",
    "solver.bank.checkpoints=12",
    "epsilon={schedule: grid, points: 2, spacing: geometric}",
    "baselines=[{method: composite, weights: [0.1]}]",
    "controls=[]",
    "evaluate.audit=off",
    "objective.noise_images=64",
)
"""Overrides that shrink the quickstart sweep to seconds."""

TINIEST = (
    "data.train_per_class=4", "data.heldout_per_class=2", "solver.steps=2", "solver.batch=4",
    "solver.checkpoint_every=2", "solver.path={steps: 4, scan: []}", "solver.bank.checkpoints=3",
    "epsilon={schedule: grid, points: 1}", "baselines=[]", "controls=[]", "evaluate.audit=off",
    "objective.noise_images=16",
)  # fmt: skip
"""Overrides for a sweep of a second, whose numbers mean nothing."""

MEASURED_TIMES = {"seconds", "images_per_second", "peak_memory_bytes"}
"""Columns of a trial that a clock or the system measured: they differ between two runs of the same trial."""
NAMES_OF_STARTS = {"checkpoint"}
"""Columns that name a start of a trial: every start has a directory of its own."""


def small_sweep(storage: Path, *overrides: str) -> SweepConfig:
    """Return the small sweep, run in this process and stored in a folder."""
    return load_config(QUICKSTART, [*SMALL, "run.executor=local", f"run.storage={storage}", *overrides])


def run(config: SweepConfig, **options: Any) -> int:
    """Run a sweep without printing and return its exit code; ``options`` are those of ``SweepOptions``."""
    return run_sweep(config, SweepOptions(**options), Console(quiet=True))


def run_of(config: SweepConfig) -> StoredRun:
    """Open what a sweep has stored."""
    return open_run(f"{config.run.storage}/{config.name}")


def without_times(record: TrialRecord) -> dict[str, str]:
    """Return the columns of a trial that no clock measured; repr keeps every bit and makes NaN equal."""
    values = dataclasses.asdict(record).items()
    return {name: repr(value) for name, value in values if name not in MEASURED_TIMES | NAMES_OF_STARTS}


def rows_of(config: SweepConfig) -> list[dict[str, str]]:
    """Return all trial rows of a sweep, without times."""
    return [without_times(record) for record in run_of(config).records]
