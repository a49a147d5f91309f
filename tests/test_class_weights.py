"""Epsilon for every forget class: the weights, the stratified batches, and what a trial reaches with them."""

import itertools

import pytest
import torch
from toy import take_steps
from trial_rows import epsilon_spec

from pareto_unlearn.data import StratifiedOrder
from pareto_unlearn.solver import EpsilonSolver, LevelControl, UpdateSettings
from pareto_unlearn.trial import Hooks, Trial, load_material, run_trial, running
from pareto_unlearn.trial.class_weights import ClassWeights, class_constraint

CPU = torch.device("cpu")


def test_weights_sum_to_one_over_the_present_classes():
    weights = ClassWeights(4, CPU, 4)
    shares, _ = weights.update(torch.tensor([1.0, 0.5, 0.2, 0.9]), torch.tensor([1.0, 1.0, 0.0, 1.0]), 0.3)
    assert shares[2] == 0.0
    assert float(shares.sum()) == pytest.approx(1.0)


def test_the_class_that_lags_most_weighs_most():
    weights = ClassWeights(3, CPU, 3)
    for _ in range(20):
        shares, _ = weights.update(torch.tensor([0.2, 0.6, 0.3]), torch.ones(3), 0.25)
    assert shares.argmax() == 1


def test_equal_classes_weigh_the_same():
    weights = ClassWeights(5, CPU, 5)
    for _ in range(50):
        shares, _ = weights.update(torch.full((5,), 0.4), torch.ones(5), 0.25)
    assert shares.tolist() == pytest.approx([0.2] * 5)


def test_the_integral_part_stays_bounded():
    weights = ClassWeights(2, CPU, 2)
    for _ in range(2_000):
        weights.update(torch.tensor([1.0, 0.0]), torch.ones(2), 0.5)
    assert float(weights.state["class_integral"].abs().max()) <= 4.0


def test_a_class_never_seen_has_no_weight_and_no_lag():
    weights = ClassWeights(2, CPU, 2)
    shares, _ = weights.update(torch.tensor([0.7, 123.0]), torch.tensor([1.0, 0.0]), 0.5)
    assert shares.tolist() == [1.0, 0.0]
    assert float(weights.state["class_mean"][1]) == 0.0


def test_all_classes_of_a_toy_meet_the_level():
    """Two classes pull one model to points at different distances; the objective keeps it home."""
    x = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    goals = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    original = goals.square().sum(dim=1)
    steps, level = 1500, 0.7
    weights = ClassWeights(2, CPU, 2)
    constraint = class_constraint(
        lambda rows, step: (x - goals[rows]).square().sum(dim=1),
        torch.eye(2, dtype=torch.float64),
        original,
        lambda step: torch.arange(2),
        weights,
        lambda step: level,
    )
    settings = UpdateSettings(steps=steps, learning_rate=0.02)
    solver = EpsilonSolver([x], LevelControl(beta=2.0), settings, epsilon=level, log_size=steps)
    take_steps(solver, lambda: constraint(solver.step_count), lambda: x.square().sum(), steps)
    own = (x.detach() - goals).square().sum(dim=1) / original
    assert own.tolist() == pytest.approx([level, level], abs=0.03)  # both bind at the optimum


def order(counts: list[int], batch: int, seed: int = 0) -> tuple[StratifiedOrder, torch.Tensor]:
    class_ids = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
    return StratifiedOrder(class_ids, batch, seed, 1), class_ids


@pytest.mark.parametrize(
    ("counts", "batch"), [([10, 10, 10], 6), ([7, 30, 11, 5, 9], 32), ([4] * 100, 32), ([3], 5)]
)
def test_every_batch_has_the_asked_size_and_balanced_classes(counts, batch):
    stratified, class_ids = order(counts, batch)
    for step in range(40):
        drawn = torch.bincount(class_ids[stratified(step)], minlength=len(counts))
        assert int(drawn.sum()) == batch
        assert int(drawn.max() - drawn.min()) <= 1


def test_left_over_places_go_round_all_classes():
    stratified, class_ids = order([50] * 5, 7)
    drawn = sum(torch.bincount(class_ids[stratified(step)], minlength=5) for step in range(5))
    assert drawn.tolist() == [7] * 5


def test_every_image_of_a_class_comes_once_an_epoch():
    stratified, _ = order([6, 6], 4)
    rows = torch.cat([stratified(step) for step in range(3)])
    assert sorted(rows.tolist()) == list(range(12))


def test_batches_are_a_function_of_the_step_alone():
    first, _ = order([9, 4, 7], 8)
    second, _ = order([9, 4, 7], 8)
    forwards = [first(step) for step in range(12)]
    backwards = [second(step) for step in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_another_seed_gives_another_order():
    first, _ = order([40, 40], 16, seed=0)
    second, _ = order([40, 40], 16, seed=1)
    assert any(not torch.equal(first(step), second(step)) for step in range(3))


def epsilon_trial(config, tmp_path, e: float):
    material = load_material(config, tmp_path, "classes")
    return material, epsilon_spec(material.targets.scales, e)


@pytest.mark.slow
def test_per_class_closes_most_of_the_worst_class_gap(small_config, tmp_path):
    gaps = {}
    for completeness in ("mean", "per_class"):
        config = small_config("solver.steps=300", "solver.batch=32", f"solver.completeness={completeness}")
        material, spec = epsilon_trial(config, tmp_path, 0.25)
        record = run_trial(Trial(config, spec, material), Hooks(), "1").record
        gaps[completeness] = (1.0 - record.completeness_worst_class) - 0.25
    assert gaps["per_class"] < 0.5 * gaps["mean"]  # measured at 400 steps: 0.01 against 0.15


def test_per_class_trial_continues_to_the_same_weights(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "FLUSH_EVERY", 10)
    config = small_config("solver.steps=30", "solver.checkpoint_every=10")
    material, spec = epsilon_trial(config, tmp_path, 0.3)
    kept: dict[int, dict[str, bytes]] = {}
    whole = run_trial(Trial(config, spec, material), Hooks(save_resume=kept.__setitem__), "1")
    assert sorted(kept) == [10, 20]
    for step, files in kept.items():
        material, _ = epsilon_trial(config, tmp_path, 0.3)
        hooks = Hooks(load_resume=lambda step=step, files=files: (step, files))
        again = run_trial(Trial(config, spec, material), hooks, "1")
        assert again.files == whole.files
        assert len(again.curves) == len(whole.curves) == 30
        assert all(a == b for a, b in itertools.zip_longest(again.metrics, whole.metrics))
