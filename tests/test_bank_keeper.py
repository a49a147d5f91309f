"""Which checkpoints a path takes, and what is in them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from short_path import PATH_SPEC, short_config
from small_sweep import run
from torch import nn

from pareto_unlearn.config import BankSection, SweepConfig
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import load_model
from pareto_unlearn.records import BankEntry
from pareto_unlearn.solver import EpsilonSolver, LevelControl, PathPlan, UpdateSettings
from pareto_unlearn.stored_fields import read_fields
from pareto_unlearn.sweep import check_sweep
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial
from pareto_unlearn.trial.bank import BankKeeper, Costs, count_checkpoints, spread_rows, unpack_values


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of the original model, computed once: no override of these tests changes them."""
    return tmp_path_factory.mktemp("cache")


# How many fit


def state_bytes(config: SweepConfig) -> int:
    """A float32 vector as long as the parameters."""
    return 4 * sum(parameter.numel() for parameter in load_model(config.model, config.task).parameters())


@pytest.mark.parametrize("enter", [check_sweep, run], ids=["check_sweep", "run_sweep"])
def test_a_bank_without_room_for_three_checkpoints_is_refused_before_anything_is_written(tmp_path, enter):
    size = state_bytes(short_config(tmp_path))
    config = short_config(tmp_path / "runs", f"solver.bank.max_bytes={3 * size - 1}")
    with pytest.raises(ConfigError, match=r"solver\.bank\.max_bytes") as caught:
        enter(config)
    for number in (3 * size - 1, size, 3 * size):
        assert str(number) in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_without_a_path_no_room_is_needed(tmp_path):
    check_sweep(short_config(tmp_path, "solver.start=original", "solver.bank.max_bytes=1"))


@pytest.mark.parametrize(("fit", "expected"), [(3, 3), (5, 5), (6, 6), (7, 6)])
def test_a_path_takes_as_many_checkpoints_as_fit(fit, expected):
    parameters = [nn.Parameter(torch.zeros(10)), nn.Parameter(torch.zeros(2, 3))]
    section = BankSection(checkpoints=6, max_bytes=fit * 4 * 16)
    assert count_checkpoints(section, parameters) == expected


def test_a_smaller_bank_is_spread_over_the_whole_path(tmp_path, cache):
    size, taken = state_bytes(short_config(tmp_path)), {}
    config = short_config(tmp_path, "solver.path.steps=20", f"solver.bank.max_bytes={5 * size - 1}")
    hooks = Hooks(save_bank_state=taken.__setitem__, read_bank_state=lambda _, entry: taken[entry.step])
    run_trial(Trial(config, PATH_SPEC, load_material(config, cache, "targets")), hooks, "1")
    assert tuple(step for step in taken if step <= 20) == PathPlan(steps=20, checkpoints=4).capture_times()
    # beside the tensor a file holds its name
    assert all(size <= len(content) < size + 200 for content in taken.values())


@pytest.mark.parametrize(("count", "limit"), [(1, 1), (7, 7), (7, 100), (721, 2048), (100, 7), (721, 64)])
def test_rows_to_measure_on_are_spread_over_all(count, limit):
    rows = spread_rows(count, limit).tolist()
    assert len(rows) == min(count, limit)
    assert (rows[0], rows[-1]) == (0, count - 1)
    gaps = np.diff(rows)
    assert all(gaps >= 1)
    assert np.ptp(gaps) <= 1 if len(gaps) else True


# Taking one


def keeper_of(solver: EpsilonSolver, saved: dict[int, bytes], *steps: int) -> BankKeeper:
    return BankKeeper(
        is_due=steps.__contains__,
        measure=lambda: Costs(*(factor * float(solver.flat.values.sum()) for factor in (1.0, -1.0, 2.0))),
        save=saved.__setitem__,
        raw_epsilon=lambda step: 10.0 * step,
        learning_rate=0.125,
    )


def stepped(steps: int, keeper: BankKeeper, solver: EpsilonSolver, x: nn.Parameter) -> list[torch.Tensor]:
    """Step and offer a checkpoint after each, twice; return the weights after each."""
    seen = []
    for _ in range(steps):
        solver.step(lambda: (x - 2.0).square().sum(), lambda: x.square().sum())
        solver.flush()
        for _ in range(2):
            keeper.take(solver)
        seen.append(solver.flat.values.clone())
    return seen


def averaging_solver() -> tuple[nn.Parameter, EpsilonSolver]:
    x = nn.Parameter(torch.linspace(-1.0, 1.0, 6))
    settings = UpdateSettings(steps=10, learning_rate=0.1, weight_average=0.75)
    return x, EpsilonSolver([x], LevelControl(), settings, epsilon=1.0)


