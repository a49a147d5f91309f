"""What every published unlearning loss consists of."""

from typing import NamedTuple

from torch import Tensor


class Losses(NamedTuple):
    """The retain term and the forget term of a loss, both to be minimised."""

    retain: Tensor
    forget: Tensor

    def total(self, alpha: float) -> Tensor:
        """Return retain + alpha * forget."""
        return self.retain + alpha * self.forget
