"""The panels of the report that the reader steers: metrics, all metrics at once, convergence."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_browser import Opened, needs_browser, started_browser
from synthetic_run import Planned, planned_trials, synthetic_info, synthetic_result, write_run

from pareto_unlearn.records import Phase, Role, TrialState
from pareto_unlearn.report import write_report
from pareto_unlearn.report.answers import answers
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.page import render
from pareto_unlearn.report.seeds import spreads
from pareto_unlearn.report.words import share
from pareto_unlearn.store import open_run


def crowded_plans() -> list[Planned]:
    """A front as the quickstart's: nearly all models are more than 85 % complete."""
    epsilon = "epsilon_constraint"
    plans = [Planned(Phase.ORIGINAL, "original", 1.0, 0.0)]
    plans += [
        Planned(Phase.EPSILON, epsilon, e, 0.003 / (e + 0.06), fraction=e)
        for e in (0.7, 0.14, 0.12, 0.1, 0.08, 0.06, 0.04, 0.03)
    ]
    return [*plans, Planned(Phase.BOUNDARY, epsilon, 0.012, 0.05, role=Role.HIGHEST)]


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def report(run_path: str) -> Report:
    return gather(open_run(run_path))


def test_a_solve_answers_whether_its_constraint_is_met_and_active_and_whether_it_converged(
    report: Report,
) -> None:
    curves = {curve.key: curve for curve in report.curves}

    def asked(label: str) -> dict[str, str]:
        key, one = next(pair for pair in enumerate(report.solutions) if pair[1].label == label)
        return {question: answer for question, answer, _ in answers(one, curves.get(key))}

    dash = "\u2013"
    names = ("constraint met?", "active?", "converged?")
    assert asked("epsilon 3.0%") == dict(zip(names, ("yes", "yes", "yes"), strict=True))
    assert asked("epsilon 41.0%") == dict(zip(names, ("no", "yes", dash), strict=True))
    assert asked("lowest") == dict(zip(names, (dash, dash, "no"), strict=True))
    assert asked("noisy_label") == dict(zip(names, (dash, dash, "no"), strict=True))


def test_a_model_far_below_its_epsilon_is_not_active_and_a_mixed_one_solved_nothing(report: Report) -> None:
    one = next(one for one in report.solutions if one.label == "epsilon 3.0%")
    reason = "constraint not active: f1 = 0.5 lies further below epsilon 0.6 than the 0.01 allowed; moved"
    slack = dataclasses.replace(one, state=TrialState.UNCONVERGED, reason=reason)
    assert [answer for _, answer, _ in answers(slack, None)] == ["yes", "no", "\u2013"]
    mixed = dataclasses.replace(one, start="path:80+90", steps=0)
    assert answers(mixed, None)[2][2] == "mixed from the path's checkpoints, nothing was solved"


def test_provenance_names_date_device_digests_images_and_what_was_spent(tmp_path: Path) -> None:
    info = dataclasses.replace(
        synthetic_info(), started="2026-11-28T10:00:00+00:00", versions="Python 3.11.2", weights_sha256="ab12"
    )
    results = [synthetic_result(plan) for plan in planned_trials()]
    results = [
        dataclasses.replace(one, record=dataclasses.replace(one.record, device="cpu (x86_64)"))
        for one in results
    ]
    path = write_run(str(tmp_path), results, info)
    manifest = (
        "image_id,class_name,set,split,sha256\na,0,forget,train,1\nb,0,forget,train,2\nc,5,retain,train,3\n"
    )
    Path(path, "manifest.csv").write_text(manifest)
    found = gather(open_run(path))
    assert found.origin.images == (("forget train", 2), ("retain train", 1))
    pairs = sum(one.record.gradient_pairs for one in results)
    assert (found.origin.spent[-1].phase, found.origin.spent[-1].gradient_pairs) == ("all", pairs)
    assert sum(one.seconds for one in found.origin.spent[:-1]) == pytest.approx(
        found.origin.spent[-1].seconds
    )
    page = render(found)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    for said in ("2026-11-28T10:00:00+00:00", "Python 3.11.2", "ab12", "cpu (x86_64)", digest, f"{pairs:,}"):
        assert said in page


def test_a_run_of_an_older_release_says_what_it_did_not_store(report: Report) -> None:
    assert render(report).count("not stored in this run") == 5


