"""The dial: any epsilon between two solved ones, verified, without training."""

import hashlib
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_sweep import run as run_sweep
from small_sweep import small_sweep

import pareto_unlearn
from pareto_unlearn.config import parse_config
from pareto_unlearn.errors import ConfigError, RunLockedError, StoreError
from pareto_unlearn.finished.dial import INTERPOLATED, RunWeights, dial, gather_knots
from pareto_unlearn.models import save_model
from pareto_unlearn.records import Phase, Role
from pareto_unlearn.store import open_run
from pareto_unlearn.trial import load_material
from pareto_unlearn.trial.measuring import measure_completeness
from pareto_unlearn.trial.mixing import (
    MAX_EVALUATIONS,
    TOLERANCE,
    Knot,
    Mixer,
    find_crossing,
    pairs_around,
)


@pytest.fixture(scope="module")
def run_path(copy_small_sweep, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dial")
    copy_small_sweep(folder)
    return str(folder / "quickstart")


def weights_of(run_path: str) -> RunWeights:
    run = open_run(run_path)
    return RunWeights(parse_config(run.store.read_text("sweep.yaml"), "sweep.yaml"), run)


def mixer_of(weights: RunWeights) -> Mixer:
    return Mixer(weights.material, weights.config.solver.completeness)


def checkpoints_of(knots: list[Knot]) -> list[Knot]:
    return [knot for knot in knots if "@" in knot.name]


def damage(run_path: Path, pattern: str) -> None:
    """Flip one bit of the last byte of every file."""
    for weights in run_path.glob(pattern):
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)


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
    tolerance = TOLERANCE * open_run(run_path).info.scales.f1_range
    assert abs(record.level - record.epsilon) <= tolerance
    assert record.level > record.f1  # the worst class meets epsilon, the mean lies below
    assert record.method == record.start == INTERPOLATED
    assert record.steps == 0


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_dialled_row_names_its_parents_which_bracket_it(run_path, fraction):
    record = dial(run_path, fraction)
    knots = {knot.name: knot for knot in gather_knots(weights_of(run_path), seed=0)}
    lower, upper = (knots[name] for name in record.parents.split(","))
    assert lower.level <= record.epsilon < upper.level
    assert 0.0 <= record.interpolation <= 1.0


def test_knot_of_a_path_is_named_by_its_step(run_path):
    run = open_run(run_path)
    checkpoints = checkpoints_of(gather_knots(weights_of(run_path), seed=0))
    (path,) = (record for record in run.records if record.role is Role.HIGHEST)
    entries = run.store.read_bank(path.trial_id)
    assert [knot.name for knot in checkpoints] == [f"{path.trial_id}@{entry.step}" for entry in entries]
    assert [(knot.level, knot.f2) for knot in checkpoints] == [(entry.level, entry.f2) for entry in entries]


@pytest.mark.parametrize("fraction", [0.07, 0.6, 0.93])
def test_dialled_model_is_the_better_of_the_neighbours_and_the_edge_of_the_hull(run_path, fraction):
    weights = weights_of(run_path)
    target = weights.run.info.ranges[0].epsilon_at(fraction)
    pairs = pairs_around(gather_knots(weights, seed=0), target)
    mixer = mixer_of(weights)
    found = [mixture.f2 for pair in pairs if (mixture := mixer.mix(pair, target)) is not None]
    assert dial(run_path, fraction).f2 == pytest.approx(min(found), rel=1e-6)


def knot(name: str, level: float, f2: float) -> Knot:
    return Knot(name, level, f2, lambda: None)


def test_the_pairs_around_an_epsilon_are_the_non_dominated_neighbours_and_the_edge_of_the_hull():
    knots = [knot("a", 0.0, 10.0), knot("b", 0.4, 8.0), knot("c", 0.5, 9.0), knot("d", 1.0, 0.0)]
    names = [(low.name, high.name) for low, high in pairs_around(knots, 0.45)]
    assert names == [("b", "d"), ("a", "d")]
    assert [(low.name, high.name) for low, high in pairs_around(knots[:2], 0.2)] == [("a", "b")]
    assert pairs_around(knots, 1.0) == pairs_around(knots, -0.1) == []


