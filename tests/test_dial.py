"""The dial: any epsilon between two solved ones, verified, without training."""

import math

import pytest
from rich.console import Console
from small_sweep import QUICKSTART, SMALL

from pareto_unlearn.config import load_config
from pareto_unlearn.dial import INTERPOLATED, MAX_EVALUATIONS, TOLERANCE, dial, find_crossing
from pareto_unlearn.records import ConfigError, RunLockedError, StoreError
from pareto_unlearn.store import load_run
from pareto_unlearn.sweep import SweepOptions, run_sweep


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dial")
    overrides = ["baselines=[]", "run.executor=local", f"run.storage={folder}", "solver.steps=200"]
    config = load_config(QUICKSTART, [*SMALL, *overrides])
    assert run_sweep(config, SweepOptions(), Console(quiet=True)) == 0
    return str(folder / "quickstart")


SHAPES = {
    "line": lambda share: 1.0 + share,
    "steep at the end": lambda share: 1.0 + share**8,
    "steep at the start": lambda share: 1.0 + share**0.125,
    "step": lambda share: 1.0 if share < 0.37 else 2.0,
    "dip": lambda share: 1.0 - 0.8 * math.sin(math.pi * share) + share,
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("target", [1.05, 1.5, 1.95])
def test_crossing_never_exceeds_the_target_by_more_than_the_tolerance(shape, target):
    found = find_crossing(shape, target, 0.002, (shape(0.0), shape(1.0)))
    assert found.f1 <= target + 0.002
    assert found.f1 == pytest.approx(shape(found.share))
    assert found.evaluations <= MAX_EVALUATIONS


@pytest.mark.parametrize("name", ["line", "steep at the end", "dip"])
def test_crossing_lands_on_the_target_of_continuous_curves(name):
    shape = SHAPES[name]
    found = find_crossing(shape, 1.5, 0.002, (shape(0.0), shape(1.0)))
    assert abs(found.f1 - 1.5) <= 0.002


def test_crossing_of_a_line_takes_one_evaluation():
    assert find_crossing(SHAPES["line"], 1.5, 0.002, (1.0, 2.0)).evaluations == 1


def test_crossing_at_a_solved_point_takes_none():
    assert find_crossing(SHAPES["line"], 1.0, 0.002, (1.0, 2.0)).share == 0.0


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_dialled_model_meets_its_epsilon(run_path, fraction):
    record = dial(run_path, fraction)
    tolerance = TOLERANCE * load_run(run_path).info.scales.f1_range
    assert record.f1 <= record.epsilon + tolerance
    assert record.method == record.start == INTERPOLATED
    assert record.steps == 0


def test_dialled_row_names_its_parents_which_bracket_it(run_path):
    record = dial(run_path, 0.4)
    by_id = {row.trial_id: row for row in load_run(run_path).records}
    lower, upper = (by_id[trial_id] for trial_id in record.parents.split(","))
    assert lower.f1 <= record.epsilon < upper.f1
    assert 0.0 <= record.interpolation <= 1.0


def test_dialling_twice_gives_the_same_row(run_path):
    assert dial(run_path, 0.3) == dial(run_path, 0.3)


def test_raw_epsilon_up_to_the_original_can_be_dialled(run_path):
    scales = load_run(run_path).info.scales
    record = dial(run_path, scales.f1_original - 0.02 * scales.f1_range, absolute=True)
    assert record.completeness == pytest.approx(0.02, abs=2 * TOLERANCE)


def test_dialled_rows_leave_front_and_hypervolume_alone(run_path):
    before = load_run(run_path).hypervolume()
    dial(run_path, 0.77)
    assert load_run(run_path).hypervolume() == before


@pytest.mark.parametrize(("epsilon", "absolute"), [(1.5, False), (0.0, False), (99.0, True), (0.0, True)])
def test_epsilon_outside_what_is_solved_is_refused(run_path, epsilon, absolute):
    with pytest.raises(ConfigError, match="epsilon"):
        dial(run_path, epsilon, absolute=absolute)


def test_unknown_seed_is_refused(run_path):
    with pytest.raises(ConfigError, match="seed 9"):
        dial(run_path, 0.5, seed=9)


def test_running_sweep_is_not_disturbed(run_path):
    with load_run(run_path).store.lock(), pytest.raises(RunLockedError):
        dial(run_path, 0.6)


def test_damaged_parent_is_never_used(tmp_path):
    overrides = ["baselines=[]", "run.executor=local", f"run.storage={tmp_path}", "solver.steps=60"]
    config = load_config(QUICKSTART, [*SMALL, *overrides])
    run_sweep(config, SweepOptions(), Console(quiet=True))
    for weights in (tmp_path / "quickstart" / "checkpoints").glob("*/*/model.safetensors"):
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    with pytest.raises(StoreError):
        dial(str(tmp_path / "quickstart"), 0.5)
