"""The methods of the fronts benchmark: each turns a budget of gradient pairs into a pool of models.

A pair is one gradient of the forget loss and one of the retain loss. Unless its docstring says otherwise, a
method

- takes steps of Adam on the direction of its rule, with betas (.9, .99),
- computes coefficients from averages (.9),
- lowers the learning rate along half a cosine to 2 %,
- gives each model an eleventh of the budget, if every model has a run of its own.

What is done with a pool is the same for all methods, ours included: ``deliver`` mixes its models and the
original at fixed levels of e, as the dial does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from front_problems import FrontProblem
from front_problems.problem import StepLoss
from front_scores import ASKED
from torch import Tensor, nn

from pareto_unlearn.solver import (
    COURSES,
    BoundaryControl,
    Coefficients,
    Course,
    DynamicBarrier,
    EpsilonSolver,
    FixedMultiplier,
    FlatParameters,
    Gram,
    Level,
    LevelControl,
    Orthogonal,
    PathClock,
    PathPlan,
    Pivot,
    Rule,
    Start,
    UpdateSettings,
    ramp,
)
from pareto_unlearn.trial.bank import WAY_HOME
from pareto_unlearn.trial.constrained import PULL, PULL_BELOW, UPDATE_LIMIT
from pareto_unlearn.trial.mixing import Knot, find_crossing, pairs_around

MODELS = 11
LEVEL = LevelControl(beta=5.0, scaled=True)
INDEPENDENT_RAMP = 0.4
DIAL_TOLERANCE = 0.004
BOUNDARY = BoundaryControl(alpha=1.0, delta=2.0)
LEVELS = tuple(round(0.05 + 0.1 * index, 2) for index in range(10))
"""The levels of methods that solve each on its own."""
SUM_WEIGHTS = tuple(np.geomspace(0.003, 10.0, MODELS).tolist())
LABEL_WEIGHTS = tuple(np.geomspace(0.003, 3.0, MODELS).tolist())
BARRIERS = tuple(np.geomspace(0.01, 1.0, MODELS).tolist())
INNER = tuple((index + 1) / (MODELS + 1) for index in range(MODELS))
"""Eleven evenly spaced numbers within (0, 1)."""


@dataclass(frozen=True, slots=True)
class Task:
    """A run: problem, seed, budget in pairs, learning rate; ``unit`` is the FVU that weighs like all of e."""

    problem: FrontProblem
    seed: int
    budget: int
    rate: float
    unit: float


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A model of a pool, measured over the whole training sets: e, FVU and flat weights."""

    e: float
    fvu: float
    values: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The models of a method, the gradient pairs they took, and how often training sets were measured."""

    members: list[Member]
    pairs: int
    measured: int


@dataclass(frozen=True, slots=True, eq=False)
class Delivered:
    """A model that is scored; ``target`` is the level it was mixed for, NaN for the most complete one."""

    values: Tensor
    target: float


def measured_pool(task: Task, values: Sequence[Tensor], pairs: int) -> Pool:
    """Return a pool of flat weights."""
    members = [Member(*task.problem.measure(one, "train"), one) for one in values]
    return Pool(members, pairs, len(members))


# What every pool gets.


def deliver(task: Task, pool: Pool) -> tuple[list[Delivered], int]:
    """Return the most complete model, those at every level that the pool spans, and the measurements taken.

    As the product's dial: two pairs are tried, the neighbours of the level among the non-dominated models and
    the edge of the lower hull, and the mixture with the smaller FVU is kept. The original is in every pool.
    """
    original = Member(1.0, 0.0, task.problem.original)
    finite = [one for one in pool.members if math.isfinite(one.e) and math.isfinite(one.fvu)]
    knots, taken = [*finite, original], 0
    models = [Delivered(min(knots, key=lambda one: one.e).values, math.nan)]
    for level in ASKED:
        mixtures = []
        for pair in _pairs(knots, level):
            mixture, count = _dial(task, pair, level)
            mixtures.append(mixture)
            taken += count
        if mixtures:
            models.append(Delivered(min(mixtures, key=lambda one: one.fvu).values, level))
    return models, taken


def _pairs(members: Sequence[Member], level: float) -> list[tuple[Member, Member]]:
    """Return the pairs of models that a level may be mixed from."""
    by_name = {str(place): member for place, member in enumerate(members)}
    knots = [Knot(name, one.e, one.fvu, lambda one=one: one.values) for name, one in by_name.items()]
    return [(by_name[lower.name], by_name[upper.name]) for lower, upper in pairs_around(knots, level)]


def _dial(task: Task, pair: tuple[Member, Member], level: float) -> tuple[Member, int]:
    """Return the mixture of two models whose e meets a level, and how many were measured."""
    tried: dict[float, Member] = {0.0: pair[0], 1.0: pair[1]}

    def measure(share: float) -> float:
        values = torch.lerp(pair[0].values, pair[1].values, share)
        tried[share] = Member(*task.problem.measure(values, "train"), values)
        return tried[share].e

    crossing = find_crossing(measure, level, DIAL_TOLERANCE, (pair[0].e, pair[1].e))
    return tried[crossing.share], len(tried) - 2


# Solves.


def settings_of(task: Task, steps: int) -> UpdateSettings:
    """Return the settings of a solve from the original: half a cosine to 2 %."""
    return UpdateSettings(steps=steps, learning_rate=task.rate)


def follow(
    parameters: Sequence[nn.Parameter],
    start: Tensor,
    course: Course,
) -> list[Tensor]:
    """Take all steps; return the weights where a checkpoint is due and at the end, averaged if they are."""
    solver = EpsilonSolver(
        parameters, course.rule, course.settings, epsilon=course.epsilon, log_size=course.settings.steps
    )
    solver.start_at(start)
    found, steps = [], course.settings.steps
    for step in range(steps):
        solver.step(partial(course.forget, step), partial(course.retain, step))
        if step + 1 == steps or course.is_due(step + 1):
            state = solver.state_dict()
            found.append(state.get("averaged_values", state["values"]).clone())
    return found


def descend(
    task: Task,
    rule: Rule,
    settings: UpdateSettings,
    *,
    kind: str = "scaled",
    epsilon: float | Level = 0.0,
) -> list[Tensor]:
    """Solve from the original with the losses of a kind; see ``follow``."""
    forget, retain = task.problem.losses(kind, task.seed)
    course = Course(forget=forget, retain=retain, rule=rule, settings=settings, epsilon=epsilon)
    return follow(task.problem.parameters, task.problem.original, course)


# Our methods.


def run_path(task: Task, *, by_class: bool, rule: Rule = LEVEL, passes: float = 1.0) -> Pool:
    """Spend the whole budget on one path; the pool is its checkpoints and the way home to the original.

    Args:
        task: the run.
        by_class: epsilon bounds every class, as it does by default, or the mean.
        rule: of a step.
        passes: cost of a step in pairs; the path is longer if it is less than 1.
    """
    plan = PathPlan(steps=round(task.budget / passes))
    clock = PathClock(plan)
    forget, retain = task.problem.losses("scaled", task.seed)
    if by_class:
        forget = task.problem.bounded(task.seed, clock.epsilon_at)
    if passes < 1.0:
        forget = _every_second_step(task.problem.parameters, forget)
    settings = UpdateSettings(
        steps=plan.steps,
        learning_rate=task.rate / 2.0,
        shape=clock.rate_at,
        update_limit=UPDATE_LIMIT,
        pull=PULL,
        pull_below=PULL_BELOW,
        weight_average=plan.weight_average,
    )
    course = Course(
        forget=forget,
        retain=clock.watch(retain),
        rule=rule,
        settings=settings,
        epsilon=clock.epsilon_at,
        is_due=clock.is_due,
    )
    bank = follow(task.problem.parameters, task.problem.original, course)
    home = [bank[-1].lerp(task.problem.original, share) for share in WAY_HOME]
    return measured_pool(task, [*bank, *home], task.budget)


class DualAscent:
    """A multiplier that learns: eta rises by a rate times f1 - epsilon, and never below 0.

    It needs no inner product of gradients, so one backward pass of f2 + eta f1 would do.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._eta = rate, torch.zeros(())

    def __call__(self, violation: Tensor, gram: Gram, /) -> Coefficients:
        """Return (eta, 1, 0)."""
        self._eta = (self._eta.to(violation) + self._rate * violation).clamp(min=0.0)
        eta = self._eta.to(gram.g11)
        return Coefficients(eta, torch.ones_like(eta), torch.zeros_like(eta))


