"""The link between the ranks of a trial by ``torch.distributed``, on one machine.

Gloo carries what lies in memory, NCCL what lies on GPUs. Ranks meet through a file in a folder of their own,
and speak over the loopback interface: no other machine can reach them.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.trial.ranks import Ranks

__all__ = ["joined_ranks", "mark_of"]

MEETING = timedelta(minutes=5)
"""For all to meet: each of them has said by its mark that it is about to."""
PATIENCE = timedelta(days=7)
"""For others in a call: the first rank may compute targets for hours. A rank that dies is noticed at once."""


_set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
"""Its public name is newer than the oldest torch that we run with."""


@contextmanager
def joined_ranks(rank: int, size: int, folder: Path, *, on_gpu: bool) -> Iterator[Ranks]:
    """Join the ranks of a trial, and leave them in the end.

    Args:
        rank: of this process, from 0.
        size: the number of ranks, all of which join.
        folder: where they meet; empty before.
        on_gpu: the trial is solved on GPUs, one for each rank.

    Raises:
        ConfigError: this process has joined others already, for a purpose of its own.
    """
    if dist.is_initialized():
        raise ConfigError(
            f"run: the {size} ranks of a trial need torch.distributed, which this process uses already: "
            "start the sweep in a process of its own"
        )
    _stay_on_loopback()
    if on_gpu:
        torch.cuda.set_device(rank)
    mark_of(folder, rank).touch()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.FileStore(  # type: ignore[attr-defined]
            str(folder / "meeting"), size
        ),
        rank=rank,
        world_size=size,
        timeout=MEETING,
    )
    _set_timeout(PATIENCE)
    link = _Group()
    try:
        yield Ranks(rank, size, link)
    finally:
        link.close()


@dataclass(slots=True)
class _Group:
    """The default process group, until it is left."""

    is_open: bool = True

    def add(self, values: Tensor) -> None:
        dist.all_reduce(values)

    def send(self, values: Tensor) -> None:
        dist.broadcast(values, src=0)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            dist.destroy_process_group()


def mark_of(folder: Path, rank: int) -> Path:
    """Return the file that says that a rank is about to join."""
    return folder / f"rank-{rank}.here"


def _stay_on_loopback() -> None:
    """Name the loopback interface to both libraries, which would else take one that others can reach."""
    name = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name
