"""Courses: one solve of another method that leaves a whole front, with all that our own path has.

A method that is published as one weight, or one model, a run is given what makes a front of ours: one solve
through all its weights, an average of the parameters, checkpoints to mix, and a step size that was scanned.
So what is left between two fronts is the method. Losses are scale-free: f1 is e (1 for the original, 0 for
the floor) and f2 the share of the outputs' variance.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pareto_unlearn.solver.arc import NashBargaining
from pareto_unlearn.solver.flat import FlatParameters
from pareto_unlearn.solver.path import PathClock, PathPlan
from pareto_unlearn.solver.rules import BoundaryControl, Coefficients, FixedMultiplier, Gram, Rule
from pareto_unlearn.solver.stepping import Level, StepLoss, UpdateSettings

LARGEST_WEIGHT = 10.0
"""Weight of f1 in the ramped sum where the course is lowest; it falls with the square of e from there."""
BAND, STRENGTH = 0.02, 100.0
"""Half the width of the target band, in e, and the weight of the squared distance from it."""
MULTIPLIER_RATE, MULTIPLIER_DECAY = 0.025, 0.01
"""Of EUPMU's Adam on its multiplier, as published."""
END_WEIGHT = 0.95
"""Weight of f1 in the loss of the Bezier curve's far end."""
LEAST_F1, LEAST_F2 = 1e-3, 1e-6
"""EUPMU takes logarithms; smaller losses count as these."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Start:
    """What a course is made from.

    ``forget`` and ``retain`` are e and the share of variance on the mini-batch of a step; ``flat`` holds the
    trained parameters, ``original`` their values at the start. ``unit`` is the f2 that weighs as much as all
    of e, for methods that weigh losses. ``draw`` returns a number in [0, 1) for a step.
    """

    forget: StepLoss
    retain: StepLoss
    flat: FlatParameters
    original: Float[Tensor, " p"]
    plan: PathPlan
    learning_rate: float
    unit: float
    draw: Callable[[int], float]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve of models through trained members, x(t) = base(t) original + sum_k shares_k(t) member_k.

    Args:
        original: the fixed end.
        members: shape (k, p), the trained parameter.
        base: from t to the share of the original.
        shares: from t to the shares of the members.
        trained: from a step to 1 for members that it trains, else 0; None for all, always.
    """

    original: Float[Tensor, " p"]
    members: nn.Parameter
    base: Callable[[float], float]
    shares: Callable[[float], tuple[float, ...]]
    trained: Callable[[int], tuple[float, ...]] | None = None

    def point(self, members: Float[Tensor, "k p"], t: float) -> Float[Tensor, " p"]:
        """Return the model at t for some values of the members."""
        return self.base(t) * self.original + self._shares(t) @ members

    def points(self, values: Float[Tensor, " kp"], count: int) -> list[Float[Tensor, " p"]]:
        """Return evenly spread models, both ends among them, for the flat values of the members."""
        members = values.view_as(self.members)
        return [self.point(members, index / (count - 1)) for index in range(count)]

    def through(self, flat: FlatParameters, t: Callable[[int], float], loss: StepLoss) -> StepLoss:
        """Return the loss of the model at t(step) as a function of the members.

        Its gradient is exact: that of the model, times the share of each member.
        """

        def compute(step: int) -> Float[Tensor, ""]:
            at = t(step)
            flat.load(self.point(self.members.detach(), at))
            value = flat.compute_gradient(lambda: loss(step))
            shares = self._shares(at)
            if self.trained is not None:
                shares = shares * shares.new_tensor(self.trained(step))
            linear = (shares @ self.members) @ flat.gradient
            return value + linear - linear.detach()

        return compute

    def _shares(self, t: float) -> Float[Tensor, " k"]:
        return torch.tensor(self.shares(t), dtype=self.original.dtype, device=self.original.device)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Course:
    """What the solver is given for a course.

    Checkpoints are the averaged parameters where ``is_due`` says so of the steps taken, or, with a ``curve``,
    points of the curve at the end; the solver then trains the members of the curve. ``state`` holds what the
    losses update at every step, which a resume must restore.
    """

    forget: StepLoss
    retain: StepLoss
    rule: Rule
    settings: UpdateSettings
    epsilon: float | Level = 0.0
    is_due: Callable[[int], bool] = lambda _: False
    curve: Curve | None = None
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetBand:
    """A band around the target in place of a bound (H2DF): f2 + strength * distance(f1, band)^2.

    Both sides count, so a model that forgets more than was asked is pulled back.
    """

    strength: float = STRENGTH
    half_width: float = BAND

    def __call__(self, violation: Float[Tensor, ""], gram: Gram, /) -> Coefficients:
        """Return (2 strength distance, 1, 0); the distance is negative below the band."""
        above, below = (violation - self.half_width).clamp(min=0), (-violation - self.half_width).clamp(min=0)
        c1 = (2.0 * self.strength * (above - below)).to(gram.g11.dtype)
        return Coefficients(c1, torch.ones_like(c1), torch.zeros_like(c1))


