"""Runs side by side: settings that differ, one box for all hypervolumes, points at the papers' fractions."""

import csv
import dataclasses
import io
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from report_browser import Opened, needs_browser, started_browser
from synthetic_run import SCALES, SWEEP_FILE, planned_trials, synthetic_info, synthetic_result, write_run
from typer.testing import CliRunner

from pareto_unlearn.analysis.attainment_difference import attainment_difference
from pareto_unlearn.analysis.front import hypervolume
from pareto_unlearn.cli import app
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.records import HAS_MODEL, Phase
from pareto_unlearn.report import write_comparison_page
from pareto_unlearn.report.comparison import ComparisonFormat, RunComparison, compare_runs, write_comparison
from pareto_unlearn.report.solution import Split
from pareto_unlearn.store import open_run

WIDER = (SCALES.f1_original, 0.1)


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    def build(name: str, sweep_file: str = SWEEP_FILE, *seeds: int, **changes: object) -> str:
        made = [synthetic_result(plan) for seed in seeds or (0,) for plan in planned_trials(seed)]
        info = dataclasses.replace(synthetic_info(name), **changes)
        return write_run(str(tmp_path_factory.mktemp("runs")), made, info, sweep_file)

    return build


@pytest.fixture(scope="module")
def paths(make_run) -> list[str]:
    other = SWEEP_FILE.replace("digits\n", "other\n", 1).replace("steps: 400", "steps: 800")
    return [make_run("first"), make_run("second", other, 0, 1, reference_point=WIDER)]


@pytest.fixture(scope="module")
def both(paths) -> RunComparison:
    return compare_runs([open_run(path) for path in paths])


def test_only_what_can_change_a_result_is_a_difference(both):
    assert both.runs[0].differences == ()
    assert both.runs[1].differences == ("solver.steps: 400 -> 800",)


def test_a_key_that_an_older_release_did_not_know_is_no_difference(make_run):
    older = SWEEP_FILE.replace("{dataset: digits}", "{dataset: digits, forget_classes: 5}")
    newer = older.replace("classes: 5}", "classes: 5, follow_links: false}") + "task: {masks: null}\n"
    found = compare_runs([open_run(make_run("older", older)), open_run(make_run("newer", newer))])
    assert found.runs[1].differences == ()


def test_all_runs_share_the_largest_box(both, paths):
    reference = (1.0, WIDER[1] / SCALES.variance_retain)
    assert both.reference == pytest.approx(reference)
    run = open_run(paths[1])
    volumes = []
    for seed in (0, 1):
        rows = [
            (record.e, 1.0 - record.retained_quality)
            for record in run.records
            if record.state in HAS_MODEL and record.method == "epsilon_constraint" and record.seed == seed
        ]
        volumes.append(hypervolume(np.array(rows), (0.0, 0.0), reference))
    found = both.runs[1].hypervolume
    assert (found.mean, found.spread) == pytest.approx((statistics.mean(volumes), statistics.stdev(volumes)))


def test_hypervolume_of_one_run_is_its_own(make_run):
    run = open_run(make_run("alone"))
    assert compare_runs([run]).runs[0].hypervolume.mean == pytest.approx(
        run.hypervolume("epsilon_constraint", 0)
    )


def test_points_are_the_boundary_and_the_fractions_of_the_papers(both, paths):
    points = {point.name: point for point in both.runs[0].reached}
    assert list(points) == ["highest", "epsilon 25%", "epsilon 50%", "epsilon 75%"]
    quarter = next(
        one
        for one in open_run(paths[0]).records
        if one.phase is Phase.EPSILON and one.epsilon_fraction == 0.25
    )
    assert points["epsilon 25%"].completeness.mean == quarter.completeness
    assert points["epsilon 25%"].loss.mean == pytest.approx(1.0 - quarter.retained_quality)
    assert points["epsilon 50%"].loss is None


def test_heldout_images_have_columns_and_a_box_of_their_own(both, paths):
    heldout = compare_runs([open_run(path) for path in paths], Split.HELDOUT)
    fronts = [
        record
        for path in paths
        for record in open_run(path).records
        if record.state in HAS_MODEL
        and record.method == "epsilon_constraint"
        and record.phase in (Phase.BOUNDARY, Phase.EPSILON)
    ]
    worst = max(
        1.0 - record.retained_quality_heldout
        for record in fronts
        if record.retained_quality_heldout is not None
    )
    assert heldout.reference == pytest.approx((1.0, worst))
    quarter = next(one for one in fronts if one.epsilon_fraction == 0.25)
    point = next(point for point in heldout.runs[0].reached if point.name == "epsilon 25%")
    assert point.completeness.mean == quarter.completeness_heldout
    assert point.loss.mean == pytest.approx(1.0 - quarter.retained_quality_heldout)
    assert heldout.runs[0].hypervolume != both.runs[0].hypervolume
    assert "held-out images" in heldout.notes[0]
    assert "training images" in both.notes[0]


def test_endings_are_counted(both):
    assert both.runs[0].endings == "16 DONE, 1 INFEASIBLE, 1 UNCONVERGED, 1 DIVERGED, 1 FAILED"


