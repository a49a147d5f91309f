"""The bank of a finished sweep: what a path leaves in the store, and what epsilons make of it."""

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from short_path import CHECKPOINTS, HELD, PATH_SPEC, SCANNED, STEPS, short_config
from small_sweep import run, without_times

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.models import load_model
from pareto_unlearn.records import BankEntry, Phase, Role, ScanRow, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.solver import FlatParameters, PathPlan
from pareto_unlearn.store import RunStore, open_run
from pareto_unlearn.sweep import executors
from pareto_unlearn.sweep.worker import execute
from pareto_unlearn.trial import Hooks, Material, Trial, load_material, measure_trial, run_trial, running
from pareto_unlearn.trial.bank import WAY_HOME
from pareto_unlearn.trial.context import MeasuredImages
from pareto_unlearn.trial.judging import ARRIVAL_SLACK
from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss
from pareto_unlearn.trial.scan import MAX_EXTENSIONS, rate_beyond, scan_learning_rate


def files_below(path: Path) -> dict[str, bytes]:
    """Return all files by name, without the token that a start puts into the name of its model's folder."""
    files = {str(file.relative_to(path)): file for file in sorted(path.rglob("*")) if file.is_file()}
    return {re.sub(r"^1-[0-9a-f]{16}/", "1/", name): file.read_bytes() for name, file in files.items()}


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
    def epsilons(self) -> list[TrialRecord]:
        return [record for record in self.records if record.phase is Phase.EPSILON]

    @property
    def bank(self) -> tuple[BankEntry, ...]:
        return self.store.read_bank(self.path.trial_id)

    @property
    def path_folder(self) -> Path:
        return self.folder / "checkpoints" / self.path.trial_id

    @property
    def own_folder(self) -> Path:
        """Where the path's own model lies; its name has a token of the start."""
        return self.folder / str(self.path.checkpoint)

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
    listed = json.loads((finished.own_folder / "bank.json").read_text())
    assert [BankEntry(**entry) for entry in listed] == list(finished.bank)
    assert len(listed) >= 3


def test_no_listed_checkpoint_dominates_another_and_the_level_rises(finished):
    level, f2 = ([getattr(entry, name) for entry in finished.bank] for name in ("level", "f2"))
    assert all(np.diff(level) > 0)
    assert all(np.diff(f2) < 0)
    assert np.isfinite([level, f2]).all()


def test_checkpoints_are_listed_at_planned_steps(finished):
    planned = PathPlan(steps=STEPS, checkpoints=CHECKPOINTS).capture_times()
    steps = {entry.step for entry in finished.bank if entry.step <= STEPS}
    assert steps < set(planned)  # some were dominated, or the next test would show nothing


def test_a_bank_ends_with_mixtures_towards_the_original_while_their_f2_falls(finished, cache):
    beyond = [entry for entry in finished.bank if entry.step > STEPS]
    assert [entry.step for entry in beyond] == [STEPS + place for place in range(1, len(beyond) + 1)]
    assert 1 <= len(beyond) <= len(WAY_HOME)
    material = load_material(finished.config, cache, "targets")
    original = FlatParameters(material.trainable()).values.clone()
    first, second = (finished.state(entry)["values"] for entry in beyond[:2])
    shares = [(first - original).norm() / (1 - WAY_HOME[0]), (second - original).norm() / (1 - WAY_HOME[1])]
    assert float(shares[0]) == pytest.approx(float(shares[1]), rel=1e-4)


def test_only_listed_checkpoints_are_left_on_the_disk(finished):
    left = {folder.name for folder in finished.path_folder.iterdir() if folder.is_dir()}
    own = Path(finished.path.checkpoint).name
    assert left == {own, *(f"bank-1-{entry.step}-{entry.sha256[:16]}" for entry in finished.bank)}
    others = [file for file in finished.folder.rglob("bank*") if finished.path_folder not in file.parents]
    assert others == []


def test_a_checkpoint_is_the_file_its_hash_says(finished):
    for entry in finished.bank:
        content = finished.store.read_bank_state(finished.path.trial_id, entry)
        file = finished.path_folder / f"bank-1-{entry.step}-{entry.sha256[:16]}" / "state.safetensors"
        assert hashlib.sha256(content).hexdigest() == entry.sha256
        assert file.read_bytes() == content


