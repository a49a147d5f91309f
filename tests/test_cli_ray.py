"""The command line on Ray, as a user runs it: the whole quickstart, and drivers killed at three moments."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import spearmanr
from small_sweep import QUICKSTART, SMALL

from pareto_unlearn.config import load_config
from pareto_unlearn.records import Phase, Role
from pareto_unlearn.store import open_run
from pareto_unlearn.sweep import SweepOptions, run_sweep

MEASURED_TIMES = {"seconds", "images_per_second", "peak_memory_bytes"}
DEADLINE_SECONDS = 240


def sweep_command(storage: Path, *overrides: str) -> list[str]:
    arguments = [argument for override in overrides for argument in ("-o", override)]
    return [
        sys.executable,
        "-m",
        "pareto_unlearn",
        "sweep",
        str(QUICKSTART),
        "-o",
        f"run.storage={storage}",
        *arguments,
    ]


def rows_of(storage: Path) -> list[dict[str, object]]:
    return [
        {key: repr(value) for key, value in dataclasses.asdict(record).items() if key not in MEASURED_TIMES}
        for record in open_run(str(storage / "quickstart")).records
    ]


def committed(storage: Path) -> dict[str, int]:
    """Committed trial parts and when each was written."""
    return {
        part.name: part.stat().st_mtime_ns
        for part in (storage / "quickstart" / "trials").glob("part-*.parquet")
    }


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the sweep ended or hung before the moment came: {process.communicate()}")
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start sweeps in their own process groups; whatever is left of them is killed by pid afterwards."""
    started: list[subprocess.Popen[str]] = []

    def begin(*command: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep that nobody disturbed, and that did without Ray: its rows must be the same."""
    storage = tmp_path_factory.mktemp("undisturbed")
    config = load_config(QUICKSTART, [*SMALL, "run.executor=local", f"run.storage={storage}"])
    assert run_sweep(config, SweepOptions(), Console(quiet=True)) == 0
    return storage


def in_phase_one(storage: Path) -> bool:
    """A boundary trial has kept a resume state and none is committed."""
    checkpoints = storage / "quickstart" / "checkpoints"
    return any(checkpoints.glob("*/.resume-*/MANIFEST.json"))


def between_the_phases(storage: Path) -> bool:
    """Both boundary trials are committed."""
    return len(committed(storage)) >= 2


def in_phase_two(storage: Path) -> bool:
    """Some epsilon trial is committed beside boundaries."""
    return len(committed(storage)) >= 4


@pytest.mark.parametrize("moment", [in_phase_one, between_the_phases, in_phase_two])
def test_killed_driver_is_continued_to_the_same_rows(moment, undisturbed, start, tmp_path):
    process = start(*sweep_command(tmp_path, *SMALL))
    wait_until(lambda: moment(tmp_path), process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(6)  # workers of a dead driver live on for some seconds and may still commit
    before = committed(tmp_path)

    done = subprocess.run(
        sweep_command(tmp_path, *SMALL), capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )

    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path) == rows_of(undisturbed)
    after = committed(tmp_path)
    assert {name: after[name] for name in before} == before  # no committed trial was written again


def test_interrupt_ends_with_130_and_can_be_continued(start, tmp_path):
    process = start(*sweep_command(tmp_path, *SMALL, "solver.steps=2000"))
    wait_until(lambda: in_phase_one(tmp_path), process)
    os.kill(process.pid, signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130, talk
    assert "start the same command again" in talk


def test_terminated_driver_ends_with_143(start, tmp_path):
    process = start(*sweep_command(tmp_path, *SMALL, "solver.steps=2000"))
    wait_until(lambda: in_phase_one(tmp_path), process)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_killed_worker_is_retried_and_the_sweep_completes(start, undisturbed, tmp_path):
    process = start(*sweep_command(tmp_path, *SMALL))
    wait_until(lambda: in_phase_one(tmp_path), process)
    os.kill(_worker_of(process.pid), signal.SIGKILL)
    _, talk = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, talk
    assert rows_of(tmp_path) == rows_of(undisturbed)


def _worker_of(driver: int) -> int:
    """Return the pid of a Ray worker that runs a trial of this driver."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            same_session = os.getsid(int(entry.name)) == os.getsid(driver)
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except (ProcessLookupError, FileNotFoundError):
            continue
        if same_session and b"ImplicitFunc" in title:
            return int(entry.name)
    raise AssertionError("no worker of this sweep runs")


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The shipped quickstart, unchanged but for where it stores."""
    storage = tmp_path_factory.mktemp("quickstart")
    command = sweep_command(storage)
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return storage, done


def test_quickstart_constraint_holds_within_two_percent_of_the_range(quickstart):
    points = [
        record for record in open_run(str(quickstart[0] / "quickstart")).records if record.epsilon is not None
    ]
    assert len(points) == 9
    for record in points:
        assert max(record.f1 - record.epsilon, 0.0) <= 0.02 * record.range_width


def test_quickstart_branches_off_the_path(quickstart):
    run = open_run(str(quickstart[0] / "quickstart"))
    path = next(record for record in run.records if record.role is Role.HIGHEST)
    points = [record for record in run.records if record.epsilon is not None]
    assert {record.parents for record in points} == {path.trial_id}
    assert all(record.start.startswith("path:") for record in points)
    assert all(record.completeness_worst_class is not None for record in points)


def test_no_baseline_of_the_quickstart_dominates_a_point_of_ours(quickstart):
    run = open_run(str(quickstart[0] / "quickstart"))
    baselines = [record for record in run.records if record.phase is Phase.BASELINE]
    for point in (record for record in run.records if record.epsilon is not None):
        assert not [rival.label for rival in baselines if rival.f1 <= point.f1 and rival.f2 <= point.f2], (
            point.label
        )


def test_less_is_lost_on_the_retain_set_as_epsilon_rises(quickstart):
    """Up to a swap of neighbours: branches of 200 steps a hundredth of the range apart differ by noise."""
    run = open_run(str(quickstart[0] / "quickstart"))
    points = [(record.epsilon, record.f2) for record in run.records if record.epsilon is not None]
    assert spearmanr(points).statistic < -0.9


def test_quickstart_beats_the_composite_loss(quickstart):
    run = open_run(str(quickstart[0] / "quickstart"))
    assert run.hypervolume(method="epsilon_constraint") > 1.5 * run.hypervolume(method="composite")


def test_quickstart_talks_on_stderr_and_writes_a_report(quickstart):
    storage, done = quickstart
    assert "valid epsilon range" in done.stderr
    assert "hypervolume" in done.stderr
    assert (storage / "quickstart" / "report.html").stat().st_size < 8e6


def test_quickstart_tables_are_read_by_duckdb_and_pandas(quickstart):
    import duckdb
    import pandas as pd

    run = quickstart[0] / "quickstart"
    rows = duckdb.sql(f"select trial_id from '{run}/trials/*.parquet' where completeness > 0.9").fetchall()
    frame = pd.read_parquet(run / "trials")
    assert len(rows) == (frame.completeness > 0.9).sum() > 0
