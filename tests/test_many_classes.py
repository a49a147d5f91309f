"""A hundred forget classes of 1 to 20 images, an epsilon for each; a batch holds a third of the classes."""

import copy
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from many_classes import FORGET, count_images, generate_images, many_classes_config, train_model
from rich.console import Console
from trial_rows import epsilon_spec

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import DATASETS, ImageSet, StratifiedOrder, load_split
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import TrialResult, TrialSpec
from pareto_unlearn.report import write_report
from pareto_unlearn.solver import EpsilonSolver
from pareto_unlearn.store import open_run
from pareto_unlearn.sweep import SweepOptions, run_sweep
from pareto_unlearn.trial import Hooks, Material, Trial, load_material, run_trial
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.class_weights import ClassWeights

LEVEL = 0.3
FROM_ORIGINAL = ("solver.start=original", "solver.steps=400", "solver.batch=32")


@pytest.fixture(scope="module")
def images() -> Iterator[ImageSet]:
    generated = generate_images()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "digits", lambda: generated)
        yield generated


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("many") / "model.safetensors"
    path.write_bytes(train_model(images))
    return str(path)


def prepare(config: SweepConfig, cache: Path) -> tuple[Material, TrialSpec]:
    material = load_material(config, cache, "many")
    return material, epsilon_spec(material.targets.scales, LEVEL)


@dataclass(frozen=True)
class Solved:
    material: Material
    result: TrialResult

    def e_of_classes(self, split: str = "train") -> dict[str, float]:
        """What the rows of the store say."""
        rows = [row for row in self.result.metrics if row.metric == "completeness" and row.split == split]
        return {str(row.class_name): 1.0 - row.value for row in rows}


@pytest.fixture(scope="module")
def solved(checkpoint, tmp_path_factory) -> dict[str, Solved]:
    found = {}
    for completeness in ("mean", "per_class"):
        config = many_classes_config(
            checkpoint, "unused", *FROM_ORIGINAL, f"solver.completeness={completeness}"
        )
        material, spec = prepare(config, tmp_path_factory.mktemp(completeness))
        found[completeness] = Solved(material, run_trial(Trial(config, spec, material), Hooks(), "1"))
    return found


# What is reached


@pytest.mark.slow
def test_nearly_all_of_a_hundred_classes_meet_epsilon_where_the_mean_leaves_a_quarter_behind(solved):
    above = {name: sum(e > LEVEL + 0.05 for e in one.e_of_classes().values()) for name, one in solved.items()}
    assert above["mean"] >= 20  # measured: 26 to 30
    # Measured over three seeds: 1.3 on average; 4 before classes counted by turns.
    assert above["per_class"] <= 5
    assert max(solved["per_class"].e_of_classes().values()) < LEVEL + 0.15
    assert max(solved["mean"].e_of_classes().values()) > LEVEL + 0.4


@pytest.mark.slow
def test_the_class_rows_are_what_the_model_does_to_each_class(solved):
    for one in solved.values():
        material, said = one.material, one.e_of_classes()
        with torch.no_grad():
            outputs = material.model(material.inputs["forget", "train"]).flatten(1)
        f1 = material.retain_target.objectives.forget_per_image(outputs, material.targets.noise)
        split, floor = material.split.forget_train, material.targets.scales.f1_floor
        for index, name in enumerate(split.class_names):
            members = split.class_ids == index
            original = material.targets.forget_f1("train")[members].mean() - floor
            assert said[name] == pytest.approx(float((f1[members].mean() - floor) / original), rel=1e-4)


@pytest.mark.slow
def test_the_worst_class_of_the_record_is_the_worst_row(solved):
    for one in solved.values():
        record = one.result.record
        assert 1.0 - record.completeness_worst_class == pytest.approx(max(one.e_of_classes().values()))
        heldout = max(one.e_of_classes("heldout").values())
        assert 1.0 - record.completeness_worst_class_heldout == pytest.approx(heldout)


@pytest.mark.slow
def test_a_class_without_held_out_images_has_no_held_out_row(solved):
    train, heldout = (solved["per_class"].e_of_classes(split) for split in ("train", "heldout"))
    expected = {f"c{index:03d}" for index in range(FORGET) if count_images(index) >= 3}
    assert len(train) == FORGET
    assert set(heldout) == expected
    assert all(math.isfinite(e) for e in heldout.values())


# What a step costs