def test_a_checkpoint_is_taken_once_at_each_planned_step_with_the_averaged_weights():
    x, solver = averaging_solver()
    saved: dict[int, bytes] = {}
    keeper = keeper_of(solver, saved, 2, 5)
    average = x.detach().clone()
    averages = []
    for values in stepped(6, keeper, solver, x):
        average = 0.75 * average + 0.25 * values
        averages.append(average)
    assert list(saved) == [entry.step for entry in keeper.entries] == [2, 5]
    for entry in keeper.entries:
        values = unpack_values(saved[entry.step])
        assert list(load_safetensors(saved[entry.step])) == ["values"]
        torch.testing.assert_close(values, averages[entry.step - 1])
        assert (entry.f1, entry.f2, entry.level) == (values.sum(), -values.sum(), 2 * values.sum())
        assert (entry.epsilon, entry.learning_rate) == (10.0 * entry.step, 0.125)
        assert hashlib.sha256(saved[entry.step]).hexdigest() == entry.sha256


def test_taking_checkpoints_changes_nothing_in_the_solve():
    ends = []
    for steps in ((), (1, 2, 3, 6)):
        x, solver = averaging_solver()
        stepped(8, keeper_of(solver, {}, *steps), solver, x)
        ends.append(solver.state_dict())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def extended(*f2: float) -> list[tuple[int, float]]:
    """Return step and f2 of the checkpoints of a bank after it was extended with models of these f2."""
    _, solver = averaging_solver()
    measured = iter(f2)
    keeper = BankKeeper((0,), lambda: Costs(0.0, next(measured), 0.0), lambda *_: None, float, 0.1)
    keeper.entries.append(
        BankEntry(step=0, epsilon=0.0, f1=0.0, f2=1.0, level=0.0, learning_rate=0.1, sha256="00")
    )
    keeper.extend_towards(torch.zeros(6), solver)
    return [(entry.step, entry.f2) for entry in keeper.entries[1:]]


def test_the_way_home_ends_at_the_first_hump():
    assert extended(0.9, 0.8, 0.7, 0.6) == [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]
    assert extended(0.9, 0.95, 0.1, 0.1) == [(1, 0.9)]
    assert extended(1.0) == []
    assert extended(float("nan")) == []


def keeper_with(*costs: tuple[int, float, float]) -> BankKeeper:
    """Return the keeper of checkpoints with these steps, levels and f2; f1 says nothing here."""
    _, solver = averaging_solver()
    keeper = keeper_of(solver, {})
    shared = {"epsilon": 0.5, "learning_rate": 0.1, "sha256": "00", "f1": 7.0}
    keeper.entries += [BankEntry(step=step, level=level, f2=f2, **shared) for step, level, f2 in costs]
    return keeper


def test_a_listing_leaves_out_what_is_dominated():
    keeper = keeper_with((1, 3.0, 1.0), (2, 2.0, 2.0), (3, 2.5, 2.5), (4, 1.0, 3.0))
    assert [entry["step"] for entry in json.loads(keeper.listing())] == [4, 2, 1]


def test_the_highest_boundary_is_the_best_checkpoint_that_arrived():
    keeper = keeper_with((1, 0.1, 9.0), (2, 0.3, 5.0), (3, 0.4, 4.0), (4, 0.2, 9.5))
    assert keeper.choose_end(0.35).step == 2
    assert keeper.choose_end(9.0).step == 3


def test_where_none_arrived_the_highest_boundary_is_the_lowest_level():
    assert keeper_with((1, 0.5, 1.0), (2, 0.4, 2.0)).choose_end(0.1).step == 2
    assert keeper_with((1, 0.5, float("nan"))).choose_end(0.1) is None


def test_the_lowest_level_is_that_of_a_finite_checkpoint():
    assert keeper_with((1, 0.5, 1.0), (2, 0.4, 2.0), (3, 0.1, float("nan"))).lowest_level == 0.4
    assert np.isnan(keeper_with((1, 0.5, float("nan"))).lowest_level)


def test_models_beside_the_way_count_as_checkpoints_after_it():
    _, solver = averaging_solver()
    saved: dict[int, bytes] = {}
    keeper = keeper_of(solver, saved)
    keeper.add([torch.ones(6), torch.arange(6.0)], solver.flat, after=20)
    assert [(entry.step, entry.f1) for entry in keeper.entries] == [(21, 6.0), (22, 15.0)]
    assert unpack_values(saved[22]).tolist() == list(range(6))


def test_a_list_older_than_levels_is_read_with_those_of_f1():
    stored = {"step": 1, "epsilon": 0.5, "f1": 0.25, "f2": 1.0, "learning_rate": 0.1, "sha256": "00"}
    assert read_fields(BankEntry, stored).level == 0.25
