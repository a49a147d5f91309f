"""What a sweep costs is known before: trials, steps, hours, bytes; and one that cannot fit is refused."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import call
from small_sweep import QUICKSTART, SMALL, run, run_of, small_sweep

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase
from pareto_unlearn.sweep import dry_run
from pareto_unlearn.sweep.dry_run import describe_files, describe_prediction, predict_sweep


def size_of(paths) -> int:
    return sum(file.stat().st_size for path in paths for file in [path, *path.rglob("*")] if file.is_file())


def written_by(run: Path) -> dict[str, int]:
    """Bytes of a finished run by the kinds of a prediction."""
    patterns = {
        "models": "checkpoints/*/1-*",
        "banks": "checkpoints/*/bank-*",
        "inputs": "cache/inputs-*.npy",
        "targets": "cache/targets-*/*",
    }
    found = {kind: size_of(run.glob(pattern)) for kind, pattern in patterns.items()}
    return found | {"tables": size_of(run / table for table in ("trials", "curves", "metrics", "samples"))}


def test_bytes_and_steps_are_those_that_a_sweep_then_takes(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path)
    predicted, written = predict_sweep(config, measure=False), written_by(tmp_path / config.name)
    # What a path takes on the way must fit too, and the dominated half of it goes when this short one ends.
    most = dict.fromkeys(written, 1.5) | {"banks": 2.5}
    for kind, size in written.items():
        assert size / 1.5 < predicted.num_bytes[kind] < most[kind] * size + 20_000, kind
    rows = run_of(config).records
    assert sum(predicted.trials.values()) == len(rows)
    solved = [row for row in rows if row.phase is not Phase.CONTROL]
    assert predicted.gradients == 2 * sum(row.gradient_pairs for row in solved)
    assert predicted.wall_seconds is None


def test_a_path_that_takes_fewer_checkpoints_than_asked_for_says_so_before(tmp_path):
    config = small_sweep(tmp_path, "solver.bank.max_bytes=1600000")
    predicted = predict_sweep(config, measure=False)
    assert predicted.bank == (6, 12)
    said = "\n".join(describe_files(predicted))
    assert "6 checkpoints of a path instead of 12" in said
    assert re.search(r"memory +\d.* a trial: weights \d.*, vectors of trained weights \d", said)
    short = dataclasses.replace(predicted, free_bytes=predicted.needed - 1)
    assert f"`sweep` refuses that ({dry_run.IGNORE_SPACE})" in describe_files(short)[0]
    assert len(describe_files(predict_sweep(small_sweep(tmp_path), measure=False))) == 2


def test_targets_lie_on_the_disk_twice_while_large_ones_are_computed(copy_small_sweep, tmp_path, monkeypatch):
    config = copy_small_sweep(tmp_path)
    assert predict_sweep(config, measure=False).num_bytes[dry_run.SPILLED] == 0
    monkeypatch.setattr(dry_run, "SPILLED_FROM", 0)
    sizes = predict_sweep(config, measure=False).num_bytes
    assert sizes[dry_run.SPILLED] == sizes["targets"] > 0


def test_a_dry_run_measures_steps_and_writes_nothing(tmp_path):
    overrides = [part for text in (*SMALL, f"run.storage={tmp_path}/runs") for part in ("-o", text)]
    done = call("sweep", QUICKSTART, *overrides, "--dry-run", "--json")
    found = json.loads(done.stdout)
    assert found["trials"] == {"highest": 1, "lowest": 1, "epsilon": 2, "original": 1, "baseline": 1}
    assert 0 < found["step_seconds"] < found["wall_seconds"] < 3600 * found["unit_hours"] * 1.001
    assert found["unit"] == "CPU"
    assert found["needed_bytes"] < found["free_bytes"]
    assert list(tmp_path.iterdir()) == []
    said = call("sweep", QUICKSTART, *overrides, "--dry-run", "--no-measure").stdout
    assert "trials     6: 1 highest" in said
    assert "time       not measured" in said
    refused = call("sweep", QUICKSTART, *overrides, "--json")
    assert refused.returncode == 2


def test_a_dry_run_says_what_its_run_has_already_and_what_would_be_added(copy_small_sweep, tmp_path):
    config = copy_small_sweep(tmp_path, "epsilon.points=4", "evaluate.second_reconstruction=true")
    written = sorted(path for path in tmp_path.rglob("*"))
    predicted = predict_sweep(config, measure=False)
    committed = len(run_of(config).records)
    assert predicted.to_plain()["so_far"]["trials_left"] == sum(predicted.trials.values()) - committed == 2
    said = "\n".join(describe_prediction(predicted))
    assert f"so far     {committed} trials are committed, 2 are left\n" in said
    assert re.search(r"\d committed models lack pixel\.second_reconstruction_\S.*: they are measured", said)
    assert sorted(set(tmp_path.rglob("*")) ^ set(written)) == []
    with pytest.raises(ConfigError, match=r"another sweep: .*solver\.learning_rate"):
        predict_sweep(copy_small_sweep(tmp_path, "solver.learning_rate=0.5"), measure=False)
    fresh = predict_sweep(small_sweep(tmp_path / "other"), measure=False)
    assert not any("so far" in line for line in describe_prediction(fresh))


def test_a_sweep_that_cannot_fit_is_refused_before_any_work_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda _: SimpleNamespace(free=300_000))
    config = small_sweep(tmp_path, "baselines=[]", "epsilon.points=1", "solver.path.steps=60")
    with pytest.raises(ConfigError, match=r"needs \d.* MB, 300 kB free at .*quickstart.*--ignore-space"):
        run(config)
    assert not (tmp_path / config.name / "run.json").exists()
    assert run(config, check_space=False) in (0, 4)


def test_what_a_run_holds_already_needs_no_room(copy_small_sweep, tmp_path, monkeypatch):
    config = copy_small_sweep(tmp_path)
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert run(config) == 0
