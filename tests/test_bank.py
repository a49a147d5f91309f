"""The bank of a finished sweep: what a path leaves in the store, and what branches make of it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from short_path import CHECKPOINTS, PATH_SPEC, STEPS, short_config
from small_sweep import run, without_times

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.models import load_model
from pareto_unlearn.records import BankEntry, Phase, Role, TrialRecord, TrialSpec
from pareto_unlearn.solver import FlatParameters, PathPlan
from pareto_unlearn.store import RunStore, open_run
from pareto_unlearn.sweep import executors
from pareto_unlearn.sweep.worker import execute
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial
from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss
from pareto_unlearn.trial.scan import scan_learning_rate


def files_below(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished sweep that tests only read."""

    config: SweepConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.run.storage) / self.config.name

    @cached_property
    def store(self) -> RunStore:
        return RunStore.open(self.folder)

    @cached_property
    def records(self) -> list[TrialRecord]:
        return list(self.store.records().values())

    @property
    def path(self) -> TrialRecord:
        return next(record for record in self.records if record.role is Role.HIGHEST)

    @property
    def branches(self) -> list[TrialRecord]:
        return [record for record in self.records if record.phase is Phase.EPSILON]

    @property
    def bank(self) -> tuple[BankEntry, ...]:
        return self.store.read_bank(self.path.trial_id)

    @property
    def path_folder(self) -> Path:
        return self.folder / "checkpoints" / self.path.trial_id

    def state(self, entry: BankEntry) -> dict[str, torch.Tensor]:
        return load_safetensors(self.store.read_bank_state(self.path.trial_id, entry))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    config = short_config(tmp_path_factory.mktemp("finished"))
    assert run(config) == 0
    return Finished(config)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of the original model, computed once: no override of these tests changes them."""
    return tmp_path_factory.mktemp("cache")


# What a path leaves in the store


def test_a_path_is_committed_with_the_list_of_its_checkpoints(finished):
    listed = json.loads((finished.path_folder / "1" / "bank.json").read_text())
    assert [BankEntry(**entry) for entry in listed] == list(finished.bank)
    assert len(listed) >= 3


def test_no_listed_checkpoint_dominates_another_and_f1_rises(finished):
    f1, f2 = ([getattr(entry, name) for entry in finished.bank] for name in ("f1", "f2"))
    assert all(np.diff(f1) > 0)
    assert all(np.diff(f2) < 0)
    assert np.isfinite([f1, f2]).all()


def test_checkpoints_are_listed_at_planned_steps(finished):
    planned = PathPlan(steps=STEPS, end=0.5, checkpoints=CHECKPOINTS).capture_steps()
    steps = {entry.step for entry in finished.bank}
    assert steps < set(planned)  # some were dominated, or the tests below would show nothing


def test_only_listed_checkpoints_are_left_on_the_disk(finished):
    left = {folder.name for folder in finished.path_folder.iterdir() if folder.is_dir()}
    assert left == {"1", *(f"bank-1-{entry.step}" for entry in finished.bank)}
    others = [file for file in finished.folder.rglob("bank*") if finished.path_folder not in file.parents]
    assert others == []


def test_a_checkpoint_is_the_file_its_hash_says(finished):
    for entry in finished.bank:
        content = finished.store.read_bank_state(finished.path.trial_id, entry)
        file = finished.path_folder / f"bank-1-{entry.step}" / "state.safetensors"
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert file.read_bytes() == content


def test_a_checkpoint_holds_weights_moments_their_age_and_the_state_of_the_constraint(finished):
    for entry in finished.bank:
        state = finished.state(entry)
        assert int(state.pop("updates")) == entry.step
        lengths = {name: tensor.numel() for name, tensor in state.items()}
        of_constraint = {f"constraint.class_{name}": 5 for name in ("integral", "mean", "one")}
        weights = ("values", "first_moment", "second_moment")
        assert lengths == dict.fromkeys(weights, finished.path.num_parameters) | of_constraint


def test_a_checkpoint_measured_again_gives_its_listed_costs_to_the_last_bit(finished, cache):
    config = finished.config
    material = load_material(config, cache, "targets")
    assert config.solver.bank.images >= max(len(inputs) for inputs in material.inputs.values())
    flat = FlatParameters(material.trainable(config.objective.space))
    for entry in finished.bank:
        flat.load(finished.state(entry)["values"])
        assert measure_completeness(material, "train").f1 == entry.f1
        assert measure_retain_loss(material, "train") == entry.f2


def test_the_last_checkpoint_is_the_model_of_the_path(finished):
    record = finished.path
    (last,) = [entry for entry in finished.bank if entry.step == record.steps]
    assert (last.f1, last.f2) == (record.f1, record.f2)
    model = load_safetensors(finished.store.read_checkpoint(record)["model.safetensors"])
    original = load_model(finished.config.model, finished.config.task)
    weights = torch.cat([model[name].flatten() for name, _ in original.named_parameters()])
    assert torch.equal(finished.state(last)["values"], weights)


def test_a_listed_epsilon_is_the_raw_level_of_that_step(finished):
    section, scales = finished.config.solver.path, open_run(finished.folder).info.scales
    falling = round((1.0 - section.hold) * STEPS)
    for entry in finished.bank:
        e = 1.0 + min(entry.step / falling, 1.0) * (section.end - 1.0)
        assert entry.epsilon == pytest.approx(scales.f1_floor + e * scales.f1_range, rel=1e-12)


def test_a_listed_learning_rate_is_that_of_the_path(finished):
    assert {entry.learning_rate for entry in finished.bank} == {finished.path.learning_rate}


def test_the_gradient_pairs_of_a_path_count_its_scan(finished):
    listed = json.loads((finished.path_folder / "1" / "scan.json").read_text())
    assert [row["steps"] for row in listed] == [12, 12]
    assert finished.path.gradient_pairs == STEPS + 24


@pytest.mark.slow
def test_a_short_descent_counts_the_steps_it_took_before_it_diverged(cache):
    overrides = ("solver.path.steps=200", "solver.path.scan=[1, 1.0e+30]", "solver.path.scan_length=0.6")
    config = short_config(Path("unused"), *overrides)
    sane, wild = scan_learning_rate(Trial(config, PATH_SPEC, load_material(config, cache, "targets")))
    assert 50 <= wild.steps < sane.steps == 120  # a window of 50 without a finite step ends a solve
    assert math.isnan(wild.hypervolume)


def test_the_range_of_a_finished_sweep_is_that_of_its_bank(finished):
    info = open_run(finished.folder).info
    (valid,) = info.ranges
    bound = finished.config.solver.lowest.tolerance * info.scales.variance_retain
    lowest = next(record for record in finished.records if record.role is Role.LOWEST)
    within = min((entry.f1 for entry in finished.bank if entry.f2 <= bound), default=math.inf)
    expected = (within, "path") if within < lowest.f1 else (lowest.f1, "lowest")
    assert (valid.upper, valid.upper_source) == expected
    assert valid.lower == finished.path.f1


# Branches


def test_every_branch_starts_from_the_listed_checkpoint_next_below_its_epsilon(finished):
    assert len(finished.branches) == 2
    for branch in finished.branches:
        below = [entry for entry in finished.bank if entry.f1 <= branch.epsilon]
        assert branch.start == f"path:{max(below, key=lambda entry: entry.f1).step}"
        assert branch.parents == finished.path.trial_id


def test_all_other_trials_start_from_the_original(finished):
    others = [record for record in finished.records if record.phase is not Phase.EPSILON]
    assert {(record.start, record.parents) for record in others} == {("original", None)}
    assert len(others) == 3


def test_every_kind_of_trial_takes_its_own_number_of_steps(finished):
    steps = {record.label: record.steps for record in finished.records if record.epsilon is None}
    assert steps == {"highest": STEPS, "lowest": 60, "original": 0}
    assert {branch.steps for branch in finished.branches} == {20}


def test_a_branch_takes_the_step_size_that_the_path_found_over(finished):
    solver = finished.config.solver
    factor = finished.path.learning_rate / solver.path.learning_rate
    assert factor in solver.path.scan
    assert {branch.learning_rate for branch in finished.branches} == {factor * solver.branch.learning_rate}


def branch_spec(finished: Finished, epsilon: float) -> TrialSpec:
    return TrialSpec(
        trial_id="1" * 16,
        phase=Phase.EPSILON,
        method="epsilon_constraint",
        seed=0,
        epsilon=epsilon,
        range_width=1.0,
        parents=finished.path.trial_id,
    )


def bank_hooks(store: RunStore, **hooks: Any) -> Hooks:
    return Hooks(read_bank=store.read_bank, read_bank_state=store.read_bank_state, **hooks)


def test_a_branch_that_cannot_move_has_the_costs_of_its_checkpoint(finished, cache):
    still = short_config(Path("unused"), "solver.branch.steps=1", "solver.branch.learning_rate=1e-30")
    for entry in (finished.bank[0], finished.bank[-1]):
        spec = branch_spec(finished, entry.f1)
        material = load_material(still, cache, "targets")
        record = run_trial(Trial(still, spec, material), bank_hooks(finished.store), "1").record
        assert (record.start, record.f1, record.f2) == (f"path:{entry.step}", entry.f1, entry.f2)


def test_an_interrupted_branch_continues_to_the_same_weights(finished, cache):
    config = short_config(Path("unused"), "solver.branch.steps=60")
    spec = branch_spec(finished, finished.bank[len(finished.bank) // 2].f1)
    kept: dict[int, dict[str, bytes]] = {}
    hooks = bank_hooks(finished.store, save_resume=kept.__setitem__)
    whole = run_trial(Trial(config, spec, load_material(config, cache, "targets")), hooks, "1")
    assert list(kept) == [50]
    hooks = bank_hooks(finished.store, load_resume=lambda: (50, kept[50]))
    resumed = run_trial(Trial(config, spec, load_material(config, cache, "targets")), hooks, "1")
    assert resumed.files == whole.files
    assert without_times(resumed.record) == without_times(whole.record)


def test_a_branch_without_a_bank_is_refused(finished, cache):
    spec = branch_spec(finished, 0.8)
    material = load_material(finished.config, cache, "targets")
    with pytest.raises(ValueError, match="at least one checkpoint"):
        run_trial(Trial(finished.config, spec, material), Hooks(), "1")


# Interruption


def interrupting_path(at: int, seen: list[int]) -> Callable:
    """Run a path until that step and then as if Ctrl-C were pressed; note the steps that were reported."""

    def execute_until(assignment, on_progress):
        assert assignment.spec.role is Role.HIGHEST

        def stop(step, f1, f2):
            seen.append(step)
            on_progress(step, f1, f2)
            if step >= at:
                raise KeyboardInterrupt

        execute(assignment, stop)
        raise KeyboardInterrupt

    return execute_until


def test_an_interrupted_path_continues_to_the_same_bank_to_the_last_bit(finished, tmp_path, monkeypatch):
    again = Finished(short_config(tmp_path))
    first: list[int] = []
    monkeypatch.setattr(executors, "execute", interrupting_path(55, first))
    with pytest.raises(KeyboardInterrupt):
        run(again.config)
    (folder,) = (again.folder / "checkpoints").iterdir()
    resumed_at = max(int(path.name.removeprefix(".resume-")) for path in folder.glob(".resume-*"))
    taken = [int(path.name.removeprefix("bank-1-")) for path in folder.glob("bank-1-*")]
    assert 40 <= resumed_at < max(taken) < 55 <= first[-1]

    second: list[int] = []
    monkeypatch.setattr(executors, "execute", interrupting_path(STEPS + 1, second))
    with pytest.raises(KeyboardInterrupt):
        run(again.config)
    assert second[0] > resumed_at
    assert without_times(again.path) == without_times(finished.path)
    assert files_below(again.path_folder) == files_below(finished.path_folder)
    assert again.bank == finished.bank
    curves = [
        open_run(one.folder).curves.query("trial_id == @one.path.trial_id") for one in (again, finished)
    ]
    measured = [one.drop(columns="images_per_second").reset_index(drop=True) for one in curves]
    assert measured[0].equals(measured[1])


# Without a path


@pytest.mark.slow
def test_a_sweep_that_starts_from_the_original_has_no_bank_and_no_parents(tmp_path):
    config = short_config(tmp_path, "solver.start=original", "epsilon.points=1")
    assert run(config) == 0
    sweep = Finished(config)
    assert {(record.start, record.parents) for record in sweep.records} == {("original", None)}
    assert {record.steps for record in sweep.records} == {0, 60}
    assert sweep.bank == ()
    assert list(sweep.folder.rglob("bank*")) == []
