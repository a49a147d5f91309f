"""Measurements that are added to a run: models are measured, none is trained, and what was there stays."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from small_sweep import TINIEST, run, run_of

import pareto_unlearn.trial
from pareto_unlearn.config import SweepConfig, dump_config, former_config_hashes, load_config, measurements_of
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, TrialRecord
from pareto_unlearn.schedule import NoTrial
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep import SweepOptions, run_sweep
from pareto_unlearn.sweep.additions import Additions
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Answer, Assignment
from pareto_unlearn.trial import weights_digest

QUICKSTART = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
FEW = ("evaluate.metrics=[mse]",)
MORE = ("evaluate.metrics=[mse, psnr, cosine]", "evaluate.second_reconstruction=true")
AUDITED = (*MORE, "evaluate.audit=quick")


def sweep_of(folder: Path, *overrides: str) -> SweepConfig:
    return load_config(QUICKSTART, [*TINIEST, "run.executor=local", f"run.storage={folder}", *overrides])


def files_of(config: SweepConfig) -> dict[str, bytes]:
    """Return all that trials have committed."""
    root = Path(config.run.storage) / config.name
    tables = ("trials", "curves", "metrics", "samples", "checkpoints")
    files = [path for table in tables for path in (root / table).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.suffix != ".lock"}


def rows_of(config: SweepConfig) -> pd.DataFrame:
    keys = ["trial_id", "set", "split", "protocol", "metric", "class_name"]
    return run_of(config).metrics.sort_values(keys, ignore_index=True)


def heard_of(config: SweepConfig) -> tuple[int, str]:
    heard = io.StringIO()
    return run_sweep(config, SweepOptions(), Console(file=heard, width=500)), heard.getvalue()


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> SweepConfig:
    """A finished sweep with one metric, that tests copy."""
    config = sweep_of(tmp_path_factory.mktemp("few"), *FEW)
    assert run(config) == 0
    return config


@pytest.fixture
def folder(few, tmp_path) -> Path:
    shutil.copytree(few.run.storage, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def no_training(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a trial was run")

    monkeypatch.setattr(pareto_unlearn.trial, "run_trial", refuse)


def test_what_is_added_is_measured_of_every_model_and_nothing_else_changes(folder, no_training):
    before = files_of(sweep_of(folder, *FEW))
    config = sweep_of(folder, *MORE)
    code, heard = heard_of(config)
    assert code == 0
    assert "4 committed models lack pixel.psnr, builtin.cosine, pixel.second_reconstruction_mse" in heard
    after = files_of(config)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"metrics"}
    assert heard_of(config)[0] == 0
    assert files_of(config) == after


def test_the_added_values_are_those_of_a_sweep_that_had_the_keys_from_the_start(folder, tmp_path):
    config, fresh = sweep_of(folder, *AUDITED), sweep_of(tmp_path / "fresh", *AUDITED)
    assert run(config) == run(fresh) == 0
    pd.testing.assert_frame_equal(
        rows_of(config).drop(columns="attempt"), rows_of(fresh).drop(columns="attempt")
    )


def test_measurements_are_never_taken_away(folder):
    assert run(sweep_of(folder, *MORE)) == 0
    with pytest.raises(ConfigError, match=r"measures pixel\.psnr, .* too: evaluate\.metrics"):
        run(sweep_of(folder, *FEW))
    with pytest.raises(ConfigError, match=r"another sweep: evaluate\.max_samples: 16 -> 3"):
        run(sweep_of(folder, *MORE, "evaluate.max_samples=3"))


def test_a_model_that_is_lost_is_named_and_measured_once_it_is_back(folder, no_training):
    (highest,) = (one for one in run_of(sweep_of(folder)).records if one.label == "highest")
    weights = folder / "quickstart" / highest.checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    config = sweep_of(folder, "evaluate.metrics=[mse, psnr]")
    code, heard = heard_of(config)
    assert code == 4
    assert f"highest ({highest.trial_id}) was not measured: " in heard
    assert "model.safetensors is missing although the manifest lists it" in heard
    has_psnr = rows_of(config).query("metric == 'psnr_hole'").trial_id
    assert set(has_psnr) == {one.trial_id for one in run_of(config).records} - {highest.trial_id}
    weights.write_bytes(content)
    code, heard = heard_of(config)
    assert (code, "1 model that is committed lacks pixel.psnr" in heard) == (0, True)


def test_a_run_of_an_earlier_release_keeps_its_hash(folder, no_training):
    old, new = sweep_of(folder, *FEW), sweep_of(folder, *MORE)
    former, _ = former_config_hashes(old, weights_digest(old), old)
    store = RunStore.open(str(folder / "quickstart"))
    assert store.read_info().config_hash != former
    store.write_info(replace(store.read_info(), config_hash=former))
    assert run(new) == run(new) == 0
    assert store.read_info().config_hash == former
    other = sweep_of(folder, *MORE, "solver.learning_rate=0.5")
    with pytest.raises(ConfigError, match=r"another sweep: .*solver\.learning_rate"):
        run(other)


def test_measuring_fills_places_that_no_trial_can_take(folder):
    config = sweep_of(folder, *MORE, "epsilon.points=2")
    store = RunStore.open(str(folder / "quickstart"))
    spec = next(iter(store.records().values())).spec
    template = Assignment(
        run_path="", config_text=dump_config(config), targets_key="", code_version="1", spec=spec
    )
    planner = Planner(config, store, weights_digest(config), template)
    planner.additions = Additions.of_run(config, store, planner.rows.values())
    live: list[str] = []
    for _ in range(2):
        epsilon = planner.next_trial(live)
        assert (epsilon.spec.phase, epsilon.missing) == (Phase.EPSILON, ())
        live.append(epsilon.spec.trial_id)
    for _ in range(4):
        assignment = Assignment.from_plain(json.loads(json.dumps(planner.next_trial(live).to_plain())))
        assert assignment.missing == tuple(one.name for one in measurements_of(config))[1:]
        assert isinstance(assignment.parent, TrialRecord)
        live.append(assignment.spec.trial_id)
    assert planner.next_trial(live) is NoTrial.WAIT
    lost = planner.rows[live[2]]
    assert planner.commit_lost(lost.spec, "its node was lost") == lost
    assert planner.additions.failed == {lost.trial_id: "its node was lost"}
    for trial_id in live[3:]:
        row = planner.rows[trial_id]
        assert planner.take(row.spec, Answer(record=row)) == row
    assert not planner.additions.missing
