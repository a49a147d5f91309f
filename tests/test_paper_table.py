"""The tables of the papers: gathered from a store, ranked by direction, escaped in every format."""

import csv
import dataclasses
import io
from pathlib import Path

import pytest
from synthetic_run import Planned, planned_trials, synthetic_info, synthetic_result, write_run
from typer.testing import CliRunner

from pareto_unlearn.cli import app
from pareto_unlearn.records import Phase, TrialResult, TrialState
from pareto_unlearn.report.paper_table import Cell, Column, Layout, PaperTable, gather_table
from pareto_unlearn.report.table_text import TextFormat, latex, markdown, write_table
from pareto_unlearn.store import open_run


def results(*seeds: int) -> list[TrialResult]:
    return [synthetic_result(plan) for seed in seeds for plan in planned_trials(seed)]


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(str(tmp_path_factory.mktemp("runs")), results(0, 1))


@pytest.fixture(scope="module")
def table(run_path: str) -> PaperTable:
    return gather_table([open_run(run_path)], Layout.PAPER2)


def labels(table: PaperTable) -> list[str]:
    return [label for label, _ in table.rows]


def cell(table: PaperTable, label: str, metric: str, name: str) -> Cell | None:
    column = [(one.metric, one.set) for one in table.columns].index((metric, name))
    return dict(table.rows)[label][column]


def test_rows_stand_as_in_the_papers(table):
    found = labels(table)
    assert found[:3] == ["original", "max loss", "composite 0.003"]
    assert found[-9:] == ["highest", *(label for label in found if label.startswith("epsilon")), "lowest"]
    assert [label for label in found if "epsilon" in label][:2] == ["epsilon 3.0%", "epsilon 7.0%"]


@pytest.mark.parametrize(
    ("layout", "order", "sets"),
    [
        (Layout.PAPER1, ["frechet_distance", "inception_score", "embedding_cosine"], ["R↓", "F↑"]),
        (Layout.PAPER2, ["inception_score", "frechet_distance", "embedding_cosine"], ["F↓", "R↑"]),
    ],
)
def test_columns_stand_as_in_the_papers_and_keep_their_names(run_path, layout, order, sets):
    columns = gather_table([open_run(run_path)], layout).columns
    assert [column.metric for column in columns][::2] == order
    assert [f"{column.set[0].upper()}{column.arrow}" for column in columns][:2] == sets


def test_values_are_mean_and_sample_deviation_over_seeds(table, run_path):
    run = open_run(run_path)
    ids = {record.trial_id for record in run.records if record.label == "highest"}
    rows = run.metrics
    values = rows[
        rows["trial_id"].isin(ids) & (rows["metric"] == "inception_score") & (rows["set"] == "retain")
    ]["value"]
    found = cell(table, "highest", "inception_score", "retain")
    assert (found.mean, found.spread) == pytest.approx((values.mean(), values.std()))
    assert found.seeds == 2


def test_one_seed_has_no_spread_and_neither_has_the_original(table, tmp_path):
    single = gather_table([open_run(write_run(str(tmp_path)))], Layout.PAPER2)
    assert cell(single, "highest", "inception_score", "retain").spread is None
    assert cell(table, "original", "inception_score", "retain").spread is None


def test_ranks_follow_the_direction_and_leave_the_original_out(table):
    for index, column in enumerate(table.columns):
        cells = [cells[index] for label, cells in table.rows if label != "original"]
        means = sorted({round(one.mean, column.decimals) for one in cells}, reverse=column.rises)
        assert {round(one.mean, column.decimals) for one in cells if one.rank == 1} == {means[0]}
        assert {round(one.mean, column.decimals) for one in cells if one.rank == 2} == {means[1]}
        assert dict(table.rows)["original"][index].rank == 0
    forgotten = [one.rises for one in table.columns if one.set == "forget"]
    assert forgotten == [False, True, False]


def test_controls_stand_below_the_original_and_have_no_rank(tmp_path):
    controls = [
        Planned(Phase.BASELINE, "retain_only", 0.002, 0.0001, weight=1.0),
        Planned(Phase.CONTROL, "retrained", 0.001, 0.0001),
    ]
    made = [*results(0), *(synthetic_result(plan) for plan in controls)]
    found = gather_table([open_run(write_run(str(tmp_path), made))], Layout.PAPER2)
    assert labels(found)[:4] == ["original", "retrained", "retain only", "max loss"]
    assert {one.rank for label in ("retrained", "retain only") for one in dict(found.rows)[label]} == {0}


def test_caption_names_protocol_seeds_and_broken_constraints(table):
    assert "Protocol builtin: features of a small classifier" in table.caption
    assert "2 seeds" in table.caption
    assert "(infeasible): epsilon 41.0%." in table.caption


def test_smoke_is_said(tmp_path):
    info = dataclasses.replace(synthetic_info(), smoke=True)
    path = write_run(str(tmp_path), results(0)[:3], info)
    assert "SMOKE" in gather_table([open_run(path)], Layout.PAPER1).caption


def test_runs_stand_side_by_side_and_what_one_lacks_is_empty(run_path, tmp_path):
    plans = [Planned(Phase.ORIGINAL, "original", 1.0, 0.0), Planned(Phase.BASELINE, "cup", 0.5, 0.01)]
    other = write_run(str(tmp_path), [synthetic_result(plan) for plan in plans], synthetic_info("other"))
    both = gather_table([open_run(run_path), open_run(other)], Layout.PAPER2)
    assert [column.run for column in both.columns] == ["digits"] * 6 + ["other"] * 6
    cup = dict(both.rows)["cup"]
    assert cup[:6] == (None,) * 6
    assert all(one.rank == 1 for one in cup[6:])
    text = write_table(both, TextFormat.LATEX)
    assert r" & \multicolumn{6}{c}{digits} & \multicolumn{6}{c}{other} \\ \cmidrule(lr){2-7}" in text


