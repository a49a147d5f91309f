"""The report of a run with more models than a page can show: a choice of pictures, windows, lazy figures."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import call
from report_browser import Opened, needs_browser, started_browser
from synthetic_run import planned_trials, synthetic_result, write_run

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.report import shown, write_report
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.page import page_data, render
from pareto_unlearn.report.solution import Kind
from pareto_unlearn.store import open_run

CHOSEN = 9


@pytest.fixture(scope="module", autouse=True)
def small_limits() -> Iterator[None]:
    """Limits that a run of sixty trials exceeds, so that no test has to make a thousand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shown, "MOST", 20)
        patch.setattr(shown, "CHOSEN", CHOSEN)
        yield


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = [synthetic_result(plan) for seed in range(5) for plan in planned_trials(seed)]
    return write_run(str(tmp_path_factory.mktemp("large") / "runs"), results)


@pytest.fixture(scope="module")
def report(run_path: str) -> Report:
    return gather(open_run(run_path))


def test_shown_are_the_landmarks_and_others_over_the_whole_front(report: Report) -> None:
    assert len(report.shown) == CHOSEN
    assert report.recommended is not None
    seed = report.solutions[report.recommended.key].seed
    kinds = [report.solutions[key].kind for key in report.shown]
    assert kinds[0] is Kind.ORIGINAL
    assert report.recommended.key in report.shown
    ends = [key for key in report.shown if report.solutions[key].kind is Kind.BOUNDARY]
    assert {report.solutions[key].label for key in ends} >= {
        f"{name} · seed {seed}" for name in ("highest", "lowest")
    }
    assert kinds.count(Kind.BASELINE) >= 1
    assert set(report.shown) | set(report.left_out) == {*report.fronts[0].keys}
    assert report.grid.columns == report.shown
    assert f"Shown are {CHOSEN} of {len(report.fronts[0].keys)} models" in render(report)


def test_every_model_keeps_its_point_its_row_and_its_worst_class(report: Report) -> None:
    data = page_data(report)
    key = report.left_out[0]
    assert str(key) in data["front"]["train-linear"]["positions"]
    assert "keeps" in data["solutions"][key]["worst"]["train"]
    page = render(report)
    assert page.count('<tr data-key="') == len(report.solutions)
    assert page.count(f'<th scope="col" data-key="{key}"') == 0


def test_a_model_is_shown_by_its_name(run_path: str, report: Report, tmp_path: Path) -> None:
    left_out = report.solutions[report.left_out[0]]
    found = gather(open_run(run_path), pictures=[left_out.trial_id, "epsilon 3.0% · seed 4"])
    labels = {found.solutions[key].label for key in found.shown}
    assert {left_out.label, "epsilon 3.0% · seed 4"} <= labels
    assert len(found.shown) == CHOSEN
    with pytest.raises(ConfigError, match="epsilon 99%"):
        gather(open_run(run_path), pictures=["epsilon 99%"])


def test_a_usual_run_shows_all(run_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "MOST", 100)
    found = gather(open_run(run_path))
    assert (found.shown, found.left_out) == (found.grid.columns, ())
    for word in ("Shown are", "trials-find"):
        assert word not in render(found).split("<main>")[1].split("</main>")[0]


@pytest.fixture(scope="module")
def opened(run_path: str) -> Iterator[Opened]:
    with started_browser() as browser:
        page = Opened(browser, write_report(run_path), viewport={"width": 1280, "height": 700})
        yield page
        assert page.complaints == []


def rows(opened: Opened) -> int:
    return int(opened.page.locator("#trials tbody tr[data-key]").count())


@needs_browser
def test_the_table_draws_the_rows_in_view_and_follows_the_selection(opened: Opened, report: Report) -> None:
    page = opened.page
    assert rows(opened) < len(report.solutions)
    page.locator("#trials").scroll_into_view_if_needed()
    page.locator("#epsilon").press("End")
    page.wait_for_selector('#trials tr[aria-current="true"]')
    name = page.inner_text("#details h3").strip()
    assert opened.selected_row() == name
    page.fill("#trials-find", "noisy_label")
    assert rows(opened) == 5
    assert page.inner_text("#trials-found") == f"5 of {len(report.solutions)} trials"
    page.fill("#trials-find", "")
    head = page.locator("#trials thead th").nth(4)
    head.locator("button").press("Enter")
    first = opened.column(4)[1]
    lowest = min(one.train.f1 for one in report.solutions if one.train.f1 is not None)
    assert float(first) == pytest.approx(lowest, abs=1e-3)


@needs_browser
def test_a_figure_is_drawn_when_it_comes_into_view_with_the_ring_where_it_belongs(
    opened: Opened, report: Report
) -> None:
    fresh = Opened(opened.page.context.browser, opened.page.url, viewport={"width": 1280, "height": 700})
    page = fresh.page
    assert page.locator("#figure-front.js-plotly-plot").count() == 1
    assert page.locator("#figure-metric-0.js-plotly-plot").count() == 0
    page.locator("#epsilon").press("End")
    page.evaluate("document.getElementById('figure-metric-0').scrollIntoView()")
    page.wait_for_selector("#figure-metric-0.js-plotly-plot", state="attached")
    label = page.inner_text("#details h3").strip()
    key = next(key for key, one in enumerate(report.solutions) if one.label == label)
    ring, place = page.evaluate(
        """(key) => {
        const div = document.getElementById('figure-metric-0'), axis = div._fullLayout.yaxis;
        const own = div.data.filter((one) => one.customdata?.includes(key) && one.yaxis === 'y').at(-1);
        const top = parseFloat(div.querySelector('.ring').style.top) - axis._offset;
        return [axis.p2d(top), own.y[own.customdata.indexOf(key)]];
    }""",
        key,
    )
    assert ring == pytest.approx(place, rel=1e-3)  # CSS rounds to a part of a pixel
    assert fresh.complaints == []
    page.close()


@needs_browser
def test_a_model_without_pictures_has_the_line_that_shows_it(
    opened: Opened, run_path: str, tmp_path: Path
) -> None:
    page = opened.page
    page.fill("#trials-find", "epsilon 14.0% · seed 3")
    page.locator("#trials tbody button").press("Enter")
    line = page.locator("#details .command").last.inner_text()
    words = shlex.split(line)
    assert words[:4] == ["pareto-unlearn", "report", "runs/digits", "--pictures"]
    written = call("report", run_path, *words[3:], "--out", tmp_path / "page.html")
    assert written.returncode == 0, written.stderr
    other = Opened(page.context.browser, str(tmp_path / "page.html"))
    other.page.fill("#trials-find", "epsilon 14.0% · seed 3")
    other.page.locator("#trials tbody button").press("Enter")
    assert other.page.locator("#details .strip-forget img").count() == 15
    other.page.close()


@needs_browser
def test_paper_has_every_row(opened: Opened, report: Report) -> None:
    opened.page.fill("#trials-find", "")
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert rows(opened) == len(report.solutions)
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert rows(opened) < len(report.solutions)
