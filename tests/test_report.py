"""The report: facts gathered from a store, figures, the page's safety, and the page in a real browser."""

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_browser import Opened, needs_browser, started_browser
from synthetic_run import (
    FORGET,
    SCALES,
    SWEEP_FILE,
    Planned,
    class_completeness,
    epsilon_range,
    planned_trials,
    synthetic_info,
    synthetic_result,
    write_run,
)
from waiting import wait_until

from pareto_unlearn.analysis.picking import Criteria
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.pick import pick_run
from pareto_unlearn.records import MetricRow, Phase, SampleRow, TrialResult, TrialState
from pareto_unlearn.report import Live, write_report
from pareto_unlearn.report.facts import Report
from pareto_unlearn.report.figures import CONFIG, plain
from pareto_unlearn.report.frame import embedded_json
from pareto_unlearn.report.front_figure import edge_labels, front_figure
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.page import no_curve, page_data, render
from pareto_unlearn.report.solution import Kind, Solution, Split
from pareto_unlearn.report.tables import worst_sentence
from pareto_unlearn.report.verdict import verdict
from pareto_unlearn.report.views import axis_limits, curve_places, curves, image_grid
from pareto_unlearn.report.words import number, share
from pareto_unlearn.store import open_run

HOSTILE = '</script><img src=x onerror="document.title=1">&amp;<b>=cmd()'
LIMIT_BYTES = 8_000_000


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(str(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def report(run_path: str) -> Report:
    return gather(open_run(run_path), "name: digits\n")


@pytest.fixture(scope="module")
def page_path(run_path: str) -> str:
    return write_report(run_path)


def small_run(folder: Path, plans: list[Planned]) -> Report:
    path = write_run(str(folder), [synthetic_result(plan) for plan in plans])
    return gather(open_run(path))


def by_label(report: Report, label: str) -> int:
    return next(key for key, solution in enumerate(report.solutions) if solution.label == label)


def hostile_results() -> list[TrialResult]:
    """Three trials whose method, class names, reasons and image ids are an attack."""
    results = []
    plans = planned_trials()
    for plan in (plans[0], plans[1], next(plan for plan in plans if plan.method == "max_loss")):
        result = synthetic_result(plan)
        metrics = tuple(
            dataclasses.replace(row, class_name=HOSTILE, metric=row.metric)
            if row.class_name is not None
            else dataclasses.replace(row, protocol=HOSTILE)
            for row in result.metrics
        )
        samples = tuple(
            dataclasses.replace(row, class_name=HOSTILE, image_id=row.image_id + HOSTILE)
            for row in result.samples
        )
        record = dataclasses.replace(
            result.record,
            reason="=1+1" + HOSTILE,
            method=HOSTILE if plan.phase is Phase.BASELINE else plan.method,
        )
        results.append(dataclasses.replace(result, record=record, metrics=metrics, samples=samples))
    return results


def hostile_run(folder: Path) -> str:
    info = dataclasses.replace(
        synthetic_info(name=HOSTILE),
        objective=HOSTILE,
        classes_forget=(HOSTILE,),
        classes_retain=(HOSTILE,),
        code_version=HOSTILE,
    )
    return write_run(str(folder), hostile_results(), info, sweep_file=HOSTILE)


# What is gathered


def test_models_run_from_original_over_rising_completeness_to_baselines(report: Report) -> None:
    kinds = [solution.kind for solution in report.solutions]
    assert kinds[0] is Kind.ORIGINAL
    assert kinds.index(Kind.BASELINE) == 1 + sum(kind in (Kind.BOUNDARY, Kind.EPSILON) for kind in kinds)
    completeness = [report.solutions[key].train.completeness for key in report.slider]
    assert completeness == sorted(completeness)


def test_slider_holds_the_original_and_every_model_of_the_epsilon_method(report: Report) -> None:
    assert len(report.slider) == 10
    assert report.solutions[report.slider[-1]].label == "highest"


def test_verdict_names_count_spans_and_budget(report: Report) -> None:
    said = report.verdict.replace("\u00a0", " ")
    assert said.startswith("8 unlearned models with 19.9 % to 98.8 % completeness")
    assert "keep 93.9 % to 99.9 % of the quality" in said
    assert "400 steps" in said
    assert said.endswith(" Not counted: 1 infeasible.")


def test_verdict_counts_equal_weights_of_a_seed_once(report: Report) -> None:
    of_epsilons = [one for one in report.solutions if one.kind is Kind.EPSILON and one.state == "DONE"]
    first, second, third = of_epsilons[:3]
    twin = dataclasses.replace(second, weights=first.weights)
    assert verdict([first, twin, third]).startswith("2 unlearned models with ")
    assert verdict([first, twin, third]).endswith(" Not counted: 1 with the weights of another.")
    other = dataclasses.replace(first, seed=1)
    assert verdict([first, third, other]).startswith("3 unlearned models of 2 seeds (1 to 2 each) with ")
    older = [dataclasses.replace(one, weights=None) for one in of_epsilons[:3]]
    assert verdict(older).startswith("3 unlearned models with ")
    lost = dataclasses.replace(first, state=TrialState.INFEASIBLE)
    assert verdict([lost]) == "No unlearned model: 1 infeasible. The reasons are in the table of trials."


def from_path(report: Report, held: int = 0, boundaries: int = 2) -> list[Solution]:
    """Return the models of a front as a path gives them: boundaries, and four epsilons mixed from it."""
    models = [one for one in report.solutions if one.kind is Kind.BOUNDARY and one.has_model][:boundaries]
    models = [dataclasses.replace(one, steps=steps) for one, steps in zip(models, (2400, 400), strict=False)]
    epsilons = [one for one in report.solutions if one.kind is Kind.EPSILON and one.state == "DONE"][:4]
    return models + [dataclasses.replace(one, start="path:80+90", steps=held) for one in epsilons]


def test_the_second_sentence_recommends_the_model_that_the_page_opens_at(report: Report) -> None:
    assert report.recommended is not None
    chosen = report.solutions[report.recommended.key]
    second = report.verdict.replace("\u00a0", " ").split(". ")[1]
    assert second.startswith(f"Recommended: {chosen.label}, {100 * chosen.train.completeness:.1f} % complete")
    assert report.start == report.recommended.key
    assert chosen.state is TrialState.DONE


def test_the_recommended_model_has_a_star_in_figure_and_table(report: Report) -> None:
    assert report.recommended is not None
    for view in report.fronts:
        figure = front_figure(view, report.solutions, report.recommended)
        (star,) = (one for one in figure["layout"]["annotations"] if "recommended" in one["text"])
        (point,) = (one for one in view.points if one.key == report.recommended.key)
        assert star["x"] == point.x
    (row,) = re.findall(r'<tr data-key="(\d+)"(?:(?!</tr>).)*title="recommended">★', render(report))
    assert int(row) == report.recommended.key


def test_the_page_opens_at_the_picked_model_and_names_it(tmp_path: Path) -> None:
    path = write_run(str(tmp_path))
    note = pick_run(path, Criteria(min_quality=0.99)).note
    report = gather(open_run(path))
    assert report.recommended is not None
    chosen = report.solutions[report.recommended.key]
    assert (chosen.trial_id, report.recommended.name) == (note["trial_id"], "picked")
    assert report.start == report.recommended.key
    assert f" Picked: {chosen.label}, " in report.verdict
    figure = front_figure(report.fronts[0], report.solutions, report.recommended)
    assert figure["layout"]["annotations"][0]["text"] == "★ picked"
    assert page_data(report)["solutions"][report.start]["advice"] == f"★ Picked: {note['why']}."
    assert 'title="picked">★' in render(report)


@pytest.mark.parametrize("note", ["{", '{"trial_id": "0000", "why": "<b>"}', "[]"])
def test_a_pick_that_cannot_be_followed_is_told_and_not_hidden(tmp_path: Path, note: str) -> None:
    path = write_run(str(tmp_path))
    Path(path, "pick.json").write_text(note)
    report = gather(open_run(path))
    assert report.recommended is not None
    assert report.recommended.name == "recommended"
    assert "Attention: pick.json names no model of this run" in report.verdict


def test_an_original_that_cannot_do_its_task_is_told_of(tmp_path: Path) -> None:
    able = gather(open_run(write_run(str(tmp_path / "able"))))
    assert "poor at this task" not in able.verdict

    def told(name: str, share: float, low: float, n: int) -> Report:
        row = MetricRow(
            set="forget", split="heldout", metric="retrieval", protocol="audit", value=share, n=n, low=low
        )
        results = [synthetic_result(plan) for plan in planned_trials()]
        results = [
            dataclasses.replace(one, metrics=(*one.metrics, row))
            if one.record.phase is Phase.ORIGINAL
            else one
            for one in results
        ]
        return gather(open_run(write_run(str(tmp_path / name), results)), SWEEP_FILE)

    # Pictures of one person are alike: an able model finds a third of twelve, where a guess finds one.
    assert "poor at this task" not in told("alike", 0.33, 0.1, 12).verdict
    poor = told("poor", 0.01, 0.002, 180)
    assert "the original itself is poor at this task" in poor.verdict
    assert "more often than by chance (0.6\u00a0%)" in poor.verdict
    assert "Unlearning report · digits_mae on digits</p>" in render(poor)


def test_a_smoke_run_recommends_nothing(tmp_path: Path) -> None:
    info = dataclasses.replace(synthetic_info(), smoke=True)
    assert gather(open_run(write_run(str(tmp_path), info=info))).recommended is None


def test_verdict_says_that_epsilons_are_mixed_from_the_path(report: Report) -> None:
    said = verdict(from_path(report))
    assert (
        "2 of them took 400 to 2400 steps; the other 4 were mixed from the path's checkpoints, without "
        "training. On images" in said
    )
    held = verdict(from_path(report, held=60))
    assert "the other 4 were mixed from the path's checkpoints, then trained for 60 steps." in held
    alone = verdict(from_path(report, boundaries=0))
    assert "All were mixed from the path's checkpoints, without training." in alone


def test_an_epsilon_without_steps_says_why_it_has_no_curve(report: Report) -> None:
    mixed, held = from_path(report, boundaries=0)[0], from_path(report, held=60)[-1]
    assert no_curve(mixed) == (
        "No curve: this model was mixed from the path's checkpoints and took no step of its own."
    )
    assert no_curve(held) == "No curve is stored for this trial."
    dialled = dataclasses.replace(mixed, start="interpolated")
    assert "was mixed from other models and took no step" in no_curve(dialled)
    key = by_label(report, mixed.label)
    changed = (*report.solutions[:key], mixed, *report.solutions[key + 1 :])
    data = page_data(dataclasses.replace(report, solutions=changed))
    assert data["solutions"][key]["noCurve"] == no_curve(mixed)


def test_verdict_says_that_nothing_was_solved(tmp_path: Path) -> None:
    broken = [plan for plan in planned_trials() if plan.state in (TrialState.DIVERGED, TrialState.FAILED)]
    found = small_run(tmp_path, broken)
    assert found.verdict.startswith("No unlearned model: 2 trials ended without one.")
    assert found.start is None


def test_states_are_counted_with_the_good_ones_first(report: Report) -> None:
    assert report.states == (
        (TrialState.DONE, 16),
        (TrialState.INFEASIBLE, 1),
        (TrialState.UNCONVERGED, 1),
        (TrialState.DIVERGED, 1),
        (TrialState.FAILED, 1),
    )


def test_range_is_raw_and_normalised_and_keeps_its_reason(report: Report) -> None:
    (found,) = report.ranges
    assert found.raw == (epsilon_range().lower, epsilon_range().upper)
    assert found.normalised == pytest.approx((0.026, 1.0))
    assert found.upper_source == "original"
    assert "dominated" in found.reason


@pytest.mark.parametrize(
    ("bounded", "words"), [("per_class", " of the worst class"), ("mean", ""), (None, "")]
)
def test_range_says_whether_it_is_that_of_the_worst_class(tmp_path: Path, bounded, words) -> None:
    info = dataclasses.replace(synthetic_info(), bounded=bounded)
    page = render(gather(open_run(write_run(str(tmp_path), info=info))))
    assert f", a bound on f1{words}<br>" in page
    assert f"so completeness{words} 0.0" in page


def test_ranges_of_several_seeds_say_how_far_their_ends_are_apart(tmp_path: Path, page_path: str) -> None:
    one = epsilon_range()
    other = dataclasses.replace(one, seed=1, lower=one.lower + 0.01 * SCALES.f1_range)
    info = dataclasses.replace(synthetic_info(), ranges=(one, other))
    page = render(gather(open_run(write_run(str(tmp_path), info=info))))
    assert (
        "over 2 seeds<br>lower end: mean e 3.1\u00a0%, 2.6\u00a0% to 3.6\u00a0%, 1.0\u00a0% of the range of "
        "f1 apart" in page
    )
    assert "upper end: mean e 100.0\u00a0%" in page
    assert "of f1 apart" not in Path(page_path).read_text()


def test_hypervolumes_are_those_of_the_store(report: Report, run_path: str) -> None:
    run = open_run(run_path)
    volumes = {one.method: one.values for one in report.hypervolumes}
    assert volumes["epsilon_constraint"] == ((0, run.hypervolume("epsilon_constraint", 0)),)
    assert volumes["composite"] == ((0, run.hypervolume("composite", 0)),)


def test_every_hypervolume_says_what_it_cost(report: Report, run_path: str, page_path: str) -> None:
    run, page = open_run(run_path), Path(page_path).read_text()
    assert {one.method for one in report.hypervolumes} >= {"epsilon_constraint", "composite"}
    for one in report.hypervolumes:
        assert one.gradient_pairs == (run.gradient_pairs(one.method, 0),)
        measuring = run.measuring_pairs(one.method, 0)
        assert one.measuring_pairs == (measuring,)
        assert f"for {one.gradient_pairs[0]:,} gradient pairs + {measuring:,.0f} of measuring" in page


def test_scores_in_fixed_units_say_what_measuring_cost_where_it_is_known(tmp_path: Path) -> None:
    plans = [plan for plan in planned_trials() if plan.phase in (Phase.ORIGINAL, Phase.EPSILON)]
    report = small_run(tmp_path, plans)
    (scores,) = report.scores
    pairs, (measuring,) = scores.gradient_pairs[0], scores.measuring_pairs
    assert measuring == pairs / 8 > 0
    head = f"<td>{pairs:,}"
    assert f"{head} + {measuring:,.0f}</td>" in render(report)
    older = dataclasses.replace(report, scores=(dataclasses.replace(scores, measuring_pairs=()),))
    assert f"{head}</td>" in render(older)


def test_every_seed_has_its_own_hypervolume(tmp_path: Path) -> None:
    plans = [
        plan
        for seed in (0, 1)
        for plan in planned_trials(seed)
        if plan.phase in (Phase.ORIGINAL, Phase.BOUNDARY)
    ]
    found = small_run(tmp_path, plans)
    assert [seed for seed, _ in found.hypervolumes[0].values] == [0, 1]
    assert len(found.hypervolumes[0].gradient_pairs) == 2
    assert "gradient pairs + 0 of measuring a seed; median, " in render(found)
    assert "highest · seed 1" in {solution.label for solution in found.solutions}


def test_outlier_does_not_stretch_the_front(report: Report) -> None:
    view = report.fronts[0]
    outlier = next(point for point in view.points if point.key == by_label(report, "max_loss"))
    assert outlier.off_scale
    assert outlier.drawn == (view.box.x[0], view.box.y[1])
    assert view.box.x[0] > -20.0
    assert view.box.y[1] < 10.0


def test_everything_but_the_outlier_is_drawn_where_it_is(report: Report) -> None:
    view = report.fronts[0]
    assert [report.solutions[point.key].label for point in view.points if point.off_scale] == ["max_loss"]


def test_seeds_share_one_original_in_every_figure_and_image_table(tmp_path: Path) -> None:
    plans = [*planned_trials(0), *planned_trials(1), Planned(Phase.ORIGINAL, "original", 1.0, 0.0, seed=1)]
    found = small_run(tmp_path, plans)
    originals = {key for key, solution in enumerate(found.solutions) if solution.kind is Kind.ORIGINAL}
    shown = [found.slider, found.grid.columns, *(table.columns for table in found.class_tables)]
    shown += [tuple(point.key for point in view.points) for view in found.fronts]
    assert len(originals) == 2
    assert all(len(originals & set(keys)) == 1 for keys in shown)


def test_names_at_the_edge_of_the_front_do_not_overprint_each_other(tmp_path: Path) -> None:
    plans = planned_trials(0)
    plans += [
        Planned(Phase.BASELINE, "composite", 0.05, loss, weight=weight)
        for weight, loss in ((5.0, 0.4), (6.0, 0.5))
    ]
    plans += [
        Planned(Phase.BASELINE, "composite", 0.03, 0.6, weight=7.0),
        Planned(Phase.BASELINE, "cup", 0.04, 0.7, weight=0.5),
    ]
    found = small_run(tmp_path, plans)
    view = found.fronts[0]
    outside = {found.solutions[point.key].label for point in view.points if point.off_scale}
    assert outside == {"max_loss", "composite 5", "composite 6", "composite 7", "cup 0.5"}
    assert sorted(edge_labels(view, found.solutions).values()) == ["composite", "max_loss"]


def test_original_sits_on_the_edge_of_the_logarithmic_axis(report: Report) -> None:
    view = next(view for view in report.fronts if view.split is Split.TRAIN and view.logarithmic)
    original = next(point for point in view.points if point.key == 0)
    assert (original.y, original.drawn[1]) == (0.0, view.box.y[0])
    assert view.box.y[0] > 0.0


def test_ticks_of_the_logarithmic_axis_are_written_out(report: Report) -> None:
    view = next(view for view in report.fronts if view.split is Split.TRAIN and view.logarithmic)
    axis = front_figure(view, report.solutions)["layout"]["yaxis"]
    assert axis["ticktext"] == ["0.01", "0.1", "1"]
    near = dataclasses.replace(view, box=dataclasses.replace(view.box, y=(0.08, 1.2)))
    axis = front_figure(near, report.solutions)["layout"]["yaxis"]
    assert axis["ticktext"] == ["0.1", "0.2", "0.5", "1"]
    assert axis["tickvals"] == pytest.approx([0.1, 0.2, 0.5, 1.0])


def test_a_model_measured_on_some_of_the_images_has_standard_errors_beside_f1_and_f2(tmp_path: Path):
    results = [synthetic_result(plan) for plan in planned_trials()[:3]]
    errors = {"f1_error": 0.0123, "f2_error": 0.00456, "f1_error_heldout": 0.0, "f2_error_heldout": None}
    record = dataclasses.replace(
        results[0].record, f1=0.5, f2=0.25, f1_heldout=0.75, f2_heldout=1.0, **errors
    )
    results[0] = dataclasses.replace(results[0], record=record)
    report = gather(open_run(write_run(str(tmp_path), results)))
    data, page = page_data(report), render(report)
    key = next(key for key, one in enumerate(report.solutions) if one.trial_id == record.trial_id)
    shown = dict(zip(data["evidence"], data["solutions"][key]["evidence"], strict=True))
    found = [shown[name] for name in ("f1, training", "f1, held out", "f2, training", "f2, held out")]
    assert found == ["0.5 ± 0.012 s.e.", "0.75", "0.25 ± 0.0046 s.e.", "1"]
    assert re.findall(r'<td class="number"[^>]* title="([^"]*)">', page) == [found[0], found[2]]
    assert sum("±" in text for one in data["solutions"] for text in one["evidence"]) == 2


def test_the_panel_says_on_which_images_each_objective_was_measured(report: Report) -> None:
    key = by_label(report, "epsilon 3.0%")
    data = page_data(report)
    one = report.solutions[key]
    shown = dict(zip(data["evidence"], data["solutions"][key]["evidence"], strict=True))
    assert (shown["f1, training"], shown["f1, held out"]) == (number(one.train.f1), number(one.heldout.f1))
    assert (shown["f2, training"], shown["f2, held out"]) == (number(one.train.f2), number(one.heldout.f2))
    assert not {"f1", "f2", "f1 reached"} & set(shown)


def test_broken_trials_have_no_point(report: Report) -> None:
    drawn = {point.key for view in report.fronts for point in view.points}
    assert drawn == {key for key, solution in enumerate(report.solutions) if solution.has_model}


def test_dominated_models_are_told_apart(report: Report) -> None:
    dominated = {report.solutions[point.key].label for point in report.fronts[0].points if point.dominated}
    assert dominated == {"lowest", "highest", "composite 0.3", "max_loss"}


def test_requested_completeness_is_that_of_epsilon(report: Report) -> None:
    key = by_label(report, "epsilon 41.0%")
    point = next(point for point in report.fronts[0].points if point.key == key)
    asked = 100.0 * (1.0 - 0.026 - 0.41 * (1.0 - 0.026))
    assert point.requested == pytest.approx(asked)
    assert point.x == pytest.approx(asked - 3.5)  # the synthetic trial misses by 3.5 % of the range


def test_heldout_front_has_no_request_because_epsilon_is_of_the_training_set(report: Report) -> None:
    heldout = next(view for view in report.fronts if view.split is Split.HELDOUT)
    assert all(point.requested is None for point in heldout.points)


def test_axis_limits_ignore_far_values_and_admit_near_ones() -> None:
    assert axis_limits([0.0, 10.0], [12.0, 500.0]) == pytest.approx((-0.84, 12.84))


def test_axis_limits_of_one_value_are_an_interval() -> None:
    low, high = axis_limits([3.0], [])
    assert low < 3.0 < high


def test_class_forgotten_least_is_named_with_what_it_keeps(report: Report) -> None:
    key = by_label(report, "epsilon 25.0%")
    plan = next(plan for plan in planned_trials() if plan.fraction == 0.25)
    kept = 100.0 * (1.0 - class_completeness(plan, "3"))
    said = worst_sentence(report, key, Split.TRAIN).replace("\u00a0", " ")
    assert said == f"class 3 keeps {kept:.0f} % (mean completeness 73 %)"


def test_class_table_follows_the_classes_of_the_run(report: Report) -> None:
    table = report.class_tables[0]
    assert table.classes == FORGET
    assert table.columns == report.grid.columns


def test_grid_shows_forget_before_retain_with_inputs_and_truths(report: Report) -> None:
    assert [row.set for row in report.grid.rows] == ["forget"] * 5 + ["retain"] * 5
    assert all(row.input and row.truth for row in report.grid.rows)
    assert all(None not in row.cells for row in report.grid.rows)


def test_grid_stays_under_its_limit_and_counts_what_it_leaves_out(run_path: str) -> None:
    frame = open_run(run_path).samples
    rows: list[dict[str, Any]] = [
        row | {"key": 0, "image": row["image"] * 20} for row in frame.to_dict("records")
    ]
    first = frame["trial_id"].iloc[0]
    mine = [row for row in rows if row["trial_id"] == first]
    grid = image_grid(mine, [0], 0, limit=60_000)
    size = sum(len(cell or "") for row in grid.rows for cell in row.cells)
    assert size <= 60_000
    assert grid.left_out == 10 - len(grid.rows) > 0


def test_a_cell_that_is_no_image_is_left_empty() -> None:
    row = dataclasses.asdict(
        SampleRow(
            set="forget",
            image_id="a",
            class_name="0",
            kind="output",
            image=b"<svg onload=x>",
            width=1,
            height=1,
        )
    )
    assert image_grid([row | {"key": 0}], [0], 0).rows[0].cells == (None,)


def test_metric_panels_keep_protocols_apart_and_in_order(report: Report) -> None:
    assert [(panel.metric, panel.protocol) for panel in report.panels] == [
        ("frechet_distance", "builtin"),
        ("inception_score", "builtin"),
        ("embedding_cosine", "builtin"),
        ("mse_hole", "pixel"),
        ("psnr_hole", "pixel"),
    ]


def test_one_metric_in_two_protocols_is_two_panels(tmp_path: Path) -> None:
    result = synthetic_result(planned_trials()[0])
    other = MetricRow(set="forget", split="heldout", metric="mse_hole", protocol="standard", value=1.0, n=3)
    path = write_run(str(tmp_path), [dataclasses.replace(result, metrics=(*result.metrics, other))])
    panels = gather(open_run(path)).panels
    assert {panel.protocol for panel in panels if panel.metric == "mse_hole"} == {"pixel", "standard"}


def test_metric_reference_is_the_original(report: Report) -> None:
    for series in report.panels[0].series:
        assert series.reference == next(point.value for point in series.points if point.key == 0)


def test_a_metric_that_is_not_a_number_is_not_drawn(tmp_path: Path) -> None:
    result = synthetic_result(planned_trials()[0])
    spoiled = tuple(
        dataclasses.replace(row, value=math.nan) if row.metric == "mse_hole" else row
        for row in result.metrics
    )
    path = write_run(str(tmp_path), [dataclasses.replace(result, metrics=spoiled)])
    assert "mse_hole" not in {panel.metric for panel in gather(open_run(path)).panels}


def test_curves_are_thinned_and_keep_both_ends() -> None:
    (places,) = curve_places([5000], limit=100)
    assert (places[0], places[-1], len(places)) == (0, 4999, 100)
    short, long = curve_places([3, 5000], limit=40)
    assert (short, len(long), long[-1]) == ([0, 1, 2], 20, 4999)
    rows = [
        {"key": 0, "step": step, "f1": 1.0, "f2": math.nan, "epsilon": None, "cosine": -0.5}
        for step in reversed(places)
    ]
    (curve,) = curves(rows)
    assert list(curve.step) == places
    assert set(curve.columns["f2"]) == {None}
    assert set(curve.columns["cosine"]) == {-0.5}


def test_diverged_trial_keeps_its_curve(report: Report) -> None:
    key = by_label(report, "epsilon 90.0%")
    curve = next(curve for curve in report.curves if curve.key == key)
    assert curve.columns["f1"][-1] is None
    assert curve.columns["f1"][0] is not None


# Words and figures


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.5, "50.0\u00a0%"),
        (-0.0001, "0.0\u00a0%"),
        (-0.5, "\u221250.0\u00a0%"),
        (None, "\u2013"),
        (math.nan, "NaN"),
    ],
)
def test_share_is_percent_in_words(value: float | None, shown: str) -> None:
    assert share(value) == shown