def test_areas_grow_to_the_scores_of_the_run_and_end_at_its_cost(report: Report, run_path: str) -> None:
    run = open_run(run_path)
    (own,) = (one for one in report.progress if one.method == "epsilon_constraint")
    for split, areas in own.areas.items():
        scores = run.scores(own.method, own.seed, split).areas
        assert [line[-1] for line in areas] == pytest.approx(scores, abs=1e-5)
        assert all(list(line) == sorted(line) for line in areas)
    assert own.pairs[-1] == run.gradient_pairs(own.method, 0) + run.measuring_pairs(own.method, 0)
    assert "retrained" not in {one.method for one in report.progress}


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory: pytest.TempPathFactory) -> str:
    results = [synthetic_result(plan) for seed in (0, 1, 2) for plan in planned_trials(seed)]
    return write_run(str(tmp_path_factory.mktemp("three")), results)


def test_three_seeds_have_a_median_between_the_best_and_the_worst(three_seeds: str, report: Report) -> None:
    found = gather(open_run(three_seeds))
    for view in found.fronts:
        assert view.band is not None
        ends = [dict(edge) for edge in (view.band.best, view.band.median, view.band.worst)]
        shared = set(ends[0]) & set(ends[1]) & set(ends[2])
        assert len(shared) > 5
        assert all(ends[0][x] <= ends[1][x] <= ends[2][x] for x in shared)
        assert any(ends[0][x] < ends[1][x] < ends[2][x] for x in shared)
    key = next(key for key, one in enumerate(found.solutions) if one.label == "epsilon 3.0% · seed 2")
    same = [one for one in found.solutions if one.label.startswith("epsilon 3.0%")]
    losses = sorted(one.train.retained_quality for one in same)
    said = f"retained quality {share(losses[1], 2)} ({share(losses[0], 2)} to {share(losses[2], 2)})"
    assert said in spreads(found.solutions)[key]["train"]
    assert all(view.band is None for view in report.fronts)
    assert report.seed_sliders == ()
    assert spreads(report.solutions) == {}


@needs_browser
def test_the_slider_runs_over_the_trials_of_one_seed(three_seeds: str) -> None:
    with started_browser() as browser:
        opened = Opened(browser, write_report(three_seeds), viewport={"width": 1280, "height": 900})
        page = opened.page
        seed = page.input_value("#seed")  # that of the model which the pooled seeds recommend
        page.locator("#epsilon").press("End")
        assert page.input_value("#epsilon") == "9"
        assert page.inner_text("#details h3").strip() == f"highest · seed {seed}"
        page.select_option("#seed", "2")
        assert page.inner_text("#details h3").strip() == "highest · seed 2"
        page.locator("#epsilon").press("ArrowLeft")
        assert page.inner_text("#details h3").strip() == "epsilon 3.0% · seed 2"
        page.locator("#trials button", has_text="lowest · seed 1").press("Enter")
        assert page.input_value("#seed") == "1"
        assert "Median of 3 seeds" in page.inner_text("#details")
        assert opened.complaints == []
        assert [url for url in opened.requests if not url.startswith("data:")] == opened.requests[:1]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    path = write_run(
        str(tmp_path_factory.mktemp("crowded")), [synthetic_result(plan) for plan in crowded_plans()]
    )
    with started_browser() as browser:
        page = Opened(browser, write_report(path), viewport={"width": 1280, "height": 900})
        yield page
        assert page.complaints == []
        assert [url for url in page.requests if not url.startswith("data:")] == page.requests[:1]


def drawn(opened: Opened, axis: str, figure: str = "metric-0") -> Any:
    return opened.page.evaluate(f"document.getElementById('figure-{figure}')._fullLayout.{axis}")


@needs_browser
def test_metric_axes_fit_the_crowd_and_say_so(opened: Opened) -> None:
    low, high = drawn(opened, "xaxis2.range")
    assert 80.0 < low < 86.0
    assert 98.8 < high < 102.0
    assert "where 8 of 10 models of the front lie" in opened.page.inner_text("#metric-said")
    symbols = opened.page.evaluate(
        "document.getElementById('figure-metric-0').data.filter((one) => one.customdata)"
        ".flatMap((one) => one.marker.symbol)"
    )
    assert sum(symbol.endswith("-open") for symbol in symbols) == 2 * 2  # two models, two rows


