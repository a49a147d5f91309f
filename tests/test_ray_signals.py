"""Sweeps on Ray that are interrupted, terminated, or lose a worker."""

import os
import signal
from collections.abc import Iterator

import pytest
from ray_sweeps import Start, in_phase_one, sessions, start_until, workers_of
from small_sweep import rows_of, small_sweep
from waiting import STALLED_AFTER

from pareto_unlearn.config import SweepConfig


@pytest.fixture
def start() -> Iterator[Start]:
    with sessions() as begin:
        yield begin


@pytest.fixture(scope="module")
def undisturbed(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The finished small sweep, that nobody disturbed and that did without Ray: its rows must be the same."""
    return copy_small_sweep(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.nightly
@pytest.mark.parametrize("executor", ["tune", "pool"])
def test_interrupt_ends_with_130_and_can_be_continued(executor, start, tmp_path):
    process = start_until(in_phase_one, start, tmp_path, f"run.executor={executor}", "solver.steps=2000")
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=STALLED_AFTER)
    assert process.returncode == 130, talk
    assert "start the same command again" in talk


@pytest.mark.slow
@pytest.mark.parametrize(
    ("executor", "in_background"),
    [
        ("tune", False),
        pytest.param("tune", True, marks=pytest.mark.nightly),
        pytest.param("pool", False, marks=pytest.mark.nightly),
        pytest.param("pool", True, marks=pytest.mark.nightly),
    ],
)
def test_terminated_driver_ends_with_143(start, tmp_path, executor, in_background):
    """A script's background job has SIGINT ignored, and its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_background else None
    try:
        process = start_until(in_phase_one, start, tmp_path, f"run.executor={executor}", "solver.steps=2000")
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    process.terminate()
    process.communicate(timeout=STALLED_AFTER)
    assert process.returncode == 143


@pytest.mark.slow
@pytest.mark.parametrize("executor", [pytest.param("tune", marks=pytest.mark.nightly), "pool"])
def test_a_sweep_on_ray_has_the_rows_of_one_without_though_a_worker_is_killed(
    executor, start, undisturbed, tmp_path
):
    process = start_until(in_phase_one, start, tmp_path, f"run.executor={executor}")
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    _, talk = process.communicate(timeout=STALLED_AFTER)
    assert process.returncode == 0, talk
    assert rows_of(small_sweep(tmp_path)) == rows_of(undisturbed)
    assert talk.count(": started") == len(rows_of(undisturbed)) + 1  # the killed one is tried once more
