"""The methods of the fronts benchmark: each turns a budget of gradient pairs into at most eleven models.

A pair is one gradient of the forget loss and one of the retain loss. Unless its docstring says otherwise, a
method

- takes steps of Adam on the direction of its rule, with betas (.9, .99),
- computes coefficients from averages (.9),
- lowers the learning rate along half a cosine to 2 %,
- gives each model an eleventh of the budget, if every model has a run of its own.

The sign of every knob is chosen so that e should rise with the knob.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from front_problems import FrontProblem
from front_scores import MODELS, TARGETS, choose_best
from torch import Tensor

from pareto_unlearn.analysis.front import is_on_lower_hull
from pareto_unlearn.solver import (
    BoundaryControl,
    DynamicBarrier,
    EpsilonSolver,
    FixedMultiplier,
    FlatParameters,
    Level,
    LevelControl,
    MinimumNorm,
    NashBargaining,
    Orthogonal,
    PathPlan,
    Pivot,
    Rule,
    UpdateSettings,
    ramp,
)
from pareto_unlearn.trial.constrained import UPDATE_LIMIT
from pareto_unlearn.trial.mixing import find_crossing

SMOOTHING = 0.1
LEVEL = LevelControl(beta=5.0, scaled=True)
INDEPENDENT_RAMP = 0.4
DIAL_TOLERANCE = 0.002
BOUNDARY = BoundaryControl(alpha=1.0, delta=2)
SUM_WEIGHTS = tuple(np.geomspace(0.003, 10.0, MODELS).tolist())
LABEL_WEIGHTS = tuple(np.geomspace(0.003, 3.0, MODELS).tolist())
BARRIERS = tuple(np.geomspace(0.01, 1.0, MODELS).tolist())
INNER = tuple((index + 1) / (MODELS + 1) for index in range(MODELS))
"""Eleven evenly spaced numbers within (0, 1)."""


@dataclass(frozen=True, slots=True)
class Task:
    """A run: problem, seed, budget in pairs, learning rate; ``fvu_max`` is the height of the box."""

    problem: FrontProblem
    seed: int
    budget: int
    rate: float
    fvu_max: float


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model: its flat weights, and the knob and the level that made it, NaN without.

    ``kept`` is False for models that only answer to a level and are no part of the eleven.
    """

    values: Tensor
    knob: float = math.nan
    target: float = math.nan
    kept: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """The models of a method, and the gradient pairs it took."""

    models: list[Model]
    pairs: int


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A checkpoint of the path: its state, measured over the whole training sets."""

    f1: float
    f2: float
    state: Mapping[str, Tensor]


def settings_of(task: Task, steps: int) -> UpdateSettings:
    """Return the settings of a solve from the original: half a cosine to 2 %."""
    return UpdateSettings(steps=steps, learning_rate=task.rate)


def descend(
    task: Task,
    rule: Rule,
    settings: UpdateSettings,
    *,
    kind: str = "scaled",
    epsilon: float | Level = 0.0,
    captures: Sequence[int] = (),
) -> list[dict[str, Tensor]]:
    """Take all steps of a solve; return copies of its states after the steps in ``captures`` and at its end.

    Args:
        task: problem and seed.
        rule: how a step chooses its direction.
        settings: steps and learning rate.
        kind: which losses of the problem.
        epsilon: bound on the constraint, in e, or from a step to its bound.
        captures: numbers of steps below that of the settings.
    """
    solver = EpsilonSolver(task.problem.parameters, rule, settings, epsilon=epsilon, log_size=settings.steps)
    solver.start_at(task.problem.original)
    forget, retain = task.problem.losses(kind, task.seed)
    states, wanted = [], {*captures, settings.steps}
    for step in range(settings.steps):
        solver.step(partial(forget, step), partial(retain, step))
        if step + 1 in wanted:
            states.append({name: tensor.clone() for name, tensor in solver.state_dict().items()})
    return states


def _even_steps(steps: int) -> list[int]:
    return [round(steps * (index + 1) / MODELS) for index in range(MODELS)]


# Our methods.


def follow_path(task: Task, steps: int) -> list[Member]:
    """Return the bank of a path: its checkpoints with averaged weights, measured on the training sets."""
    plan = PathPlan(steps=steps)
    settings = UpdateSettings(
        steps=steps,
        learning_rate=task.rate / 2.0,
        shape=plan.rate_at,
        update_limit=UPDATE_LIMIT,
        weight_average=plan.weight_average,
    )
    states = descend(task, LEVEL, settings, epsilon=plan.epsilon_at, captures=plan.capture_steps())
    # A path of fewer than 67 steps is too short to average over.
    averaged = [state | {"values": state.get("averaged_values", state["values"])} for state in states]
    return [Member(*task.problem.measure(state["values"], "train"), state) for state in averaged]


def run_dialled_path(task: Task) -> Run:
    """Spend the whole budget on one path; the dial fills the gaps between checkpoints on the convex hull."""
    bank = follow_path(task, task.budget)
    knots = _hull(bank)
    between = [_mix(task, pair, share) for pair in pairwise(knots) for share in (0.25, 0.5, 0.75)]
    kept = [Model(member.state["values"]) for member in _choose(bank + between, task.fvu_max)]
    asked = [
        Model(_dial(task, knots, target).state["values"], knob=target, target=target, kept=False)
        for target in TARGETS
    ]
    return Run(kept + asked, task.budget)


def _choose(members: Sequence[Member], fvu_max: float) -> list[Member]:
    costs = np.array([(member.f1, member.f2) for member in members])
    return [members[row] for row in choose_best(costs, fvu_max)]


def _hull(bank: Sequence[Member]) -> list[Member]:
    """Return the checkpoints on the lower hull, by rising e."""
    on_hull = is_on_lower_hull(np.array([(member.f1, member.f2) for member in bank]))
    return sorted((bank[row] for row in np.flatnonzero(on_hull)), key=lambda member: member.f1)


def _mix(task: Task, pair: tuple[Member, Member], share: float) -> Member:
    """Return the model at a share of the way between two checkpoints, measured on the training sets."""
    values = torch.lerp(pair[0].state["values"], pair[1].state["values"], share)
    return Member(*task.problem.measure(values, "train"), {"values": values})


def _dial(task: Task, knots: Sequence[Member], target: float) -> Member:
    """Return the model whose e meets a target, between two neighbours; beyond all knots, the last knot."""
    above = next((row for row, knot in enumerate(knots) if knot.f1 > target), len(knots) - 1)
    if above == 0:
        return knots[0]
    pair = knots[above - 1], knots[above]
    tried = {0.0: pair[0], 1.0: pair[1]}

    def measure(share: float) -> float:
        tried[share] = _mix(task, pair, share)
        return tried[share].f1

    return tried[find_crossing(measure, target, DIAL_TOLERANCE, (pair[0].f1, pair[1].f1)).share]


def solve_boundary(task: Task, steps: int) -> Tensor:
    """Return the weights of the highest boundary."""
    return descend(task, BOUNDARY, settings_of(task, steps))[-1]["values"]


def run_independent(task: Task) -> Run:
    """Solve the highest boundary and ten levels, each on its own from the original."""
    steps = task.budget // MODELS
    settings, falling = settings_of(task, steps), round(INDEPENDENT_RAMP * steps)
    models = [Model(solve_boundary(task, steps))]
    for target in TARGETS:
        last = descend(task, LEVEL, settings, epsilon=ramp(1.0, target, falling))[-1]
        models.append(Model(last["values"], knob=target, target=target))
    return Run(models, MODELS * steps)


def run_algorithm1(task: Task) -> Run:
    """Solve as the papers do (arXiv:2408.01689): plain constant steps, clip 1, beta 5, from the original."""
    steps = task.budget // MODELS
    settings = UpdateSettings(
        kind="paper", steps=steps, learning_rate=task.rate, learning_rate_end=1.0, clip=1.0
    )
    models = [Model(descend(task, BOUNDARY, settings)[-1]["values"])]
    for target in TARGETS:
        last = descend(task, LevelControl(beta=5.0, delta=1), settings, epsilon=target)[-1]
        models.append(Model(last["values"], knob=target, target=target))
    return Run(models, MODELS * steps)


# Rival methods.


def run_weights(task: Task, *, rule: Callable[[float], Rule], weights: Sequence[float], kind: str) -> Run:
    """Solve once from the original for each weight; a larger weight forgets more."""
    steps = task.budget // MODELS
    settings = settings_of(task, steps)
    solved = [(descend(task, rule(weight), settings, kind=kind)[-1], weight) for weight in weights]
    return Run([Model(state["values"], knob=-weight) for state, weight in solved], MODELS * steps)


def run_checkpoints(task: Task, *, rule: Rule, kind: str) -> Run:
    """Solve once with the whole budget; the models are eleven evenly spaced checkpoints."""
    settings = settings_of(task, task.budget)
    states = descend(task, rule, settings, kind=kind, captures=_even_steps(task.budget))
    return Run([Model(state["values"]) for state in states], task.budget)


def run_soup(task: Task) -> Run:
    """Spend the whole budget on the highest boundary; take eleven points on the line from the original."""
    end, start = solve_boundary(task, task.budget), task.problem.original
    shares = [(index + 1) / MODELS for index in range(MODELS)]
    return Run([Model(torch.lerp(start, end, share), knob=-share) for share in shares], task.budget)


class FlatAdam:
    """Adam on a flat vector, with the rate of ``UpdateSettings``; for what ``EpsilonSolver`` cannot run."""

    def __init__(self, values: Tensor, settings: UpdateSettings) -> None:
        self._values, self._settings, self._steps = values, settings, 0
        self._first, self._second = torch.zeros_like(values), torch.zeros_like(values)

    def step(self, gradient: Tensor) -> None:
        """Take one step, in place; gradients that are not finite count as 0."""
        gradient = torch.where(gradient.square().isfinite(), gradient, 0.0)
        rate, (decay1, decay2) = self._settings.learning_rate_at(self._steps), self._settings.betas
        self._steps += 1
        self._first.lerp_(gradient, 1.0 - decay1)
        self._second.mul_(decay2).addcmul_(gradient, gradient, value=1.0 - decay2)
        scale = (self._second / (1.0 - decay2**self._steps)).sqrt_().add_(1e-8)
        self._values.addcdiv_(self._first, scale, value=-rate / (1.0 - decay1**self._steps))


def run_smooth_tchebycheff(task: Task) -> Run:
    """Minimise mu log(exp(l f1 / mu) + exp((1 - l) f2 / mu)) for eleven l (arXiv:2402.19078).

    mu = .1, f2 in units of the box.
    """
    steps = task.budget // MODELS
    models = [Model(_solve_tchebycheff(task, steps, weight), knob=-weight) for weight in INNER]
    return Run(models, MODELS * steps)


def _solve_tchebycheff(task: Task, steps: int, weight: float) -> Tensor:
    forget, retain = task.problem.losses("scaled", task.seed)
    flat = FlatParameters(task.problem.parameters)
    flat.load(task.problem.original)
    adam = FlatAdam(flat.values, settings_of(task, steps))
    g1, g2 = torch.empty_like(flat.values), torch.empty_like(flat.values)
    weights = torch.tensor([weight, (1.0 - weight) / task.fvu_max], dtype=g1.dtype)
    for step in range(steps):
        f1 = flat.compute_gradient(partial(forget, step), g1)
        f2 = flat.compute_gradient(partial(retain, step), g2)
        c1, c2 = weights * torch.softmax(weights * torch.stack((f1, f2)) / SMOOTHING, dim=0)
        adam.step(c1 * g1 + c2 * g2)
    return flat.values.clone()


def run_pamal(task: Task) -> Run:
    """Train two members, both started at the original, through one random point of their line per step.

    The method is that of arXiv:2210.09759.
    The loss at the point a of the line is a f1 + (1 - a) f2, f2 in units of the box, a uniform on (0, 1); its
    gradient reaches the members times a and 1 - a. The models are eleven points of the line, both ends among
    them.
    """
    forget, retain = task.problem.losses("scaled", task.seed)
    flat, original = FlatParameters(task.problem.parameters), task.problem.original
    members = torch.stack((original, original))
    adam = FlatAdam(members, settings_of(task, task.budget))
    g1, g2 = torch.empty_like(original), torch.empty_like(original)
    shares = np.random.default_rng(task.seed).uniform(size=task.budget).tolist()
    for step, share in enumerate(shares):
        flat.load(torch.lerp(members[1], members[0], share))
        flat.compute_gradient(partial(forget, step), g1)
        flat.compute_gradient(partial(retain, step), g2)
        gradient = share * g1 + (1.0 - share) / task.fvu_max * g2
        adam.step(torch.stack((share * gradient, (1.0 - share) * gradient)))
    line = [index / (MODELS - 1) for index in range(MODELS)]
    return Run([Model(torch.lerp(members[1], members[0], share), knob=-share) for share in line], task.budget)


def _fixed(weight: float) -> Rule:
    return FixedMultiplier(weight=weight)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: how to run it, and its note on the page.

    ``kind`` is the kind of losses it needs: a problem without them leaves it out. ``plain`` says that its
    steps are plain and its learning rate has a base of its own.
    """

    run: Callable[[Task], Run]
    note: str
    kind: str = "scaled"
    plain: bool = False