def test_a_checkpoint_holds_nothing_but_weights(finished):
    for entry in finished.bank:
        lengths = {name: tensor.numel() for name, tensor in finished.state(entry).items()}
        assert lengths == {"values": finished.path.num_parameters}


def test_a_checkpoint_measured_again_gives_its_listed_costs_to_the_last_bit(finished, cache):
    config = finished.config
    material = load_material(config, cache, "targets")
    assert config.solver.bank.images >= max(len(inputs) for inputs in material.inputs.values())
    flat = FlatParameters(material.trainable(config.objective.space))
    for entry in finished.bank:
        flat.load(finished.state(entry)["values"])
        found = measure_completeness(material, "train")
        assert found.f1 == entry.f1
        assert material.scales.f1_at(found.worst_class_e) == entry.level
        assert measure_retain_loss(material, "train") == entry.f2


def test_the_model_of_the_path_is_its_best_checkpoint_near_its_end(finished):
    record, scales = finished.path, open_run(finished.folder).info.scales
    limit = scales.f1_at(finished.config.solver.path.end + ARRIVAL_SLACK)
    arrived = [entry for entry in finished.bank if entry.level <= limit]
    chosen = min(arrived, key=lambda entry: entry.f2) if arrived else finished.bank[0]
    assert (chosen.f1, chosen.level, chosen.f2) == (record.f1, record.level, record.f2)
    assert record.state is (TrialState.DONE if arrived else TrialState.UNCONVERGED)
    model = load_safetensors(finished.store.read_checkpoint(record)["model.safetensors"])
    original = load_model(finished.config.model, finished.config.task)
    weights = torch.cat([model[name].flatten() for name, _ in original.named_parameters()])
    assert torch.equal(finished.state(chosen)["values"], weights)


def test_a_listed_epsilon_is_the_raw_level_of_that_step(finished):
    scales = open_run(finished.folder).info.scales
    plan = PathPlan(steps=STEPS, checkpoints=CHECKPOINTS)
    for entry in finished.bank:
        assert entry.epsilon == pytest.approx(scales.f1_at(plan.epsilon_at(entry.step - 1)), rel=1e-12)


def test_a_listed_learning_rate_is_that_of_the_path(finished):
    assert {entry.learning_rate for entry in finished.bank} == {finished.path.learning_rate}


def test_the_gradient_pairs_of_a_path_count_its_scan(finished):
    listed = json.loads((finished.own_folder / "scan.json").read_text())
    assert 2 <= len(listed) <= 2 + MAX_EXTENSIONS
    assert {row["steps"] for row in listed} == {SCANNED}
    rates = [row["learning_rate"] for row in listed]
    assert rates == sorted(rates)
    assert finished.path.gradient_pairs == STEPS + SCANNED * len(listed)


def test_the_measuring_of_a_path_counts_that_of_its_scan(finished, cache):
    config, counted = finished.config, MeasuredImages()
    material = dataclasses.replace(load_material(config, cache, "targets"), measured=counted)
    rows = scan_learning_rate(Trial(config, PATH_SPEC, material))
    images = len(material.inputs["forget", "train"]) + len(material.inputs["retain", "train"])
    assert counted.images == len(rows) * len(PathPlan(steps=SCANNED, checkpoints=12).capture_times()) * images
    ours = len(PathPlan(steps=STEPS, checkpoints=CHECKPOINTS).capture_times()) * images
    home = finished.path.measuring_pairs * 3 * 2 * config.solver.batch - counted.images - ours
    assert 1 <= round(home / images, 6) <= len(WAY_HOME)


@pytest.mark.slow
def test_a_short_path_counts_the_steps_it_took_before_it_diverged(cache):
    overrides = ("solver.path.steps=200", "solver.path.scan=[1, 1.0e+30]", "solver.path.scan_length=0.6")
    config = short_config(Path("unused"), *overrides)
    *sane, wild = scan_learning_rate(Trial(config, PATH_SPEC, load_material(config, cache, "targets")))
    assert 50 <= wild.steps < sane[0].steps == 120  # a window of 50 without a finite step ends a solve
    assert math.isnan(wild.hypervolume)


def rows(*worth: float) -> list[ScanRow]:
    return [ScanRow(learning_rate=2.0**place, steps=1, hypervolume=one) for place, one in enumerate(worth)]


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        ((0.1, 0.3, 0.2), None),
        ((0.3, 0.2, 0.1), 0.5),
        ((0.1, 0.2, 0.3), 8.0),
        ((math.nan, 0.1, 0.2), 8.0),
        ((0.1, 0.2, math.nan), None),
        ((math.nan, math.nan), None),
        ((0.5,), None),
        ((), None),
    ],
)
def test_a_scan_goes_on_beyond_the_edge_at_which_its_best_lies(worth, expected):
    assert rate_beyond(rows(*worth)) == expected


