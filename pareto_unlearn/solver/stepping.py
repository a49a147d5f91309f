"""Steps of Algorithm 1: they update the parameters from gradients, and log to memory of the device."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pareto_unlearn.solver.flat import FlatParameters, Loss, combine_into, dot, wide
from pareto_unlearn.solver.rules import Gram, Rule, compute_gram

Level = Callable[[int], float]
"""From a step, counted from 0, to the bound on the constraint."""
StepLoss = Callable[[int], Float[Tensor, ""]]
"""From a step, counted from 0, to the loss of its mini-batch."""
AddUp = Callable[[Tensor], None]


def _nothing_to_add(_: Tensor) -> None:
    """One process has all of every batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSettings:
    """How a direction becomes a step.

    ``kind`` is ``paper`` (theta <- theta - mu g, line 10 of Algorithm 1) or ``averaged`` (the multiplier from
    averaged gradients and violation, then Adam on g). ``average`` is the decay of those averages; 0 for none.

    The learning rate falls from ``learning_rate`` to ``learning_rate_end`` times that, along half a cosine or
    a line (``decay``). It rises from zero over the first share ``warm_up`` of the steps, because Adam's first
    steps are of full size in every coordinate. With ``shape`` it is that share of ``learning_rate`` at every
    step, counted from 0, instead.

    ``update_limit`` bounds the root mean square of g over Adam's second moment: a step beyond it is shortened
    to it (arXiv:1804.04235, section 6). That quotient is 1 for gradients of steady size and larger where they
    suddenly grow, which is where Adam's steps are too long. None for no limit.

    ``pull`` draws the parameters back to where the solve began while f1 lies below its bound: by that times
    the learning rate times epsilon - f1, as a share of the way. The direction itself only ever lowers f1;
    where g2 is next to nothing, nothing else would raise it. The pull fades with the square of f2 over
    ``pull_below``, since it costs f2 where there is something to gain still.

    ``clip`` is the largest |g|; ``weight_average`` is the decay of an average of the parameters, 0 for none.
    """

    kind: str = "averaged"
    steps: int = 400
    learning_rate: float = 0.003
    learning_rate_end: float = 0.02
    decay: str = "cosine"
    warm_up: float = 0.0
    shape: Callable[[int], float] | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    average: float = 0.9
    clip: float | None = None
    update_limit: float | None = None
    pull: float = 0.0
    pull_below: float = math.inf
    weight_average: float = 0.0

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.shape is not None:
            return self.learning_rate * self.shape(step)
        progress = min(step / max(self.steps - 1, 1), 1.0)
        left = 1.0 - progress if self.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
        falling = self.learning_rate_end + (1.0 - self.learning_rate_end) * left
        return self.learning_rate * falling * min((step + 1) / max(self.warm_up * self.steps, 1.0), 1.0)


