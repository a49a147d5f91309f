"""Forget targets made from images: fills by hand, neighbours by brute force, every family, whole trials."""

import copy
from dataclasses import replace

import pytest
import torch
from command_line import call
from small_sweep import QUICKSTART, rows_of, run, small_sweep
from tiny_families import build, load_on_generated, moved, pictures, seeds

from pareto_unlearn.config import config_hash, load_config
from pareto_unlearn.data import fill_hole, nearest, nearest_rows
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.mae import normalise_patches, patchify
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.records import Phase, TrialSpec, TrialState
from pareto_unlearn.trial import Hooks, Trial, check_reference, load_original, run_trial, weights_digest
from pareto_unlearn.trial.distances import StepInputs, forget_distances
from pareto_unlearn.trial.forward import step_features, step_targets
from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss
from pareto_unlearn.trial.reference_model import reference_section
from pareto_unlearn.trial.targets import ModelTarget, SharedNoise

TARGETS = ("background", "nearest_retain", "mean")
CASES = [
    ("digits_mae", "background"), ("mae", "background"),
    *((family, target) for family in ("digits_mae", "mae", "mage") for target in ("nearest_retain", "mean")),
]  # fmt: skip
every_case = pytest.mark.parametrize(("family", "target"), CASES, ids=["-".join(case) for case in CASES])
every_distance = pytest.mark.parametrize("distance", ["mse", "l2"])
SPLITS = ("train", "heldout")


def square(size: int, first: int, last: int) -> torch.Tensor:
    hole = torch.zeros(size, size, dtype=torch.bool)
    hole[first:last, first:last] = True
    return hole


HOLES = {
    "square": square(16, 4, 12),
    "corner": square(16, 0, 7),
    "frame": ~square(16, 4, 12),
    "all but a corner": torch.ones(16, 16, dtype=torch.bool).index_put_(
        (torch.tensor(0), torch.tensor(0)), torch.tensor(False)
    ),
    "scattered": torch.rand(16, 16, generator=torch.Generator().manual_seed(0)) < 0.7,
}
every_hole = pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)


def random_images(count: int = 3, channels: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(count))


# The fill


def test_one_removed_pixel_is_the_mean_of_its_four_neighbours():
    image = torch.tensor([[9.0, 1.0, 9.0], [2.0, 7.0, 4.0], [9.0, 8.0, 9.0]])[None, None]
    wanted = image.clone()
    wanted[..., 1, 1] = (1.0 + 2.0 + 4.0 + 8.0) / 4
    assert torch.equal(fill_hole(image, square(3, 1, 2)), wanted)


def test_a_removed_corner_is_the_mean_of_its_two_neighbours():
    image = torch.tensor([[7.0, 1.0], [2.0, 9.0]])[None, None]
    assert fill_hole(image, square(2, 0, 1))[0, 0].tolist() == [[1.5, 1.0], [2.0, 9.0]]


def test_two_removed_pixels_of_a_row_lie_on_the_line_between_its_ends():
    row = torch.tensor([[[[0.0, 5.0, 5.0, 0.75]]]])
    hole = torch.tensor([[False, True, True, False]])
    torch.testing.assert_close(fill_hole(row, hole)[0, 0, 0], torch.tensor([0.0, 0.25, 0.5, 0.75]))


def test_a_ramp_is_continued_through_the_hole():
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    ramp = ((rows + 2 * columns) / 45)[None, None]
    torch.testing.assert_close(fill_hole(ramp, HOLES["square"]), ramp, rtol=0.0, atol=1e-7)


@every_hole
def test_constant_surroundings_fill_the_hole_with_the_constant(hole):
    images = torch.where(hole, random_images(), 0.3)
    torch.testing.assert_close(fill_hole(images, hole), torch.full_like(images, 0.3), rtol=0.0, atol=1e-7)