def ramped_sum(start: Start) -> Course:
    """Return f2 + w f1 with w along the path: w = 10 (end / e)^2, from .002 up to 10 and slowly down."""

    clock = _clock_of(start)

    def weight(step: int) -> float:
        return LARGEST_WEIGHT * (start.plan.end / clock.epsilon_at(step)) ** 2

    course = _along_path(start, clock, FixedMultiplier(weight=1.0))
    return replace(course, forget=lambda step: weight(step) * start.forget(step))


def target_band(start: Start) -> Course:
    """Return H2DF's two-sided band, its target along the path, which never waits: that made it worse."""
    clock = PathClock(replace(start.plan, wait_above=math.inf), device=start.original.device)
    return replace(_along_path(start, clock, TargetBand()), epsilon=clock.epsilon_at)


def smooth_tchebycheff(start: Start) -> Course:
    """Return mu log(exp(l f1 / mu) + exp((1 - l) f2 / mu)), mu = .1, with l = 1 - e along the path.

    Source: arXiv:2402.19078. f2 is in units of ``start.unit``. The two weights of its gradient come from
    averages of the losses (.9), as the coefficients of all methods here do.
    """
    clock = _clock_of(start)
    course = _along_path(start, clock, FixedMultiplier(weight=1.0))
    state = {"means": torch.tensor([1.0, 0.0], dtype=torch.float64)}

    def weigh(which: int, step: int) -> float:
        share = 1.0 - clock.epsilon_at(step)
        weights = torch.tensor([share, (1.0 - share) / start.unit], dtype=torch.float64)
        return float((weights * torch.softmax(weights * state["means"] / 0.1, dim=0))[which])

    def watched(which: int, loss: StepLoss) -> StepLoss:
        def compute(step: int) -> Float[Tensor, ""]:
            value = loss(step)
            seen = value.detach().double().cpu()
            if torch.isfinite(seen):  # the solver skips such a step; an average would never recover
                state["means"][which].lerp_(seen, 0.1)
            return weigh(which, step) * value

        return compute

    forget, retain = watched(0, course.forget), watched(1, course.retain)
    return replace(course, forget=forget, retain=retain, state=course.state | state)


def nash_bargaining(start: Start) -> Course:
    """Return MUNBa (arXiv:2411.15537), one run."""
    return _downwards(start, NashBargaining())


def implicit_surgery(start: Start) -> Course:
    """Return EUPMU (arXiv:2510.22124): log f1 + w log f2, w raised where the last step raised f2.

    w starts at 0 and follows Adam on log f2 before the step minus log f2 after it, on one mini-batch; a
    negative w counts as 0. The published step takes one backward pass of the sum, and one further pass
    without gradient.
    """
    state = {
        "adam": torch.zeros(4, dtype=torch.float64),  # w, first and second moment, number of updates
        "last": torch.zeros(1, dtype=torch.float64),
    }

    def forget(step: int) -> Float[Tensor, ""]:
        if step > 0:
            with torch.no_grad():
                now = start.retain(step - 1).double().cpu().clamp(min=LEAST_F2).log()
            _raise_multiplier(state["adam"], state["last"][0] - now)
        return start.forget(step).clamp(min=LEAST_F1).log()

    def retain(step: int) -> Float[Tensor, ""]:
        value = start.retain(step).clamp(min=LEAST_F2).log()
        state["last"][0] = value.detach().double().cpu()
        return max(float(state["adam"][0]), 0.0) * value

    course = _downwards(start, FixedMultiplier(weight=1.0))
    return replace(course, forget=forget, retain=retain, state=state)


def soup(start: Start) -> Course:
    """Return the line from the original to the highest boundary; the boundary alone is trained."""
    members = nn.Parameter(start.original.clone()[None])
    curve = Curve(start.original, members, lambda t: 1.0 - t, lambda t: (t,))
    return _on_curve(start, curve, BoundaryControl(), lambda _: 1.0, start.forget, start.retain)


def front_line(start: Start) -> Course:
    """Return PaMaL (arXiv:2210.09759): a line whose ends are trained through one random point a step.

    The loss at the point t is t f1 + (1 - t) f2, f2 in units of ``start.unit``; t is uniform on (0, 1). Both
    ends start at the original.
    """
    members = nn.Parameter(start.original.clone().repeat(2, 1))
    curve = Curve(start.original, members, lambda _: 0.0, lambda t: (t, 1.0 - t))
    forget, retain = _weighed_by_place(start, start.draw)
    return _on_curve(start, curve, FixedMultiplier(weight=1.0), start.draw, forget, retain)


