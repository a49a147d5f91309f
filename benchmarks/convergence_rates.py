"""How fast the constraint is met on the digits, beside the rates of Proposition 3 of arXiv:2408.01689.

    uv run python benchmarks/convergence_rates.py benchmarks/results/convergence_rates.json docs/benchmarks.md

The proposition is about the flow d theta / dt = -g. So this benchmark takes the paper's plain step, small and
constant, on all images of a small set at every step, without a clip or a ramp. Phase I is solved for delta 1,
2, 3, Phase II for 1 and 3 (there delta must be odd), and for delta 1 also with the factors of psi that the
proposition does not have: |g1| |g2|, our default, and |g1|^2, that of the paper's experiments.

The decaying quantity is the least value so far: of |grad f1| and |g| in Phase I, of [f1 - epsilon]+ in Phase
II. The exponent is minus the slope of a straight line through its logarithm against the logarithm of the
step, fitted at steps that are evenly spaced in the logarithm.
"""

import argparse
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine_facts
from page_section import replace_section

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.records import CurveRow, Phase, Role, TrialSpec
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial

SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
PER_CLASS, LEVEL = 4, 0.4
"""Images per class, with five classes in a set; epsilon of Phase II in e."""
FLOOR_STEPS = 400
FACTORS = {"": "none", "scaled": "abs g1 abs g2 (ours)", "squared": "abs g1^2 (section 5.4)"}
FIRST, POINTS, LEAST = 0.1, 60, 1e-4
"""The fit ends where the quantity is ``LEAST`` of its start, and begins after ``FIRST`` of the steps, or at a
quarter of that end if it comes earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One quantity of one trial: its measured exponent, the promised exponent, and the range of the fit."""

    phase: int
    delta: int
    factor: str
    quantity: str
    promised: float
    measured: float
    first_step: int
    last_step: int
    first_value: float
    last_value: float


def main() -> None:
    """Solve, fit and write both files; with ``--steps 0`` write the page from the stored numbers only."""
    options = _parse()
    if options.steps:
        content = {"machine": machine_facts(), "steps": options.steps, "learning_rate": options.learning_rate}
        content["fits"] = [asdict(fit) for fit in measure(options.steps, options.learning_rate)]
        content["floors"] = measure_floors(options.learning_rate)
        options.results.write_text(json.dumps(content, indent=1) + "\n")
    replace_section(options.page, "convergence-rates", render(json.loads(options.results.read_text())))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--steps", type=int, default=1000, help="of each trial; 0: write the page only")
    parser.add_argument("--learning-rate", type=float, default=0.005)
    return parser.parse_args()


def measure(steps: int, learning_rate: float) -> list[Fit]:
    """Return the fits of all trials: two for each trial of Phase I, one for each of Phase II."""
    fits = []
    for delta in (1, 2, 3):
        rows = solve(1, delta, steps, learning_rate)
        norms = [row.gradient_norm_f1 for row in rows]
        fits.append(fit((1, delta, ""), "abs grad f1", 1 / delta, norms))
        fits.append(fit((1, delta, ""), "abs g", 0.5 - 0.5 / delta, [direction_norm(row) for row in rows]))
    for delta, factor in ((1, ""), (3, ""), (1, "scaled"), (1, "squared")):
        rows = solve(2, delta, steps, learning_rate, factor)
        violations = [max(row.f1 - (row.epsilon or 0.0), 0.0) for row in rows]
        fits.append(fit((2, delta, factor), "[f1 - epsilon]+", 1 / delta, violations))
    return fits


def measure_floors(learning_rate: float) -> list[dict[str, float]]:
    """Return the least abs grad f1 in Phase I, delta 1, at twice and half the step, same time of the flow."""
    found = []
    for factor in (2.0, 0.5):
        rows = solve(1, 1, round(FLOOR_STEPS / factor), factor * learning_rate)
        least = min(row.gradient_norm_f1 for row in rows)
        found.append({"learning_rate": factor * learning_rate, "least": least})
    return found


def make_config(delta: int, steps: int, learning_rate: float, factor: str) -> SweepConfig:
    """Return the quickstart as near to the flow of the proposition as steps can be."""
    return load_config(
        SWEEP,
        [
            f"data.train_per_class={PER_CLASS}",
            f"data.heldout_per_class={PER_CLASS}",
            "objective.noise_images=256",
            "evaluate={metrics: [mse], samples_per_class: 0}",
            f"solver={{update: paper, steps: {steps}, batch: {5 * PER_CLASS}, learning_rate: "
            f"{learning_rate}, clip: 1000.0}}",
            f"solver.boundary.delta={delta}",
            f"solver.control={{beta: 5.0, delta: {delta if delta % 2 else 1}, ramp: 0.0, scaled: false}}",
            *([f"solver.control.{factor}=true"] if factor else []),
        ],
    )