class StepRow(NamedTuple):
    """The values logged for one step, in the units of its losses."""

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
        parameters: the parameters to train; afterwards they share one flat buffer (see ``FlatParameters``).
        rule: chooses the direction.
        settings: turn the direction into a step.
        epsilon: bound on the constraint, or from a step, counted from 0, to its bound; ignored by rules
            without a bound.
        origin: flat parameters that ``pull`` draws to; None for those at the start.
        add_up: overwrites a gradient with its sum over the processes that share each batch, where there are
            several; their losses must be those of the whole batch already.
        log_size: largest number of steps between two calls of ``flush``.

    Raises:
        ValueError: an unknown update, or float16 parameters, which cannot hold Adam's moments.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        rule: Rule,
        settings: UpdateSettings,
        *,
        epsilon: float | Level = 0.0,
        origin: Float[Tensor, " p"] | None = None,
        add_up: AddUp = _nothing_to_add,
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
        self._updates = 0
        self._rule, self._settings, self._epsilon, self._add_up = rule, settings, epsilon, add_up
        values = self.flat.values
        self._origin = None
        if settings.pull > 0.0:
            self._origin = values.clone() if origin is None else origin.to(values)
        self._g1 = torch.zeros_like(values)
        averaging = settings.kind == "averaged" and settings.average > 0.0
        self._one = torch.ones(1, dtype=wide(values.dtype), device=values.device)
        self._state: dict[str, Tensor] = {}
        if averaging:
            self._state |= {
                "mean1": torch.zeros_like(values),
                "mean2": torch.zeros_like(values),
                "mean_violation": torch.zeros_like(self._one),
                "mean_one": torch.zeros_like(self._one),
            }
        if settings.kind == "averaged":
            self._state |= {name: torch.zeros_like(values) for name in ("first_moment", "second_moment")}
        if settings.weight_average > 0.0:
            self._state["averaged_values"] = values.clone()
        self._log = torch.zeros(log_size, 8, dtype=wide(values.dtype), device=values.device)
        self._logged = 0

    def epsilon_at(self, step: int) -> float:
        """Return the bound at a step, counted from 0."""
        return self._epsilon(step) if callable(self._epsilon) else self._epsilon

    def step(self, constraint: Loss, objective: Loss) -> None:
        """Run one forward and backward pass of each loss and update the parameters.

        A step whose losses, gradients or direction are not finite has direction zero, and the log marks it.

        Raises:
            RuntimeError: the log is full, so call ``flush`` first; or see
                ``FlatParameters.compute_gradient``.
        """
        if self._logged == len(self._log):
            raise RuntimeError("the log is full: call flush() at least every log_size steps")
        f1 = self.flat.compute_gradient(constraint, self._g1).to(self._log.dtype)
        self._add_up(self._g1)
        f2 = self.flat.compute_gradient(objective).to(self._log.dtype)
        self._add_up(self.flat.gradient)
        # A further vector as long as the model would cost memory: g2 stays in the buffer of the backward
        # pass, and the direction overwrites it there.
        g2 = self.flat.gradient
        gram = compute_gram(self._g1, g2)
        norm1, norm2 = gram.g11.sqrt(), gram.g22.sqrt()
        finite = torch.isfinite(f1) & torch.isfinite(f2) & torch.isfinite(norm1) & torch.isfinite(norm2)
        for gradient in (self._g1, g2):
            gradient.masked_fill_(~finite, 0.0)
        violation, averaged = self._averaged(f1 - self.epsilon_at(self.step_count), gram, finite)
        chosen = self._rule(violation, averaged)
        # The square of the direction must be finite too: Adam's second moment would keep an overflow for
        # ever.
        length = chosen.c2.abs() * norm2 + chosen.c1.abs() * norm1
        finite = finite & (length < math.sqrt(torch.finfo(self._g1.dtype).max))
        c1, c2 = (torch.where(finite, one, 0.0) for one in (chosen.c1, chosen.c2))
        self._descend(combine_into(g2, self._g1, c1, c2))
        self._pull_back(violation, f2)
        # A product of roots, because the product of the squares underflows at norms of 1e-10 in float32.
        cosine = gram.g12 / (norm1 * norm2).clamp(min=torch.finfo(norm1.dtype).tiny)
        row = [f1, f2, chosen.multiplier, chosen.psi, norm1, norm2, cosine, finite.to(f1.dtype)]
        if "averaged_values" in self._state:
            self._state["averaged_values"].lerp_(self.flat.values, 1.0 - self._settings.weight_average)
        self._log[self._logged] = torch.stack(row)
        self._logged += 1
        self.step_count += 1

    def flush(self) -> list[StepRow]:
        """Return the steps since the last call; only this method waits for the device."""
        values = self._log[: self._logged].tolist()
        first = self.step_count - self._logged
        self._logged = 0
        return [self._row(step, row) for step, row in enumerate(values, start=first)]

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state to continue from, as flat tensors that later steps overwrite; ``flush`` first."""
        counts = {"step": torch.tensor([self.step_count]), "updates": torch.tensor([self._updates])}
        return {"values": self.flat.values, **self._state, **counts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict()`` of a solver built the same way; steps not yet flushed are dropped.

        Raises:
            ValueError: the names, lengths or dtypes of the tensors differ; nothing is loaded then.
        """
        expected, found = _describe(self.state_dict()), _describe(state)
        if expected != found:
            raise ValueError(f"the solver state does not fit: expected {expected}, found {found}")
        self.flat.load(state["values"])
        for name, tensor in self._state.items():
            tensor.copy_(state[name])
        self.step_count, self._updates = int(state["step"].item()), int(state["updates"].item())
        self._logged = 0

    def start_at(self, values: Float[Tensor, " p"]) -> None:
        """Start at step 0 with these weights and without the past of an optimiser.

        Raises:
            ValueError: the length or the dtype differs; nothing is loaded then.
        """
        own = self.flat.values
        if (values.numel(), values.dtype) != (own.numel(), own.dtype):
            raise ValueError(
                f"the weights do not fit: expected {own.numel()} of {own.dtype}, found {values.numel()} of "
                f"{values.dtype}"
            )
        self.flat.load(values)
        if "averaged_values" in self._state:
            self._state["averaged_values"].copy_(own)

    def _row(self, step: int, logged: list[float]) -> StepRow:
        f1, f2, eta, psi, norm1, norm2, cosine, finite = logged
        rate, epsilon = self._settings.learning_rate_at(step), self.epsilon_at(step)
        return StepRow(step, f1, f2, eta, psi, norm1, norm2, cosine, rate, epsilon, bool(finite))

    def _averaged(
        self, violation: Float[Tensor, ""], gram: Gram, finite: Bool[Tensor, ""]
    ) -> tuple[Float[Tensor, ""], Gram]:
        """Return the averaged violation and the inner products of the averaged gradients.

        Averages are used because the multiplier is clipped at zero, so noise in its inputs pushes f1 below
        epsilon. A step that is not finite leaves the averages as they are. The averages start at zero, and
        the average of the constant 1 corrects for that; a correction computed from the step count would be
        wrong after steps that are not finite.
        """
        if "mean1" not in self._state:
            return violation, gram
        new = {
            "mean1": self._g1,
            "mean2": self.flat.gradient,
            "mean_violation": torch.where(finite, violation, 0.0)[None],
            "mean_one": self._one,
        }
        # A tensor, because a choice between gradient and mean would be two more passes over each.
        weight = torch.where(finite, self._one[0] * (1.0 - self._settings.average), 0.0)
        for name, value in new.items():
            self._state[name].lerp_(value, weight.to(value.dtype))
        one = self._state["mean_one"][0]
        gram_of_means = compute_gram(self._state["mean1"], self._state["mean2"])
        square = one**2
        averaged = Gram(gram_of_means.g11 / square, gram_of_means.g12 / square, gram_of_means.g22 / square)
        return self._state["mean_violation"][0] / one, averaged

    def _pull_back(self, violation: Float[Tensor, ""], f2: Float[Tensor, ""]) -> None:
        """Move the parameters towards the origin, in proportion to how far f1 lies below epsilon."""
        if self._origin is None:
            return
        settings = self._settings
        rate = settings.pull * settings.learning_rate_at(self.step_count)
        fading = 1.0 + (f2 / settings.pull_below) ** 2
        share = (rate * -violation / fading).clamp(0.0, 1.0).nan_to_num(0.0)
        self.flat.values.lerp_(self._origin, share.to(self.flat.values.dtype))

    def _descend(self, g: Float[Tensor, " p"]) -> None:
        """Move the parameters against ``g``; this overwrites ``g`` and g1."""
        settings, rate = self._settings, self._settings.learning_rate_at(self.step_count)
        if settings.clip is not None:
            g.mul_((settings.clip / dot(g, g).sqrt().clamp(min=settings.clip)).to(g.dtype))
        if settings.kind == "paper":
            self.flat.values.sub_(g, alpha=rate)
            return
        first, second = self._state["first_moment"], self._state["second_moment"]
        decay1, decay2 = settings.betas
        first.lerp_(g, 1.0 - decay1)
        second.mul_(decay2).addcmul_(g, g, value=1.0 - decay2)
        self._updates += 1
        scale = torch.div(second, 1.0 - decay2**self._updates, out=self._g1).sqrt_().add_(1e-8)
        if settings.update_limit is not None:
            g.div_(scale)
            size = (dot(g, g) / g.numel()).sqrt()
            scale.mul_((size / settings.update_limit).clamp(min=1.0).to(scale.dtype))
        self.flat.values.addcdiv_(first, scale, value=-rate / (1.0 - decay1**self._updates))


def ramp(start: float, end: float, steps: int) -> Level:
    """Return a bound that goes from ``start`` to ``end`` along a line over some steps, then stays."""

    def level(step: int) -> float:
        return end if step + 1 >= steps else start + (step + 1) / steps * (end - start)

    return level


def _describe(state: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tensor.numel()} of {tensor.dtype}" for name, tensor in sorted(state.items())}