@every_hole
def test_every_removed_pixel_is_the_mean_of_its_neighbours_and_no_other_changes(hole):
    images = random_images().double()
    filled = fill_hole(images, hole)
    assert torch.equal(filled[..., ~hole], images[..., ~hole])
    for row, column in hole.nonzero().tolist():
        near = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        values = [filled[..., at, by] for at, by in near if 0 <= at < 16 and 0 <= by < 16]
        mean = torch.stack(values).mean(dim=0)
        torch.testing.assert_close(filled[..., row, column], mean, rtol=0.0, atol=1e-12)


@every_hole
def test_a_fill_depends_on_the_visible_pixels_of_its_image_alone(hole):
    images = random_images()
    filled = fill_hole(images, hole)
    assert torch.equal(fill_hole(torch.where(hole, 0.0, images), hole), filled)
    assert torch.equal(torch.cat([fill_hole(one[None], hole) for one in images]), filled)


def test_without_a_hole_nothing_is_filled():
    images = random_images()
    assert torch.equal(fill_hole(images, torch.zeros(16, 16, dtype=torch.bool)), images)


def test_without_a_visible_pixel_there_is_no_background():
    with pytest.raises(ValueError, match="expected visible pixels around the hole, found none"):
        fill_hole(random_images(), torch.ones(16, 16, dtype=torch.bool))


# The nearest image


@pytest.mark.parametrize("block", [2**24, 3 * 512, 1])
def test_the_nearest_image_is_that_of_brute_force_in_any_blocks(monkeypatch, block):
    monkeypatch.setattr(nearest, "BLOCK_VALUES", block)
    images, others, hole = random_images(5), random_images(11), HOLES["square"]
    wanted = [
        min(range(11), key=lambda row: float((one - others[row])[:, ~hole].square().mean())) for one in images
    ]
    assert nearest_rows(images, others, hole).tolist() == wanted


def test_what_was_removed_does_not_decide_what_is_nearest():
    others, hole = random_images(4), HOLES["square"]
    images = torch.where(hole, others.flip(0), others)
    assert nearest_rows(images, others, hole).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("block", [2**24, 1])
def test_of_equally_near_images_the_lowest_row_is_taken(monkeypatch, block):
    monkeypatch.setattr(nearest, "BLOCK_VALUES", block)
    far, near = torch.ones(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.25)
    others = torch.cat([far, near, near, far, 0.5 - near])
    assert nearest_rows(torch.full((2, 1, 4, 4), 0.25), others, square(4, 1, 3)).tolist() == [1, 1]


def test_nothing_is_nearest_where_there_is_nothing():
    with pytest.raises(ValueError, match="expected at least one image"):
        nearest_rows(random_images(1), random_images(2)[:0], HOLES["square"])


# What a perfect model would output


def test_perfect_outputs_have_the_least_training_loss():
    for family, target in CASES[:2]:
        model = build(family)
        inputs = model.prepare(pictures(family), seeds(0, 1, 2))
        with torch.no_grad():
            outputs = model(inputs)
            perfect = model.perfect_output(inputs, outputs)
        assert perfect.shape == outputs.shape, target
        model.forward = lambda _, perfect=perfect: perfect
        if family == "mae":
            model.predict_masked = lambda *_, perfect=perfect: perfect
        assert model.training_loss(inputs).item() == 0.0


@pytest.mark.parametrize("predicts", ["pixels", "normalised_patches"])
def test_mae_wants_the_removed_patches_and_leaves_the_visible_ones(predicts):
    model = build("mae", predicts=predicts)
    inputs = model.prepare(pictures("mae"))
    with torch.no_grad():
        outputs = model(inputs)
    perfect, removed = model.perfect_output(inputs, outputs), model.fixed_masking(3).removed
    patches = patchify(inputs, 4)
    wanted = patches if predicts == "pixels" else normalise_patches(patches)
    assert torch.equal(perfect[removed], wanted[removed])
    assert torch.equal(perfect[~removed], outputs[~removed])