def test_another_problem_is_pointed_out(both, make_run):
    assert not any("other problems" in note for note in both.notes)
    runs = [
        open_run(make_run(name, f"{SWEEP_FILE}task: {{size: {size}}}\n"))
        for name, size in (("half", 0.5), ("quarter", 0.25))
    ]
    assert any("other problems" in note for note in compare_runs(runs).notes)


def test_smoke_is_said(make_run):
    assert any("SMOKE" in note for note in compare_runs([open_run(make_run("try", smoke=True))]).notes)


def test_a_run_without_its_sweep_file_is_refused(make_run):
    run = open_run(make_run("lost"))
    Path(run.path, "sweep.yaml").unlink()
    with pytest.raises(StoreError, match="nobody can say how this run differs"):
        compare_runs([run])


def test_csv_has_every_number_and_markdown_every_run(both):
    rows = list(csv.DictReader(io.StringIO(write_comparison(both, ComparisonFormat.CSV))))
    assert float(rows[0]["highest loss"]) == pytest.approx(0.0612)
    assert rows[1]["differences"] == "solver.steps: 400 -> 800"
    text = write_comparison(both, ComparisonFormat.MARKDOWN)
    assert [line.split(" | ")[0] for line in text.splitlines()[2:4]] == ["| first", "| second"]


def test_command_prints_the_table(paths):
    done = CliRunner().invoke(app, ["compare", *paths])
    assert done.exit_code == 0, done.output
    assert "solver.steps: 400 -> 800" in done.output
    other = CliRunner().invoke(app, ["compare", *paths, "--split", "heldout"])
    assert "held-out images" in other.output
    refused = CliRunner().invoke(app, ["compare", *paths, "--format", "latex"])
    assert refused.exit_code == 2


def test_a_difference_of_attainment_is_the_share_of_fronts_more():
    near, far = np.array([[0.2, 0.1]]), np.array([[0.4, 0.3], [np.nan, 0.0]])
    found = attainment_difference([near, near, far], [far, far, far])
    inside = [row for row in found if row[0] <= 0.3 < row[2] and row[1] <= 0.2 < row[3]]
    assert [row[4] for row in inside] == [pytest.approx(2 / 3)]
    assert not [row for row in found if row[0] <= 0.5 < row[2] and row[1] <= 0.5 < row[3]]
    assert np.array_equal(
        attainment_difference([far], [near])[:, 4], -attainment_difference([near], [far])[:, 4]
    )
    with pytest.raises(ValueError, match="equally many fronts, found 1 and 2"):
        attainment_difference([near], [far, far])


def test_the_page_holds_the_fronts_and_their_differences_and_obeys_no_name(make_run, tmp_path):
    bad = "</script><img src=http://x.example/>"
    other = SWEEP_FILE.replace("steps: 400", "steps: 800")
    paths = [make_run("first", SWEEP_FILE, 0, 1, 2), make_run(bad, other, 0, 1, 2)]
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["compare", *paths, "--html", str(page)])
    assert (done.exit_code, done.stdout) == (0, f"{page}\n")
    text = page.read_text()
    assert "<img" not in text
    assert "connect-src" not in text
    assert "default-src 'none'" in text
    assert "solver.steps: 400 -&gt; 800" in text
    data = json.loads(text.split('id="report-data">')[1].split("</script>")[0])
    assert list(data["figures"]) == ["figure-front-heldout", "figure-front-train"]  # equal runs do not differ
    traces = data["figures"]["figure-front-heldout"]["data"]
    assert len(traces) == 2 * 2 * 3
    models = [one for one in open_run(paths[0]).records if one.seed == 0 and one.e_heldout is not None]
    known = {round(100 * (1 - one.e_heldout), 6) for one in models}
    assert {round(x, 6) for x in traces[1]["x"]} <= known
    assert len(traces[1]["x"]) > 3


@needs_browser
def test_the_page_needs_no_network_shows_what_differs_and_fits_a_phone(paths, tmp_path):
    path = write_comparison_page(paths, str(tmp_path / "page.html"))
    with started_browser() as browser:
        wide = Opened(browser, path, viewport={"width": 1280, "height": 900})
        phone = Opened(browser, path, viewport={"width": 390, "height": 844})
        for opened in (wide, phone):
            assert opened.complaints == []
            assert [url for url in opened.requests if not url.startswith("data:")] == opened.requests[:1]
            drawn = "[...document.querySelectorAll('.figure')].map((one) => one.data.length)"
            assert opened.page.evaluate(drawn) == [2 * 3, 2 * 3]  # of one seed and of two, held out and not
        second = wide.page.locator("#settings tbody tr", has_text="second")
        assert "solver.steps: 400 -> 800" in second.inner_text()
        assert second.is_visible()
        assert phone.page.evaluate("document.documentElement.scrollWidth") == 390


def test_unlike_runs_are_no_page(make_run, tmp_path):
    paths = [
        make_run(name, f"{SWEEP_FILE}task: {{size: {size}}}\n") for name, size in (("x", 0.5), ("y", 0.4))
    ]
    done = CliRunner().invoke(app, ["compare", *paths, "--html", str(tmp_path / "page.html")])
    assert isinstance(done.exception, ConfigError)
    assert re.search(r"y differs from x in task\.size: 0\.5 -> 0\.4", str(done.exception))
    assert not (tmp_path / "page.html").exists()
