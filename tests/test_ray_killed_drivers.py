"""Sweeps on Ray whose driver is killed at three moments: the same command continues them to the same rows."""

from collections.abc import Iterator

import pytest
from ray_sweeps import (
    Start,
    between_the_phases,
    committed,
    end_session,
    in_phase_one,
    in_phase_two,
    run_to_the_end,
    sessions,
    start_until,
    workers_of,
)
from small_sweep import SMALL, rows_of, small_sweep
from waiting import STALLED_AFTER, wait_until

from pareto_unlearn.config import SweepConfig


@pytest.fixture
def start() -> Iterator[Start]:
    with sessions() as begin:
        yield begin


@pytest.fixture(scope="module")
def undisturbed(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The finished small sweep, that nobody disturbed and that did without Ray: its rows must be the same."""
    return copy_small_sweep(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(in_phase_one, marks=pytest.mark.nightly),
        pytest.param(between_the_phases, marks=pytest.mark.nightly),
        in_phase_two,
    ],
)
def test_killed_driver_is_continued_to_the_same_rows(moment, undisturbed, start, tmp_path):
    process = start_until(moment, start, tmp_path)
    process.kill()
    process.communicate(timeout=STALLED_AFTER)
    wait_until(lambda: not workers_of(process.pid))  # they outlive it for seconds, and may still commit
    end_session(process)
    before = committed(tmp_path)

    done = run_to_the_end(tmp_path, *SMALL)

    assert done.returncode == 0, done.stderr
    assert rows_of(small_sweep(tmp_path)) == rows_of(undisturbed)
    after = committed(tmp_path)
    assert {name: after[name] for name in before} == before  # no committed trial was written again