def test_checkpoint_of_the_path_can_end_a_mixture(run_path):
    weights = weights_of(run_path)
    checkpoints = checkpoints_of(gather_knots(weights, seed=0))
    pair = checkpoints[0], checkpoints[len(checkpoints) // 2]
    target = (pair[0].level + pair[1].level) / 2
    mixture = mixer_of(weights).mix(pair, target)
    assert abs(mixture.crossing.f1 - target) <= TOLERANCE * weights.run.info.scales.f1_range


def test_edge_that_brackets_epsilon_by_its_sample_alone_is_left_out(run_path):
    weights = weights_of(run_path)
    checkpoints = checkpoints_of(gather_knots(weights, seed=0))
    first, second = checkpoints[0], checkpoints[len(checkpoints) // 2]
    estimate = replace(second, level=1.02 * second.level)
    assert mixer_of(weights).mix((first, estimate), 1.01 * second.level) is None


def test_other_knots_make_another_row(run_path, tmp_path):
    record = dial(run_path, 0.2)
    fewer = shutil.copytree(run_path, tmp_path / "fewer")
    for row in open_run(run_path).records:
        if row.phase is Phase.EPSILON:
            (fewer / "trials" / f"part-{row.trial_id}-1.parquet").unlink()
    assert dial(str(fewer), 0.2).trial_id != record.trial_id


@pytest.mark.slow
def test_run_without_a_path_can_be_dialled(tmp_path):
    few = ("solver.start=original", "epsilon.points=1", "baselines=[]")
    assert run_sweep(small_sweep(tmp_path, *few)) == 0
    record = dial(str(tmp_path / "quickstart"), 0.5)
    assert "@" not in record.parents


def test_dialling_twice_gives_the_same_row(run_path):
    assert dial(run_path, 0.3) == dial(run_path, 0.3)


def test_raw_epsilon_up_to_the_original_can_be_dialled(run_path):
    scales = open_run(run_path).info.scales
    record = dial(run_path, scales.f1_original - 0.02 * scales.f1_range, absolute=True)
    assert record.completeness_worst_class == pytest.approx(0.02, abs=2 * TOLERANCE)


def test_dialled_rows_leave_front_and_hypervolume_alone(run_path):
    before = open_run(run_path).hypervolume()
    dial(run_path, 0.77)
    assert open_run(run_path).hypervolume() == before


def test_model_at_is_the_dialled_model_ready_to_use(run_path):
    model, record = pareto_unlearn.load_run(run_path).model_at(0.35)
    assert record == dial(run_path, 0.35)
    assert not model.training
    assert hashlib.sha256(save_model(model)).hexdigest() == record.checkpoint_sha256


def test_model_at_measures_what_its_row_says(run_path):
    run = pareto_unlearn.load_run(run_path)
    target = run.info.scales.f1_original - 0.1 * run.info.scales.f1_range
    model, record = run.model_at(target, absolute=True, seed=0)
    config = parse_config(run.store.read_text("sweep.yaml"), "sweep.yaml")
    material = load_material(config, run.store.cache_dir(), run.info.config_hash[:16])
    found = measure_completeness(replace(material, model=model), "train")
    assert found.f1 == pytest.approx(record.f1, rel=1e-9)


def test_model_at_never_returns_damaged_weights(run_path, tmp_path):
    copy = shutil.copytree(run_path, tmp_path / "copy")
    run = pareto_unlearn.load_run(copy)
    damage(copy, f"{run.model_at(0.55).record.checkpoint}/model.safetensors")
    with pytest.raises(StoreError, match="damaged"):
        run.model_at(0.55)


@pytest.mark.parametrize(("epsilon", "absolute"), [(1.5, False), (0.0, False), (99.0, True), (0.0, True)])
def test_epsilon_outside_what_is_solved_is_refused(run_path, epsilon, absolute):
    with pytest.raises(ConfigError, match="epsilon"):
        dial(run_path, epsilon, absolute=absolute)


def test_unknown_seed_is_refused(run_path):
    with pytest.raises(ConfigError, match="seed 9"):
        dial(run_path, 0.5, seed=9)


def test_running_sweep_is_not_disturbed(run_path):
    with open_run(run_path).store.lock(), pytest.raises(RunLockedError):
        dial(run_path, 0.6)


def test_damaged_knot_is_never_used(run_path, tmp_path):
    copy = shutil.copytree(run_path, tmp_path / "copy")
    damage(copy, "checkpoints/*/*/*.safetensors")
    weights = weights_of(str(copy))
    knots = gather_knots(weights, seed=0)
    with pytest.raises(StoreError):
        dial(str(copy), 0.63)  # an epsilon of no other test: a row that is there needs no knot
    with pytest.raises(StoreError, match="bank-1-"):
        checkpoints_of(knots)[0].load()
