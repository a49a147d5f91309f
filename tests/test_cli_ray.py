"""The command line on Ray, as a user runs it: the whole quickstart, and drivers killed at three moments."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scipy.stats import spearmanr
from small_sweep import QUICKSTART, SMALL, rows_of, small_sweep
from waiting import STALLED_AFTER, run_process, wait_until

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.records import Phase, Role
from pareto_unlearn.store import open_run

Process = subprocess.Popen[str]
Start = Callable[..., Process]

RAY_GAVE_UP = "The current node timed out during startup"
"""What Ray says 30 seconds after its start, a deadline nobody can set: under load, another try may help."""
TRIES = 10


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


def committed(storage: Path) -> dict[str, int]:
    """Committed trial parts and when each was written."""
    return {
        part.name: part.stat().st_mtime_ns
        for part in (storage / "quickstart" / "trials").glob("part-*.parquet")
    }


@pytest.fixture
def start() -> Iterator[Start]:
    """Start sweeps in sessions of their own; whatever is left of them is killed by pid afterwards."""
    started: list[Process] = []

    def begin(*command: str) -> Process:
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
def undisturbed(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The finished small sweep, that nobody disturbed and that did without Ray: its rows must be the same."""
    return copy_small_sweep(tmp_path_factory.mktemp("undisturbed"))


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


def workers_of(driver: int) -> dict[int, bytes]:
    """Return pids and titles of the Ray workers of a driver, which is the leader of its session."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            same_session = os.getsid(int(entry.name)) == driver
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
        except (ProcessLookupError, FileNotFoundError):
            continue
        if same_session and title.startswith(b"ray::"):
            found[int(entry.name)] = title
    return found


def start_until(moment: Callable[[Path], bool], start: Start, storage: Path, *overrides: str) -> Process:
    """Start a small sweep and return its driver at that moment."""
    for _ in range(TRIES):
        process = start(*sweep_command(storage, *SMALL, *overrides))
        try:
            wait_until(lambda: moment(storage), process)
        except AssertionError as error:
            if RAY_GAVE_UP not in str(error):
                raise
        else:
            return process
    raise AssertionError(f"stalled: Ray did not start in {TRIES} tries")


def run_to_the_end(storage: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep on Ray and return what it said."""
    for _ in range(TRIES):
        done = run_process(sweep_command(storage, *overrides))
        if RAY_GAVE_UP not in done.stderr:
            break
    return done


@pytest.mark.slow
@pytest.mark.parametrize("moment", [in_phase_one, between_the_phases, in_phase_two])
def test_killed_driver_is_continued_to_the_same_rows(moment, undisturbed, start, tmp_path):
    process = start_until(moment, start, tmp_path)
    process.kill()
    process.communicate(timeout=STALLED_AFTER)
    wait_until(
        lambda: not workers_of(process.pid)
    )  # they outlive a dead driver for a while, and may still commit
    before = committed(tmp_path)

    done = run_to_the_end(tmp_path, *SMALL)

    assert done.returncode == 0, done.stderr
    assert rows_of(small_sweep(tmp_path)) == rows_of(undisturbed)
    after = committed(tmp_path)
    assert {name: after[name] for name in before} == before  # no committed trial was written again


@pytest.mark.slow
def test_interrupt_ends_with_130_and_can_be_continued(start, tmp_path):
    process = start_until(in_phase_one, start, tmp_path, "solver.steps=2000")
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=STALLED_AFTER)
    assert process.returncode == 130, talk
    assert "start the same command again" in talk


@pytest.mark.slow
def test_terminated_driver_ends_with_143(start, tmp_path):
    process = start_until(in_phase_one, start, tmp_path, "solver.steps=2000")
    process.terminate()
    process.communicate(timeout=STALLED_AFTER)
    assert process.returncode == 143


@pytest.mark.slow
def test_a_sweep_on_ray_has_the_rows_of_one_without_though_a_worker_is_killed(start, undisturbed, tmp_path):
    process = start_until(in_phase_one, start, tmp_path)
    solving = [pid for pid, title in workers_of(process.pid).items() if b"ImplicitFunc" in title]
    os.kill(solving[0], signal.SIGKILL)
    _, talk = process.communicate(timeout=STALLED_AFTER)
    assert process.returncode == 0, talk
    assert rows_of(small_sweep(tmp_path)) == rows_of(undisturbed)


# The whole quickstart


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The shipped quickstart, unchanged but for where it stores."""
    storage = tmp_path_factory.mktemp("quickstart")
    done = run_to_the_end(storage)
    assert done.returncode == 0, done.stderr
    return storage, done


@pytest.mark.slow
def test_quickstart_constraint_holds_within_two_percent_of_the_range(quickstart):
    points = [
        record for record in open_run(str(quickstart[0] / "quickstart")).records if record.epsilon is not None
    ]
    assert len(points) == 9
    for record in points:
        assert max(record.f1 - record.epsilon, 0.0) <= 0.02 * record.range_width


@pytest.mark.slow
def test_quickstart_branches_off_the_path(quickstart):
    run = open_run(str(quickstart[0] / "quickstart"))
    path = next(record for record in run.records if record.role is Role.HIGHEST)
    points = [record for record in run.records if record.epsilon is not None]
    assert {record.parents for record in points} == {path.trial_id}
    assert all(record.start.startswith("path:") for record in points)
    assert all(record.completeness_worst_class is not None for record in points)


@pytest.mark.slow
def test_no_baseline_of_the_quickstart_dominates_a_point_of_ours(quickstart):
    run = open_run(str(quickstart[0] / "quickstart"))
    baselines = [record for record in run.records if record.phase is Phase.BASELINE]
    for point in (record for record in run.records if record.epsilon is not None):
        assert not [rival.label for rival in baselines if rival.f1 <= point.f1 and rival.f2 <= point.f2], (
            point.label
        )


@pytest.mark.slow
def test_less_is_lost_on_the_retain_set_as_epsilon_rises(quickstart):
    """Up to a swap of neighbours: branches of 200 steps a hundredth of the range apart differ by noise."""
    run = open_run(str(quickstart[0] / "quickstart"))
    points = [(record.epsilon, record.f2) for record in run.records if record.epsilon is not None]
    assert spearmanr(points).statistic < -0.9


@pytest.mark.slow
def test_quickstart_beats_the_composite_loss(quickstart):
    run = open_run(str(quickstart[0] / "quickstart"))
    assert run.hypervolume(method="epsilon_constraint") > 1.5 * run.hypervolume(method="composite")


@pytest.mark.slow
def test_quickstart_talks_on_stderr_and_writes_a_report(quickstart):
    storage, done = quickstart
    assert "valid epsilon range" in done.stderr
    assert "hypervolume" in done.stderr
    assert (storage / "quickstart" / "report.html").stat().st_size < 8e6


@pytest.mark.slow
def test_quickstart_tables_are_read_by_duckdb_and_pandas(quickstart):
    import duckdb
    import pandas as pd

    run = quickstart[0] / "quickstart"
    rows = duckdb.sql(f"select trial_id from '{run}/trials/*.parquet' where completeness > 0.9").fetchall()
    frame = pd.read_parquet(run / "trials")
    assert len(rows) == (frame.completeness > 0.9).sum() > 0
