"""The memory of a GPU that trials share, and of one that a process uses again; this machine needs none."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from pareto_unlearn.errors import MachineError
from pareto_unlearn.sweep.losses import KEEPS_MEMORY, Cause, Losses, explain_loss
from pareto_unlearn.sweep.task import Task
from pareto_unlearn.sweep.trial_thread import TrialThread
from pareto_unlearn.trial import release_gpu, share_gpu


class Gpu:
    """A GPU of 80 GB, of which others have taken some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: float, reserved: float = 0.0) -> None:
        self.fractions: list[float] = []
        self.reserved, self.given_back = reserved, 0.0
        for name, answer in {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "mem_get_info": lambda: (int(free * 1e9), int(80e9)),
            "memory_reserved": lambda: int(self.reserved * 1e9),
            "set_per_process_memory_fraction": self.fractions.append,
            "empty_cache": self._empty,
        }.items():
            monkeypatch.setattr(torch.cuda, name, answer)

    def _empty(self) -> None:
        self.reserved -= self.given_back


def test_a_part_of_a_gpu_that_is_taken_is_refused_and_one_that_is_there_is_kept_to(monkeypatch):
    gpu = Gpu(monkeypatch, free=19.0)
    share_gpu(0.25)  # 20 GB, of which a context may take some
    assert gpu.fractions == [0.25]
    with pytest.raises(MachineError, match=r"0\.5 of the GPU is 40\.0 GB, but 19\.0 GB of its 80\.0"):
        share_gpu(0.5)
    for whole in (0.0, 1.0, 2.0):
        share_gpu(whole)
    assert gpu.fractions == [0.25]
    Gpu(monkeypatch, free=2.0, reserved=18.0)
    share_gpu(0.25)  # what this process holds itself is its own


def test_a_process_that_keeps_memory_solves_no_other_trial_and_that_costs_no_try(monkeypatch):
    gpu = Gpu(monkeypatch, free=70.0, reserved=9.0)
    gpu.given_back = 8.0
    assert release_gpu()
    gpu.reserved, gpu.given_back = 9.0, 1.0
    assert not release_gpu()

    started: list[object] = []
    monkeypatch.setattr("pareto_unlearn.sweep.trial_thread.execute", lambda *given: started.append(given))
    thread = TrialThread(cast("Task", SimpleNamespace()))
    with pytest.raises(MachineError, match=KEEPS_MEMORY) as raised:
        thread.next_news()
    assert not started
    loss = explain_loss(f"ray::SweepTrial.step() (pid=7)\n{raised.value}", "ab")
    assert loss.cause is Cause.USED
    assert Losses(0, lambda: (), lambda: 0.0).add("trial", loss) is None
