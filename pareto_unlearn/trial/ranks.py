"""Data parallel inside a trial: several processes, the ranks, that solve one trial together.

Every rank runs the whole trial on weights of its own, and takes a part of each batch. What is added up over
the ranks is the losses, where they are made, and the two flat gradients, in the solver; all else is computed
by every rank from these sums, alike to the bit, so ranks need no further word about what comes next. A loss
has the value of the whole batch and the gradient of the rank's own part: whatever is made of the value
(weights, logarithms, averages) is right, and the sum of the gradients over the ranks is that of one process.

Rank 0 alone reads and writes the store; the others are told what it read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.errors import MachineError

__all__ = ["ALONE", "Link", "Ranks"]


class Link(Protocol):
    """The way between the ranks of a trial; every rank makes the same calls in the same order."""

    def add(self, values: Tensor) -> None:
        """Overwrite a tensor with its sum over all ranks, the same bits on each."""
        ...

    def send(self, values: Tensor) -> None:
        """Overwrite a tensor with that of rank 0."""
        ...

    def close(self) -> None:
        """Leave the others; nothing is shared any more."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Ranks:
    """The rank of this process among those of its trial, counted from 0; ``link`` is None for one alone."""

    rank: int = 0
    size: int = 1
    link: Link | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the trial's worker, which alone reads and writes the store."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """Return this rank's places among ``count``: in order, and as many for each rank as can be."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def total(self, share: Tensor) -> Tensor:
        """Return the sum of the shares of all ranks; its gradient is that of this rank's share."""
        if self.link is None:
            return share
        summed: Tensor = _Total.apply(share, self.link)
        return summed

    def mean(self, value: Float[Tensor, ""], own: int, count: int) -> Float[Tensor, ""]:
        """Return the mean over ``count`` images, given that over the ``own`` ones of this rank."""
        return value if self.link is None else self.total(value * (own / count))

    def alike(self, value: Tensor) -> Tensor:
        """Return a value that every rank computes in whole, so that its gradient counts once."""
        return value if self.link is None else self.total(value / self.size)

    def add(self, values: Tensor) -> None:
        """Overwrite a tensor with its sum over all ranks."""
        if self.link is not None:
            self.link.add(values)

    def share_out(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return those of several parts of a work that this rank does, by turns."""
        return parts[self.rank :: self.size]

    def gather(
        self, found: Sequence[Float[Tensor, " n"]], parts: Sequence[Tensor], device: torch.device
    ) -> Float[Tensor, " m"]:
        """Return one value a row, in order, given those of the parts that ``share_out`` gave this rank.

        Args:
            found: a value for every row of each part.
            parts: all parts of the work.
            device: of the values.
        """
        if self.link is None:
            return torch.cat(list(found))
        whole = [torch.zeros(len(part), device=device) for part in parts]
        whole[self.rank :: self.size] = found
        values = torch.cat(whole)
        self.link.add(values)
        return values

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.add(torch.zeros(1))

    def told(self, read: Callable[[], bytes]) -> bytes:
        """Return what rank 0 reads; the other ranks do not call ``read``."""
        if self.link is None:
            return read()
        content = read() if self.is_first else b""
        length = torch.tensor([len(content)])
        self.link.send(length)
        sent = torch.zeros(int(length), dtype=torch.uint8)
        if content:
            sent = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        if len(sent):
            self.link.send(sent)
        return sent.numpy().tobytes()

    def require_alike(self, numbers: Sequence[float], values: Float[Tensor, " p"]) -> None:
        """Check that all ranks have come to the same numbers and weights, as they must to go on together.

        Raises:
            MachineError: they have not.
        """
        if self.link is None:
            return
        own = torch.tensor([*numbers, float(values.double().sum())], dtype=torch.float64).view(torch.int64)
        seen = torch.zeros(self.size, len(own), dtype=torch.int64)
        seen[self.rank] = own
        self.link.add(seen)
        if bool((seen != seen[0]).any()):
            raise MachineError(
                f"the {self.size} ranks of the trial have drifted apart: expected the same losses and "
                "weights in all of them, found others, as unlike GPUs in one machine give: use GPUs of one "
                "kind, or one process (run.gpus_per_trial: 1)"
            )

    def close(self) -> None:
        """Leave the other ranks."""
        if self.link is not None:
            self.link.close()


ALONE = Ranks()
"""One process for the whole trial."""


class _Total(torch.autograd.Function):
    """The sum over all ranks forward; backward, the slope of the sum is that of this rank's own share."""

    @staticmethod
    def forward(_: Any, share: Tensor, link: Link) -> Tensor:
        summed = share.detach().clone()
        link.add(summed)
        return summed

    @staticmethod
    def backward(_: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return slopes[0], None
