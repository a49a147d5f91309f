"""Full disks, lost files and lost memory are no results: the same command runs those trials again."""

import errno
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from command_line import call
from small_sweep import QUICKSTART, SMALL, rows_of, run, run_of, small_sweep

from pareto_unlearn import trial as trial_package
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.errors import MachineError, StoreError, WeightsError, explain_machine, is_fault_of_machine
from pareto_unlearn.records import MACHINE_FAULT, Phase, TrialState

FULL = OSError(errno.ENOSPC, "No space left on device", "cache/x.npy")
FAULTS = {
    "full disk": FULL,
    "read-only disk": OSError(errno.EROFS, "Read-only file system"),
    "bad disk": OSError(errno.EIO, "Input/output error"),
    "memory": MemoryError(),
    "torch's memory": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate"),
    "memory of a device": torch.OutOfMemoryError("CUDA out of memory"),
    "a device": RuntimeError("CUDA error: an illegal memory access was encountered"),
    "a damaged checkpoint": StoreError("damaged"),
    "lost weights": WeightsError("missing"),
}


@pytest.mark.parametrize("error", FAULTS.values(), ids=FAULTS)
def test_what_surrounds_a_trial_is_told_from_the_trial(error):
    assert is_fault_of_machine(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[2]' is invalid"), ValueError("x"), ZeroDivisionError()]
)
def test_an_error_of_the_trial_is_its_own(error):
    assert not is_fault_of_machine(error)


SMALLER = ("epsilon.points=1", "baselines=[]")


@contextmanager
def failing(label: str, error: Exception) -> Iterator[list[str]]:
    """Make the trial with a label raise; yields the labels of all trials that ran."""
    ran: list[str] = []
    real = trial_package.run_trial

    def run_or_fail(trial, hooks, version):
        ran.append(trial.spec.label)
        if trial.spec.label == label:
            raise error
        return real(trial, hooks, version)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial_package, "run_trial", run_or_fail)
        yield ran


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    config = small_sweep(tmp_path_factory.mktemp("undisturbed"), *SMALLER)
    assert run(config) == 0
    return config


def test_the_same_command_runs_again_what_a_full_disk_stopped_and_nothing_else(undisturbed, tmp_path, caplog):
    label = "highest"
    config = small_sweep(tmp_path, *SMALLER)
    with failing(label, FULL), pytest.raises(MachineError, match="start the same command again"):
        run(config)
    assert not any(record.exc_info for record in caplog.records)  # the sentence says it all
    before = {record.trial_id: record for record in run_of(config).records}
    (failed,) = (record for record in before.values() if record.state is TrialState.FAILED)
    assert failed.reason.startswith(MACHINE_FAULT)
    assert "No space left on device" in failed.reason
    with failing("nothing", FULL) as ran:
        assert run(config) == 0
    done = {record.label for record in before.values() if record.state is TrialState.DONE}
    assert label in ran
    assert not done & set(ran)

    for mine, theirs in zip(rows_of(config), rows_of(undisturbed), strict=True):
        # The checkpoint's name holds the attempt.
        assert {key for key in mine if mine[key] != theirs[key]} <= {"attempt", "checkpoint"}


def test_an_error_of_a_trial_stays_its_result_and_the_way_out_is_named(tmp_path):
    options = [part for one in (*SMALL, *SMALLER, f"run.storage={tmp_path}") for part in ("-o", one)]
    command = ["sweep", QUICKSTART, *options, "-o", "run.executor=local"]
    with failing("lowest", ValueError("a shape")):
        done = call(*command)
    assert done.returncode in (4, 7), done.stderr
    with failing("nothing", FULL) as ran:
        call(*command)
    assert "lowest" not in ran
    assert call(*command, "--retry-failed").returncode == 0


def test_every_error_of_the_machine_says_where_and_what_to_do():
    explained = explain_machine(OSError(errno.ENOSPC, "No space left on device", "/data/run/curves/x"))
    assert str(explained) == (
        "/data/run/curves/x: No space left on device: free some space, then start the same command again"
    )
    assert explain_machine(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert len(str(explain_machine(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 4080)))) < 400


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as ``ulimit -f`` does: the nearest thing to a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # What is imported meanwhile must not leave a truncated .pyc behind, which no later import could read.
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_export_on_a_full_disk_leaves_the_older_model_and_nothing_else(undisturbed, tmp_path):
    path = run_of(undisturbed).path
    trial = next(one.trial_id for one in run_of(undisturbed).records if one.phase is Phase.BOUNDARY)
    out = tmp_path / "model.safetensors"
    out.write_bytes(b"an older model")
    with largest_file(10_000):
        done = call("export", path, out, "--force", "--trial", trial)
    assert (done.returncode, done.stderr.count("\n")) == (9, 1), done.stderr
    assert "ulimit -f" in done.stderr
    assert out.read_bytes() == b"an older model"
    assert list(tmp_path.iterdir()) == [out]
    assert call("export", path, out, "--force", "--trial", trial).returncode == 0


@pytest.mark.parametrize("verb", ["report", "report --out"])
def test_a_report_on_a_full_disk_is_one_sentence_and_the_older_report_stays(undisturbed, tmp_path, verb):
    path = Path(run_of(undisturbed).path)
    out = path / "report.html" if verb == "report" else tmp_path / "report.html"
    out.write_bytes(b"older")
    with largest_file(10_000):
        done = call("report", path, *([] if verb == "report" else ["--out", out]))
    assert (done.returncode, done.stderr.count("\n")) == (9, 1), done.stderr
    assert out.read_bytes() == b"older"


def test_a_training_on_a_full_disk_leaves_no_truncated_model(tmp_path):
    out = tmp_path / "model.safetensors"
    with largest_file(10_000):
        done = call("train", QUICKSTART, out, "--steps", 2)
    assert done.returncode == 9, done.stderr
    assert not out.exists()


def test_what_killed_writers_left_is_removed_by_the_next_sweep_but_nothing_young(undisturbed, tmp_path):
    shutil.copytree(undisturbed.run.storage, tmp_path, dirs_exist_ok=True)
    config = small_sweep(tmp_path, *SMALLER)
    path = Path(run_of(config).path)
    old, young = path / "checkpoints" / ".tmp-model-1", path / "curves" / ".tmp-part-2"
    old.mkdir()
    (old / "model.safetensors").write_bytes(bytes(1000))
    young.write_bytes(b"1")
    for file in (old / "model.safetensors", old):
        os.utime(file, (1, 1))
    assert run(config) == 0
    assert not old.exists()
    assert young.read_bytes() == b"1"


def test_a_run_is_for_its_user_alone(undisturbed):
    assert Path(run_of(undisturbed).path).stat().st_mode & 0o777 == 0o700
