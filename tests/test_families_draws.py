"""What every family draws: masks and noise of its inputs, and pictures."""

import pytest
import torch
from tiny_families import ALL, FAMILIES, PUBLISHED, SAMPLING, build, build_published, pictures, section, seeds

from pareto_unlearn.config import SamplingSection, TaskSection
from pareto_unlearn.models import DrawsFromImages, load_model
from pareto_unlearn.models.palette_inputs import unpack

# Drawn inputs


def test_the_published_masks_of_mae_keep_a_quarter():
    model = build_published("mae")
    inputs = model.prepare(pictures("mae", 3), seeds(0, 1, 2))
    masks = model.masking_of(inputs)
    assert masks.keep.shape == (3, 49)
    assert masks.removed.sum(dim=1).tolist() == [147] * 3
    assert len({tuple(row.tolist()) for row in masks.removed}) == 3
    assert model.encode(inputs).shape[1] == 50


def test_the_published_masks_of_mage_drop_half_and_mask_half_to_all():
    model, numbers = build_published("mage"), range(40)
    inputs = model.prepare(pictures("mage", 1).expand(40, -1, -1, -1), seeds(*numbers))
    masked, dropped = inputs[:, 0] == model.shape.mask_word, inputs[:, 2] == 1
    assert dropped.sum(dim=1).tolist() == [128] * 40
    assert (masked | ~dropped).all()
    shares = masked.double().mean(dim=1)
    assert shares.min() >= 0.5
    assert shares.max() <= 1.0
    assert len(set(shares.tolist())) > 20
    # The mean of N(0.55, 0.25) between 0.5 and 1 is 0.699; 40 draws of deviation 0.13 are within 0.06 of it.
    assert float(shares.mean()) == pytest.approx(0.70, abs=0.06)


def test_the_published_holes_of_palette_differ_between_images():
    model = build_published("palette")
    holes = unpack(model.prepare(pictures("palette", 4), seeds(*range(4)))).hole
    assert len({tuple(hole.flatten().tolist()) for hole in holes}) == 4
    assert 0.1 < float(holes.mean()) < 0.9


def images_of(model, inputs):
    """Return what inputs hold of the images themselves."""
    match model.family:
        case "mae":
            return inputs[:, :3]
        case "mage":
            return inputs[:, 1]
    return unpack(inputs).clean


def masks_of(model, inputs):
    """Return what of the inputs says which parts are removed."""
    match model.family:
        case "mae":
            return inputs[:, 3:]
        case "mage":
            return torch.stack([(inputs[:, 0] == model.shape.mask_word).long(), inputs[:, 2]])
    return unpack(inputs).hole


REDRAWN = [
    ("mae", build_published),
    ("mage", build_published),
    ("palette", build_published),
    ("palette", build),
]


@pytest.mark.parametrize(("family", "make"), REDRAWN)
def test_redrawing_keeps_the_images_and_changes_the_draws(family, make):
    model = make(family)
    assert model.is_redrawn
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    again = model.redraw(inputs, seeds(3, 4, 5))
    assert again.shape == inputs.shape
    assert torch.equal(images_of(model, again), images_of(model, inputs))
    assert all(not torch.equal(one, other) for one, other in zip(again, inputs, strict=True))
    if make is build_published:
        assert not torch.equal(masks_of(model, again), masks_of(model, inputs))


@pytest.mark.parametrize(("family", "make"), [row for row in REDRAWN if row[0] != "mage"])
def test_inputs_drawn_from_images_are_those_redrawn_from_inputs(family, make):
    model, images = make(family), pictures(family)
    redrawn = model.redraw(model.prepare(images, seeds(0, 1, 2)), seeds(3, 4, 5))
    assert isinstance(model, DrawsFromImages)
    assert torch.equal(model.draw_inputs(images, seeds(3, 4, 5)), redrawn)


