"""``sweep --check-convergence``: trials solved again with twice the steps.

They tell what more steps gain and change nothing else.
"""

import dataclasses
import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from small_sweep import run_of, small_sweep, without_times

from pareto_unlearn.analysis.robustness import find_gains
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.errors import RangeError
from pareto_unlearn.finished.dial import dial
from pareto_unlearn.records import Phase, Role, TrialRecord, TrialState
from pareto_unlearn.report import write_report
from pareto_unlearn.report.gather import gather
from pareto_unlearn.report.solution import Kind
from pareto_unlearn.report.words import share
from pareto_unlearn.sweep import SweepOptions, executors, run_sweep
from pareto_unlearn.sweep.summary import closing_table
from pareto_unlearn.sweep.worker import execute
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial


def check(config: SweepConfig, check_convergence: bool = True) -> str:
    """Run the sweep with the flag and return what a person reads."""
    heard = io.StringIO()
    options = SweepOptions(check_convergence=check_convergence, report=write_report)
    assert run_sweep(config, options, Console(file=heard, width=200)) == 0
    return heard.getvalue()


def checks_of(config: SweepConfig) -> list[TrialRecord]:
    return [record for record in run_of(config).records if record.phase is Phase.CHECK]


def committed_files(config: SweepConfig) -> dict[str, bytes]:
    """All files of the run that hold a result, but for its report."""
    folder = Path(config.run.storage) / config.name
    kept = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in {".parquet", ".safetensors", ".json"} and file.name != "progress.json"
    ]
    return {str(file.relative_to(folder)): file.read_bytes() for file in kept}


