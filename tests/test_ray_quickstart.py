"""The whole quickstart on Ray, as a user runs it."""

import subprocess
from pathlib import Path

import pytest
from ray_sweeps import run_to_the_end
from scipy.stats import spearmanr

from pareto_unlearn.records import Phase, Role
from pareto_unlearn.store import open_run


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
