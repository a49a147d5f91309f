"""What the Protocol promises, for every family: features, parameters, holes, losses."""

import re

import pytest
import torch
from tiny_families import (
    ALL,
    FAMILIES,
    PUBLISHED,
    SAMPLING,
    build,
    build_published,
    decode,
    encoder_outputs,
    pictures,
    section,
    seeds,
    soft_share,
)
from torch.nn import functional

from pareto_unlearn.config import TaskSection
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import ImageToImage, load_model, pixel_format, with_other_hole
from pareto_unlearn.models.mage import LABEL_SMOOTHING
from pareto_unlearn.models.palette_inputs import build_condition, unpack

# The Protocol


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_an_image_to_image(family):
    model = build(family)
    assert isinstance(model, ImageToImage)
    assert model.family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_weights_fill_another_hole_as_a_model_loaded_with_it_does(family):
    other = TaskSection(kind="left", size=0.5)
    moved = with_other_hole(build(family), section(family), other, sampling=SAMPLING)
    loaded, images = build(family, other), pictures(family)
    assert torch.equal(moved.removed_pixels(), loaded.removed_pixels())
    assert torch.equal(moved.generate(images, seeds(0, 1, 2)), loaded.generate(images, seeds(0, 1, 2)))


def expected_words(model, encoded, output):
    """Say the shapes that features really have, in the words of each family."""
    kind, which = ("randomly kept", "randomly kept") if model.is_redrawn else ("visible", "all")
    match model.family:
        case "digits_mae":
            return (
                f"encoder outputs of the {encoded[0]} visible patches, {encoded[1]} values each",
                f"predictions of all {output[0]} patches, {output[1]} normalised pixels each",
            )
        case "mae":
            return (
                f"encoder outputs of the class token and {encoded[0] - 1} {kind} patches after the last "
                f"norm, {encoded[1]} values each",
                f"predictions of all {output[0]} patches, {output[1]} normalised pixels each",
            )
        case "mage":
            return (
                f"encoder outputs of the class token and {which} {encoded[0] - 1} codes after the last "
                f"norm, {encoded[1]} values each",
                f"logits of the {output[1]} codes at all {output[0]} places",
            )
    return (
        f"feature maps of the {len(model.denoise_fn.input_blocks)} input stages and the middle; the mean "
        "over each map, summed over the maps",
        f"predicted noise, {output[0]} x {output[1]} x {output[2]} values, inside and outside the hole",
    )


@pytest.mark.parametrize(
    ("family", "make"), [(f, build) for f in FAMILIES] + [(f, build_published) for f in PUBLISHED]
)
def test_the_description_of_features_says_their_real_shapes(family, make):
    model = make(family)
    inputs = model.prepare(pictures(family, 2), seeds(0, 1))
    encoded, output = model.encode(inputs).shape[1:], model(inputs).shape[1:]
    words = expected_words(model, encoded, output)
    assert (model.describe_features("encoder"), model.describe_features("output")) == words
    if family == "palette":
        maps = model.feature_maps(inputs)
        assert len(maps) == len(model.denoise_fn.input_blocks) + 1
        assert encoded == (sum(one[0].numel() for one in maps),)


def moving_parameters(model, function) -> set[str]:
    """Return the names of the parameters whose change changes what a function says."""
    with torch.no_grad():
        before, moving = function(), set()
        generator = torch.Generator().manual_seed(0)
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter += torch.randn(parameter.shape, generator=generator)
            if not torch.equal(function(), before):
                moving.add(name)
            parameter.copy_(kept)
    return moving


def names_of(model, parameters) -> set[str]:
    chosen = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in chosen}


LEAKS = {
    "digits_mae": set(),
    "mae": set(),
    "mage": {"token_emb.word_embeddings.weight"},
    "palette": {f"denoise_fn.cond_embed.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")},
}
"""What encoder and decoder share, and the published training changes."""


@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_parameters_are_exactly_those_that_move_the_features(family):
    model = build(family)
    inputs = model.prepare(pictures(family, 1), seeds(0))
    open_to_all = names_of(model, model.trainable("encoder", shared=True))
    assert open_to_all == moving_parameters(model, lambda: model.encode(inputs))
    assert open_to_all - names_of(model, model.trainable("encoder")) == LEAKS[family]
    assert names_of(model, model.trainable("output")) == moving_parameters(model, lambda: model(inputs))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decoder_does_not_change_with_the_encoder_but_through_what_they_share(family):
    model = build(family)
    inputs = model.prepare(pictures(family, 2), seeds(0, 1))
    with torch.no_grad():
        features = encoder_outputs(model, inputs)
        before = decode(model, inputs, features)
        torch.testing.assert_close(before, model(inputs))
        for shared in (False, True):
            for parameter in model.trainable("encoder", shared=shared):
                parameter.mul_(1.1)
            same = torch.equal(decode(model, inputs, features), before)
            assert same == (not shared or not LEAKS[family])


# The hole


def task_of(family, kind, size=None, patches=None) -> TaskSection:
    return TaskSection(kind=kind, size=size, patches=patches)


FRACTIONS = {"digits_mae": (0.5, 0.5), "mae": (8 / 14, 4 / 14), "mage": (0.5, 0.5), "palette": (0.5, 0.25)}
"""Sizes of a central square and of an outpainting that lie on whole patches."""