def solve(phase: int, delta: int, steps: int, learning_rate: float, factor: str = "") -> Sequence[CurveRow]:
    """Return the curve of the highest boundary (phase 1) or of the trial at ``LEVEL`` (phase 2)."""
    config = make_config(delta, steps, learning_rate, factor)
    with tempfile.TemporaryDirectory() as cache:
        material = load_material(config, Path(cache), "convergence-rates")
        scales = material.targets.scales
        epsilon = scales.f1_at(LEVEL)
        spec = TrialSpec(
            trial_id=f"phase-{phase}-delta-{delta}",
            phase=Phase.BOUNDARY if phase == 1 else Phase.EPSILON,
            role=Role.HIGHEST if phase == 1 else None,
            method="epsilon_constraint",
            seed=config.seed,
            epsilon=None if phase == 1 else epsilon,
            epsilon_fraction=None if phase == 1 else LEVEL,
            range_width=None if phase == 1 else scales.f1_range,
        )
        return run_trial(Trial(config, spec, material), Hooks(), "benchmark").curves


def direction_norm(row: CurveRow) -> float:
    """Return abs(g2 + eta g1) of a step; rounding of parallel gradients cannot make it negative."""
    n1, n2 = row.multiplier * row.gradient_norm_f1, row.gradient_norm_f2
    return math.sqrt(max(n1 * n1 + 2.0 * row.cosine * n1 * n2 + n2 * n2, 0.0))


def fit(key: tuple[int, int, str], quantity: str, promised: float, values: Sequence[float]) -> Fit:
    """Return the fit of the least value so far; ``key`` is phase, delta and the factor of psi.

    Raises:
        ValueError: fewer than three steps are left to fit.
    """
    least = np.minimum.accumulate(np.asarray(values, dtype=np.float64))
    end = int(np.searchsorted(-least, -LEAST * least[0]))
    first = max(round(min(FIRST * len(least), end / 4)), 1)
    steps = np.unique(np.geomspace(first, max(end, first), POINTS).astype(int))
    steps = steps[steps <= end]
    if len(steps) < 3:
        raise ValueError(
            f"{quantity}, delta {key[1]}: expected three steps to fit, found {len(steps)} before step {end}"
        )
    shown = least[steps - 1]
    slope = np.polyfit(np.log(steps), np.log(shown), 1)[0]
    return Fit(
        phase=key[0],
        delta=key[1],
        factor=key[2],
        quantity=quantity,
        promised=promised,
        measured=float(-slope),
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        first_value=float(shown[0]),
        last_value=float(shown[-1]),
    )


def render(content: dict[str, Any]) -> str:
    """Return the section of the page."""
    machine = content["machine"]
    floors = ", ".join(
        f"{row['learning_rate']:g} it falls to {row['least']:.2g}" for row in content["floors"]
    )
    lines = [
        "## Convergence rates",
        "",
        "`uv run python benchmarks/convergence_rates.py benchmarks/results/convergence_rates.json "
        "docs/benchmarks.md`.",
        f"{machine['cpu']}, one core, torch {machine['torch']}, Python {machine['python']}, "
        f"{machine['date']}.",
        "",
        "Proposition 3 of arXiv:2408.01689 bounds how fast the flow d theta / dt = -g meets its "
        "constraint: O(1 / t^p). Here the flow is the paper's plain",
        f"step of {content['learning_rate']:g}, {content['steps']:,} times, always on the same {PER_CLASS} "
        f"images of every digit, without mini-batches, clip or ramp; alpha 1, beta 5,",
        f"epsilon at e = {LEVEL:g}. The exponent p is fitted to the least value so far, evenly over the "
        f"logarithm of the steps, from {FIRST:.0%} of",
        f"them (or a quarter of the end) to where it has fallen to {LEAST:g} of its start. A bound is kept "
        f"where the measured exponent is at least the promised one.",
        "",
        "| phase | delta | factor of psi | quantity | promised p | measured p | kept | steps of the fit | "
        "value there |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(row) for row in content["fits"]),
        "",
        "- The proposition names the rates of f1 and f2; as its proof is in an appendix that is not at "
        "hand, they are read as those of the first-order",
        "  residuals, abs grad f1 and abs g: integrating d f1 / dt <= -alpha (abs grad f1)^delta gives "
        "just the first of them.",
        "- With delta 1 Phase I asks for a descent of length alpha however small the gradient is, so abs g "
        "never falls below 1. The flow would stop in finite time; steps",
        f"  overshoot by their own length, so abs grad f1 has a floor: with steps of {floors} within the "
        f"same time.",
        "- In Phase II the active constraint makes d (f1 - epsilon) / dt = -beta (f1 - epsilon)^delta: an "
        "exponential for delta 1, for which no power is",
        "  too large, and t^(-1/2) for delta 3, both faster than the bound.",
        "- With a factor the proposition says nothing: the rate then depends on the gradients along the way. "
        "Its promise for delta 1 stands beside them for comparison.",
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    kept = "yes" if round(row["measured"], 2) >= round(row["promised"], 2) else "no"
    return (
        f"| {'I' * row['phase']} | {row['delta']} | {FACTORS[row['factor']]} | {row['quantity']} | "
        f"{row['promised']:.2f} | {row['measured']:z.2f} | {kept} | "
        f"{row['first_step']} to {row['last_step']} | {row['first_value']:.3g} to {row['last_value']:.3g} |"
    )


if __name__ == "__main__":
    main()