def test_the_range_of_a_finished_sweep_is_that_of_its_bank(finished):
    (valid,) = open_run(finished.folder).info.ranges
    lowest = next(record for record in finished.records if record.role is Role.LOWEST)
    top = max(entry.level for entry in finished.bank)
    assert valid.lower == finished.path.level
    if valid.upper_source == "lowest":
        assert valid.upper == lowest.level <= top
    else:
        assert (valid.upper, valid.upper_source) == (top, "path")


# Epsilons


def test_every_epsilon_starts_from_a_mixture_of_two_models_of_the_path(finished):
    assert len(finished.epsilons) == 2
    names = {str(entry.step) for entry in finished.bank} | {"original"}
    for record in finished.epsilons:
        kind, _, pair = record.start.partition(":")
        assert kind == "path"
        assert set(pair.split("+")) <= names
        assert record.parents == finished.path.trial_id


def test_every_epsilon_is_met_by_the_worst_class_from_both_sides(finished):
    for record in finished.epsilons:
        assert record.state is TrialState.DONE
        assert abs(record.level - record.epsilon) <= 0.01 * record.range_width
        assert record.level >= record.f1


def test_a_level_is_that_of_the_worst_class_on_its_split(finished):
    scales = open_run(finished.folder).info.scales
    for record in finished.epsilons:
        assert record.level == pytest.approx(scales.f1_at(1.0 - record.completeness_worst_class), rel=1e-9)
        heldout = scales.f1_at(1.0 - record.completeness_worst_class_heldout, "heldout")
        assert record.level_heldout == pytest.approx(heldout, rel=1e-9)


def test_all_other_trials_start_from_the_original(finished):
    others = [record for record in finished.records if record.phase is not Phase.EPSILON]
    assert {(record.start, record.parents) for record in others} == {("original", None)}
    assert len(others) == 3


def test_every_kind_of_trial_takes_its_own_number_of_steps(finished):
    steps = {record.label: record.steps for record in finished.records if record.epsilon is None}
    assert steps == {"highest": STEPS, "lowest": 60, "original": 0}
    assert {record.steps for record in finished.epsilons} == {HELD}


def epsilon_spec(finished: Finished, epsilon: float, width: float = 1.0) -> TrialSpec:
    return TrialSpec(
        trial_id="1" * 16,
        phase=Phase.EPSILON,
        method="epsilon_constraint",
        seed=0,
        epsilon=epsilon,
        range_width=width,
        parents=finished.path.trial_id,
    )


def bank_hooks(store: RunStore, **hooks: Any) -> Hooks:
    return Hooks(read_bank=store.read_bank, read_bank_state=store.read_bank_state, **hooks)


def solve_epsilon(finished: Finished, cache: Path, epsilon: float, *overrides: str, **hooks: Any):
    config = short_config(Path("unused"), *overrides)
    trial = Trial(config, epsilon_spec(finished, epsilon), load_material(config, cache, "targets"))
    return run_trial(trial, bank_hooks(finished.store, **hooks), "1")


def test_an_epsilon_that_is_not_held_is_the_mixture_itself(finished, cache):
    epsilon = (finished.bank[0].level + finished.bank[-1].level) / 2
    result = solve_epsilon(finished, cache, epsilon, "solver.hold.steps=0")
    record = result.record
    assert (record.steps, record.gradient_pairs, result.curves) == (0, 0, ())
    assert abs(record.level - epsilon) <= 0.01
    assert 0.0 <= record.interpolation <= 1.0


def test_an_epsilon_counts_every_image_it_is_measured_on_while_it_is_solved(finished, cache, monkeypatch):
    seen: list[int] = []
    features = Material.features
    monkeypatch.setattr(Material, "features", lambda self: counting(features(self), seen))
    trained = Counter()

    def count_until_it_is_solved(*arguments):
        trained["images"] += sum(seen)
        return measure_trial(*arguments)

    monkeypatch.setattr(running, "measure_trial", count_until_it_is_solved)
    for held in (0, 20):
        seen.clear()
        trained.clear()
        epsilon = (finished.bank[0].level + finished.bank[-1].level) / 2
        record = solve_epsilon(finished, cache, epsilon, f"solver.hold.steps={held}").record
        assert trained["images"] > 0
        assert record.measuring_pairs == pytest.approx(trained["images"] / (2 * 16) / 3)