def count_passes(config: SweepConfig, cache: Path, steps: int = 6) -> Counter[str]:
    """Count forward passes, their images and backward passes of some steps."""
    material, spec = prepare(config, cache)
    problem = build_problem(Trial(config, spec, material))
    solver = EpsilonSolver(
        material.trainable("output"), problem.rule, problem.settings, epsilon=problem.epsilon
    )
    counts: Counter[str] = Counter()

    def on_forward(module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        counts.update(forward=1, images=len(output))

    material.model.register_forward_hook(on_forward)
    material.model.predict.bias.register_hook(lambda gradient: counts.update(backward=1))
    for step in range(steps):
        solver.step(lambda step=step: problem.constraint(step), lambda step=step: problem.objective(step))
    return counts


@pytest.mark.parametrize("completeness", ["mean", "per_class", "per_image"])
@pytest.mark.parametrize("forget", [3, 20, FORGET])
def test_a_step_takes_the_same_passes_whatever_the_number_of_classes(
    checkpoint, tmp_path, completeness, forget
):
    config = many_classes_config(
        checkpoint, "unused", *FROM_ORIGINAL, f"solver.completeness={completeness}", forget=forget
    )
    assert count_passes(config, tmp_path) == {"forward": 12, "backward": 12, "images": 12 * 32}


def test_batches_look_at_no_more_classes_than_they_hold(images):
    order = StratifiedOrder(images.class_ids, 7, 0, 1)
    assert [len(order._ranks_at(step)) for step in range(5)] == [7] * 5


# Batches smaller than the number of classes


@pytest.mark.parametrize("batch", [1, 7, 32, 99, 250])
def test_classes_of_unequal_sizes_take_turns(images, batch):
    forget = images.class_ids[images.class_ids < FORGET]
    order, seen = StratifiedOrder(forget, batch, 0, 1), torch.zeros(FORGET, dtype=torch.int64)
    for step in range(2 * math.ceil(FORGET / batch)):
        rows = order(step)
        assert len(rows) == batch
        seen += torch.bincount(forget[rows], minlength=FORGET)
        assert int(seen.max() - seen.min()) <= 1


@pytest.mark.parametrize("batch", [7, 250])
def test_the_image_of_a_class_of_one_comes_at_every_turn_of_its_class(images, batch):
    order, alone = StratifiedOrder(images.class_ids, batch, 0, 1), (images.class_ids == 20).nonzero().item()
    drawn = torch.cat([order(step) for step in range(40)])
    assert int((drawn == alone).sum()) == int((images.class_ids[drawn] == 20).sum()) > 0


def warmed(classes: int, batch: int, e: torch.Tensor) -> ClassWeights:
    """Weights that have seen every class at a constant e, by turns."""
    weights = ClassWeights(classes, torch.device("cpu"), batch)
    for step in range(4 * classes // batch):
        present = torch.zeros(classes)
        present[(step * batch + torch.arange(batch)) % classes] = 1.0
        weights.update(e, present, LEVEL)
    return weights


def test_over_the_turns_the_constraint_is_on_average_that_of_all_classes():
    classes, batch = 12, 3
    e = torch.linspace(0.1, 0.9, classes)
    weights, whole = warmed(classes, batch, e), copy.deepcopy(warmed(classes, batch, e))
    shares, rest = whole.update(e, torch.ones(classes), LEVEL)
    values, gradients = [], torch.zeros(classes)
    for present in torch.eye(classes // batch).repeat_interleave(batch, dim=1):
        part, constant = copy.deepcopy(weights).update(e, present, LEVEL)
        values.append(float((part * e).sum() + constant))
        gradients += part * batch / classes
    assert float(rest) == 0.0
    assert sum(values) / len(values) == pytest.approx(float((shares * e).sum()), rel=1e-5)
    assert gradients.tolist() == pytest.approx(shares.tolist(), rel=1e-4)


def test_a_class_that_lags_is_not_outvoted_in_the_batches_without_it():
    e = torch.full((10,), 0.1)
    e[4] = 0.9
    weights = warmed(10, 2, e)
    present = torch.zeros(10)
    present[:2] = 1.0
    shares, constant = weights.update(e, present, LEVEL)
    assert float((shares * e).sum() + constant) > LEVEL  # the class is above the level, in the batch or not


@pytest.mark.parametrize("batch", [10, 50, 100, 300])
def test_a_running_mean_forgets_in_the_same_number_of_steps_however_rarely_its_class_comes(batch):
    weights, classes = ClassWeights(100, torch.device("cpu"), batch), 100
    weights.state["class_mean"] += 1.0
    weights.state["class_one"] += 1.0
    for step in range(100):
        present = torch.zeros(classes)
        present[(step * batch + torch.arange(min(batch, classes))) % classes] = 1.0
        weights.update(torch.zeros(classes), present, LEVEL)
    assert weights.state["class_mean"].tolist() == pytest.approx([0.97**100] * classes, rel=1e-3)


def test_a_class_that_already_looks_forgotten_does_not_take_over(checkpoint, tmp_path):
    config = many_classes_config(checkpoint, "unused", *FROM_ORIGINAL)
    material, spec = prepare(config, tmp_path)
    floor = material.targets.scales.f1_floor
    material.targets.forget_f1("train")[material.split.forget_train.class_ids == 0] = floor
    constraint = build_problem(Trial(config, spec, material)).constraint
    values = [float(constraint(step).detach()) for step in range(8)]
    assert all(0.0 < value < 10.0 for value in values)


# The whole sweep


@pytest.mark.slow
def test_a_sweep_over_many_classes_is_complete_from_path_to_report(checkpoint, tmp_path):
    config = many_classes_config(
        checkpoint,
        str(tmp_path),
        "solver.steps=40",
        "solver.path.steps=80",
        "solver.path.scan=[]",
        "solver.hold.steps=20",
        "solver.batch=16",
        "epsilon={schedule: grid, points: 2}",
    )
    assert run_sweep(config, SweepOptions(report=write_report), Console(quiet=True)) == 0
    run = open_run(str(tmp_path / "many"))
    rows = run.metrics[run.metrics.metric == "completeness"]
    assert rows.value.notna().all()
    per_trial = rows.groupby(["trial_id", "split"]).size().groupby("split").unique()
    assert (list(per_trial["train"]), list(per_trial["heldout"])) == ([100], [90])
    for record in run.records:
        assert math.isfinite(record.completeness_worst_class_heldout)


def test_a_set_without_held_out_images_is_refused(images):
    section = many_classes_config("builtin", "unused").data
    small = section.model_copy(update={"forget_classes": ("c000", "c020", "c001")})
    with pytest.raises(ConfigError, match="found none in forget_heldout"):
        load_split(small, 0)
