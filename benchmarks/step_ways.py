"""The ways to take a step that step_cost.py compares, each on the same model, images and losses.

A way is a function from a sweep and its freshly loaded material to a step. All ways but ours compute f1 and
f2 from one concatenated forward pass of both batches. A library is imported only by its own way, so nothing
else needs it installed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.records import Phase, TrialSpec
from pareto_unlearn.solver import ConflictProjection, EpsilonSolver, Gram
from pareto_unlearn.trial import Material, Trial
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.problem import Problem

EPSILON = 0.25
"""Between the floor of f1 (0) and the original's f1 (1)."""
LEARNING_RATE, DUAL_LEARNING_RATE, FIRST_MULTIPLIER = 1e-4, 1e-2, 1.0

Step = Callable[[int], None]
Coefficients = Callable[[Material, Tensor, Tensor, Tensor], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to take a step: how it is built, a note for the page, its overrides of the sweep file.

    ``coefficients`` returns c1 and c2 of the direction c1 g1 + c2 g2 that the first step must leave in the
    parameters' ``grad``, from the material, f1, g1 and g2; None where the direction is not kept there.
    """

    build: Callable[[SweepConfig, Material], Step]
    note: str
    overrides: tuple[str, ...] = ()
    coefficients: Coefficients | None = None


def raw_epsilon(material: Material) -> float:
    """Return the bound on f1."""
    return material.scales.f1_at(EPSILON)


def rows_of(config: SweepConfig, material: Material, index: int) -> tuple[Tensor, Tensor]:
    """Return forget and retain rows of a step."""
    start, device = index * config.solver.batch, material.device
    counts = (len(material.inputs["forget", "train"]), len(material.inputs["retain", "train"]))
    rows = torch.arange(start, start + config.solver.batch, device=device)
    return rows % counts[0], rows % counts[1]


def both_losses(config: SweepConfig, material: Material, index: int) -> tuple[Tensor, Tensor]:
    """Return f1 and f2 from one concatenated forward pass."""
    forget, retain = rows_of(config, material, index)
    inputs = torch.cat(
        [material.inputs["forget", "train"][forget], material.inputs["retain", "train"][retain]]
    )
    outputs = material.model(inputs).flatten(1)
    objectives, targets = material.retain_target.objectives, material.targets
    # The targets stay in their memory-mapped file, as they do for our step.
    original = targets.arrays["retain_train"][retain.cpu()].to(outputs.device)
    return (
        objectives.forget_loss(outputs[: len(forget)], targets.noise, forget),
        objectives.retain_loss(outputs[len(forget) :], original),
    )


def our_solver(config: SweepConfig, material: Material) -> tuple[EpsilonSolver, Problem]:
    """Return the solver of a Phase II trial and the problem it solves."""
    spec = TrialSpec(
        trial_id="0" * 16,
        phase=Phase.EPSILON,
        method="epsilon_constraint",
        seed=0,
        epsilon=raw_epsilon(material),
    )
    problem = build_problem(Trial(config, spec, material))
    solver = EpsilonSolver(
        material.trainable(),
        problem.rule,
        problem.settings,
        epsilon=problem.epsilon,
    )
    return solver, problem


def our_step(config: SweepConfig, material: Material) -> Step:
    """Return a step of the solver as a Phase II trial takes it."""
    solver, problem = our_solver(config, material)

    def step(index: int) -> None:
        solver.step(lambda: problem.constraint(index), lambda: problem.objective(index))
        if solver.step_count % 50 == 0:
            solver.flush()

    return step


def composite_step(config: SweepConfig, material: Material) -> Step:
    """Return the usual step on a weighted sum."""
    optimiser = torch.optim.Adam(material.model.parameters(), lr=LEARNING_RATE)

    def step(index: int) -> None:
        f1, f2 = both_losses(config, material, index)
        optimiser.zero_grad()
        (f2 + f1).backward()
        optimiser.step()

    return step


def naive_step(config: SweepConfig, material: Material) -> Step:
    """Return Algorithm 1 in its most direct form."""
    parameters = list(material.model.parameters())
    epsilon = raw_epsilon(material)

    def step(index: int) -> None:
        f1, f2 = both_losses(config, material, index)
        g1 = torch.autograd.grad(f1, parameters, retain_graph=True)
        g2 = torch.autograd.grad(f2, parameters)
        inner = sum((a * b).sum() for a, b in zip(g1, g2, strict=True))
        norm = sum((a * a).sum() for a in g1)
        eta = torch.clamp((f1 - epsilon - inner) / (norm + 1e-7), min=0.0)
        with torch.no_grad():
            for parameter, a, b in zip(parameters, g1, g2, strict=True):
                parameter -= LEARNING_RATE * (b + eta * a)

    return step


def torchjd_step(config: SweepConfig, material: Material, chunk: int | None) -> Step:
    """Return a step of UPGrad; ``chunk`` losses are differentiated at a time, with None all of them."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import backward, jac_to_grad

    parameters, aggregator = list(material.model.parameters()), UPGrad()
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def step(index: int) -> None:
        f1, f2 = both_losses(config, material, index)
        optimiser.zero_grad()
        backward([f1, f2], inputs=parameters, parallel_chunk_size=chunk)
        jac_to_grad(parameters, aggregator)
        optimiser.step()

    return step


def cooper_step(config: SweepConfig, material: Material) -> Step:
    """Return a step of Cooper on  min f2  s.t.  f1 <= epsilon:  its Lagrangian, dual variable first."""
    import cooper

    class Unlearning(cooper.ConstrainedMinimizationProblem):
        """The problem in Cooper's words."""

        def __init__(self) -> None:
            super().__init__()
            first = torch.full((1,), FIRST_MULTIPLIER, device=material.device)
            multiplier = cooper.multipliers.DenseMultiplier(num_constraints=1, init=first)
            kind, formulation = cooper.ConstraintType.INEQUALITY, cooper.formulations.Lagrangian
            self.forgetting = cooper.Constraint(kind, formulation, multiplier=multiplier)

        def compute_cmp_state(self, index: int) -> cooper.CMPState:
            """Return both losses at a step."""
            f1, f2 = both_losses(config, material, index)
            violation = cooper.ConstraintState(violation=f1 - raw_epsilon(material))
            return cooper.CMPState(loss=f2, observed_constraints={self.forgetting: violation})

    problem = Unlearning()
    optimiser = cooper.optim.AlternatingDualPrimalOptimizer(
        problem,
        torch.optim.Adam(material.model.parameters(), lr=LEARNING_RATE),
        torch.optim.SGD(problem.dual_parameters(), lr=DUAL_LEARNING_RATE, maximize=True),
    )

    def step(index: int) -> None:
        optimiser.roll(compute_cmp_state_kwargs={"index": index})

    return step


def _upgrad_coefficients(_material: Material, f1: Tensor, g1: Tensor, g2: Tensor) -> tuple[float, float]:
    """Return half of PCGrad, which is UPGrad of two losses: the mean of both gradients without conflict."""
    gram = Gram(torch.dot(g1, g1), torch.dot(g1, g2), torch.dot(g2, g2))
    chosen = ConflictProjection()(f1, gram)
    return float(chosen.c1) / 2.0, float(chosen.c2) / 2.0


def _lagrangian_coefficients(material: Material, f1: Tensor, _g1: Tensor, _g2: Tensor) -> tuple[float, float]:
    """Return the multiplier after its first step, which Cooper takes before the step of the parameters."""
    return FIRST_MULTIPLIER + DUAL_LEARNING_RATE * (float(f1) - raw_epsilon(material)), 1.0


WAYS: dict[str, Way] = {
    "composite": Way(
        composite_step,
        "the usual fine-tuning step: one backward pass of f2 + f1, torch's Adam",
        coefficients=lambda *_: (1.0, 1.0),
    ),
    "ours": Way(
        our_step,
        "two half-batch passes into flat buffers, multiplier from averaged gradients, "
        "Adam on the flat vector",
    ),
    "ours, per class": Way(
        our_step,
        "the same with epsilon held for every class, the default",
        ("solver.completeness=per_class",),
    ),
    "ours, bfloat16": Way(
        our_step,
        "`solver.precision: bfloat16`",
        ("solver.precision=bfloat16",),
    ),
    "ours, compiled": Way(
        our_step, "`solver.compile: true`; no other way here is compiled", ("solver.compile=true",)
    ),
    "naive": Way(
        naive_step,
        "`torch.autograd.grad` twice over one retained graph, a Python loop over parameters, plain steps",
    ),
    "cooper": Way(
        cooper_step,
        "`AlternatingDualPrimalOptimizer` on the Lagrangian of min f2 s.t. f1 <= epsilon: one backward "
        "pass of a weighted sum, the multiplier learned by ascent",
        coefficients=_lagrangian_coefficients,
    ),
    "torchjd": Way(
        lambda config, material: torchjd_step(config, material, None),
        "`autojac.backward` of both losses, `UPGrad`, torch's Adam",
        coefficients=_upgrad_coefficients,
    ),
    "torchjd, one by one": Way(
        lambda config, material: torchjd_step(config, material, 1),
        "the same with `parallel_chunk_size=1`, which does without `vmap`",
        coefficients=_upgrad_coefficients,
    ),
}
