"""Fractions of GPUs on a Ray that is told of two which this machine need not have."""

import json
import os
import subprocess
import threading
from collections import Counter, deque
from pathlib import Path

import pytest
import torch
from ray_sweeps import RAY_GAVE_UP, TRIES, sweep_command
from safetensors.torch import save_file
from small_sweep import TINIEST

from pareto_unlearn.errors import MachineError
from pareto_unlearn.sweep.losses import KEEPS_MEMORY, Cause, Losses, explain_loss
from pareto_unlearn.sweep.trainable import SweepTrial
from pareto_unlearn.trial import release_gpu, share_gpu

FAMILY = """
import os, time, uuid
from pathlib import Path
import ray
from pareto_unlearn.catalogue.families import FamilyRow
from pareto_unlearn.models.base import ImageModel, plain_family
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.records import PixelFormat
from torch import nn

class Plain(ImageModel):
    family = "meeting"
    def __init__(self, hole):
        super().__init__(hole)
        self.one = nn.Conv2d(3, 3, 1)
    def encode_visible(self, images):
        return self.one(images)
    def decode(self, features):
        return features
    def encoder_modules(self):
        return [self.one]

def build(setting):
    if ray.is_initialized():  # in a worker: the driver has looked at the model before it starts Ray
        met = Path(os.environ["MEETING"])
        (met / uuid.uuid4().hex).write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
        deadline = time.monotonic() + 120
        while len(list(met.iterdir())) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        raise RuntimeError("four have met" if len(list(met.iterdir())) >= 4 else "nobody came")
    return Plain(build_hole(setting.task, 32, 8, setting.seed))

ROW = FamilyRow(name="meeting", variants=("only",), file="none", smoke_variant="only")
FAMILY = plain_family(ROW, build, PixelFormat(side=32, channels=3))
"""


@pytest.mark.nightly
def test_four_trials_of_half_a_gpu_run_at_once_two_on_each(tmp_path: Path) -> None:
    """Each waits until four are there, so that they run side by side or fail."""
    (tmp_path / "meeting.py").write_text(FAMILY)
    save_file(
        {"one.weight": torch.eye(3)[:, :, None, None].contiguous(), "one.bias": torch.zeros(3)},
        tmp_path / "meeting.safetensors",
    )
    met = tmp_path / "met"
    met.mkdir()
    command = [
        *sweep_command(tmp_path / "runs", *TINIEST),
        "--allow-import",
        *(part for override in (
            f"model={{family: '{tmp_path}/meeting.py:FAMILY', checkpoint: '{tmp_path}/meeting.safetensors'}}",
            "data={dataset: generated, train_per_class: 4, heldout_per_class: 2, forget_classes: 2}",
            "solver.start=original", "seeds=[0, 1, 2]", "evaluate={audit: off, metrics: [mse]}",
            "run.gpus_per_trial=0.5", "run.cpus_per_trial=1",
        ) for part in ("-o", override)),
    ]  # fmt: skip
    environment = os.environ | {
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": 8, "GPU": 2}),
        "MEETING": str(met),
    }
    for _ in range(TRIES):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        if RAY_GAVE_UP not in done.stderr:
            break
    assert "four have met" in done.stderr, done.stderr
    assert "nobody came" not in done.stderr
    first = sorted(met.iterdir(), key=lambda path: path.stat().st_mtime_ns)[:4]
    assert Counter(path.read_text() for path in first) == {"0": 2, "1": 2}


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
    monkeypatch.setattr(SweepTrial, "setup", lambda self, config: started.append(config))
    monkeypatch.setattr(SweepTrial, "_prepare", _prepare_nothing)
    used = SweepTrial.__new__(SweepTrial)
    gpu.given_back = 0.0
    assert used.reset_config({})
    assert not started
    with pytest.raises(MachineError, match=KEEPS_MEMORY) as raised:
        used.step()
    loss = explain_loss(f"ray::SweepTrial.step() (pid=7)\n{raised.value}", "ab")
    assert loss.cause is Cause.USED
    assert Losses(0, lambda: (), lambda: 0.0).add("trial", loss) is None
    gpu.reserved = 1.0
    assert used.reset_config({"next": 1})
    assert started == [{"next": 1}]


def _prepare_nothing(self: SweepTrial, config: object) -> None:
    self._mail, self._arrived = deque(), threading.Condition()