def _every_second_step(parameters: Sequence[nn.Parameter], loss: StepLoss) -> StepLoss:
    """Return a loss with value and gradient of the step before at every second step, at no cost."""
    kept: list[Tensor] = []

    def compute(step: int) -> Tensor:
        if step % 2 == 0:
            value = loss(step)
            kept[:] = [value.detach(), *torch.autograd.grad(value, parameters, materialize_grads=True)]
        linear = sum(
            ((parameter * part).sum() for parameter, part in zip(parameters, kept[1:], strict=True)),
            torch.zeros(()),
        )
        return kept[0] + linear - linear.detach()

    return compute


def solve_boundary(task: Task, steps: int) -> Tensor:
    """Return the weights of the highest boundary."""
    return descend(task, BOUNDARY, settings_of(task, steps))[-1]


def run_independent(task: Task) -> Pool:
    """Solve the highest boundary and ten levels, each on its own from the original."""
    steps = task.budget // MODELS
    settings, falling = settings_of(task, steps), round(INDEPENDENT_RAMP * steps)
    solved = [descend(task, LEVEL, settings, epsilon=ramp(1.0, level, falling))[-1] for level in LEVELS]
    return measured_pool(task, [solve_boundary(task, steps), *solved], MODELS * steps)


def run_algorithm1(task: Task) -> Pool:
    """Solve as arXiv:2408.01689 does: plain constant steps, no clip, psi = 5 (f1 - epsilon) |g1|^2."""
    steps = task.budget // MODELS
    settings = UpdateSettings(kind="paper", steps=steps, learning_rate=task.rate, learning_rate_end=1.0)
    rule = LevelControl(beta=5.0, delta=1, squared=True)
    solved = [descend(task, rule, settings, epsilon=level)[-1] for level in LEVELS]
    return measured_pool(task, [descend(task, BOUNDARY, settings)[-1], *solved], MODELS * steps)


