"""What a person sees while a sweep runs, and that looking changes nothing."""

import dataclasses
import io
import math
from pathlib import Path

import pytest
from rich.console import Console
from short_path import PATH_SPEC, short_config
from synthetic_run import synthetic_info
from trial_rows import SCALES

from pareto_unlearn.records import ScanProgress, ScanRow, ValidRange
from pareto_unlearn.sweep.progress import ProgressDisplay, describe_range
from pareto_unlearn.sweep.worker import scan_from_plain
from pareto_unlearn.trial import Trial, load_material
from pareto_unlearn.trial.scan import scan_learning_rate

# The scan of a path's step size

RATES = (0.0005, 0.0015, 0.0045)


def under_way(place: int, step: int, rate: float = 0.0015, count: int = 3) -> ScanProgress:
    return ScanProgress(place=place, count=count, learning_rate=rate, step=step, steps=120)


def ended(*worth: float, chosen: float, is_at_edge: bool = False) -> ScanProgress:
    tried = zip(RATES, worth, strict=True)
    rows = tuple(ScanRow(learning_rate=rate, steps=120, hypervolume=one) for rate, one in tried)
    return dataclasses.replace(under_way(3, 120, chosen), rows=rows, is_at_edge=is_at_edge)


def said(*reports: ScanProgress, **console: bool) -> list[str]:
    """Return the lines about these reports, without the clock and the phase."""
    heard = io.StringIO()
    display = ProgressDisplay(
        Console(file=heard, width=200, **console), total=3, committed=0, config=short_config(Path("unused"))
    )
    for report in reports:
        display.on_scan(PATH_SPEC, report)
    return [line.split("Phase I   ")[1] for line in heard.getvalue().splitlines()]


def test_each_short_path_is_said_once_when_it_is_halfway():
    steps = (40, 60, 90, 120)
    assert said(*(under_way(place, step) for place in (1, 2) for step in steps)) == [
        "highest: finding the step size, 1 of 3 (0.0015), step 60 of 120",
        "highest: finding the step size, 2 of 3 (0.0015), step 60 of 120",
    ]


def test_a_scan_that_goes_on_beyond_its_edge_counts_on():
    assert said(under_way(3, 60), under_way(4, 70, 0.0135, count=4)) == [
        "highest: finding the step size, 3 of 3 (0.0015), step 60 of 120",
        "highest: finding the step size, 4 of 4 (0.0135), step 70 of 120",
    ]


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (
            ended(0.91234, 0.95, math.nan, chosen=0.0015),
            "step size 0.0015 chosen by its hypervolume: 0.0005 (0.912), 0.0015 (0.950), 0.0045 (not finite)",
        ),
        (
            ended(0.9, 0.8, 0.7, chosen=0.0005, is_at_edge=True),
            "step size 0.0005 chosen by its hypervolume: 0.0005 (0.900), 0.0015 (0.800), 0.0045 (0.700); "
            "it lies at the edge of the scan",
        ),
        (
            ended(math.nan, math.nan, math.nan, chosen=0.003),
            "step size 0.003 kept, as the scan chose none; hypervolumes: 0.0005 (not finite), "
            "0.0015 (not finite), 0.0045 (not finite)",
        ),
    ],
)
@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_the_outcome_names_all_that_was_tried_and_the_edge(outcome, line, terminal):
    (found,) = said(outcome, force_terminal=terminal)
    assert found == f"highest: {line}"


def test_a_live_table_shows_the_short_path_until_the_path_begins():
    heard = io.StringIO()
    console = Console(file=heard, width=200)
    display = ProgressDisplay(console, total=3, committed=0, config=short_config(Path("unused")))
    display.on_scan(PATH_SPEC, under_way(2, 30))
    console.print(display._render())
    assert "highest: finding the step size, 2 of 3 (0.0015) 30/120" in " ".join(heard.getvalue().split())
    display.on_progress(PATH_SPEC, 10, 0.5, 0.01)
    console.print(display._render())
    assert heard.getvalue().splitlines()[-1].split()[2:4] == ["highest", "10/80"]


def test_progress_survives_the_way_through_plain_values():
    for progress in (under_way(1, 60), ended(0.1, 0.2, 0.3, chosen=0.0045, is_at_edge=True)):
        assert scan_from_plain(dataclasses.asdict(progress)) == progress


def test_a_scan_that_reports_finds_the_same_to_the_last_bit(tmp_path):
    config = short_config(tmp_path, "solver.path.scan_length=0.3")
    reports: list[ScanProgress] = []
    quiet, heard = (
        scan_learning_rate(Trial(config, PATH_SPEC, load_material(config, tmp_path, "targets")), *hooks)
        for hooks in ((), (reports.append,))
    )
    assert quiet == heard
    *steps, outcome = reports
    assert list(outcome.rows) == heard
    assert outcome.learning_rate == max(heard, key=lambda row: row.hypervolume).learning_rate
    assert [report.place for report in steps] == sorted(report.place for report in steps)
    for place in range(1, len(heard) + 1):
        own = [report for report in steps if report.place == place]
        assert {report.learning_rate for report in own} < {row.learning_rate for row in heard}
        taken = [report.step for report in own]
        assert taken == sorted(set(taken))
        assert taken[-1] == own[0].steps == config.solver.path.scan_steps
    assert {report.rows for report in steps} == {()}


# The valid range


@pytest.mark.parametrize(
    ("bounded", "words"),
    [
        ("per_class", "f1 of the worst class 0.6 to 1.2, completeness of the worst class 90.0% to 30.0%"),
        ("mean", "f1 0.6 to 1.2, completeness 90.0% to 30.0%"),
        ("per_image", "f1 0.6 to 1.2, completeness 90.0% to 30.0%"),
        (None, "f1 0.6 to 1.2, completeness 90.0% to 30.0%"),
    ],
)
def test_the_valid_range_says_whether_it_is_that_of_the_worst_class(bounded, words):
    valid = ValidRange(seed=3, lower=0.6, upper=1.2, upper_source="lowest")
    info = dataclasses.replace(synthetic_info(), scales=SCALES, bounded=bounded)
    assert describe_range(valid, info).markup == (
        f"[bold]valid epsilon range (seed 3): {words}[/bold]; the upper end is the lowest boundary"
    )
