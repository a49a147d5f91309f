"""GPUs that trials share or a process uses again, and GPUs that are not there; this machine needs none."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from small_sweep import run_of
from test_shared_storage import assignment_of

from pareto_unlearn.errors import MachineError
from pareto_unlearn.records import Phase
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.losses import KEEPS_MEMORY, Cause, Losses, explain_loss
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.task import Task
from pareto_unlearn.sweep.trial_thread import TrialThread
from pareto_unlearn.sweep.worker import Answer, execute
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


@pytest.mark.parametrize(("gpus", "found"), [(0.25, 0), (2, 1)])
def test_a_gpu_that_ray_gave_and_torch_does_not_find_ends_the_sweep_in_a_sentence(
    copy_small_sweep, tmp_path, monkeypatch, gpus, found
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    config = copy_small_sweep(tmp_path, f"run.gpus_per_trial={gpus}", "run.executor=tune")
    record = next(one for one in run_of(config).records if one.phase is Phase.EPSILON)
    given = replace(assignment_of(config, record, attempt=2), run_id=None)
    answer = execute(given, lambda *_: None)
    assert (answer.record, answer.reason) == (None, "")  # no row: the same command solves the trial elsewhere
    assert f"Ray gave a trial {gpus:g} GPU on " in answer.refusal
    assert f"where torch finds {found or 'none'}: " in answer.refusal

    planner = Planner(config, RunStore.open(run_of(config).path), "0" * 64, given)
    assert planner.take(given.spec, Answer.from_text(answer.to_text())) is None
    assert (planner.error.exit_code, planner.next_trial(())) == (3, NoTrial.FINISHED)
