"""The dial against training at the same epsilon, and against a soup of the two ends alone.

    uv run python benchmarks/dial.py runs/quickstart benchmarks/dial.md

needs a finished run of sweeps/quickstart.yaml (any run of one seed will do). At 20 random epsilons of its valid range it
makes three models: interpolated between the run's own neighbouring solutions, interpolated between the original model
and the highest boundary alone, and trained from the original with the run's steps. All are measured alike.
"""

import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load as load_safetensors

from pareto_unlearn.config import parse_config
from pareto_unlearn.dial import dial, mix_weights
from pareto_unlearn.records import Phase, Role, TrialSpec
from pareto_unlearn.store import load_run
from pareto_unlearn.trial import Hooks, load_material, run_trial
from pareto_unlearn.trial.evidence import measure_completeness, measure_retain_loss

POINTS, SEED = 20, 0

Point = tuple[float, float]
"""(e - epsilon in units of f1's range, f2 as a share of the outputs' variance)."""


def main(run_path: str, out: str) -> None:
    """Measure all three ways at every epsilon and write a table."""
    run = load_run(run_path)
    config = parse_config(run.store.read_text("sweep.yaml"), "sweep.yaml")
    valid, scales, key = run.info.ranges[0], run.info.scales, run.info.config_hash[:16]
    fractions = np.sort(np.random.default_rng(SEED).uniform(0.02, 0.98, POINTS))
    highest = next(record for record in run.records if record.role is Role.HIGHEST)

    def scaled(f1: float, f2: float, epsilon: float) -> Point:
        return (f1 - epsilon) / scales.f1_range, f2 / scales.variance_retain

    def dialled(fraction: float, epsilon: float) -> Point:
        record = dial(run_path, fraction)
        return scaled(record.f1, record.f2, epsilon)

    def soup(_: float, epsilon: float) -> Point:
        material = load_material(config, run.store.cache_dir(), key)
        original = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
        end = load_safetensors(run.store.read_checkpoint(highest)["model.safetensors"])
        mix_weights(config, material, (end, original), (highest.f1, scales.f1_original), epsilon)
        return scaled(
            measure_completeness(config, material, "train").f1,
            measure_retain_loss(config, material, "train"),
            epsilon,
        )

    def trained(fraction: float, epsilon: float) -> Point:
        spec = TrialSpec(
            trial_id="0" * 16,
            phase=Phase.EPSILON,
            method="epsilon_constraint",
            seed=valid.seed,
            epsilon=epsilon,
            epsilon_fraction=fraction,
            range_width=valid.upper - valid.lower,
        )
        material = load_material(config, run.store.cache_dir(), key)
        record = run_trial(config, spec, material, Hooks(), run.info.code_version).record
        return scaled(record.f1, record.f2, epsilon)

    ways: dict[str, Callable[[float, float], Point]] = {
        "dial (neighbours)": dialled,
        "two-end soup": soup,
        f"trained, {config.solver.steps} steps": trained,
    }
    points = {name: [] for name in ways}
    for fraction in fractions:
        for name, way in ways.items():
            points[name].append(way(float(fraction), valid.epsilon_at(float(fraction))))
        print(f"fraction {fraction:.3f}: {[point[-1] for point in points.values()]}", file=sys.stderr)
    Path(out).write_text(_table(points, config.solver.steps))


def _table(points: dict[str, list[Point]], steps: int) -> str:
    trained = [f2 for _, f2 in list(points.values())[-1]]
    lines = [
        "# The dial",
        "",
        f"`uv run python benchmarks/dial.py runs/quickstart benchmarks/dial.md`: {POINTS} epsilons drawn uniformly from the valid range, "
        f"one seed, training split, torch {torch.__version__.split('+')[0]}. Error is (f1 - epsilon) / range of f1, of the mean "
        "over forget images; a trial with `solver.completeness: per_class` holds every class to epsilon, so its mean ends below.",
        "",
        "| way | mean abs error | largest error | f2 / trained f2, median | worst | extra steps |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in points.items():
        errors = [error for error, _ in values]
        ratios = [f2 / other for (_, f2), other in zip(values, trained, strict=True)]
        extra = steps if name.startswith("trained") else 0
        lines.append(
            f"| {name} | {statistics.fmean(map(abs, errors)):.4f} | {max(errors):+.4f} "
            f"| {statistics.median(ratios):.2f} | {max(ratios):.2f} | {extra} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:3])
