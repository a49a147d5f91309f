"""What one step of the solver costs against a composite-loss step and a naive two-gradient step.

    uv run python benchmarks/step_cost.py benchmarks/step_cost.md

All on the embedded masked autoencoder with the same images, one CPU thread, one process. The ways take turns in short rounds, so
that a machine whose speed drifts slows all of them alike; the table gives medians over rounds of the ratio to the composite step.

- composite: the usual fine-tuning step: one concatenated batch, one backward pass of f2 + f1, torch's Adam.
- ours: two half-batch passes into flat buffers, multiplier from averaged gradients, Adam on the flat vector.
- ours, per class: the same with epsilon held for every class.
- naive: one concatenated forward pass, torch.autograd.grad twice over a retained graph, a Python loop over parameters.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.solver import EpsilonSolver
from pareto_unlearn.trial import Material, load_material
from pareto_unlearn.trial.problem import build_problem

ROUNDS, STEPS, BATCHES = 15, 20, (32, 128)
SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"

Step = Callable[[int], None]


def main(out: str) -> None:
    """Time every way at every batch size and write a table."""
    torch.set_num_threads(1)
    lines = [
        "# Cost of a step",
        "",
        f"`uv run python benchmarks/step_cost.py benchmarks/step_cost.md`: CPU, one thread, torch {torch.__version__.split('+')[0]}, "
        f"62,608 parameters, median of {ROUNDS} rounds of {STEPS} steps; ratio to the composite step of the same round.",
        "",
        "| batch | way | ms per step | ratio to composite |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as cache:
        for batch in BATCHES:
            for name, seconds, ratio in measure(batch, Path(cache)):
                lines.append(f"| {batch}+{batch} | {name} | {1e3 * seconds:.2f} | {ratio:.2f} |")
                print(lines[-1], file=sys.stderr)
    Path(out).write_text("\n".join(lines) + "\n")


def measure(batch: int, cache: Path) -> list[tuple[str, float, float]]:
    """Return (way, median seconds a step, median ratio to composite)."""
    ways = {
        "composite": composite_step(*prepare("mean", batch, cache)),
        "ours": our_step(*prepare("mean", batch, cache)),
        "ours, per class": our_step(*prepare("per_class", batch, cache)),
        "naive": naive_step(*prepare("mean", batch, cache)),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(ROUNDS + 2):
        for name, step in ways.items():
            started = time.perf_counter()
            for index in range(STEPS):
                step(round_number * STEPS + index)
            if round_number >= 2:
                times[name].append((time.perf_counter() - started) / STEPS)
    ratios = {
        name: [one / other for one, other in zip(values, times["composite"], strict=True)]
        for name, values in times.items()
    }
    return [(name, statistics.median(times[name]), statistics.median(ratios[name])) for name in ways]


def prepare(completeness: str, batch: int, cache: Path) -> tuple[SweepConfig, Material]:
    """Load a fresh model with everything a step needs."""
    config = load_config(
        SWEEP, [f"solver.completeness={completeness}", f"solver.batch={batch}", "solver.steps=100000"]
    )
    return config, load_material(config, cache, "step-cost")


def our_step(config: SweepConfig, material: Material) -> Step:
    """Return a step of the solver as a Phase II trial takes it."""
    scales = material.targets.scales
    epsilon = scales.f1_floor + 0.25 * scales.f1_range
    spec = TrialSpec(
        trial_id="0" * 16, phase=Phase.EPSILON, method="epsilon_constraint", seed=0, epsilon=epsilon
    )
    problem = build_problem(config, spec, material)
    solver = EpsilonSolver(
        material.trainable("output"),
        problem.rule,
        problem.settings,
        epsilon=problem.epsilon,
        ramp=problem.ramp,
    )

    def step(index: int) -> None:
        solver.step(lambda: problem.constraint(index), lambda: problem.objective(index))
        if index % 50 == 49 or solver.step_count % 50 == 0:
            solver.flush()

    return step


def rows_of(config: SweepConfig, material: Material, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return forget and retain rows of a step."""
    start = index * config.solver.batch
    counts = (len(material.inputs["forget", "train"]), len(material.inputs["retain", "train"]))
    forget, retain = (torch.arange(start, start + config.solver.batch) % count for count in counts)
    return forget, retain


def both_losses(config: SweepConfig, material: Material, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return f1 and f2 from one concatenated forward pass."""
    forget, retain = rows_of(config, material, index)
    inputs = torch.cat(
        [material.inputs["forget", "train"][forget], material.inputs["retain", "train"][retain]]
    )
    outputs = material.model(inputs).flatten(1)
    objectives, targets = material.objectives, material.targets
    return (
        objectives.forget_loss(outputs[: len(forget)], targets.noise, forget),
        objectives.retain_loss(outputs[len(forget) :], targets.retain_train[retain]),
    )


def composite_step(config: SweepConfig, material: Material) -> Step:
    """Return the usual step on a weighted sum."""
    optimiser = torch.optim.Adam(material.model.parameters(), lr=1e-4)

    def step(index: int) -> None:
        f1, f2 = both_losses(config, material, index)
        optimiser.zero_grad()
        (f2 + f1).backward()
        optimiser.step()

    return step


def naive_step(config: SweepConfig, material: Material) -> Step:
    """Return Algorithm 1 as one would write it first."""
    parameters = list(material.model.parameters())

    def step(index: int) -> None:
        f1, f2 = both_losses(config, material, index)
        g1 = torch.autograd.grad(f1, parameters, retain_graph=True)
        g2 = torch.autograd.grad(f2, parameters)
        inner = sum((a * b).sum() for a, b in zip(g1, g2, strict=True))
        norm = sum((a * a).sum() for a in g1)
        eta = torch.clamp((f1 - 0.6 - inner) / (norm + 1e-7), min=0.0)
        with torch.no_grad():
            for parameter, a, b in zip(parameters, g1, g2, strict=True):
                parameter -= 1e-4 * (b + eta * a)

    return step


if __name__ == "__main__":
    main(sys.argv[1])