def bezier(start: Start) -> Course:
    """Return MCU (arXiv:2505.10859): a quadratic Bezier curve from the original to a model that forgot.

    The first half of the steps solves that end, with the weights of t = .95; the second half trains the
    control point, through one random point a step. Losses are weighed as in ``front_line``. The members are
    the end and the bend, the control point's distance from the middle of both ends: x(t) = (1 - t) original +
    t end + 2 t (1 - t) bend. Its mask of parameters is left out: all are trained, as by every method here.
    """
    half = start.plan.steps // 2
    members = nn.Parameter(torch.stack((start.original, torch.zeros_like(start.original))))
    curve = Curve(
        start.original,
        members,
        base=lambda t: 1.0 - t,
        shares=lambda t: (t, 2.0 * t * (1.0 - t)),
        trained=lambda step: (1.0, 0.0) if step < half else (0.0, 1.0),
    )

    def place(step: int) -> float:
        return 1.0 if step < half else start.draw(step)

    def weight(step: int) -> float:
        return END_WEIGHT if step < half else start.draw(step)

    forget, retain = _weighed_by_place(start, weight)
    return _on_curve(start, curve, FixedMultiplier(weight=1.0), place, forget, retain)


def _weighed_by_place(start: Start, t: Callable[[int], float]) -> tuple[StepLoss, StepLoss]:
    """Return t f1 and (1 - t) f2, f2 in units of ``start.unit``."""
    return (
        lambda step: t(step) * start.forget(step),
        lambda step: (1.0 - t(step)) / start.unit * start.retain(step),
    )


def _raise_multiplier(adam: Float[Tensor, " 4"], gradient: Float[Tensor, ""]) -> None:
    """Take one step of Adam on the multiplier, with weight decay added to the gradient; in place.

    A gradient that is not finite, from a step that the solver skips, leaves everything as it is.
    """
    if not torch.isfinite(gradient):
        return
    gradient = gradient + MULTIPLIER_DECAY * adam[0]
    adam[3] += 1.0
    adam[1].lerp_(gradient, 0.1)
    adam[2].lerp_(gradient.square(), 0.001)
    first, second = adam[1] / (1.0 - 0.9 ** adam[3]), adam[2] / (1.0 - 0.999 ** adam[3])
    adam[0] -= MULTIPLIER_RATE * first / (second.sqrt() + 1e-8)


def _clock_of(start: Start) -> PathClock:
    return PathClock(start.plan, device=start.original.device)


def _along_path(start: Start, clock: PathClock, rule: Rule) -> Course:
    """Return a course whose knob goes down, waiting where the path would, stays low and rises."""
    settings = UpdateSettings(
        steps=start.plan.steps,
        learning_rate=start.learning_rate,
        shape=clock.rate_at,
        weight_average=start.plan.weight_average,
    )
    return Course(
        forget=start.forget,
        retain=clock.watch(start.retain),
        rule=rule,
        settings=settings,
        is_due=clock.is_due,
        state=clock.state,
    )


def _downwards(start: Start, rule: Rule) -> Course:
    """Return a course without a knob: from the original down, checkpoints spread evenly over it."""
    count = start.plan.checkpoints
    captures = frozenset(max(round(start.plan.steps * (index + 1) / count), 1) for index in range(count))
    return Course(
        forget=start.forget,
        retain=start.retain,
        rule=rule,
        settings=_falling(start),
        is_due=captures.__contains__,
    )


def _on_curve(
    start: Start, curve: Curve, rule: Rule, t: Callable[[int], float], forget: StepLoss, retain: StepLoss
) -> Course:
    return Course(
        forget=curve.through(start.flat, t, forget),
        retain=curve.through(start.flat, t, retain),
        rule=rule,
        settings=_falling(start),
        curve=curve,
    )


def _falling(start: Start) -> UpdateSettings:
    """Return half a cosine to 2 %, with averaged parameters."""
    return UpdateSettings(
        steps=start.plan.steps, learning_rate=start.learning_rate, weight_average=start.plan.weight_average
    )


COURSES: Mapping[str, Callable[[Start], Course]] = {
    "ramped_sum": ramped_sum,
    "target_band": target_band,
    "smooth_tchebycheff": smooth_tchebycheff,
    "munba_front": nash_bargaining,
    "eupmu": implicit_surgery,
    "soup": soup,
    "pamal": front_line,
    "bezier": bezier,
}
"""By the name of a method in the catalogue."""
