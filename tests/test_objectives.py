"""f1 and f2: the identities they rest on, and targets that are computed once however many trials ask."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from waiting import STALLED_AFTER

from pareto_unlearn.config import DataSection, ModelSection, ObjectiveSection, TaskSection
from pareto_unlearn.data import load_split, seeded_generator
from pareto_unlearn.models import load_model
from pareto_unlearn.objectives import (
    EVALUATION_BATCH,
    NoiseTarget,
    Objectives,
    Targets,
    build_objectives,
    compute_features,
    compute_paired_targets,
    compute_targets,
    feature_function,
    open_rows,
    open_targets,
)
from pareto_unlearn.objectives import features as module

MSE, MSE_DRAWS, L2 = Objectives("mse", "mean"), Objectives("mse", "draws"), Objectives("l2", "draws")
SETS = [(name, split) for name in ("forget", "retain") for split in ("train", "heldout")]


def gaussian(*shape: int, key: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded_generator(key), dtype=torch.float64)


def flat(inputs: torch.Tensor) -> torch.Tensor:
    return inputs.flatten(1)


def flat_targets(objectives: Objectives, rows: torch.Tensor, count: int = 20) -> Targets:
    """Targets of a model that returns its inputs."""
    inputs = {key: gaussian(count, rows.shape[1], key=index) + 1.0 for index, key in enumerate(SETS)}
    return compute_targets(flat, inputs, rows, objectives)


def noise_of(objectives: Objectives, rows: torch.Tensor) -> NoiseTarget:
    return flat_targets(objectives, rows).noise


def all_pairs(outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The squared error of every output against every noise row, without any identity."""
    return torch.stack([(outputs - row).square().mean(dim=1) for row in rows])


# The identity E||o - t||^2 = ||o - m||^2 + V


def test_f1_against_the_mean_target_is_the_average_over_the_noise_bank():
    outputs, noise = gaussian(12, 30, key=9), noise_of(MSE, 2.0 * gaussian(50, 30, key=8) + 3.0)
    expected = all_pairs(outputs, noise.rows).mean(dim=0)
    # A sum of 50 x 30 float64 terms: its rounding stays below 1e-12.
    torch.testing.assert_close(MSE.forget_per_image(outputs, noise), expected, rtol=1e-12, atol=0.0)


def test_the_gradient_against_the_mean_target_is_the_average_gradient_over_the_bank():
    outputs, noise = gaussian(12, 30, key=9).requires_grad_(), noise_of(MSE, gaussian(50, 30, key=8))
    (ours,) = torch.autograd.grad(MSE.forget_loss(outputs, noise, torch.zeros(12, dtype=torch.long)), outputs)
    (expected,) = torch.autograd.grad(all_pairs(outputs, noise.rows).mean(), outputs)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("objectives", [MSE_DRAWS, L2])
def test_drawn_targets_average_to_the_exact_f1(objectives):
    outputs, noise = gaussian(4, 6, key=9), noise_of(objectives, gaussian(25, 6, key=8))
    losses = [objectives.forget_loss(outputs, noise, torch.full((4,), draw)) for draw in range(25)]
    exact = objectives.forget_per_image(outputs, noise).mean()
    assert float(torch.stack(losses).mean()) == pytest.approx(float(exact), rel=1e-12)


def test_a_draw_picks_one_noise_row_for_each_image():
    outputs, noise = gaussian(3, 6, key=9), noise_of(L2, gaussian(25, 6, key=8))
    expected = sum(float((outputs[i] - noise.rows[row]).norm()) for i, row in enumerate((7, 0, 24))) / 3
    assert float(L2.forget_loss(outputs, noise, torch.tensor([7, 0, 24]))) == pytest.approx(
        expected, rel=1e-12
    )


# The floor


def test_the_floor_of_mse_is_f1_of_the_mean_output():
    noise = noise_of(MSE, gaussian(40, 10))
    assert noise.floor == pytest.approx(float(all_pairs(noise.mean[None], noise.rows).mean()), rel=1e-12)


