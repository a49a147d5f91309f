"""Adam on flat parameters, for attacks: one vector of moments each, and no loop over parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.solver.flat import FlatParameters

BETAS = (0.9, 0.99)
STABILISER = 1e-8


class FlatAdam:
    """Adam (betas .9 and .99) without weight decay.

    Args:
        flat: the parameters; a step takes the gradient that stands there, and overwrites it.
        scale: unit of each weight, if steps are relative to it: the rate is a share of it then.
    """

    def __init__(self, flat: FlatParameters, scale: Float[Tensor, " p"] | None = None) -> None:
        self._flat, self._scale, self._taken = flat, scale, 0
        self._first, self._second = torch.zeros_like(flat.values), torch.zeros_like(flat.values)

    def restart(self) -> None:
        """Forget all steps."""
        self._first.zero_()
        self._second.zero_()
        self._taken = 0

    def step(self, rate: float) -> None:
        """Take a step of a size."""
        self._taken += 1
        gradient, (decay1, decay2) = self._flat.gradient, BETAS
        if self._scale is not None:
            gradient.mul_(self._scale)
        self._first.lerp_(gradient, 1.0 - decay1)
        self._second.mul_(decay2).addcmul_(gradient, gradient, value=1.0 - decay2)
        # The gradient has been used, so its memory serves for the size.
        size = torch.div(self._second, 1.0 - decay2**self._taken, out=gradient).sqrt_().add_(STABILISER)
        if self._scale is not None:
            size.div_(self._scale)
        self._flat.values.addcdiv_(self._first, size, value=-rate / (1.0 - decay1**self._taken))
