"""A sweep on the embedded digits, small enough for tests."""

from pathlib import Path

QUICKSTART = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"

SMALL = (
    "solver.steps=100",
    "solver.batch=16",
    "solver.checkpoint_every=50",
    "solver.path.scan=[1.0]",
    "solver.bank.checkpoints=12",
    "epsilon={schedule: grid, points: 2, spacing: geometric}",
    "baselines=[{method: composite, weights: [0.1]}]",
    "objective.noise_images=64",
)
"""Overrides that shrink the quickstart sweep to seconds."""
