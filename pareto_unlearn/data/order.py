"""The order of mini-batches: a pure function of the step, drawn from seeds."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from pareto_unlearn.data.image_sets import Images, ReadsAhead

Order = Callable[[int], Int[Tensor, " b"]]
"""Maps a step to the indices of its mini-batch."""


class BatchOrder:
    """Mini-batch indices as a pure function of the step: resuming needs no state.

    Every epoch is a fresh permutation, drawn from a generator seeded with (seed, stream, epoch), and uses
    each image once. A batch may span two epochs.
    """

    def __init__(self, count: int, batch: int, seed: int, stream: int) -> None:
        if count < 1:
            raise ValueError("cannot draw batches from an empty set")
        self._count, self._batch, self._key = count, batch, (seed, stream)
        self._epochs: dict[int, Int[Tensor, " n"]] = {}

    def __call__(self, step: int) -> Int[Tensor, " b"]:
        """Return the indices of the batch at ``step`` (counting from 0)."""
        return self.take(step * self._batch, (step + 1) * self._batch)

    def take(self, first: int, end: int) -> Int[Tensor, " b"]:
        """Return the indices at positions ``first`` to ``end`` - 1 of the endless order; they may be none."""
        if end <= first:
            return torch.empty(0, dtype=torch.int64)
        epochs = range(first // self._count, (end - 1) // self._count + 1)
        # Only the epochs of this batch are kept: the next step needs no others.
        self._epochs = {epoch: self._permutation(epoch) for epoch in epochs}
        joined = torch.cat(list(self._epochs.values()))
        offset = first - epochs.start * self._count
        return joined[offset : offset + end - first]

    def _permutation(self, epoch: int) -> Int[Tensor, " n"]:
        if epoch in self._epochs:
            return self._epochs[epoch]
        return torch.randperm(self._count, generator=seeded_generator(*self._key, epoch))


class StratifiedOrder:
    """Mini-batches with equal numbers of every class, as a pure function of the step.

    Where the batch size is not a multiple of the number of classes, the places left over go to the classes in
    turn. With more classes than places, each batch holds only some of the classes, again in turn. Within a
    class the order is that of ``BatchOrder``.
    """

    def __init__(self, class_ids: Int[Tensor, " n"], batch: int, seed: int, stream: int) -> None:
        classes = torch.unique(class_ids).tolist()
        self._members = [(class_ids == class_id).nonzero().flatten() for class_id in classes]
        self._orders = [
            BatchOrder(len(members), 1, seed, stream * 100_003 + class_id)
            for class_id, members in zip(classes, self._members, strict=True)
        ]
        self._base, self._rest = divmod(batch, len(classes))

    def __call__(self, step: int) -> Int[Tensor, " b"]:
        """Return the indices of the batch at ``step`` (counting from 0), class by class."""
        return torch.cat([self._take(step, rank) for rank in self._ranks_at(step)])

    def _take(self, step: int, rank: int) -> Int[Tensor, " m"]:
        """Return the indices of the class at position ``rank`` in the batch at ``step``."""
        first, end = self._drawn_before(step, rank), self._drawn_before(step + 1, rank)
        taken: Int[Tensor, " m"] = self._members[rank][self._orders[rank].take(first, end)]
        return taken

    def _ranks_at(self, step: int) -> Sequence[int]:
        """Return the positions of the classes in a batch; classes outside it cost no time."""
        classes = len(self._members)
        if self._base > 0:
            return range(classes)
        return sorted((step * self._rest + place) % classes for place in range(self._rest))

    def _drawn_before(self, step: int, rank: int) -> int:
        """Return how many images of a class all batches before ``step`` hold.

        The left-over places of all steps form one endless sequence, which goes to the classes in turn.
        """
        places, classes = step * self._rest, len(self._members)
        return step * self._base + places // classes + (rank < places % classes)


def reading_ahead(order: Order, images: Images, part: slice = slice(None)) -> Order:
    """Return the same order; each call also starts reading the image files of the following step.

    Args:
        order: of all images.
        images: that may be read ahead.
        part: the places of a batch that this process reads.
    """
    if not isinstance(images, ReadsAhead):
        return order

    def indices_at(step: int) -> Int[Tensor, " b"]:
        rows = order(step)
        images.read_ahead(order(step + 1)[part])
        return rows

    return indices_at


def seeded_generator(*key: int) -> torch.Generator:
    """Return a CPU generator whose stream depends on all integers of ``key``."""
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