TASKS = [
    (family, task_of(family, kind, size, patches), area)
    for family in FAMILIES
    for square, border in [FRACTIONS[family]]
    for kind, size, patches, area in [
        ("center", square, None, square**2),
        *(
            [("center", None, 2, 1 / 4)]
            if family == "digits_mae"
            else [("center", None, 4, (4 / (14 if family == "mae" else 16)) ** 2)]
        ),
        *(
            []
            if family == "digits_mae"
            else [("center", None, 8, (8 / (14 if family == "mae" else 16)) ** 2)]
        ),
        ("outpaint", border, None, 1 - (1 - border) ** 2),
        ("up", 0.5, None, 0.5),
        ("down", 0.5, None, 0.5),
        ("left", 0.5, None, 0.5),
        ("right", 0.5, None, 0.5),
        ("random", 0.5, None, 0.5),
    ]
]
every_task = pytest.mark.parametrize(
    ("family", "task", "area"),
    TASKS,
    ids=[f"{family}-{task.kind}-{task.patches or round(task.size, 2)}" for family, task, _ in TASKS],
)


@every_task
def test_the_removed_area_is_exact_and_lies_where_the_task_says(family, task, area):
    removed = build(family, task).removed_pixels()
    side = pixel_format(section(family)).side
    assert removed.shape == (side, side)
    assert int(removed.sum()) == round(area * side * side)
    half = {"up": removed[: side // 2], "down": removed[side // 2 :]}
    half |= {"left": removed[:, : side // 2], "right": removed[:, side // 2 :]}
    if task.kind in half:
        assert half[task.kind].all()
    elif task.kind != "random":
        assert torch.equal(removed, removed.flip(0))
        assert torch.equal(removed, removed.flip(1))
        assert bool(removed[side // 2, side // 2]) == (task.kind == "center")


@every_task
def test_nothing_of_the_hole_is_looked_at(family, task, area):
    model, images = build(family, task), pictures(family, 2)
    removed = model.removed_pixels()
    other = torch.where(removed, torch.rand(images.shape, generator=seeds(9)[0]), images)
    assert torch.equal(model.generate(images, seeds(0, 1)), model.generate(other, seeds(0, 1)))
    with torch.no_grad():
        one, two = (model.prepare(each, seeds(0, 1)) for each in (images, other))
        if family == "palette":  # its noisy image holds the clean one, as in training
            assert torch.equal(build_condition(unpack(one)), build_condition(unpack(two)))
            one, two = (model.noise_like(each, seeds(0, 1)) for each in (one, two))
        assert torch.equal(model.encode(one), model.encode(two))
        assert torch.equal(model(one), model(two))


@pytest.mark.parametrize("family", ["mae", "palette"])
def test_visible_pixels_of_a_picture_are_the_images_own_to_the_bit(family):
    model, images = build(family), pictures(family)
    visible = ~model.removed_pixels()
    generated = model.generate(images, seeds(0, 1, 2))
    assert torch.equal(generated[..., visible], images[..., visible])
    assert not torch.equal(generated, images)


@pytest.mark.parametrize("size", [1 / 16, 1 / 2])
def test_mage_joins_its_pictures_softly(size):
    model, images = build("mage", TaskSection(kind="up", size=size)), pictures("mage")
    generated, share = model.generate(images, seeds(0, 1, 2)), soft_share(model)
    assert torch.equal(generated[..., share == 0], images[..., share == 0])
    assert (share[-1] == 0).all()
    # What shows through in the hole is its mean colour: the picture lies between that or the image, and what
    # was generated.
    unknown = (share > 0) & (share < 1)
    assert not torch.equal(generated[..., unknown], images[..., unknown])


def test_normalised_patches_leak_brightness_and_contrast_of_the_hole_and_nothing_else():
    task = TaskSection(patches=8)
    model = load_model(section("mae", predicts="normalised_patches"), task)
    images = 0.5 + 0.05 * (pictures("mae", 1) - 0.5)
    flipped = torch.where(model.removed_pixels(), images.flip(3), images)
    assert not torch.equal(model.generate(images, seeds(0)), model.generate(flipped, seeds(0)))
    shuffled = images.clone()  # within a patch, brightness and contrast stay
    shuffled[..., 24:28, 24:28] = shuffled[..., 24:28, 24:28].flip(3)
    one, two = (model.generate(each, seeds(0)) for each in (images, shuffled))
    inside = model.removed_pixels()
    torch.testing.assert_close(one[..., inside], two[..., inside])


def test_a_square_that_a_grid_of_14_cannot_centre_is_refused_with_those_it_can():
    with pytest.raises(ConfigError, match=re.escape("0.571429")):
        build("mae", TaskSection(size=0.5))


# Losses


def test_the_training_loss_of_mage_is_the_cross_entropy_at_the_places_of_the_hole():
    model = build("mage")
    inputs = model.prepare(pictures("mage"))
    places = model.masked.nonzero().flatten()
    wanted = functional.cross_entropy(
        model(inputs)[:, places].transpose(1, 2), inputs[:, 1][:, places], label_smoothing=LABEL_SMOOTHING
    )
    torch.testing.assert_close(model.training_loss(inputs), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("family", "make"), ALL)
def test_training_losses_are_finite_and_reach_parameters(family, make):
    model = make(family)
    model.training_loss(model.prepare(pictures(family), seeds(0, 1, 2))).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