@pytest.mark.parametrize("objectives", [MSE, L2])
@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 10.0])
def test_no_constant_output_falls_below_the_floor(objectives, spread):
    rows = gaussian(60, 5, key=8).exp()  # skewed: mean and geometric median differ
    noise = noise_of(objectives, rows)
    centres = torch.cat([rows, rows.median(dim=0).values[None], noise.mean[None]])
    tries = centres.repeat(20, 1)
    tries = tries + spread * gaussian(*tries.shape, key=int(spread * 1000))
    assert float(objectives.forget_per_image(tries, noise).min()) >= noise.floor * (1 - 1e-12)


def test_the_floor_of_l2_is_reached_at_the_geometric_median():
    rows = gaussian(60, 5, key=8).exp()
    noise = noise_of(L2, rows)
    centre = noise.mean.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([centre], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = (rows - centre).norm(dim=1).mean()
        value.backward()
        return value

    optimiser.step(closure)
    assert noise.floor == pytest.approx(closure().item(), rel=1e-9)


def test_the_floor_of_l2_survives_a_start_on_a_noise_row():
    # The mean of these rows is one of them: Weiszfeld's weights would divide by zero there.
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert noise_of(L2, rows).floor == pytest.approx(0.8, abs=1e-9)


# f2, and the norm at zero


@pytest.mark.parametrize("objectives", [MSE, L2])
def test_f2_of_the_original_is_zero(objectives):
    original = gaussian(9, 4)
    assert float(objectives.retain_loss(original, original)) == 0.0


@pytest.mark.parametrize("objectives", [MSE, L2])
def test_the_gradient_of_f2_at_the_original_is_zero(objectives):
    outputs = gaussian(9, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(objectives.retain_loss(outputs, outputs.detach().clone()), outputs)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_gradient_of_l2_f1_on_a_noise_row_is_finite():
    noise = noise_of(L2, gaussian(25, 6, key=8))
    outputs = noise.rows[:3].clone().requires_grad_()
    losses = (L2.forget_loss(outputs, noise, torch.arange(3)), L2.forget_per_image(outputs, noise).sum())
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, outputs)
        assert torch.isfinite(gradient).all()


def test_f2_of_mse_is_the_mean_squared_error_per_value():
    assert float(MSE.retain_loss(torch.full((2, 4), 3.0), torch.full((2, 4), 1.0))) == 4.0


def test_f2_of_l2_is_the_mean_norm_per_image():
    assert float(L2.retain_loss(torch.full((2, 4), 3.0), torch.full((2, 4), 1.0))) == 4.0  # sqrt(4 x 2^2)


# Batches


@pytest.mark.parametrize("objectives", [MSE, L2])
@pytest.mark.parametrize("sizes", [(1, 19), (7, 7, 6), (20,)])
def test_f1_and_f2_of_a_set_do_not_depend_on_its_partition(objectives, sizes):
    outputs, original = gaussian(20, 30, key=9), gaussian(20, 30, key=10)
    noise = noise_of(objectives, gaussian(50, 30, key=8))
    f1 = torch.cat([objectives.forget_per_image(part, noise) for part in outputs.split(sizes)])
    parts = zip(outputs.split(sizes), original.split(sizes), strict=True)
    f2 = torch.cat([objectives.paired_per_image(*part) for part in parts])
    # cdist forms |a|^2 + |b|^2 - 2ab for more than 25 rows: some digits are lost, differently for each size.
    torch.testing.assert_close(f1, objectives.forget_per_image(outputs, noise), rtol=1e-12, atol=0.0)
    assert torch.equal(f2, objectives.paired_per_image(outputs, original))


@pytest.mark.parametrize("objectives", [MSE, L2])
def test_a_batch_loss_is_the_mean_of_its_images(objectives):
    outputs, original = gaussian(20, 30, key=9), gaussian(20, 30, key=10)
    loss = objectives.retain_loss(outputs, original)
    assert float(loss) == pytest.approx(
        float(objectives.paired_per_image(outputs, original).mean()), rel=1e-14
    )


def test_features_of_many_inputs_come_in_order_and_without_gradient():
    weight = gaussian(3, 2).requires_grad_()
    inputs = gaussian(2 * EVALUATION_BATCH + 1, 3, key=1)
    features = compute_features(lambda part: part @ weight, inputs)
    assert not features.requires_grad
    torch.testing.assert_close(features, (inputs @ weight).detach(), rtol=1e-12, atol=1e-14)


# Targets of the embedded model


@pytest.fixture(scope="module")
def embedded():
    section = {"dataset": "digits", "forget_classes": [0, 1], "train_per_class": 10, "heldout_per_class": 5}
    split = load_split(DataSection.model_validate(section), seed=0)
    model = load_model(ModelSection(family="digits_mae", checkpoint="builtin"), TaskSection())
    inputs = {(name, part): model.prepare(images.images) for name, part, images in split.items()}
    return model, inputs, model.sample_noise(64, seeded_generator(2))


@pytest.mark.parametrize("distance", ["mse", "l2"])
@pytest.mark.parametrize(("space", "values"), [("output", 16 * 16), ("encoder", 12 * 48)])
def test_targets_hold_the_original_features_of_either_space(embedded, distance, space, values):
    model, inputs, bank = embedded
    objectives = build_objectives(ObjectiveSection(space=space, distance=distance))
    features = feature_function(model, space)
    targets = compute_targets(features, inputs, bank, objectives)
    assert targets.noise.rows.shape == (64, values)
    assert torch.equal(targets.arrays["retain_train"], features(inputs["retain", "train"]).detach())
    f1 = objectives.forget_per_image(features(inputs["forget", "heldout"]).detach(), targets.noise)
    assert torch.equal(targets.forget_f1("heldout"), f1)
    assert targets.scales.f1_original_heldout == pytest.approx(float(f1.mean()), rel=1e-6)


def test_encoder_features_have_no_gradient_in_the_decoder(embedded):
    model, inputs, _ = embedded
    model.zero_grad()
    feature_function(model, "encoder")(inputs["forget", "heldout"]).square().sum().backward()
    touched = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert touched
    assert not any(name.startswith(("decoder", "predict", "mask_token")) for name in touched)


def test_the_original_is_far_above_the_floor(embedded):
    model, inputs, bank = embedded
    scales = compute_targets(feature_function(model, "output"), inputs, bank, MSE).scales
    assert scales.f1_range > scales.f1_floor > 0


def test_the_variance_of_the_retain_outputs_is_per_value():
    targets = flat_targets(MSE, gaussian(5, 30))
    expected = float(targets.arrays["retain_train"].var(dim=0, correction=0).mean())
    assert targets.scales.variance_retain == pytest.approx(expected, rel=1e-12)


def test_by_default_mse_uses_the_mean_target_and_l2_draws():
    assert build_objectives(ObjectiveSection()) == MSE
    assert build_objectives(ObjectiveSection(distance="l2")) == L2


# Stored targets

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import torch
from pareto_unlearn.objectives import Targets, open_targets
from pareto_unlearn.records import Scales

scales = Scales(f1_floor=0.1, f1_original=1.1, variance_retain=0.5, f1_floor_heldout=0.1,
                f1_original_heldout=1.2, variance_retain_heldout=0.6)

class Killer:
    def cpu(self):
        os.kill(os.getpid(), signal.SIGKILL)

def compute(**changes):
    rows = torch.arange(12.0).view(4, 3)
    arrays = dict(noise=rows, noise_mean=rows[0], retain_train=rows, retain_heldout=rows[:1],
                  forget_f1_train=rows[0], forget_f1_heldout=rows[1])
    return Targets(scales, arrays | changes)

def say(line):
    os.write(1, (line + "\\n").encode())  # one call, so lines of several processes do not mix

def start(name, compute):
    # Forked before torch has started a thread, so the children share one import of it.
    child = os.fork()
    if child == 0:
        say(f"{name} sum {float(open_targets(Path(name) / 'targets', compute).noise.rows.sum())}")
        os._exit(0)
    return child

def slow():
    say("together computed")
    time.sleep(0.3)
    return compute()

children = [start("together", slow) for _ in range(4)]
children.append(start("computing", lambda: (compute(), os.kill(os.getpid(), signal.SIGKILL))))
children.append(start("publishing", lambda: compute(forget_f1_heldout=Killer())))
print("codes", *(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
"""


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> tuple[Path, list[str]]:
    """Six processes have opened targets: four ``together``, one killed ``computing``, one ``publishing``."""
    folder = tmp_path_factory.mktemp("processes")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        timeout=STALLED_AFTER,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert lines[-1] == f"codes 0 0 0 0 {-signal.SIGKILL} {-signal.SIGKILL}"
    return folder, lines


def test_four_processes_at_once_compute_the_targets_once(processes):
    _, lines = processes
    assert lines.count("together computed") == 1
    assert lines.count("together sum 66.0") == 4


def test_a_process_killed_while_publishing_had_written_some_of_the_arrays(processes):
    folder, _ = processes
    written = {path.name for path in (folder / "publishing").glob("targets.part/*")}
    assert "retain_train.npy" in written
    assert "scales.json" not in written


@pytest.mark.parametrize("moment", ["computing", "publishing"])
def test_a_killed_computation_leaves_nothing_that_looks_complete(processes, moment):
    folder, _ = processes
    assert not (folder / moment / "targets").exists()


@pytest.mark.parametrize("moment", ["computing", "publishing"])
def test_after_a_kill_the_next_trial_computes_the_targets(processes, tmp_path, moment):
    shutil.copytree(processes[0] / moment, tmp_path, dirs_exist_ok=True)
    targets = open_targets(tmp_path / "targets", lambda: flat_targets(MSE, gaussian(5, 30)))
    assert targets.noise.rows.shape == (5, 30)


def test_a_failing_computation_leaves_no_files_behind(tmp_path):
    def fail() -> Targets:
        raise ArithmeticError("no targets")

    with pytest.raises(ArithmeticError):
        open_targets(tmp_path / "targets", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["targets.lock"]


def test_targets_that_cannot_be_written_leave_no_files_behind(tmp_path):
    computed = flat_targets(MSE, gaussian(5, 30))
    empty = {"forget_f1_heldout": torch.empty(20, device="meta")}
    without_values = replace(computed, arrays={**computed.arrays, **empty})
    with pytest.raises(NotImplementedError):
        open_targets(tmp_path / "targets", lambda: without_values)
    assert [path.name for path in tmp_path.iterdir()] == ["targets.lock"]


def test_opened_targets_equal_the_computed_ones(tmp_path):
    computed = flat_targets(L2, gaussian(5, 30))
    opened = open_targets(tmp_path / "targets", lambda: computed)
    assert set(opened.arrays) == set(computed.arrays)
    for name, array in computed.arrays.items():
        assert torch.equal(opened.arrays[name], array)
    assert opened.noise.floor == computed.noise.floor
    assert opened.scales == computed.scales


def test_stored_targets_are_not_computed_again(tmp_path):
    first = open_targets(tmp_path / "targets", lambda: flat_targets(MSE, gaussian(5, 30)))
    second = open_targets(tmp_path / "targets", lambda: pytest.fail("computed twice"))
    assert torch.equal(first.noise.rows, second.noise.rows)


def test_writing_into_opened_targets_does_not_change_the_files(tmp_path):
    first = open_targets(tmp_path / "targets", lambda: flat_targets(MSE, gaussian(5, 30)))
    first.arrays["retain_train"].zero_()
    second = open_targets(tmp_path / "targets", lambda: pytest.fail("computed twice"))
    assert float(second.arrays["retain_train"].abs().sum()) > 0


def test_stored_scales_are_plain_json(tmp_path):
    targets = open_targets(tmp_path / "targets", lambda: flat_targets(MSE, gaussian(5, 30)))
    assert json.loads((tmp_path / "targets" / "scales.json").read_text()) == asdict(targets.scales)


def test_the_folder_of_the_targets_is_created(tmp_path):
    open_targets(tmp_path / "a" / "b" / "targets", lambda: flat_targets(MSE, gaussian(5, 30)))
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        "targets",
        "targets.lock",
        "targets.sums",
    }


# Every input has its own noise target


def paired(objectives: Objectives, *, spread: float = 1.0, count: int = 400) -> Targets:
    """Targets of a model that returns its inputs, whose noise targets are 3 plus ``spread`` times N(0, I)."""
    inputs = {key: gaussian(count, 30, key=index) for index, key in enumerate(SETS)}
    noise = {
        split: tuple(3.0 + spread * gaussian(count, 30, key=key + index) for index in (0, 1))
        for split, key in (("train", 10), ("heldout", 20))
    }
    return compute_paired_targets(flat, inputs, noise, objectives, batch=64)


@pytest.mark.parametrize("objectives", [MSE, L2])
def test_f1_of_the_original_is_its_distance_from_each_inputs_own_target(objectives):
    targets, inputs = paired(objectives), gaussian(400, 30, key=0)
    expected = objectives.paired_per_image(inputs, 3.0 + gaussian(400, 30, key=10))
    torch.testing.assert_close(targets.forget_f1("train"), expected)
    assert targets.scales.f1_original == pytest.approx(float(expected.mean()))
    assert set(targets.arrays) == {"forget_f1_train", "forget_f1_heldout"}


@pytest.mark.parametrize(("objectives", "floor"), [(MSE, 0.25), (L2, 0.5 * 30**0.5)])
def test_the_floor_of_own_targets_is_the_spread_that_is_left(objectives, floor):
    scales = paired(objectives, spread=0.5).scales
    # 12,000 values of variance 0.25: the mean of their squares is known to about 2 %.
    assert (scales.f1_floor, scales.f1_floor_heldout) == pytest.approx((floor, floor), rel=0.05)
    assert scales.f1_floor != scales.f1_floor_heldout


@pytest.mark.parametrize("objectives", [MSE, L2])
def test_the_floor_is_zero_where_noise_targets_draw_nothing(objectives):
    scales = paired(objectives, spread=0.0).scales
    assert (scales.f1_floor, scales.f1_floor_heldout) == (0.0, 0.0)


@pytest.mark.parametrize("objectives", [MSE, L2])
def test_the_scales_do_not_depend_on_what_is_kept(objectives):
    inputs = {key: gaussian(100, 30, key=index) for index, key in enumerate(SETS)}
    kept, not_kept = (
        compute_targets(flat, inputs, gaussian(50, 30, key=8), objectives, batch=32, keep_retain=keep)
        for keep in (True, False)
    )
    assert set(kept.arrays) - set(not_kept.arrays) == {"retain_train", "retain_heldout"}
    assert asdict(not_kept.scales) == pytest.approx(asdict(kept.scales), rel=1e-12)


def test_targets_without_arrays_open_without_them(tmp_path):
    computed = paired(MSE)
    opened = open_targets(tmp_path / "targets", lambda: computed)
    assert set(opened.arrays) == {"forget_f1_train", "forget_f1_heldout"}
    assert torch.equal(opened.forget_f1("train"), computed.forget_f1("train"))
    assert opened.scales == computed.scales
    assert set(opened.to(torch.device("cpu")).arrays) == set(opened.arrays)


# What is large


def test_features_that_spill_into_a_file_are_the_same_and_leave_none(tmp_path, monkeypatch):
    inputs = gaussian(100, 30)
    monkeypatch.setattr(module, "SPILL_BYTES", 0)
    assert torch.equal(compute_features(flat, inputs, batch=7, spill=tmp_path), inputs)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_made_once_and_opened_as_they_were(tmp_path):
    rows = gaussian(5, 3)
    first = open_rows(tmp_path / "rows.npy", lambda: rows)
    second = open_rows(tmp_path / "rows.npy", lambda: pytest.fail("made twice"))
    assert torch.equal(first, rows)
    assert torch.equal(second, rows)
    assert {path.name for path in tmp_path.iterdir()} == {"rows.npy", "rows.npy.lock", "rows.npy.sums"}


def test_rows_that_cannot_be_made_leave_no_files_behind(tmp_path):
    def fail() -> torch.Tensor:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        open_rows(tmp_path / "rows.npy", fail)
    with pytest.raises(NotImplementedError):
        open_rows(tmp_path / "rows.npy", lambda: torch.empty(3, device="meta"))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy.lock"]