def test_runs_of_one_name_are_told_apart_by_their_path(run_path, tmp_path):
    other = write_run(str(tmp_path), results(0)[:2])
    both = gather_table([open_run(run_path), open_run(other)], Layout.PAPER2)
    assert {column.run for column in both.columns} == {
        f"{Path(path).parent.name}/digits" for path in (run_path, other)
    }


def test_metrics_of_protocol_modern_stand_beside_their_kind_under_their_own_names(tmp_path):
    names = {
        "frechet_distance": "fd_dinov2",
        "inception_score": "kd_dinov2",
        "embedding_cosine": "dino",
        "mse_hole": "lpips",
    }
    made = [
        dataclasses.replace(
            one,
            metrics=tuple(
                dataclasses.replace(row, metric=names[row.metric], protocol="modern")
                for row in one.metrics
                if row.metric in names
            ),
        )
        for one in results(0)
    ]
    found = gather_table([open_run(write_run(str(tmp_path), made))], Layout.PAPER1)
    assert [f"{one.metric} {one.set} {one.arrow}" for one in found.columns] == [
        *("fd_dinov2 retain ↓", "fd_dinov2 forget ↑"),
        *("dino retain ↑", "dino forget ↓"),
        *("lpips retain ↓", "lpips forget ↑"),
    ]
    assert "Protocol modern: features of DINOv2" in found.caption


def test_the_score_of_scenes_stands_where_the_papers_have_the_inception_score(tmp_path):
    made = [
        dataclasses.replace(
            one,
            metrics=tuple(
                dataclasses.replace(row, metric="is_places365", protocol="li2024-code")
                for row in one.metrics
                if row.metric == "inception_score"
            ),
        )
        for one in results(0)
    ]
    found = gather_table([open_run(write_run(str(tmp_path), made))], Layout.PAPER2)
    assert [f"{one.metric} {one.set} {one.arrow}" for one in found.columns] == [
        "is_places365 forget ↓",
        "is_places365 retain ↑",
    ]


def test_metrics_without_a_place_in_the_papers_are_shown_where_there_is_nothing_else(tmp_path):
    made = [
        dataclasses.replace(one, metrics=tuple(row for row in one.metrics if row.protocol == "pixel"))
        for one in results(0)
    ]
    columns = gather_table([open_run(write_run(str(tmp_path), made))], Layout.PAPER2).columns
    assert [(one.metric, one.set[0].upper() + one.arrow) for one in columns] == [
        ("mse_hole", "F↑"),
        ("mse_hole", "R↓"),
        ("psnr_hole", "F↓"),
        ("psnr_hole", "R↑"),
    ]


HOSTILE = "a|b_50%\n\\cmd{x}$&#^~<i>*"


@pytest.fixture
def hostile() -> PaperTable:
    column = Column(run=HOSTILE, metric=HOSTILE, protocol=HOSTILE, split="heldout", set="forget", rises=False)
    cells = (Cell(mean=-1.234, spread=0.5, seeds=2, rank=1),)
    return PaperTable(caption=HOSTILE, columns=(column,), rows=((HOSTILE, cells), ("=1+1", (None,))))


def test_markdown_is_escaped(hostile):
    text = write_table(hostile, TextFormat.MARKDOWN)
    assert markdown(HOSTILE) == "a\\|b\\_50% \\\\cmd\\{x\\}$&\\#^\\~\\<i\\>\\*"
    assert all(line.replace("\\|", "").count("|") == 3 for line in text.splitlines()[:4])
    assert "| **-1.23** ± 0.50 |" in text


def test_latex_is_escaped(hostile):
    text = write_table(hostile, TextFormat.LATEX)
    assert latex(HOSTILE).startswith(r"a|b\_50\% \textbackslash{}cmd\{x\}\$\&\#\textasciicircum{}")
    assert r"\textbf{$-$1.23} $\pm$ 0.50 \\" in text
    assert "↓" not in text


def test_csv_reads_back_and_holds_no_formula(hostile):
    rows = list(csv.reader(io.StringIO(write_table(hostile, TextFormat.CSV))))
    assert rows[1] == [HOSTILE, "-1.234", "0.5", "2"]
    assert rows[2] == ["'=1+1", "", "", ""]


def test_command_prints_a_table_or_writes_it(run_path, tmp_path):
    runner, out = CliRunner(), tmp_path / "table.tex"
    printed = runner.invoke(app, ["report", run_path, "--table", "paper2", "--format", "latex"])
    assert printed.exit_code == 0, printed.output
    written = runner.invoke(
        app, ["report", run_path, "--table", "paper2", "--format", "latex", "--out", str(out)]
    )
    assert written.output.strip() == str(out)
    assert out.read_text() == printed.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--table", "paper3"], "expected one of paper1, paper2"),
        (["--table", "paper1", "--format", "html"], "expected one of md, latex, csv"),
        (["another"], "expected one run without --table"),
    ],
)
def test_command_says_what_it_knows(run_path, arguments, words):
    done = CliRunner().invoke(app, ["report", run_path, *arguments])
    assert done.exit_code == 2
    assert words in " ".join(done.output.replace("│", " ").split())


def test_checks_are_no_rows(tmp_path):
    made = results(0)[:3]
    check = dataclasses.replace(
        made[1],
        record=dataclasses.replace(
            made[1].record, trial_id="c" * 16, phase=Phase.CHECK, state=TrialState.DONE
        ),
    )
    assert "check" not in " ".join(
        labels(gather_table([open_run(write_run(str(tmp_path), [*made, check]))], Layout.PAPER1))
    )