def test_numbers_have_four_significant_digits() -> None:
    assert number(0.00123456) == "0.001235"


def test_hover_text_shows_tags_literally() -> None:
    assert plain('<a href="x">') == "&lt;a href=&quot;x&quot;&gt;"


def test_front_figure_keeps_its_axis_to_the_box(report: Report) -> None:
    figure = front_figure(report.fronts[0], report.solutions)
    assert figure["layout"]["yaxis"]["range"] == list(report.fronts[0].box.y)


def test_figures_join_no_metric_points_with_a_line(page_path: str) -> None:
    data = embedded_data(Path(page_path).read_text())
    assert {trace["mode"] for figure in data["metrics"] for trace in figure["data"]} == {"markers"}


# The page as text


class Page(HTMLParser):
    """Collects tags, attributes and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append((dict(attrs).get("type") or "", ""))

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.cdata_elem == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)


def embedded_data(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        next(script for kind, script in Page(text).scripts if kind == "application/json")
    )
    return loaded


def test_page_is_one_small_file_beside_the_run(page_path: str, run_path: str) -> None:
    assert page_path == f"{run_path}/report.html"
    assert Path(page_path).stat().st_size < LIMIT_BYTES


def test_same_store_gives_the_same_bytes(run_path: str, page_path: str, tmp_path: Path) -> None:
    again = write_report(run_path, str(tmp_path / "again.html"))
    assert Path(again).read_bytes() == Path(page_path).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.html"]


def test_missing_run_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        write_report(str(tmp_path / "nowhere"))


def test_plotly_is_inline_once(page_path: str) -> None:
    scripts = Page(Path(page_path).read_text()).scripts
    assert sum("plotly.js v" in text for _, text in scripts) == 1


def test_policy_admits_the_scripts_of_the_page_and_no_others(page_path: str) -> None:
    text = Path(page_path).read_text()
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])  # type: ignore[index]
    scripts = [script for kind, script in Page(text).scripts if not kind]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert "default-src 'none'" in policy
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_page_refers_to_nothing_outside(page_path: str) -> None:
    outside = [
        value
        for name, value in Page(Path(page_path).read_text()).attributes
        if name in ("src", "href") and value
    ]
    assert all(value.startswith("data:image/") for value in outside)


def test_share_button_is_switched_off_by_name() -> None:
    assert CONFIG["showSendToCloud"] is False


def test_hostile_names_make_no_element(tmp_path: Path) -> None:
    text = Path(write_report(hostile_run(tmp_path))).read_text()
    page = Page(text)
    assert "onerror" not in {name for name, _ in page.attributes}
    assert page.tags.count("script") == 3
    assert text.count("</script>") == 3


def test_hostile_names_arrive_unchanged_in_the_data(tmp_path: Path) -> None:
    data = embedded_data(Path(write_report(hostile_run(tmp_path))).read_text())
    assert data["solutions"][0]["reason"] == "=1+1" + HOSTILE


def test_embedded_json_holds_no_character_that_ends_a_script() -> None:
    text = embedded_json({"a": "</script>&\u2028\u2029"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == {"a": "</script>&\u2028\u2029"}


def test_one_seed_is_said_to_have_no_estimate_of_uncertainty(page_path: str) -> None:
    assert "no estimate of uncertainty" in Path(page_path).read_text()


def test_every_metric_names_its_protocol(page_path: str, report: Report) -> None:
    text = Path(page_path).read_text()
    assert text.count('class="protocol">protocol: builtin<') == 3
    assert text.count('class="protocol">protocol: pixel<') == 2
    assert "not the FID, IS or CLIP of the papers" in text


def test_reasons_of_failures_are_in_the_page(page_path: str) -> None:
    assert "OutOfMemoryError: 2.1 GiB asked for" in Path(page_path).read_text()


def test_page_of_a_run_without_trials_can_be_made(tmp_path: Path) -> None:
    path = write_run(str(tmp_path), [])
    assert "No unlearned model: 0 trials" in render(gather(open_run(path)))


# The page in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started_browser() as started:
        yield started


@pytest.fixture(scope="module")
def shared(browser: Any, page_path: str) -> Iterator[Opened]:
    opened = Opened(browser, page_path, viewport={"width": 1280, "height": 900})
    yield opened
    opened.page.close()


@needs_browser
def test_page_opens_without_complaint_and_without_network(shared: Opened, page_path: str) -> None:
    assert shared.complaints == []
    assert [url for url in shared.requests if not url.startswith("data:")] == [Path(page_path).as_uri()]


@needs_browser
def test_the_whole_front_is_on_the_first_screen_of_a_small_laptop(shared: Opened) -> None:
    shared.page.evaluate("scrollTo(0, 0)")
    bottom = shared.page.evaluate("document.getElementById('figure-front').getBoundingClientRect().bottom")
    assert bottom <= 900


@needs_browser
def test_figures_have_the_width_of_the_paper_while_printing(shared: Opened) -> None:
    widths = (
        "[...document.querySelectorAll('.figure .main-svg')].filter((one) => one.clientWidth)"
        ".map((one) => one.getBoundingClientRect().right)"
    )
    before = shared.page.evaluate(widths)
    shared.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    paper = shared.page.evaluate(widths), shared.page.evaluate("document.body.getBoundingClientRect().right")
    shared.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert max(paper[0]) <= paper[1]
    assert max(before) > paper[1]
    wait_until(lambda: shared.page.evaluate(widths) == before)


@needs_browser
def test_figures_have_no_share_button(shared: Opened) -> None:
    shared.page.hover("#figure-front")
    titles = shared.page.locator(".modebar-btn").evaluate_all(
        "buttons => buttons.map(one => one.dataset.title)"
    )
    assert "Download plot as a PNG" in titles
    assert not [title for title in titles if re.search("share|cloud|chart studio", title, re.IGNORECASE)]


@needs_browser
def test_slider_moves_the_selection_everywhere(shared: Opened) -> None:
    shared.page.locator("#epsilon").focus()
    shared.page.keyboard.press("End")
    shared.page.keyboard.press("ArrowLeft")
    ring = """() => { const div = document.getElementById('figure-front'), axis = div._fullLayout.xaxis;
        return axis.p2d(parseFloat(div.querySelector('.ring').style.left) - axis._offset); }"""
    assert shared.page.inner_text("#details h3").strip() == "epsilon 3.0%"
    assert shared.selected_row() == "epsilon 3.0%"
    assert "epsilon 3.0%" in shared.page.inner_text("#grid th.selected")
    assert "epsilon 3.0%" in shared.page.inner_text("#worst-class")
    assert shared.page.input_value("#curve-choice") == shared.page.locator(
        '#trials tr[aria-current="true"]'
    ).get_attribute("data-key")
    assert shared.page.evaluate(ring) == pytest.approx(95.1, abs=0.1)


@needs_browser
def test_click_on_a_marker_selects_its_model(shared: Opened) -> None:
    shared.page.locator("#front").scroll_into_view_if_needed()
    x, y = shared.page.evaluate(
        """() => {
        const div = document.getElementById('figure-front'), layout = div._fullLayout;
        const trace = div.data.find((one) => one.marker?.symbol === 'square' && one.customdata);
        const box = div.getBoundingClientRect(), last = trace.x.length - 1;
        return [box.x + layout.xaxis._offset + layout.xaxis.d2p(trace.x[last]),
                box.y + layout.yaxis._offset + layout.yaxis.d2p(trace.y[last])];
    }"""
    )
    shared.page.mouse.click(x, y)
    shared.page.wait_for_function("document.querySelector('#details h3').innerText.includes('composite 3')")
    assert shared.selected_row() == "composite 3"


@needs_browser
def test_row_button_selects_a_failed_trial_with_its_reason(shared: Opened) -> None:
    shared.page.locator("#trials button", has_text="noisy_label").press("Enter")
    assert "OutOfMemoryError" in shared.page.inner_text("#details")
    assert shared.page.inner_text("#curve-none") == "No curve is stored for this trial."


@needs_browser
def test_the_export_command_of_the_selected_model_is_copied_without_network(browser, page_path) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    opened = Opened(context, page_path)
    opened.page.locator("#trials button", has_text="highest").press("Enter")
    line = opened.page.inner_text("#details .command")
    opened.page.click("#details .take-out button")
    opened.page.wait_for_selector("#details .take-out button:has-text('Copied')")
    assert opened.page.evaluate("navigator.clipboard.readText()") == line
    assert re.fullmatch(
        r"pareto-unlearn export runs/digits digits-(\w{8})\.safetensors --trial \1\w{8}", line
    )
    assert opened.column(1)[0] in opened.page.inner_text("#trials tbody tr:first-child code")
    assert opened.complaints == []
    context.close()


@needs_browser
def test_a_refused_clipboard_falls_back_to_the_selection(browser, page_path) -> None:
    opened = Opened(browser, page_path)
    opened.page.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }"
    )
    opened.page.click("#details .take-out button")
    opened.page.wait_for_selector("#details .take-out button:has-text('Copied')")
    assert opened.page.evaluate("getSelection().toString()") == opened.page.inner_text("#details .command")
    assert opened.complaints == []
    opened.page.close()


@needs_browser
def test_a_trial_without_a_model_shows_its_id_and_no_command(shared: Opened) -> None:
    shared.page.locator("#trials button", has_text="noisy_label").press("Enter")
    assert "trial " in shared.page.inner_text("#details .take-out")
    assert shared.page.locator("#details .command").count() == 0


@needs_browser
def test_heads_sort_the_table_and_keep_empty_cells_last(shared: Opened) -> None:
    head = shared.page.locator("#trials thead th").nth(4)
    head.locator("button").press("Enter")
    rising = [float(text) for text in shared.column(4) if text not in ("\u2013", "NaN")]
    assert rising == sorted(rising)
    assert head.get_attribute("aria-sort") == "ascending"
    head.locator("button").press("Enter")
    falling = shared.column(4)
    assert falling[0] == "38.69"
    assert set(falling[-2:]) == {"\u2013", "NaN"}


@needs_browser
def test_outlier_stays_on_the_border_of_the_drawn_axis(shared: Opened) -> None:
    low, high = shared.page.evaluate("document.getElementById('figure-front')._fullLayout.yaxis.range")
    assert 0.0 > low > -1.0
    assert high < 10.0
    assert "max_loss" in shared.page.inner_text("[data-view='train-linear'].note")


@needs_browser
def test_heldout_switch_changes_numbers_and_class_table(shared: Opened) -> None:
    shared.page.locator('input[name="split"][value="heldout"]').check(force=True)
    assert shared.page.is_visible('[data-split="heldout"]')
    assert not shared.page.is_visible('[data-split="train"]')
    shared.page.locator('input[name="split"][value="train"]').check(force=True)


@needs_browser
@pytest.mark.slow
def test_page_fits_a_phone(browser: Any, page_path: str) -> None:
    opened = Opened(browser, page_path, viewport={"width": 390, "height": 844})
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.page.close()


@needs_browser
@pytest.mark.slow
def test_dark_theme_reaches_the_figures(browser: Any, page_path: str) -> None:
    opened = Opened(browser, page_path, color_scheme="dark")
    colour = opened.page.evaluate("document.getElementById('figure-front').layout.xaxis.gridcolor")
    assert colour == "#292e35"
    opened.page.close()


@needs_browser
def test_hostile_names_do_nothing_and_csv_runs_no_formula(browser: Any, tmp_path: Path) -> None:
    opened = Opened(browser, write_report(hostile_run(tmp_path)))
    with opened.page.expect_download() as download:
        opened.page.click("#download-csv")
    lines = Path(download.value.path()).read_text()
    assert opened.complaints == []
    assert opened.page.title() == f"{HOSTILE} · unlearning report"
    assert HOSTILE in opened.page.inner_text("#details")
    assert "'=1+1" in lines
    assert not re.search(r'(^|,)"?[=+@]', lines, re.MULTILINE)
    opened.page.close()


@needs_browser
@pytest.mark.slow
def test_page_without_any_model_opens_without_complaint(browser: Any, tmp_path: Path) -> None:
    broken = [plan for plan in planned_trials() if plan.state in (TrialState.DIVERGED, TrialState.FAILED)]
    opened = Opened(
        browser, write_report(write_run(str(tmp_path), [synthetic_result(plan) for plan in broken]))
    )
    assert opened.complaints == []
    opened.page.close()


@needs_browser
def test_the_page_of_a_running_sweep_reads_itself_again_and_keeps_what_is_selected(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pareto_unlearn.report.page.RELOAD_SECONDS", 0.5)
    plans = [plan for plan in planned_trials() if plan.phase is not Phase.BASELINE]
    run = write_run(str(tmp_path), [synthetic_result(plan) for plan in plans[:-2]])
    live = Live(ended=len(plans) - 2, running=2, total=len(plans), written=0.0)
    opened = Opened(browser, write_report(run, live=live))
    assert f"{len(plans) - 2} of {len(plans)} trials have ended, 2 run; written at 1970-01-01" in (
        opened.page.inner_text(".live")
    )
    opened.page.locator("#trials button", has_text="epsilon 14.0%").press("Enter")
    opened.page.locator('input[name="split"][value="heldout"]').check(force=True)
    opened.page.wait_for_event("load")
    opened.page.wait_for_selector("html[data-ready]", state="attached")
    assert "epsilon 14.0%" in opened.selected_row()

    write_run(str(tmp_path), [synthetic_result(plan) for plan in plans])
    write_report(run)  # what the driver and `report --watch` write in the end
    opened.page.wait_for_selector("html[data-ready] body:not(:has(.live))", state="attached")
    assert "epsilon 14.0%" in opened.selected_row()
    assert opened.page.is_checked('input[name="split"][value="heldout"]')
    assert opened.page.is_visible('[data-split="heldout"]')
    assert len(opened.column(0)) == len(plans)
    opened.page.evaluate("window.isFirst = true")
    opened.page.wait_for_timeout(1500)
    assert opened.page.evaluate("window.isFirst")
    assert opened.complaints == []
    opened.page.close()


def test_a_finished_report_says_and_does_nothing_of_the_kind(tmp_path: Path) -> None:
    run = write_run(str(tmp_path), [synthetic_result(planned_trials()[0])])
    live = Live(ended=1, running=0, total=None, written=0.0)
    running, finished = (render(gather(open_run(run)), one) for one in (live, None))
    assert '<meta http-equiv="refresh"' in running
    assert '"reload":15' in running
    for words in ('http-equiv="refresh"', '"reload":', "The sweep is running"):
        assert words not in finished