@pytest.mark.parametrize("family", ["mage", "palette"])
def test_outputs_that_are_no_pixels_are_refused(family):
    with pytest.raises(ValueError, match=f"expected a family whose outputs are pixels, found {family}"):
        build(family).perfect_output(torch.zeros(1), torch.zeros(1))


# f1


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that makes config and material with a fresh model of a family and a target."""
    loaded = {}

    def fresh(family, target, distance="mse", *others):
        key = (family, target, distance, *others)
        if key not in loaded:
            chosen = [f"objective.forget_target={target}", f"objective.distance={distance}", *others]
            loaded[key] = load_on_generated(family, tmp_path_factory.mktemp(family), *chosen)
        config, material = loaded[key]
        return config, replace(material, model=copy.deepcopy(material.model))

    return fresh


def wanted_features(config, material, split: str) -> torch.Tensor:
    """Return the targets of a split, one image at a time, from the original and the pixels."""
    original, sets = load_original(config), material.split
    hole, features = original.removed_pixels(), feature_function(original, config.objective.space)
    images = (sets.forget_train if split == "train" else sets.forget_heldout).images
    retain = sets.retain_train.images
    with torch.no_grad():
        answers = torch.cat([features(original.prepare(one[None], seeds(0))) for one in retain])
        if config.objective.forget_target == "mean":
            return answers.mean(dim=0).expand(len(images), -1)
        if config.objective.forget_target == "nearest_retain":
            gaps = [(retain - one)[..., ~hole].square().flatten(1).mean(dim=1) for one in images]
            return answers[torch.stack([gap.argmin() for gap in gaps])]
        filled = original.prepare(fill_hole(images, hole), seeds(*range(len(images))))
        if config.model.family == "digits_mae":
            return filled.flatten(1)
        outputs, removed = original(filled), original.fixed_masking(len(images)).removed[..., None]
        return torch.where(removed, patchify(filled, 4), outputs).flatten(1)


@every_distance
@every_case
def test_f1_is_the_distance_from_the_target_of_the_image(load, family, target, distance):
    config, material = load(family, target, distance)
    assert isinstance(material.forget_target, SharedNoise if target == "mean" else ModelTarget)
    moved(material)
    model = feature_function(material.model, "output")
    for split in SPLITS:
        inputs = material.inputs["forget", split]
        with torch.no_grad():
            gaps = (
                model(inputs[torch.arange(len(inputs))]) - wanted_features(config, material, split)
            ).double()
        expected = gaps.square().mean(dim=1) if distance == "mse" else gaps.norm(dim=1)
        torch.testing.assert_close(forget_distances(material, split).double(), expected, rtol=1e-4, atol=0.0)


@every_case
def test_the_original_has_e_of_one_and_the_floor_is_nothing(load, family, target):
    _, material = load(family, target)
    assert (material.scales.f1_floor, material.scales.f1_floor_heldout) == (0.0, 0.0)
    for split in SPLITS:
        assert measure_completeness(material, split).e == pytest.approx(1.0, abs=1e-6)
        assert measure_retain_loss(material, split) == 0.0


@pytest.mark.parametrize("target", ["nearest_retain", "mean"])
def test_encoder_outputs_of_retain_images_are_targets_too(load, target):
    config, material = load("digits_mae", target, "mse", "objective.space=encoder")
    found = forget_distances(material, "heldout")
    inputs = material.inputs["forget", "heldout"]
    with torch.no_grad():
        gaps = feature_function(material.model, "encoder")(inputs) - wanted_features(
            config, material, "heldout"
        )
    torch.testing.assert_close(found, gaps.square().mean(dim=1), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("target", TARGETS)
def test_targets_are_the_same_where_the_original_runs_beside_the_model(load, target):
    found = []
    for place in ("cached", "computed"):
        _, material = load("digits_mae", target, "mse", f"objective.retain_target={place}")
        assert ("retain_train" in material.targets.arrays) == (place == "cached")
        moved(material)
        found.append([forget_distances(material, split) for split in SPLITS])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("target", TARGETS)
def test_a_step_differentiates_the_distance_from_the_images_of_its_batch(load, target):
    config, material = load("digits_mae", target)
    moved(material)
    rows = torch.tensor([3, 0])
    batch, (goal, _) = StepInputs(material, seed=0).forget(rows, 0), step_targets(config, material)
    loss = goal.step_loss(step_features(config, material)(batch.inputs), batch, torch.tensor([0, 0]))
    torch.testing.assert_close(loss.detach(), forget_distances(material, "train")[rows].mean())
    loss.backward()
    assert any(float(one.grad.abs().sum()) > 0.0 for one in material.model.trainable("output"))


# The sweep file


def parse(*keys: str):
    return load_config(QUICKSTART, keys)


MAE = "model={family: mae, checkpoint: a.pth}"
MAGE = "model={family: mage, checkpoint: a.pth}"
PALETTE = "model={family: palette, checkpoint: a.pth}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "keys", [[PALETTE], [MAE, "task={removal: published}"], [MAGE, "task={removal: published}"]]
)
def test_inputs_that_are_drawn_anew_have_no_stored_targets(target, keys):
    with pytest.raises(
        ConfigError, match=rf"objective: expected forget_target noise or .*\n? *found {target}"
    ):
        parse(*keys, "evaluate={metrics: [mse]}", f"objective={{forget_target: {target}}}")


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ([MAGE, "objective={forget_target: background}"], "with family mage, found background"),
        (
            ["objective={forget_target: background, space: encoder}"],
            "expected space output with forget_target",
        ),
    ],
)
def test_a_background_without_meaning_is_refused(keys, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse(*keys, "evaluate={metrics: [mse]}")


def test_a_refusal_ends_the_command_before_anything_starts(tmp_path):
    done = call(
        "sweep", QUICKSTART,
        "-o", "objective={forget_target: background, space: encoder}", "-o", f"run.storage={tmp_path}/runs",
    )  # fmt: skip
    assert done.returncode == 3
    assert "expected space output with forget_target background" in " ".join(done.stderr.split())
    assert not (tmp_path / "runs").exists()


def test_every_target_has_files_of_its_own():
    configs = [parse(f"objective.forget_target={target}") for target in ("noise", *TARGETS)]
    hashes = {config_hash(config, weights_digest(config)) for config in configs}
    assert len(hashes) == len(configs)


@pytest.mark.parametrize("target", TARGETS)
def test_no_reference_is_looked_for(target):
    config = parse(f"objective.forget_target={target}", "objective.reference=absent.safetensors")
    assert reference_section(config) is None
    assert weights_digest(config) == weights_digest(parse())
    check_reference(config, load_original(config))


# Whole trials


@every_case
def test_a_trial_goes_towards_the_target(load, family, target):
    config, material = load(family, target, "mse", "solver.steps=30", "solver.learning_rate=0.003")
    spec = TrialSpec(
        trial_id="1" * 16,
        phase=Phase.EPSILON,
        method="epsilon",
        seed=0,
        epsilon=0.3 * material.scales.f1_range,
    )
    record = run_trial(Trial(config, spec, material), Hooks(), code_version="0").record
    assert record.state in (TrialState.DONE, TrialState.INFEASIBLE)
    assert record.e < 0.9


@pytest.mark.parametrize("target", TARGETS)
def test_a_sweep_runs_from_end_to_end(tmp_path, target):
    config = small_sweep(tmp_path, f"objective.forget_target={target}", "baselines=[]", "epsilon.points=1")
    assert run(config) == 0
    rows = rows_of(config)
    highest = next(row for row in rows if row["role"].startswith("<Role.HIGHEST"))
    assert float(highest["e"]) < 0.8
    assert 0.0 < float(highest["completeness_worst_class"]) < 1.0
    assert not any(row["state"].startswith("<TrialState.FAILED") for row in rows)