def counting(function: Callable, seen: list[int]) -> Callable:
    """Return the function that notes how many images it was given without gradients."""

    def wrapped(inputs):
        if not torch.is_grad_enabled():
            seen.append(len(inputs))
        return function(inputs)

    return wrapped


def test_a_state_that_did_not_count_images_leaves_the_cost_of_measuring_unknown(finished, cache):
    epsilon, held = finished.bank[len(finished.bank) // 2].level, "solver.hold.steps=60"
    kept: dict[int, dict[str, bytes]] = {}
    solve_epsilon(finished, cache, epsilon, held, save_resume=kept.__setitem__)
    history = json.loads(kept[50]["history.json"])
    assert history.pop("measured_images") > 0
    older = {**kept[50], "history.json": json.dumps(history).encode()}
    record = solve_epsilon(finished, cache, epsilon, held, load_resume=lambda: (50, older)).record
    assert record.measuring_pairs is None
    assert record.gradient_pairs == 60


def test_holding_an_epsilon_never_ends_with_a_larger_f2(finished, cache):
    epsilon = (finished.bank[0].level + finished.bank[-1].level) / 2
    mixed, held = (
        solve_epsilon(finished, cache, epsilon, f"solver.hold.steps={steps}").record for steps in (0, 60)
    )
    assert held.steps == 60
    assert held.reason.startswith("held, then")
    assert abs(held.level - epsilon) <= 0.01
    assert held.f2 <= 1.02 * mixed.f2  # both meet epsilon within their tolerance only


def test_an_epsilon_that_nothing_spans_says_so_and_is_not_done(finished, cache):
    below = finished.bank[0].level - 0.05
    record = solve_epsilon(finished, cache, below, "solver.hold.steps=0").record
    assert record.state is TrialState.INFEASIBLE
    assert "no two of" in record.reason
    above = open_run(finished.folder).info.scales.f1_original + 0.05
    record = solve_epsilon(finished, cache, above, "solver.hold.steps=0").record
    assert record.state is TrialState.UNCONVERGED
    assert record.reason.startswith("constraint not active: f1 of the worst class = ")


def test_an_interrupted_hold_continues_to_the_same_weights(finished, cache):
    epsilon, held = finished.bank[len(finished.bank) // 2].level, "solver.hold.steps=60"
    kept: dict[int, dict[str, bytes]] = {}
    whole = solve_epsilon(finished, cache, epsilon, held, save_resume=kept.__setitem__)
    assert list(kept) == [50]
    resumed = solve_epsilon(finished, cache, epsilon, held, load_resume=lambda: (50, kept[50]))
    assert resumed.files == whole.files
    assert without_times(resumed.record) == without_times(whole.record)


# Interruption


def interrupting_path(at: int, seen: list[int]) -> Callable:
    """Run a path until that step and then as if Ctrl-C were pressed; note the steps that were reported.

    The steps of a scan are noted as step 0.
    """

    def execute_until(assignment, on_progress, on_scan, on_stage):
        assert assignment.spec.role is Role.HIGHEST

        def stop(step, f1, f2):
            seen.append(step)
            on_progress(step, f1, f2)
            if step >= at:
                raise KeyboardInterrupt

        def scan(progress):
            seen.append(0)
            on_scan(progress)

        execute(assignment, stop, scan)
        raise KeyboardInterrupt

    return execute_until


def test_an_interrupted_path_continues_to_the_same_bank_to_the_last_bit(finished, tmp_path, monkeypatch):
    again = Finished(short_config(tmp_path))
    first: list[int] = []
    monkeypatch.setattr(executors, "execute", interrupting_path(55, first))
    with pytest.raises(KeyboardInterrupt):
        run(again.config)
    assert first[0] == 0  # it looked for its step size, and the resumed path does not
    (folder,) = (again.folder / "checkpoints").iterdir()
    resumed_at = max(int(path.name.split("-")[1]) for path in folder.glob(".resume-*"))
    taken = [int(path.name.split("-")[2]) for path in folder.glob("bank-1-*")]
    assert 40 <= resumed_at < 55 <= first[-1]
    assert max(taken) < 55

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
