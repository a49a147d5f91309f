"""What the Protocol promises, for every family: features, holes, draws, generation, precision."""

import copy
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm.layers
import torch
from small_sweep import QUICKSTART
from tiny_families import (
    FAMILIES,
    SAMPLING,
    SPACES,
    build,
    build_published,
    decode,
    encoder_outputs,
    pictures,
    relative,
    section,
    seeds,
    soft_share,
)
from torch.nn import functional

from pareto_unlearn.config import SamplingSection, TaskSection, load_config
from pareto_unlearn.models import ImageToImage, load_model, pixel_format, save_model
from pareto_unlearn.models.mage_losses import LABEL_SMOOTHING
from pareto_unlearn.models.palette_inputs import build_condition, unpack
from pareto_unlearn.models.palette_unet import AttentionBlock
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.records import ConfigError
from pareto_unlearn.solver import FlatParameters
from pareto_unlearn.trial.forward import check_forward, run_in_steps

PUBLISHED = ("mae", "mage", "palette")
"""The families whose published training draws what it removes."""

# The Protocol


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_an_image_to_image(family):
    model = build(family)
    assert isinstance(model, ImageToImage)
    assert model.family == family


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
                f"encoder outputs of the class token and {encoded[0] - 1} {kind} patches after the last norm, "
                f"{encoded[1]} values each",
                f"predictions of all {output[0]} patches, {output[1]} normalised pixels each",
            )
        case "mage":
            return (
                f"encoder outputs of the class token and {which} {encoded[0] - 1} codes after the last norm, "
                f"{encoded[1]} values each",
                f"logits of the {output[1]} codes at all {output[0]} places",
            )
    return (
        f"feature maps of the {len(model.denoise_fn.input_blocks)} input stages and the middle; the mean over each map, "
        "summed over the maps",
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
    assert (share[-1] == 0).all() == (size < 0.5)
    # What shows through in the hole is its mean colour: the picture lies between that or the image, and what was generated.
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


ALL = [(family, build) for family in FAMILIES] + [(family, build_published) for family in PUBLISHED]


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


# Precision and memory


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_is_within_a_few_percent_of_the_spread_of_features(family, space):
    model = build(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    config = load_config(QUICKSTART, ["solver.precision=bfloat16"])
    wide = feature_function(model, space)
    with torch.no_grad():
        exact, narrow = wide(inputs), run_in_steps(config, wide)(inputs)
    assert narrow.dtype == torch.float32
    # 8 bits through a few layers: 0.4 to 2 % of the spread.
    assert 0.0 < float((narrow - exact).square().mean().sqrt() / exact.std()) < 0.04


@pytest.mark.parametrize("family", ["mage", "palette"])
def test_channels_last_changes_rounding_only(family):
    models = [build(family, channels_last=last) for last in (False, True)]
    images = pictures(family)
    plain, last = (model.prepare(images, seeds(0, 1, 2)) for model in models)
    assert torch.equal(plain, last)
    with torch.no_grad():
        for function in ("encode", "__call__"):
            one, two = (getattr(model, function)(plain) for model in models)
            assert relative(two, one) < 1e-4
        one, two = (model.generate(images, seeds(0, 1, 2)) for model in models)
    assert relative(two, one) < 1e-4


@pytest.mark.parametrize("family", ["mage", "palette"])
def test_channels_last_weights_are_saved_as_the_others(family):
    assert save_model(build(family, channels_last=True)) == save_model(build(family))


@pytest.mark.parametrize("space", SPACES)
def test_trained_weights_stay_channels_last(space):
    model = build("palette", channels_last=True)
    flat = FlatParameters(model.trainable(space))
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    before = save_model(model)
    flat.load(flat.values.clone())
    assert save_model(model) == before


def gradients_of(model, inputs, space) -> list[torch.Tensor]:
    parameters = model.trainable(space)
    loss = feature_function(model, space)(inputs).square().mean()
    return list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("space", SPACES)
def test_recomputing_gives_the_same_gradients(space):
    models = [build("palette", recompute=recompute) for recompute in (False, True)]
    inputs = models[0].prepare(pictures("palette"), seeds(0, 1, 2))
    kept, recomputed = (gradients_of(model, inputs, space) for model in models)
    # Biases before a normalisation over their own channel alone have a gradient of nothing but rounding.
    largest = max(float(one.norm()) for one in kept)
    assert all(float((one - two).norm()) <= 1e-6 * largest for one, two in zip(kept, recomputed, strict=True))


GRAPHS = [("digits_mae", build), ("mage", build), *((family, build_published) for family in PUBLISHED)]
"""One of each way forward; drawn masks of mae and palette take the same way as the hole."""

COMPILED = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import test_families as shared
from tiny_families import pictures, relative, seeds
backend, *chosen = sys.argv[2:]
for family, make in shared.GRAPHS:
    model = make(family)
    inputs = model.prepare(pictures(family, 2), seeds(0, 1))
    for name in chosen or ("encode", "training_loss"):
        torch._dynamo.reset()
        eager = getattr(model, name)
        compiled = torch.compile(eager, fullgraph=True, dynamic=False, backend=backend)
        one, two = compiled(inputs), eager(inputs)
        assert relative(one.detach(), two.detach()) < 1e-5, (family, name)
        assert one.isfinite().all()
    if chosen:
        continue
    trained = model.trainable("output")
    one, two = (torch.autograd.grad(loss, trained, allow_unused=True) for loss in (one, two))
    one, two = (torch.cat([g.flatten() for g in each if g is not None]) for each in (one, two))
    assert relative(one, two) < 1e-4, family
"""


def compile_all(*arguments: str) -> None:
    # In a process of its own: the shape checks of the tests wrap the models' methods, and cannot be compiled.
    command = [sys.executable, "-c", COMPILED, str(Path(__file__).parent), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_every_training_loss_is_one_graph():
    compile_all("eager", "training_loss")  # it runs the encoder and the decoder


@pytest.mark.slow
def test_compiled_outputs_losses_and_gradients_are_those_of_eager_code():
    try:
        check_forward(load_config(QUICKSTART, ["solver.compile=true"]))
    except ConfigError as error:
        pytest.skip(str(error))
    compile_all("inductor")


@pytest.mark.parametrize("family", ["mae", "mage"])
def test_fused_attention_is_attention(family):
    fused = build(family)
    timm.layers.set_fused_attn(False)
    try:
        plain = build(family)
    finally:
        timm.layers.set_fused_attn(True)
    assert [model.blocks[0].attn.fused_attn for model in (fused, plain)] == [True, False]
    inputs = fused.prepare(pictures(family), seeds(0, 1, 2))
    with torch.no_grad():
        assert relative(fused.encode(inputs), plain.encode(inputs)) < 1e-5
        assert relative(fused(inputs), plain(inputs)) < 1e-5


def explicit_attention(block, maps):
    """Attention over pixels written out with a softmax."""
    batch, channels, height, width = maps.shape
    pixels = maps.flatten(2)
    heads = block.qkv(block.norm(pixels)).reshape(batch * block.heads, -1, height * width)
    query, key, value = heads.chunk(3, dim=1)
    weights = (query.transpose(1, 2) @ key / math.sqrt(query.shape[1])).softmax(dim=2)
    mixed = (value @ weights.transpose(1, 2)).reshape(batch, channels, -1)
    return (pixels + block.proj_out(mixed)).view_as(maps)


def test_palette_attends_as_an_explicit_softmax_does(monkeypatch):
    model = build("palette")
    inputs = model.prepare(pictures("palette"), seeds(0, 1, 2))
    with torch.no_grad():
        fused = model(inputs), model.encode(inputs)
        monkeypatch.setattr(AttentionBlock, "forward", explicit_attention)
        plain = model(inputs), model.encode(inputs)
    for one, other in zip(fused, plain, strict=True):
        assert relative(one, other) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_of_a_model_is_its_own(family):
    model = build(family)
    inputs = model.prepare(pictures(family), seeds(0, 1, 2))
    other = copy.deepcopy(model)
    with torch.no_grad():
        before = other(inputs)
        for parameter in model.trainable("output"):
            parameter.mul_(2.0)
        assert torch.equal(other(inputs), before)