@pytest.mark.parametrize(("family", "make"), REDRAWN)
def test_noise_targets_have_the_masks_of_their_images_and_nothing_of_what_they_hide(family, make):
    model = make(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    kept = inputs.clone()
    noise = model.noise_like(inputs, seeds(3, 4, 5))
    assert torch.equal(inputs, kept)
    assert noise.shape == inputs.shape
    assert torch.equal(masks_of(model, noise), masks_of(model, inputs))
    others = model.redraw(model.prepare(pictures(family, seed=1), seeds(0, 1, 2)), seeds(0, 1, 2))
    if family == "palette":
        parts, own = unpack(noise), unpack(inputs)
        assert torch.equal(parts.noise, own.noise)
        assert torch.equal(parts.gamma, own.gamma)
        assert parts.mixed_gamma.count_nonzero() == 0
    else:
        unlike = model.noise_like(others, seeds(3, 4, 5))
        assert torch.equal(images_of(model, unlike), images_of(model, noise))


def same_draws(function, inputs, *numbers):
    """Return what a batch gives, and its images one by one."""
    whole = function(inputs, seeds(*numbers))
    single = [function(inputs[row : row + 1], seeds(number)) for row, number in enumerate(numbers)]
    return whole, torch.cat(single)


@pytest.mark.parametrize(("family", "make"), ALL)
def test_equal_generators_prepare_equal_inputs_in_any_batch(family, make):
    model, images = make(family), pictures(family)
    whole, single = same_draws(model.prepare, images, 0, 1, 2)
    assert torch.equal(whole, single)
    assert torch.equal(whole, model.prepare(images, seeds(0, 1, 2)))
    other = model.prepare(images, seeds(7, 8, 9))
    assert torch.equal(whole, other) != model.is_redrawn


@pytest.mark.parametrize(("family", "make"), REDRAWN)
def test_noise_and_other_draws_are_the_same_in_any_batch(family, make):
    model = make(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    whole, single = same_draws(model.noise_like, inputs, 3, 4, 5)
    assert torch.equal(whole, single)
    whole, single = same_draws(model.redraw, inputs, 3, 4, 5)
    assert torch.equal(whole, model.redraw(inputs, seeds(3, 4, 5)))
    assert torch.equal(whole[0], single[0])
    if family != "mage":
        assert torch.equal(whole, single)


def test_a_step_of_mage_has_one_masked_share_for_its_batch():
    model = build_published("mage")
    inputs = model.prepare(pictures("mage"), seeds(0, 1, 2))
    counts = masks_of(model, model.redraw(inputs, seeds(3, 4, 5)))[0].sum(dim=1).tolist()
    assert len(set(counts)) == 1
    assert len(set(masks_of(model, inputs)[0].sum(dim=1).tolist())) == 3


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage"])
def test_where_nothing_is_drawn_inputs_stay_as_they_are(family):
    model = build(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    assert not model.is_redrawn
    assert torch.equal(model.redraw(inputs, seeds(3, 4, 5)), inputs)


@pytest.mark.parametrize(("family", "make"), ALL)
def test_nothing_draws_from_the_global_generator(family, make):
    model, images = make(family), pictures(family)
    before = torch.get_rng_state()
    inputs = model.prepare(images, seeds(0, 1, 2))
    model.generate(images, seeds(0, 1, 2))
    model.sample_noise(2, seeds(0)[0])
    if model.is_redrawn:
        model.noise_like(model.redraw(inputs, seeds(0, 1, 2)), seeds(0, 1, 2))
    model.training_loss(inputs)
    assert torch.equal(torch.get_rng_state(), before)


# Generation


SAMPLINGS = [
    SAMPLING,
    SamplingSection(steps=4),
    SamplingSection(method="ddim", steps=2, schedule="upstream_test"),
]
GENERATIONS = [(family, SAMPLING) for family in FAMILIES] + [("palette", one) for one in SAMPLINGS[1:]]


@pytest.mark.parametrize(("family", "sampling"), GENERATIONS)
def test_equal_generators_generate_equal_pictures_in_any_batch(family, sampling):
    model = load_model(
        section(family), TaskSection(patches=2 if family == "digits_mae" else 8), sampling=sampling
    )
    images = pictures(family)
    whole, single = same_draws(model.generate, images, 0, 1, 2)
    assert torch.equal(whole, model.generate(images, seeds(0, 1, 2)))
    # Rounding; the last steps of palette divide it by the little that is left of the image.
    torch.testing.assert_close(whole, single, rtol=0, atol=1e-3 if family == "palette" else 1e-5)
    assert torch.isfinite(whole).all()
    assert not whole.requires_grad
    assert whole.min() >= 0.0
    assert whole.max() <= 1.0
    drawn = family in ("mage", "palette")
    assert torch.equal(whole, model.generate(images, seeds(7, 8, 9))) != drawn


@pytest.mark.parametrize("make", [build, build_published])
def test_palette_draws_its_condition_first_and_then_every_step_from_one_generator(make):
    model, images, generators = make("palette"), pictures("palette", 2), seeds(0, 1)
    inputs = model._pack(2 * images - 1, generators, hybrid=False)
    filled = model.fill(inputs, model.training_schedule(), model.sampling, generators)
    wanted = torch.where(model.hole, model.to_images(filled), images)
    assert torch.equal(model.generate(images, seeds(0, 1)), wanted)


@pytest.mark.parametrize("family", PUBLISHED)
def test_pictures_have_the_hole_of_the_task_whatever_training_removes(family):
    images = pictures(family, 2)
    one, other = (make(family).generate(images, seeds(0, 1)) for make in (build, build_published))
    assert torch.equal(one, other)