# Rival methods.


def run_weights(task: Task, *, rule: Callable[[float], Rule], weights: Sequence[float], kind: str) -> Pool:
    """Solve once from the original for each weight."""
    steps = task.budget // MODELS
    settings = settings_of(task, steps)
    solved = [descend(task, rule(weight), settings, kind=kind)[-1] for weight in weights]
    return measured_pool(task, solved, MODELS * steps)


def run_course(task: Task, *, name: str) -> Pool:
    """Spend the whole budget on one course, with checkpoints, averaged weights and a scan like the path's."""
    problem, plan = task.problem, PathPlan(steps=task.budget)
    forget, retain = problem.losses("scaled", task.seed)
    draws = np.random.default_rng(task.seed).uniform(size=task.budget).tolist()
    flat = FlatParameters(problem.parameters)
    flat.load(problem.original)
    start = Start(
        forget=forget,
        retain=retain,
        flat=flat,
        original=problem.original,
        plan=plan,
        learning_rate=task.rate / 2.0,
        unit=task.unit,
        draw=draws.__getitem__,
    )
    course = COURSES[name](start)
    if course.curve is None:
        return measured_pool(task, follow(problem.parameters, problem.original, course), task.budget)
    members = course.curve.members
    values = follow([members], members.detach().flatten().clone(), course)[-1]
    return measured_pool(task, course.curve.points(values, plan.checkpoints), task.budget)


