"""Looking at a run from outside: how far it is, what is left, and that looking writes nothing."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import call
from rich.console import Console
from small_sweep import run, small_sweep
from trial_rows import finished_record

from pareto_unlearn import cli_watch
from pareto_unlearn.records import Phase, TrialState
from pareto_unlearn.schedule import count_trials
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep import executors
from pareto_unlearn.sweep.forecast import (
    Pace,
    Task,
    UnderWay,
    seconds_left,
    steps_of,
    task_of,
    tasks_of,
    weight_of,
)
from pareto_unlearn.sweep.progress import ProgressDisplay
from pareto_unlearn.sweep.progress_file import PROGRESS_FILE, ProgressFile, read_progress
from pareto_unlearn.sweep.status import RunState, look_at
from pareto_unlearn.sweep.worker import execute

COURSE = "baselines=[{method: composite, variant: one_run, weights: [0.1, 1.0]}, max_loss]"


def of_phase(config, phase: Phase) -> list[Task]:
    return [task for task in tasks_of(config) if task.phase is phase]


# What is known of a sweep before it runs


@pytest.mark.parametrize(
    "overrides",
    [(), ("seeds=[0, 1]", "solver.start=original"), ("solver.relearning={steps: 9}", "controls=[retrained]")],
    ids=["path", "two seeds from the original", "hardened and control"],
)
def test_every_trial_of_a_sweep_is_known_by_purpose(tmp_path, overrides):
    config = small_sweep(tmp_path, *overrides)
    for checks in (False, True):
        assert len(tasks_of(config, check_convergence=checks)) == count_trials(
            config, check_convergence=checks
        )


def test_the_steps_of_a_trial_count_its_scan(tmp_path):
    config = small_sweep(tmp_path, "solver.path.scan=[0.5, 1.0]", "solver.path.steps=100")
    highest, lowest = of_phase(config, Phase.BOUNDARY)
    assert steps_of(config, highest) == 100 + 2 * config.solver.path.scan_steps
    assert steps_of(config, lowest) == 40


def test_time_left_counts_steps_and_slots_and_what_must_come_before(tmp_path):
    config = small_sweep(tmp_path, "solver.start=original", "baselines=[]", "epsilon.points=4")
    pace = Pace(config)
    pace.add_steps(40, 20.0)  # half a second a step, so 20 s a trial, and nothing for the original
    highest, lowest = of_phase(config, Phase.BOUNDARY)
    running = [UnderWay(highest, 0, 0.0), UnderWay(lowest, 20, 10.0)]
    epsilons = of_phase(config, Phase.EPSILON)
    assert seconds_left(pace, epsilons, running, 2) == pytest.approx(20 + 2 * 20)
    assert seconds_left(pace, epsilons, running, 4) == pytest.approx(20 + 20)
    assert seconds_left(pace, epsilons, [], 1) == pytest.approx(4 * 20)


def test_short_trials_that_are_left_are_not_counted_as_long_ones(tmp_path):
    config = small_sweep(tmp_path, "baselines=[]", "epsilon.points=7")
    pace, (highest, _) = Pace(config), of_phase(config, Phase.BOUNDARY)
    pace.add_steps(steps_of(config, highest), 1400.0)
    pace.add_trial(highest, 1440.0)
    epsilons = of_phase(config, Phase.EPSILON)
    pace.add_trial(epsilons[0], 3.0)
    assert seconds_left(pace, epsilons[1:], [], 2) == pytest.approx(9.0)


def test_other_work_of_new_kinds_is_expected_by_how_much_it_is(tmp_path):
    config = small_sweep(tmp_path, "solver.start=original", "baselines=[]")
    pace = Pace(config, lambda task: 3.0 if task.phase is Phase.EPSILON else 1.0)
    pace.add_steps(40, 20.0)
    pace.add_trial(of_phase(config, Phase.BOUNDARY)[0], 20.0 + 5.0)
    assert pace.expect(of_phase(config, Phase.EPSILON)[0]) == pytest.approx(20.0 + 15.0)
    assert pace.expect(of_phase(config, Phase.ORIGINAL)[0]) == pytest.approx(5.0)


def test_a_step_of_a_training_counts_by_its_images(tmp_path):
    chosen = ("controls=[retrained]", "run.cpus_per_trial=2")
    for ranks, weight in ((1, 64 / (2 * 16)), (2, 2 * 64 / (2 * 16))):
        config = small_sweep(tmp_path, *chosen, f"run.ranks_per_trial={ranks}")
        assert weight_of(config, of_phase(config, Phase.CONTROL)[0]) == weight
        assert weight_of(config, of_phase(config, Phase.BOUNDARY)[0]) == 1.0


def test_the_start_of_a_process_and_what_is_done_once_count_for_no_other_trial(tmp_path):
    config = small_sweep(tmp_path, "solver.start=original", "baselines=[]", "epsilon.points=4")
    now, highest = [0.0], of_phase(config, Phase.BOUNDARY)[0].spec
    display = ProgressDisplay(
        Console(file=io.StringIO()), total=7, committed=0, config=config, clock=lambda: now[0]
    )
    display.on_start(highest)
    for now[0], doing in ((60.0, "reading images"), (61.0, "computing targets, once a run")):
        display.on_stage(highest, doing)
    for now[0], step in ((161.0, 1), (200.0, 40)):
        display.on_progress(highest, step, 1.0, 0.1)
    now[0] = 207.0
    display.on_end(highest, finished_record(highest.trial_id))
    # 207 s, of which 60 and 100 are no other trial's: 40 steps of a second, and 7 s besides.
    assert display.snapshot().seconds_left == pytest.approx(5 * 47 + 7)


def test_a_display_learns_the_pace_from_reports_and_keeps_it_for_others(tmp_path):
    config = small_sweep(tmp_path, "solver.start=original", "baselines=[]", "epsilon.points=2")
    store, now = RunStore.create(tmp_path, "kept"), [0.0]
    heard, highest = io.StringIO(), of_phase(config, Phase.BOUNDARY)[0].spec
    display = ProgressDisplay(
        Console(file=heard, width=200),
        total=5,
        committed=0,
        config=config,
        file=ProgressFile(store, lambda: now[0]),
        clock=lambda: now[0],
    )
    display.on_start(highest)
    display.on_stage(highest, "reading images")
    for now[0], step in ((100.0, 10), (110.0, 20), (120.0, 30)):  # loading took long, a step takes 1 s
        display.on_progress(highest, step, float("nan"), 0.25)
    found = read_progress(store)
    assert found is not None
    assert found.seconds_left == pytest.approx(10 + 40 + 2 * 40)
    assert found.is_least
    (one,) = found.running
    assert (one.step, one.steps, one.f1, one.f2, one.doing) == (30, 40, None, 0.25, "")
    said = [line.split("highest: ")[1] for line in heard.getvalue().splitlines()]
    assert said == ["started", "reading images", "step 20 of 40, f1 nan, f2 0.25"]


# Looking at a run


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    return {str(path): (status.st_mtime_ns, status.st_size) for path, status in found}


def test_a_run_is_looked_at_while_it_runs_when_it_is_stopped_and_when_it_is_done(tmp_path, monkeypatch):
    config, seen = small_sweep(tmp_path, "data.train_per_class=16"), []

    def look(assignment, on_progress, on_scan, on_stage):
        seen.append(look_at(RunStore.open(assignment.run_path)))
        if assignment.spec.phase is Phase.EPSILON:
            raise KeyboardInterrupt
        return execute(assignment, on_progress, on_scan, on_stage)

    monkeypatch.setattr(executors, "execute", look)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert [(one.state, one.done, one.planned, len(one.running)) for one in seen] == [
        ("running", 0, 5, 1),
        ("running", 1, 4, 1),
        ("running", 2, 3, 1),
    ]
    assert [one.running[0].label for one in seen[:2]] == ["highest", "lowest"]
    assert seen[2].seconds_left is not None
    assert "process" in (seen[0].holder or "")
    monkeypatch.undo()

    before = files_of(tmp_path)
    stopped = json.loads(call("status", tmp_path / config.name, "--json").stdout)
    assert (stopped["state"], stopped["done"], stopped["total"], stopped["planned"]) == (
        "interrupted", 2, 6, 4,
    )  # fmt: skip
    assert stopped["ranges"][0]["upper"] > stopped["ranges"][0]["lower"]
    assert "start the same sweep command again" in call("status", tmp_path / config.name).stdout
    (listed,) = json.loads(call("ls", tmp_path, "--json").stdout)
    assert listed == stopped
    assert files_of(tmp_path) == before

    assert run(config) in (0, 4)
    done = call("status", tmp_path / config.name, "--watch")  # ends by itself where nobody works
    assert "finished" in done.stdout
    assert "6 of 6 done, 0 failed" in " ".join(done.stdout.split())


def test_rows_that_a_sweep_did_not_ask_for_do_not_count(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path)
    store = RunStore.open(tmp_path / config.name)
    (epsilon, *_) = [row for row in store.records().values() if row.phase is Phase.EPSILON]
    (composite,) = [row for row in store.records().values() if row.phase is Phase.BASELINE]
    assert task_of(epsilon) in tasks_of(config)
    store.write_text("sweep.yaml", store.read_text("sweep.yaml").replace("points: 2", "points: 4"))
    more = look_at(store)
    assert more.total == 8
    assert more.done + more.failed == 4  # both epsilons are none of the denser grid
    assert (more.planned, more.others, more.state) == (4, 2, "interrupted")
    assert composite.state is not TrialState.FAILED


def test_a_folder_of_runs_is_listed_and_a_folder_without_any_is_refused(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path / "a")
    (tmp_path / "a" / "another").symlink_to(tmp_path / "a" / config.name)
    done = call("ls", tmp_path / "a")
    assert [line.split()[:3] for line in done.stdout.splitlines()[1:]] == 2 * [
        ["quickstart", "finished", "6/6"]
    ]
    (tmp_path / "empty").mkdir()
    refused = call("ls", tmp_path / "empty")
    assert refused.returncode == 3
    assert "a folder of runs" in refused.stderr


def test_a_damaged_progress_file_is_no_progress(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path)
    for text in ("", "[]", '{"running": 3}', '{"running": [{"label": 1}]}'):
        (tmp_path / config.name / PROGRESS_FILE).write_text(text)
        assert look_at(RunStore.open(tmp_path / config.name)).state == "finished"


def test_a_report_that_is_watched_is_written_at_every_end_of_a_trial_and_without_reloading_at_last(
    copy_small_sweep, tmp_path, monkeypatch
):
    config = copy_small_sweep(tmp_path)
    run, page = tmp_path / config.name, tmp_path / "page.html"
    finished, seen = look_at(RunStore.open(run)), []

    def looks(_):
        for ended in (2, 2, 3):
            yield replace(finished, state=RunState.RUNNING, done=ended)
            seen.append(page.read_text().split("The sweep is running: ")[1][:6])
            if len(seen) == 1:
                page.write_text("The sweep is running: as it was")
        yield finished

    monkeypatch.setattr(cli_watch, "_looks", looks)
    done = call("report", run, "--watch", "--out", page)
    assert done.stdout.strip() == str(page)
    assert seen == ["2 of 6", "as it ", "3 of 6"]
    assert "The sweep is running" not in page.read_text()
