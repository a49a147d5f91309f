"""Copies of a run for trackers: all of the store is there, twice adds nothing, growth adds itself."""

import importlib.util
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from synthetic_run import Planned, planned_trials, synthetic_result, write_run

from pareto_unlearn.records import MetricRow, Phase, TrialState
from pareto_unlearn.store import RunStore, open_run
from pareto_unlearn.trackers import Tracker, export_run
from pareto_unlearn.trackers.facts import gather

NEW = MetricRow(set="forget", split="heldout", metric="fid", protocol="standard", value=12.5, n=8)
CONTROL = Planned(Phase.CONTROL, "retrained", 0.4, 0.01)


def plans() -> list[Planned]:
    """One trial for each part and ending that a trial can have."""
    kinds = {(plan.phase, plan.role, plan.state): plan for plan in planned_trials()}
    return [*kinds.values(), CONTROL]


def write(storage: Path, chosen: Sequence[Planned]) -> str:
    return write_run(str(storage), [synthetic_result(plan) for plan in chosen])


def export(run: str, tracker: Tracker, where: Path) -> tuple[int, int, int, int]:
    """Export with the verb and return how many trials were added, updated, the same, and fixed."""
    done = call("track", run, tracker, where, "--json")
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    return tally["added"], tally["updated"], tally["same"], tally["fixed"]


def grow(tmp_path: Path, tracker: Tracker, where: Path, updated: tuple[int, int]) -> str:
    """Export a run four times: begun, complete, unchanged, and with a metric of one trial more.

    Args:
        tmp_path: where the run goes.
        tracker: what it is exported to.
        where: the export's place.
        updated: how many trials the last export updates and leaves as they are for good.
    """
    run = write(tmp_path / "runs", plans()[:5])
    assert export(run, tracker, where) == (5, 0, 0, 0)
    write(tmp_path / "runs", plans())
    assert export(run, tracker, where) == (len(plans()) - 5, 0, 5, 0)
    assert export(run, tracker, where) == (0, 0, len(plans()), 0)
    store = RunStore.open(run)
    store.add_metric(open_run(run).records[0], [NEW])
    assert export(run, tracker, where) == (0, updated[0], len(plans()) - 1, updated[1])
    return run


def test_numbers_are_named_by_split_and_nan_is_told_from_not_measured(tmp_path):
    tracked = gather(open_run(write(tmp_path, plans())))
    by_label = {trial.record.label: trial for trial in tracked.trials}
    highest = by_label["highest"]
    assert highest.parameters == {
        "phase": "boundary", "role": "highest", "method": "epsilon_constraint", "seed": 0,
        "start": "original",
    }  # fmt: skip
    assert highest.numbers["train/f1"] == highest.record.f1
    assert highest.numbers["heldout/f2"] == highest.record.f2_heldout
    assert highest.numbers["trial/steps"] == 400
    assert not {
        name for name in highest.numbers if name.partition("/")[0] not in ("train", "heldout", "trial")
    }
    assert [step for step, _ in highest.curves] == sorted(step for step, _ in highest.curves)
    assert highest.started <= highest.moment(100) <= highest.moment(400) == pytest.approx(highest.ended)
    (diverged,) = [one for one in tracked.trials if one.record.state is TrialState.DIVERGED]
    assert any(math.isnan(value) for value in diverged.numbers.values())
    (failed,) = [one for one in tracked.trials if one.record.state is TrialState.FAILED]
    assert "train/f1" not in failed.numbers


def test_tensorboard_reads_curves_numbers_and_the_row_of_every_trial(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    where = tmp_path / "tb"
    run = grow(tmp_path, Tracker.TENSORBOARD, where, (1, 0))
    folders = sorted((where / "digits").iterdir())
    assert len(folders) == len(plans())
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)
    tracked = {trial.title.split("(")[1][:8]: trial for trial in gather(open_run(run)).trials}
    for folder in folders:
        trial = tracked[folder.name[-8:]]
        read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        read.Reload()
        for name, value in trial.numbers.items():
            assert read.Scalars(name)[-1].value == pytest.approx(value, nan_ok=True)
        curve = [(one.step, one.value) for one in read.Scalars("curve/f1")] if trial.curves else []
        assert curve == [(step, pytest.approx(row["f1"], nan_ok=True)) for step, row in trial.curves]
        told = read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        row = HParamsPluginData.FromString(told).session_start_info.hparams
        assert row["method"].string_value == trial.record.method
        assert row["state"].string_value == trial.record.state


def test_optuna_finds_the_front_and_knows_what_is_infeasible_and_what_failed(tmp_path):
    import optuna

    where = tmp_path / "optuna.db"
    run = grow(tmp_path, Tracker.OPTUNA, where, (0, 1))
    study = optuna.load_study(study_name="digits", storage=f"sqlite:///{where}")
    records = {record.trial_id: record for record in open_run(run).records}
    states = Counter(records[one.user_attrs["trial_id"]].state for one in study.trials)
    own = [record for record in records.values() if record.phase not in (Phase.BASELINE, Phase.CONTROL)]
    assert states == Counter(record.state for record in own)
    for one in study.trials:
        record = records[one.user_attrs["trial_id"]]
        assert one.params["method"] == record.method
        assert one.params.get("epsilon") == record.epsilon
        if record.state in (TrialState.DIVERGED, TrialState.FAILED):
            assert one.state is optuna.trial.TrialState.FAIL
        else:
            assert one.values == [record.f1, record.f2]
            assert one.user_attrs["heldout/f1"] == record.f1_heldout
            is_feasible = all(excess <= 0 for excess in one.system_attrs["constraints"])
            assert is_feasible == (record.state is not TrialState.INFEASIBLE)
    front = open_run(run).front()
    feasible = set(front[front["state"] != TrialState.INFEASIBLE]["trial_id"])
    assert {one.user_attrs["trial_id"] for one in study.best_trials} == feasible
    assert study.metric_names == ["f1", "f2"]
    beside = optuna.load_study(study_name="digits: baselines, controls, checks", storage=f"sqlite:///{where}")
    assert {one.params["phase"] for one in beside.trials} == {"baseline", "control"}
    assert {one.state.name for one in beside.trials} == {"COMPLETE", "FAIL"}


