r"""The epsilon-constrained solver (Algorithm 1, arXiv:2408.01689) for any torch parameters and two losses.

It takes losses and gradients and never sees a model, so it says constraint and objective; its caller decides
which of forget and retain plays which part. Legend, used in this module only:

    f1, f2   constraint and objective; the problem is  min f2  s.t.  f1 <= epsilon
    g1, g2   their gradients, each one flat vector
    psi      control function: asks for  g1 . g >= psi
    eta      multiplier:  eta = max((psi - g1.g2) / (|g1|^2 + w), 0)
    g        direction:   g = g2 + eta g1,  the projection of g2 on {g : g1.g >= psi} when w = 0  (Eq. 7)
    w        numerical stability, the paper's varpi

A step stays on the device from end to end; ``EpsilonSolver.flush`` is the only host synchronisation.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "BoundaryControl",
    "EpsilonSolver",
    "FixedMultiplier",
    "FlatParameters",
    "LevelControl",
    "Outcome",
    "StepRow",
    "StopRule",
    "UpdateSettings",
    "direction",
    "multiplier",
    "solve",
]

Loss = Callable[[], Float[Tensor, ""]]


class Gram(NamedTuple):
    """The inner products of the two gradients: all a rule may look at."""

    g11: Float[Tensor, ""]
    g12: Float[Tensor, ""]


def multiplier(gram: Gram, psi: Float[Tensor, ""], stabiliser: float = 1e-7) -> Float[Tensor, ""]:
    """Return eta = max((psi - g1.g2) / (|g1|^2 + w), 0), the dual solution of Eq. 7; 0 where not finite."""
    eta = ((psi - gram.g12) / (gram.g11 + stabiliser)).clamp(min=0.0)
    return torch.where(torch.isfinite(eta), eta, torch.zeros_like(eta))


def direction(
    g1: Float[Tensor, " p"], g2: Float[Tensor, " p"], psi: float | Float[Tensor, ""], stabiliser: float = 1e-7
) -> tuple[Float[Tensor, " p"], Float[Tensor, ""]]:
    """Return the update direction g = g2 + eta g1 and eta (lines 8 and 9 of Algorithm 1).

    Args:
        g1: gradient of the constraint, any floating dtype; inner products are taken in float32 or better.
        g2: gradient of the objective.
        psi: value of the control function; g1 . g >= psi then holds, exactly for w = 0 and g1 != 0.
        stabiliser: w. With g1 = 0, or where psi or an inner product is not finite, the direction is g2.

    Returns:
        The direction to *descend* along (theta <- theta - mu g), in the dtype of ``g2``, and the multiplier.
    """
    gram = Gram(_dot(g1, g1), _dot(g1, g2))
    eta = multiplier(gram, torch.as_tensor(psi, dtype=gram.g11.dtype, device=g1.device), stabiliser)
    return torch.where(eta > 0, _combine(g1, g2, eta), g2), eta


@runtime_checkable
class Rule(Protocol):
    """Chooses the multiplier from the violation f1 - epsilon and the inner products of the gradients."""

    def __call__(
        self, violation: Float[Tensor, ""], gram: Gram, /
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return (psi, eta)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryControl:
    """Phase I: psi = alpha |g1|^delta drives the constraint to its infimum (section 4.3)."""

    alpha: float = 1.0
    delta: float = 2.0
    stabiliser: float = 1e-7

    def __call__(
        self, _violation: Float[Tensor, ""], gram: Gram, /
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return (psi, eta); the violation plays no part."""
        psi = self.alpha * gram.g11 ** (self.delta / 2)
        return psi, multiplier(gram, psi, self.stabiliser)


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelControl:
    """Phase II: psi = beta (f1 - epsilon)^delta, times |g1|^2 where ``scaled`` (section 5.4)."""

    beta: float = 5.0
    delta: int = 1
    scaled: bool = False
    stabiliser: float = 1e-7

    def __post_init__(self) -> None:
        if self.delta < 1 or self.delta % 2 != 1:
            reason = "so that psi has the sign of f1 - epsilon"
            raise ValueError(f"delta must be an odd positive integer {reason}, found {self.delta}")

    def __call__(
        self, violation: Float[Tensor, ""], gram: Gram, /
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return (psi, eta)."""
        psi = self.beta * violation**self.delta
        if self.scaled:
            psi = psi * gram.g11
        return psi, multiplier(gram, psi, self.stabiliser)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedMultiplier:
    """The weighted sum f2 + weight * f1: no constraint, as in a composite loss."""

    weight: float

    def __call__(
        self, _violation: Float[Tensor, ""], gram: Gram, /
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return (0, weight)."""
        eta = torch.full_like(gram.g11, self.weight)
        return torch.zeros_like(eta), eta


class FlatParameters:
    """Parameters and their gradients as two flat vectors that share memory with the parameters.

    ``backward`` accumulates straight into ``gradient``; no per-parameter loop runs in a step. The parameters
    must keep their storage afterwards: no ``zero_grad``, no move to another device or dtype.

    Args:
        parameters: those to train, all of one dtype and device.

    Raises:
        ValueError: no parameters, or several dtypes or devices.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = list(parameters)
        kinds = {(p.dtype, p.device) for p in self._parameters}
        if len(kinds) != 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none"
            raise ValueError(f"expected parameters of one dtype on one device, found {found}")
        self.values = torch.cat([p.detach().flatten() for p in self._parameters])
        self.gradient = torch.zeros_like(self.values)
        self._tie()

    def load(self, values: Float[Tensor, " p"]) -> None:
        """Overwrite all parameters with a flat vector of the same length."""
        self.values.copy_(values)

    def compute_gradient(self, loss: Loss, out: Float[Tensor, " p"]) -> Float[Tensor, ""]:
        """Write the gradient of ``loss()`` into ``out`` and return the loss, detached.

        Raises:
            RuntimeError: the parameters no longer share memory with the flat vectors.
        """
        self.gradient.zero_()
        value = loss()
        if not self._is_tied():
            raise RuntimeError(
                "expected parameters that share memory with the flat vectors, found that they do not: "
                "remove zero_grad(), moves to another device or dtype, and a second owner of the parameters"
            )
        value.backward()  # type: ignore[no-untyped-call]
        out.copy_(self.gradient)
        return value.detach()

    def _tie(self) -> None:
        start = 0
        for parameter in self._parameters:
            end = start + parameter.numel()
            parameter.data = self.values[start:end].view_as(parameter)
            parameter.grad = self.gradient[start:end].view_as(parameter)
            start = end

    def _is_tied(self) -> bool:
        """Tell from the first parameter alone: what unties one unties all, and gradients would read 0."""
        first = self._parameters[0]
        pairs = ((first, self.values), (first.grad, self.gradient))
        return all(
            tensor is not None and tensor.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
            for tensor, flat in pairs
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """How a direction becomes a step.

    ``kind`` is ``paper`` (theta <- theta - mu g, line 10 of Algorithm 1) or ``averaged`` (the multiplier from
    averaged gradients and violation, Adam on g). ``average`` is the decay of those averages and of the violation's, 0 for none. The
    learning rate follows half a cosine from ``learning_rate`` to ``learning_rate_end`` times it. ``clip``
    bounds |g|.
    """

    kind: str = "averaged"
    steps: int = 400
    learning_rate: float = 0.003
    learning_rate_end: float = 0.02
    betas: tuple[float, float] = (0.9, 0.99)
    average: float = 0.9
    clip: float | None = None

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        progress = min(step / max(self.steps - 1, 1), 1.0)
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        return self.learning_rate * (self.learning_rate_end + (1.0 - self.learning_rate_end) * cosine)


class StepRow(NamedTuple):
    """What one step saw, in the units of the losses it was given."""

    step: int
    f1: float
    f2: float
    eta: float
    psi: float
    norm1: float
    norm2: float
    cosine: float
    learning_rate: float
    epsilon: float
    finite: bool


class EpsilonSolver:
    """Takes steps of Algorithm 1; holds the optimiser's state and a log on the device.

    Args:
        parameters: to train; afterwards they share one flat buffer (see ``FlatParameters``).
        rule: how the multiplier is chosen.
        settings: how the direction becomes a step.
        epsilon: bound on the constraint; ignored by rules that have none.
        ramp: (start, steps): epsilon descends linearly from ``start`` to ``epsilon`` over that many steps.
        log_size: steps between two calls of ``flush`` at most.

    Raises:
        ValueError: an unknown update, or float16 parameters, which cannot hold Adam's moments.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rule: Rule,
        settings: UpdateSettings,
        *,
        epsilon: float = 0.0,
        ramp: tuple[float, int] = (0.0, 0),
        log_size: int = 50,
    ) -> None:
        if settings.kind not in ("averaged", "paper"):
            raise ValueError(f"update must be 'averaged' or 'paper', found {settings.kind!r}")
        self.flat = FlatParameters(parameters)
        if self.flat.values.dtype == torch.float16:
            raise ValueError(
                "expected float32 parameters, found float16: keep them in float32 and use autocast"
            )
        self.step_count = 0
        self._rule, self._settings, self._epsilon, self._ramp = rule, settings, epsilon, ramp
        blank = torch.zeros_like(self.flat.values)
        self._g1, self._g2 = blank.clone(), blank.clone()
        averaging = settings.kind == "averaged" and settings.average > 0.0
        self._one = torch.ones(1, dtype=_wide(blank.dtype), device=blank.device)
        self._state: dict[str, Tensor] = {}
        if averaging:
            self._state |= {
                "mean1": blank.clone(),
                "mean2": blank.clone(),
                "mean_violation": torch.zeros_like(self._one),
                "mean_one": torch.zeros_like(self._one),
            }
        if settings.kind == "averaged":
            self._state |= {"first_moment": blank.clone(), "second_moment": blank.clone()}
        self._log = torch.zeros(log_size, 8, dtype=_wide(blank.dtype), device=blank.device)
        self._logged = 0

    def epsilon_at(self, step: int) -> float:
        """Return the bound at a step: the ramp, then ``epsilon``."""
        start, steps = self._ramp
        if step + 1 >= steps:
            return self._epsilon
        return start + (step + 1) / steps * (self._epsilon - start)

    def step(self, constraint: Loss, objective: Loss) -> None:
        """Run one forward and backward pass of each loss and update the parameters.

        A step whose losses, gradients or direction are not finite counts as a zero gradient and is marked in
        the log.

        Raises:
            RuntimeError: the log is full; call ``flush`` first. Or see ``FlatParameters.compute_gradient``.
        """
        if self._logged == len(self._log):
            raise RuntimeError("the log is full: call flush() at least every log_size steps")
        f1 = self.flat.compute_gradient(constraint, self._g1).to(self._log.dtype)
        f2 = self.flat.compute_gradient(objective, self._g2).to(self._log.dtype)
        gram, g22 = Gram(_dot(self._g1, self._g1), _dot(self._g1, self._g2)), _dot(self._g2, self._g2)
        norm1, norm2 = gram.g11.sqrt(), g22.sqrt()
        finite = torch.isfinite(f1) & torch.isfinite(f2) & torch.isfinite(norm1) & torch.isfinite(norm2)
        psi, eta = self._rule(*self._averaged(f1 - self.epsilon_at(self.step_count), gram, finite))
        # The square of the direction must fit too: one overflow in Adam's second moment would stay for ever.
        finite = finite & (norm2 + eta * norm1 < math.sqrt(torch.finfo(self._g1.dtype).max))
        self._descend(torch.where(finite, _combine(self._g1, self._g2, eta), 0.0))
        # The product of the roots: that of the squares underflows at norms of 1e-10 in float32.
        cosine = gram.g12 / (norm1 * norm2).clamp(min=torch.finfo(norm1.dtype).tiny)
        self._log[self._logged] = torch.stack([f1, f2, eta, psi, norm1, norm2, cosine, finite.to(f1.dtype)])
        self._logged += 1
        self.step_count += 1

    def flush(self) -> list[StepRow]:
        """Return the steps since the last call; the one place that waits for the device."""
        values = self._log[: self._logged].tolist()
        first = self.step_count - self._logged
        self._logged = 0
        return [self._row(step, row) for step, row in enumerate(values, start=first)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that continuing needs, as flat tensors that later steps overwrite; first ``flush``."""
        return {"values": self.flat.values, **self._state, "step": torch.tensor([self.step_count])}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict()`` of a solver built the same way; steps not yet flushed are dropped.

        Raises:
            ValueError: the names, lengths or dtypes differ; nothing has been loaded.
        """
        expected, found = _describe(self.state_dict()), _describe(state)
        if expected != found:
            raise ValueError(f"the solver state does not fit: expected {expected}, found {found}")
        self.flat.load(state["values"])
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
        self.step_count = int(state["step"].item())
        self._logged = 0

    def _row(self, step: int, logged: list[float]) -> StepRow:
        f1, f2, eta, psi, norm1, norm2, cosine, finite = logged
        rate, epsilon = self._settings.learning_rate_at(step), self.epsilon_at(step)
        return StepRow(step, f1, f2, eta, psi, norm1, norm2, cosine, rate, epsilon, bool(finite))

    def _averaged(
        self, violation: Float[Tensor, ""], gram: Gram, finite: Bool[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], Gram]:
        """Return the averaged violation and the inner products of the averaged gradients.

        The multiplier is a maximum with zero, so noise in any of them pushes f1 below epsilon. Steps that are not
        finite leave the averages alone. The correction for their start at zero is the average of the number one,
        taken likewise: one made of the step count would be wrong after such steps.
        """
        if "mean1" not in self._state:
            return violation, gram
        new = {"mean1": self._g1, "mean2": self._g2, "mean_violation": violation[None], "mean_one": self._one}
        for name, value in new.items():
            mean = self._state[name]
            mean.lerp_(torch.where(finite, value, mean), 1.0 - self._settings.average)
        mean1, mean2, one = self._state["mean1"], self._state["mean2"], self._state["mean_one"][0]
        averaged = Gram(_dot(mean1, mean1) / one**2, _dot(mean1, mean2) / one**2)
        return self._state["mean_violation"][0] / one, averaged

    def _descend(self, g: Float[Tensor, " p"]) -> None:
        settings, rate = self._settings, self._settings.learning_rate_at(self.step_count)
        if settings.clip is not None:
            g = g * (settings.clip / _dot(g, g).sqrt().clamp(min=settings.clip)).to(g.dtype)
        if settings.kind == "paper":
            self.flat.values.sub_(g, alpha=rate)
            return
        first, second = self._state["first_moment"], self._state["second_moment"]
        decay1, decay2 = settings.betas
        first.lerp_(g, 1.0 - decay1)
        second.mul_(decay2).addcmul_(g, g, value=1.0 - decay2)
        scale = (second / (1.0 - decay2 ** (self.step_count + 1))).sqrt_().add_(1e-8)
        self.flat.values.addcdiv_(first, scale, value=-rate / (1.0 - decay1 ** (self.step_count + 1)))


class Outcome(StrEnum):
    """Why a solve ended."""

    CONVERGED = "converged: the smoothed objectives stopped changing"
    STEP_LIMIT = "step limit reached"
    STILL_MOVING = "step limit reached while the constraint was still changing by over 1 % of its unit"
    DIVERGED = "diverged: losses or gradients were not finite"


@dataclass(slots=True, kw_only=True)
class StopRule:
    """Decides from logged steps whether to stop; works on means over windows of steps.

    ``units`` are what a change of the constraint and of the objective is measured in. Converged: both means
    changed by less than ``tolerance`` from one window to the next while epsilon stood still. Still moving: at
    the step limit the mean of the constraint changed by more than ``moving`` and by more than noise explains.
    Diverged: no step of a whole window, or of a shorter solve, was finite.
    """

    window: int = 50
    tolerance: float = 1e-4
    moving: float = 0.01
    units: tuple[float, float] = (1.0, 1.0)
    _recent: list[StepRow] = field(default_factory=list, init=False, repr=False)

    def update(self, rows: list[StepRow]) -> Outcome | None:
        """Take new rows; return the outcome when the solve should stop now."""
        self._recent = (self._recent + rows)[-2 * self.window :]
        last = self._recent[-self.window :]
        if len(last) == self.window and not any(row.finite for row in last):
            return Outcome.DIVERGED
        change = self._changes()
        if change is not None and max(change) < self.tolerance:
            return Outcome.CONVERGED
        return None

    def at_limit(self) -> Outcome:
        """Return the outcome when the steps are used up; a change within three standard errors is noise."""
        if self._recent and not any(row.finite for row in self._recent):
            return Outcome.DIVERGED
        change, noise = self._changes(), self._noise_of_f1()
        moving = change is not None and change[0] > max(self.moving, 3.0 * noise)
        return Outcome.STILL_MOVING if moving else Outcome.STEP_LIMIT

    def _changes(self) -> tuple[float, float] | None:
        """Return how far the means of f1 and f2 moved between the last two windows, or None without both."""
        halves = self._halves()
        if halves is None:
            return None
        before, after = ([statistics.fmean(row[k] for row in part) for k in (1, 2)] for part in halves)
        return abs(after[0] - before[0]) / self.units[0], abs(after[1] - before[1]) / self.units[1]

    def _noise_of_f1(self) -> float:
        """Return the standard error of the difference of the two windows' means of f1."""
        halves = self._halves()
        if halves is None:
            return 0.0
        errors = [statistics.variance([row.f1 for row in part]) / len(part) for part in halves]
        return math.sqrt(sum(errors)) / self.units[0]

    def _halves(self) -> tuple[list[StepRow], list[StepRow]] | None:
        """Return the finite rows of the last two windows; None before both exist under a steady epsilon."""
        recent = self._recent
        if len(recent) < 2 * self.window or recent[0].epsilon != recent[-1].epsilon:
            return None
        before, after = (
            [row for row in part if row.finite] for part in (recent[: self.window], recent[self.window :])
        )
        return (before, after) if min(len(before), len(after)) >= 2 else None


def solve(
    solver: EpsilonSolver,
    constraint: Callable[[int], Float[Tensor, ""]],
    objective: Callable[[int], Float[Tensor, ""]],
    *,
    steps: int,
    stop: StopRule | None = None,
    on_rows: Callable[[list[StepRow]], None] = lambda _rows: None,
    flush_every: int = 50,
) -> Outcome:
    """Step until the rule says stop or ``steps`` are done; continues from the solver's own step count.

    Args:
        solver: fresh, or loaded from a state.
        constraint: loss of the constraint at a step.
        objective: loss of the objective at a step.
        steps: in all, those before a resume included.
        stop: the stopping rule; None for the default one.
        on_rows: called with the logged rows every ``flush_every`` steps and at the end.
        flush_every: steps between two host synchronisations.
    """
    stop = stop or StopRule()
    while solver.step_count < steps:
        for _ in range(min(flush_every, steps - solver.step_count)):
            step = solver.step_count
            solver.step(lambda step=step: constraint(step), lambda step=step: objective(step))  # type: ignore[misc]
        rows = solver.flush()
        outcome = stop.update(rows)
        on_rows(rows)
        if outcome is not None:
            return outcome
    return stop.at_limit()


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _dot(a: Float[Tensor, " p"], b: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """Return the inner product in float32, or float64 for float64 input."""
    return torch.dot(a.to(_wide(a.dtype)), b.to(_wide(b.dtype)))


def _combine(g1: Float[Tensor, " p"], g2: Float[Tensor, " p"], eta: Float[Tensor, ""]) -> Float[Tensor, " p"]:
    """Return g2 + eta g1, rounded to the dtype of ``g2`` once: eta itself may not fit in a narrow dtype."""
    wide = _wide(g2.dtype)
    return torch.addcmul(g2.to(wide), g1.to(wide), eta).to(g2.dtype)


def _describe(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.numel()} of {tensor.dtype}" for name, tensor in sorted(state.items())}