def _fixed(weight: float) -> Rule:
    return FixedMultiplier(weight=weight)


@dataclass(frozen=True, slots=True)
class Method:
    """A method: how to run it, and its note on the page.

    ``kind`` is the kind of losses it needs: a problem without them leaves it out. ``plain`` says that its
    steps are plain and its learning rate has a base of its own.
    """

    run: Callable[[Task], Pool]
    note: str
    kind: str = "scaled"
    plain: bool = False


def _weighted(
    rule: Callable[[float], Rule], weights: Sequence[float], note: str, kind: str = "scaled"
) -> Method:
    return Method(partial(run_weights, rule=rule, weights=weights, kind=kind), note, kind)


def _course(name: str, note: str) -> Method:
    return Method(partial(run_course, name=name), note)


OURS = ("path", "path, mean", "independent")
METHODS: dict[str, Method] = {
    "path": Method(
        partial(run_path, by_class=True),
        "ours, the default: one path, epsilon bounds every class; the mean is what all are scored by",
    ),
    "path, mean": Method(
        partial(run_path, by_class=False), "ours with `completeness: mean`: epsilon bounds the mean"
    ),
    "independent": Method(
        run_independent, "ours with `start: original`: highest boundary and ten levels, each on its own"
    ),
    "algorithm1": Method(
        run_algorithm1,
        "the paper's: plain constant steps, psi = 5 (f1 - epsilon) |g1|^2, boundary and ten levels from the "
        "original (arXiv:2408.01689)",
        plain=True,
    ),
    "ramped_sum": _course("ramped_sum", "f2 + w f1, one run, w down the path and up again with 1 / e^2"),
    "target_band": _course(
        "target_band", "f2 + 100 distance(e, band of +-.02)^2, its middle along the path (H2DF)"
    ),
    "smooth_tchebycheff": _course(
        "smooth_tchebycheff", "mu log sum exp(l f / mu), mu = .1, l = 1 - e along the path (arXiv:2402.19078)"
    ),
    "munba": _course("munba_front", "equal gain for both losses, one run (arXiv:2411.15537)"),
    "eupmu": _course(
        "eupmu", "log f1 + w log f2, w raised where a step raised f2; one backward pass (arXiv:2510.22124)"
    ),
    "pamal": _course("pamal", "two members, one random point of their line a step (arXiv:2210.09759)"),
    "bezier": _course(
        "bezier", "a Bezier curve to a model that forgot, half of the budget for each (arXiv:2505.10859)"
    ),
    "soup": _course("soup", "the highest boundary, and its line to the original"),
    "weighted_sum": _weighted(_fixed, SUM_WEIGHTS, "f2 + w f1, 11 runs, w from .003 to 10"),
    "composite": _weighted(
        _fixed,
        LABEL_WEIGHTS,
        "the same sum of the raw losses, one noise draw an image as target, 11 runs, w .003 to 3 (Eq. 10, "
        "arXiv:2402.00351)",
        "drawn",
    ),
    "cup": _weighted(lambda gamma: Pivot(gamma=gamma), INNER, "11 gamma in (0, 1) (arXiv:2510.19226)"),
    "erasediff": _weighted(
        lambda eta: DynamicBarrier(eta=eta), BARRIERS, "11 eta from .01 to 1 (arXiv:2401.05779)"
    ),
    "orthogonal": _weighted(
        lambda weight: Orthogonal(weight=weight), SUM_WEIGHTS, "11 weights from .003 to 10 (arXiv:2402.02998)"
    ),
    "path, dual ascent": Method(
        lambda task: run_path(task, by_class=False, rule=DualAscent(0.1)),
        "`path, mean` with a multiplier that learns from f1 - epsilon (rate .1), without inner products",
    ),
    "path, g1 every second step": Method(
        partial(run_path, by_class=False, passes=0.75),
        "`path, mean` with the gradient of f1 taken every second step and a third more steps",
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
}
