"""Flat vectors: a model's parameters and their gradients as one vector each, and arithmetic on them."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

Loss = Callable[[], Float[Tensor, ""]]


class FlatParameters:
    """Parameters and their gradients as two flat vectors that share memory with the parameters.

    ``backward`` accumulates straight into ``gradient``; a step runs no loop over parameters. The parameters
    must keep their storage afterwards: no ``zero_grad``, no move to another device or dtype.

    Args:
        parameters: the parameters to train, all of one dtype and device.

    Raises:
        ValueError: there are no parameters, or several dtypes or devices.
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

    def compute_gradient(self, loss: Loss, out: Float[Tensor, " p"] | None = None) -> Float[Tensor, ""]:
        """Return ``loss()``, detached, and write its gradient into ``gradient``, and into ``out`` if given.

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
        if out is not None:
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
        """Return whether the parameters share memory with the flat vectors; else gradients would read 0.

        The first parameter stands for all: calls that untie one parameter untie every parameter.
        """
        first = self._parameters[0]
        pairs = ((first, self.values), (first.grad, self.gradient))
        return all(
            tensor is not None and tensor.untyped_storage().data_ptr() == flat.untyped_storage().data_ptr()
            for tensor, flat in pairs
        )


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for sums over values of ``dtype``: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def dot(a: Float[Tensor, " p"], b: Float[Tensor, " p"]) -> Float[Tensor, ""]:
    """Return the inner product in float32, or float64 for float64 input."""
    return torch.dot(a.to(wide(a.dtype)), b.to(wide(b.dtype)))


def combine(
    g1: Float[Tensor, " p"], g2: Float[Tensor, " p"], c1: Float[Tensor, ""], c2: Float[Tensor, ""]
) -> Float[Tensor, " p"]:
    """Return c1 g1 + c2 g2, rounded once to the dtype of ``g2``: c1 and c2 may not fit in a narrow dtype."""
    return combine_into(g2.clone(), g1, c1, c2)


def combine_into(
    g2: Float[Tensor, " p"], g1: Float[Tensor, " p"], c1: Float[Tensor, ""], c2: Float[Tensor, ""]
) -> Float[Tensor, " p"]:
    """Overwrite ``g2`` with the result of ``combine``, and return it."""
    sum_dtype = wide(g2.dtype)
    total = g2.to(sum_dtype).mul_(c2).addcmul_(g1.to(sum_dtype), c1)
    return g2 if total is g2 else g2.copy_(total)