def _weighted(
    rule: Callable[[float], Rule], weights: Sequence[float], note: str, kind: str = "scaled"
) -> Method:
    return Method(partial(run_weights, rule=rule, weights=weights, kind=kind), note, kind)


def _checkpointed(rule: Rule, note: str, kind: str = "scaled") -> Method:
    return Method(partial(run_checkpoints, rule=rule, kind=kind), note, kind)


OURS = ("path+dial", "independent")
METHODS: dict[str, Method] = {
    "path+dial": Method(
        run_dialled_path,
        "ours: one path; 11 models of its 30 averaged checkpoints and of mixtures of neighbours on their "
        "hull; the dial meets a level",
    ),
    "independent": Method(
        run_independent, "ours without a path: highest boundary and ten levels, each from the original"
    ),
    "algorithm1": Method(
        run_algorithm1,
        "the paper's: plain steps, clip 1, constant rate, beta 5, boundary and ten levels from the "
        "original (arXiv:2408.01689)",
        plain=True,
    ),
    "weighted_sum": _weighted(_fixed, SUM_WEIGHTS, "f2 + w f1, 11 w from .003 to 10"),
    "composite": _weighted(
        _fixed,
        LABEL_WEIGHTS,
        "the same sum of the raw losses, one noise draw an image as target, w .003 to 3 (Eq. 10, "
        "arXiv:2402.00351)",
        "drawn",
    ),
    "smooth_tchebycheff": Method(
        run_smooth_tchebycheff,
        "mu log sum exp(l f / mu), mu = .1, 11 l, f2 in units of the box (arXiv:2402.19078)",
    ),
    "soup": Method(run_soup, "whole budget for the highest boundary, 11 points on the line to the original"),
    "pamal": Method(
        run_pamal,
        "two members from the original, one random point of their line a step, f2 in units of the box, 11 "
        "points (arXiv:2210.09759)",
    ),
    "cup": _weighted(lambda gamma: Pivot(gamma=gamma), INNER, "11 gamma in (0, 1) (arXiv:2510.19226)"),
    "munba": _checkpointed(NashBargaining(), "one run, 11 checkpoints (arXiv:2411.15537)"),
    "mgda": _checkpointed(
        MinimumNorm(), "one run, 11 checkpoints; where the retain gradient is 0 at the start it never moves"
    ),
    "erasediff": _weighted(
        lambda eta: DynamicBarrier(eta=eta), BARRIERS, "11 eta from .01 to 1 (arXiv:2401.05779)"
    ),
    "orthogonal": _weighted(
        lambda weight: Orthogonal(weight=weight), SUM_WEIGHTS, "11 weights from .003 to 10 (arXiv:2402.02998)"
    ),
    "max_loss": _weighted(
        _fixed,
        LABEL_WEIGHTS,
        "training loss up on forget, down on retain images, w .003 to 3 (C.6.1, arXiv:2402.00351)",
        "max_loss",
    ),
    "retain_label": _weighted(
        _fixed,
        LABEL_WEIGHTS,
        "training loss with retain images as labels of forget images, w .003 to 3 (C.6.2)",
        "retain_label",
    ),
    "noisy_label": _weighted(
        _fixed,
        LABEL_WEIGHTS,
        "training loss with Gaussian noise as labels of forget images, w .003 to 3 (C.6.3)",
        "noisy_label",
    ),
    "retain_only": _checkpointed(
        FixedMultiplier(weight=0.0),
        "control: training loss on retain images alone, 11 checkpoints",
        "retain_only",
    ),
}