def test_a_new_attempt_is_added_and_a_study_of_another_run_is_left_alone(tmp_path):
    import optuna

    where = tmp_path / "optuna.db"
    run = write(tmp_path / "runs", plans()[:2])
    export_run(run, Tracker.OPTUNA, str(where))
    again = synthetic_result(plans()[1])
    RunStore.open(run).commit(replace(again, record=replace(again.record, attempt=2)))
    assert export(run, Tracker.OPTUNA, where) == (1, 0, 1, 0)
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'own.db'}", study_name="digits").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    refused = call("track", run, "optuna", tmp_path / "own.db")
    assert refused.returncode == 3
    assert "name another file" in refused.stderr


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_has_a_child_run_for_every_trial(tmp_path):
    from mlflow import MlflowClient

    where = tmp_path / "mlflow.db"
    run = grow(tmp_path, Tracker.MLFLOW, where, (1, 0))
    client = MlflowClient(tracking_uri=f"sqlite:///{where}")
    experiment = client.get_experiment_by_name("digits")
    parent, *others = client.search_runs([experiment.experiment_id], "tags.`pareto_unlearn.phase` = 'sweep'")
    assert not others
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    found = {child.data.tags["pareto_unlearn.trial_id"]: child for child in children}
    tracked = gather(open_run(run))
    assert found.keys() == {trial.trial_id for trial in tracked.trials}
    for trial in tracked.trials:
        child = found[trial.trial_id]
        numbers = {name: value for name, value in child.data.metrics.items() if not name.startswith("curve/")}
        assert numbers == pytest.approx(dict(trial.numbers), nan_ok=True)
        assert child.data.params == {name: str(value) for name, value in trial.parameters.items()}
        broken = trial.record.state in (TrialState.DIVERGED, TrialState.FAILED)
        assert child.info.status == ("FAILED" if broken else "FINISHED")
    highest = next(trial for trial in tracked.trials if trial.record.label == "highest")
    curve = client.get_metric_history(found[highest.trial_id].info.run_id, "curve/f1")
    assert [(one.step, one.value) for one in curve] == [(step, row["f1"]) for step, row in highest.curves]

    # An export that was cut short leaves a run without its hash, which the next one writes anew.
    client.delete_tag(found[highest.trial_id].info.run_id, "pareto_unlearn.content")
    assert export(run, Tracker.MLFLOW, where) == (1, 0, len(plans()) - 1, 0)


def read_wandb(folder: Path) -> dict[str, list[Any]]:
    """Return the records of an offline run by kind, as `wandb sync` reads them."""
    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.glob("*.wandb")
    store, found = DataStore(), {}
    store.open_for_scan(str(path))
    while (content := store.scan_data()) is not None:
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    store._fp.close()
    return found


@pytest.mark.nightly
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_offline_runs_in_a_group(tmp_path):
    run = grow(tmp_path, Tracker.WANDB, tmp_path / "wb", (1, 0))
    folders = list((tmp_path / "wb" / "wandb").glob("offline-run-*"))
    ids = {folder.name.split("-")[-2] for folder in folders}
    assert ids == {record.trial_id for record in open_run(run).records}
    assert len(folders) == len(ids)
    tracked = {trial.trial_id: trial for trial in gather(open_run(run)).trials}
    for folder in folders:
        trial, written = tracked[folder.name.split("-")[-2]], read_wandb(folder)
        (run_row,), (end,) = written["run"], written["exit"]
        assert (run_row.run_group, run_row.display_name) == ("digits", trial.title)
        assert end.exit_code == (trial.record.state in (TrialState.DIVERGED, TrialState.FAILED))
        summary = {
            item.key or "/".join(item.nested_key): item.value_json
            for row in written["summary"]
            for item in row.update
        }
        found = {name: json.loads(summary[name]) for name in trial.numbers}
        # W&B writes NaN as null in a summary.
        assert found == {name: None if math.isnan(value) else value for name, value in trial.numbers.items()}
        assert len(written.get("history", [])) == len(trial.curves)
        assert run_row.host == "not recorded"
        assert not (folder / "files" / "requirements.txt").exists()


def test_a_tracker_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch):
    run, find = write(tmp_path, plans()[:1]), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    refused = call("track", run, "wandb", tmp_path / "wb")
    assert refused.returncode == 3
    assert "pareto-unlearn[wandb]" in refused.stderr
    assert not (tmp_path / "wb").exists()
    assert "writes into a folder" in call("track", run, "tensorboard", "s3://bucket/tb").stderr
    assert "expected one of tensorboard, mlflow, wandb, optuna" in call("track", run, "comet", "x").stderr