@needs_browser
def test_the_reader_chooses_metric_axis_and_range(opened: Opened) -> None:
    page = opened.page
    page.select_option("#metric-range", "all")
    assert drawn(opened, "xaxis2.range")[0] < 0.0
    assert page.inner_text("#metric-said") == ""
    page.check("#metric-zero")
    assert drawn(opened, "yaxis2.range")[0] <= 0.0
    page.select_option("#metric-across", label="still remembered, % (logarithmic)")
    assert drawn(opened, "xaxis2.type") == "log"
    assert drawn(opened, "xaxis2.ticktext")[:2] == ["1", "2"]
    page.select_option("#metric-across", label="Inception score, retain (builtin)")
    assert drawn(opened, "xaxis2.title.text") == "Inception score, retain (builtin)"
    page.select_option("#metric-choice", "1")
    assert not page.is_visible("#figure-metric-0")
    assert page.is_visible("#figure-metric-1")
    page.select_option("#metric-choice", "all")
    assert page.is_visible("#figure-metric-0")


@needs_browser
def test_areas_are_held_out_first_and_against_trials_or_pairs(opened: Opened) -> None:
    page = opened.page
    assert page.input_value("#progress-split") == "heldout"
    trials = page.evaluate("document.getElementById('figure-progress').data[0].x")
    assert trials == list(range(1, 10))
    page.select_option("#progress-across", "pairs")
    pairs = page.evaluate("document.getElementById('figure-progress').data[0].x")
    assert pairs[-1] > 400 * 9
    page.select_option("#progress-split", "train")
    assert drawn(opened, "xaxis.title.text", "progress") == "pairs + measuring"


@needs_browser
def test_between_two_trials_the_dial_names_the_line_that_makes_a_model(opened: Opened) -> None:
    page = opened.page
    page.locator("#epsilon").press("End")
    page.evaluate(
        "() => { const dial = document.getElementById('epsilon'); dial.value = '7.5';"
        " dial.dispatchEvent(new Event('input')); }"
    )
    line = page.inner_text("#details .between .command")
    assert line == "pareto-unlearn export runs/digits digits-0.035.safetensors --epsilon 0.035"
    assert "not measured" in page.inner_text("#dial-numbers")
    assert "between epsilon 4.0% and epsilon 3.0%" in page.inner_text("#dial-label")
    page.locator("#epsilon").press("ArrowRight")
    assert page.locator("#details .between").count() == 0
    assert page.inner_text("#dial-label").strip() == "highest"
    page.evaluate(
        "() => { const dial = document.getElementById('epsilon'); dial.value = '0.5';"
        " dial.dispatchEvent(new Event('input')); }"
    )
    assert "between original and epsilon 70.0%" in page.inner_text("#dial-label")


@needs_browser
def test_the_line_of_all_metrics_follows_the_selection(opened: Opened) -> None:
    page = opened.page
    page.locator("#trials button", has_text="highest").press("Enter")
    key = int(page.locator('#trials tr[aria-current="true"]').get_attribute("data-key"))
    bold = page.evaluate("document.getElementById('figure-parallel').data.at(-1)")
    assert set(bold["customdata"]) == {key, None}
    assert len(bold["x"]) == 10 + 1


@needs_browser
def test_convergence_shows_how_the_solve_was_steered(opened: Opened) -> None:
    page = opened.page
    page.locator("#trials button", has_text="epsilon 3.0%").press("Enter")
    names = page.evaluate("document.getElementById('figure-curve').data.map((one) => one.name)")
    assert names == ["f1", "epsilon", "f2", "eta", "|gradient of f1|", "|gradient of f2|", "cosine"]
    said = page.inner_text("#curve-answers")
    assert "constraint met?" in said
    assert "last eta" in said


@needs_browser
def test_a_phone_has_the_panels_of_convergence_below_one_another(opened: Opened) -> None:
    narrow = Opened(opened.page.context.browser, opened.page.url, viewport={"width": 390, "height": 844})
    assert narrow.page.evaluate("document.documentElement.scrollWidth") == 390
    assert drawn(narrow, "xaxis3.domain", "curve") == [0, 1]
    narrow.page.close()