@pytest.fixture(scope="module")
def plain(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The finished small sweep, without checks; tests only read it."""
    return copy_small_sweep(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def checked(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    """The same sweep, its checks added afterwards; tests only read it."""
    config = copy_small_sweep(tmp_path_factory.mktemp("checked"))
    said = check(config)
    assert "(9 of 9 trials, nearly done)" in said
    assert "a check takes twice the steps" in said
    return config


# What is added


def test_the_flag_on_a_finished_sweep_adds_checks_and_leaves_every_file_as_it_was(plain, checked):
    before, after = committed_files(plain), committed_files(checked)
    assert {name: after[name] for name in before} == before
    added = {Path(name).name.split("-")[1] for name in after.keys() - before.keys() if "trials/" in name}
    assert added == {record.trial_id for record in checks_of(checked)}


def test_checks_are_the_highest_boundary_and_epsilons_with_twice_the_steps(checked):
    *branches, path = checks_of(checked)
    rows = {record.trial_id: record for record in run_of(checked).records}
    assert (path.role, path.label, path.start, path.parents) == (
        Role.HIGHEST,
        "check highest",
        "original",
        None,
    )
    assert sorted(one.label for one in branches) == ["check 19.7%", "check 3.3%"]
    for one in (path, *branches):
        twin = rows[one.checks]
        assert (twin.phase, one.phase) == (one.spec.phase_solved, Phase.CHECK)
        assert (one.steps, one.epsilon, one.range_width) == (2 * twin.steps, twin.epsilon, twin.range_width)
        assert one.gradient_pairs - one.steps == twin.gradient_pairs - twin.steps  # the same least scan
        assert one.trial_id != twin.trial_id
    assert {one.parents for one in branches} == {path.trial_id}
    assert all(one.start.startswith("path:") for one in branches)


@pytest.mark.slow
def test_the_doubled_path_is_the_path_of_a_sweep_with_twice_the_steps(checked, tmp_path):
    (path,) = (record for record in checks_of(checked) if record.role is Role.HIGHEST)
    twice = small_sweep(tmp_path, "solver.steps=80")
    spec = dataclasses.replace(path.spec, phase=Phase.BOUNDARY, checks=None)
    kept: dict[int, bytes] = {}
    hooks = Hooks(save_bank_state=kept.__setitem__, read_bank_state=lambda _, entry: kept[entry.step])
    trial = Trial(twice, spec, load_material(twice, tmp_path, "targets"))
    again = run_trial(trial, hooks, path.code_version).record
    assert (again.f1, again.f2, again.steps, again.state) == (path.f1, path.f2, path.steps, path.state)


def test_the_same_command_again_adds_nothing(checked):
    before = committed_files(checked)
    said = check(checked)
    assert committed_files(checked) == before
    assert "9 trials are committed already" in said


def test_without_the_flag_checks_stay_and_are_told(checked):
    before = committed_files(checked)
    said = check(checked, check_convergence=False)
    assert committed_files(checked) == before
    assert "gain in f2 when the steps are doubled (seed 0): " in said


# What does not count them


def test_front_range_and_hypervolume_ignore_checks(plain, checked):
    before, after = run_of(plain), run_of(checked)
    assert after.info == before.info
    assert list(after.front()["trial_id"]) == list(before.front()["trial_id"])
    for method in (None, "epsilon_constraint", "composite"):
        assert after.hypervolume(method) == before.hypervolume(method)
        assert after.gradient_pairs(method) == before.gradient_pairs(method)
    assert after.gradient_pairs("epsilon_constraint", phases=[Phase.CHECK]) == sum(
        record.gradient_pairs for record in checks_of(checked)
    )


def test_the_dial_goes_between_solutions_of_the_front(plain, checked, tmp_path):
    both = [
        shutil.copytree(run_of(config).path, tmp_path / str(i)) for i, config in enumerate((plain, checked))
    ]
    rows = [dial(str(path), 0.1) for path in both]
    assert without_times(rows[0]) == without_times(rows[1])


# What they tell


def test_summary_and_report_tell_every_gain(checked):
    run, said = run_of(checked), check(checked)
    gains = find_gains(run.records, run.info.scales)
    page = (Path(run.path) / "report.html").read_text()
    assert [one.checked.label for one in gains] == ["highest", "epsilon 3.3%", "epsilon 19.7%"]
    for one in gains:
        assert one.gain == 1.0 - one.doubled.f2 / one.checked.f2
        assert f"{one.gain:z.1%} at {one.checked.label} (f1 " in said
        assert f"<b>{share(one.gain)}</b>" in page
    assert "near 0: more steps would not improve the front" in said
    assert "near 0: more steps would not improve the front" in page


def test_the_report_shows_checks_in_the_table_and_in_no_figure(plain, checked):
    before, after = gather(run_of(plain)), gather(run_of(checked))
    kinds = [solution.kind for solution in after.solutions]
    assert kinds[-3:] == [Kind.CHECK] * 3
    assert repr(after.solutions[:-3]) == repr(before.solutions)  # repr makes NaN equal
    for name in (
        "verdict",
        "steps",
        "ranges",
        "hypervolumes",
        "slider",
        "start",
        "fronts",
        "grid",
        "class_tables",
    ):
        assert getattr(after, name) == getattr(before, name)
    assert repr(after.panels) == repr(before.panels)
    assert (len(before.gains), len(after.gains)) == (0, 3)


def test_a_report_without_checks_says_how_to_get_them(plain, tmp_path):
    page = Path(write_report(run_of(plain).path, str(tmp_path / "report.html"))).read_text()
    assert "was not checked in this run; the same sweep command with --check-convergence does it" in page


def test_the_table_of_trials_with_checks_fits_80_columns(checked):
    heard = io.StringIO()
    Console(file=heard, width=80).print(closing_table(run_of(checked)))
    assert "check highest" in heard.getvalue()
    assert "\u2026" not in heard.getvalue()


# Interruption and other sweeps


def interrupt_at(label: str) -> Callable:
    def execute_until(assignment, on_progress, on_scan, on_stage):
        if assignment.spec.label == label:
            raise KeyboardInterrupt
        return execute(assignment, on_progress, on_scan)

    return execute_until


@pytest.mark.slow
def test_an_interrupted_check_is_continued_to_the_same_rows(copy_small_sweep, checked, tmp_path, monkeypatch):
    again = copy_small_sweep(tmp_path)
    monkeypatch.setattr(executors, "execute", interrupt_at("check 19.7%"))
    with pytest.raises(KeyboardInterrupt):
        check(again)
    kept = checks_of(again)
    assert len(kept) == 2
    monkeypatch.setattr(executors, "execute", execute)
    check(again)
    expected = [without_times(record) for record in run_of(checked).records]
    assert [without_times(record) for record in run_of(again).records] == expected
    assert all(record in checks_of(again) for record in kept)


@pytest.mark.slow
def test_checks_that_start_from_the_original_run_with_the_sweep_itself(tmp_path):
    config = small_sweep(tmp_path, "solver.start=original", "epsilon.points=1", "baselines=[]")
    said = check(config)
    checks = checks_of(config)
    assert [one.label for one in checks] == ["check 4.0%", "check highest"]
    assert {(one.start, one.parents, one.steps) for one in checks} == {("original", None, 80)}
    assert {one.state for one in checks} <= {TrialState.DONE, TrialState.INFEASIBLE, TrialState.UNCONVERGED}
    assert "sweep quickstart: 6 trials; " in said
    assert " at epsilon 4.0% (f1 " in said


def test_the_flag_does_no_harm_where_there_is_no_range(tmp_path):
    config = small_sweep(tmp_path, "solver.steps=1", "solver.learning_rate=1e-9", "baselines=[]")
    with pytest.raises(RangeError, match="no valid epsilon range"):
        check(config)
    assert checks_of(config) == []
