"""The embedded model: what it sees and saves, how misfitting weights are refused; what all families share."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load, save

from pareto_unlearn.catalogue.families import FAMILIES
from pareto_unlearn.config import DataSection, ModelSection, TaskSection
from pareto_unlearn.data import SplitData, load_split, seeded_generator
from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models import (
    DigitsMae,
    ImageToImage,
    checkpoint_path,
    export_model,
    family_of,
    initialise_model,
    load_model,
    pixel_format,
    save_model,
    weights_sha256,
)
from pareto_unlearn.models.digits_mae import DigitsMaeShape
from pareto_unlearn.models.holes import build_hole, center

BUILTIN = ModelSection(family="digits_mae", checkpoint="builtin")
ROWS = {row.name: row for row in FAMILIES}
TASK = TaskSection()


@pytest.fixture(scope="module")
def split() -> SplitData:
    section = {"dataset": "digits", "forget_classes": [0, 1, 2, 3, 4]}
    return load_split(DataSection.model_validate(section), seed=0)


@pytest.fixture
def model() -> DigitsMae:
    return load_model(BUILTIN, TASK)


def file_of(path) -> ModelSection:
    return ModelSection(family="digits_mae", checkpoint=str(path))


def description(**changes) -> dict[str, str]:
    values = {"family": "digits_mae", "shape": DigitsMae(DigitsMaeShape(), center(16, 0.5)).describe()}
    return {"pareto_unlearn": json.dumps(values | changes)}


def shipped_state() -> dict[str, torch.Tensor]:
    return load(checkpoint_path(BUILTIN).read_bytes())


# The hole


def test_the_mask_removes_a_centred_square_of_a_quarter_of_the_area(model):
    removed = model.removed_pixels()
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:12, 4:12] = True
    assert torch.equal(removed, expected)


@pytest.mark.parametrize("kept", range(1, 4))
def test_holes_of_every_possible_size_are_centred(kept):
    size = 1.0 - 2 * kept / 8  # a margin of `kept` patches on each side of an 8-by-8 grid
    removed = DigitsMae(DigitsMaeShape(side=32), center(32, size)).removed_pixels()
    assert float(removed.float().mean()) == size**2
    assert torch.equal(removed, removed.flip(0))
    assert torch.equal(removed, removed.flip(1))
    assert torch.equal(removed, removed.T)


@pytest.mark.parametrize("size", [0.3, 0.25, 0.75, 0.999])
def test_a_hole_that_is_no_centred_number_of_patches_is_refused_with_the_possible_sizes(size):
    with pytest.raises(
        ConfigError, match=rf"task\.size: found {size:g}.* use one of 0\.5, or task\.patches$"
    ):
        load_model(BUILTIN, TaskSection(size=size))


def test_all_possible_sizes_of_a_larger_image_are_listed():
    with pytest.raises(ConfigError, match=r"use one of 0\.25, 0\.5, 0\.75, or"):
        build_hole(TaskSection(size=0.4), 32, 4, 0)


@pytest.fixture
def altered(split, model):
    """Images, and the same with other pixels in the hole."""
    images = split.forget_train.images[:32]
    noise = torch.rand(images.shape, generator=seeded_generator(0))
    return model.prepare(images), model.prepare(torch.where(model.removed_pixels(), noise, images))


def test_removed_pixels_change_no_encoder_output(model, altered):
    before, after = altered
    assert not torch.equal(before, after)
    assert torch.equal(model.encode(before), model.encode(after))


def test_removed_pixels_change_no_output(model, altered):
    before, after = altered
    assert torch.equal(model(before), model(after))


def test_every_visible_pixel_changes_the_encoder_output(model, split):
    pixels = split.forget_train.images[:1].clone().requires_grad_()
    model.encode(model.prepare(pixels)).square().sum().backward()
    assert torch.equal(pixels.grad[0, 0] != 0, ~model.removed_pixels())


# Pixels


def test_prepared_images_turn_back_into_the_same_pixels(model, split):
    images = split.retain_heldout.images
    error = (model.to_images(model.prepare(images)) - images).abs().max()
    assert float(error) <= 1e-6  # two float32 roundings of values up to 2.2


def test_pixels_of_outputs_are_clipped_to_0_and_1(model):
    pixels = model.to_images(torch.tensor([-100.0, 100.0]).repeat(1, 16, 8))
    assert set(pixels.unique().tolist()) == {0.0, 1.0}


def test_noise_inputs_are_standard_normal_and_a_function_of_the_generator(model):
    noise = model.sample_noise(1000, seeded_generator(1))
    assert noise.shape == (1000, 16, 16)
    # 256,000 draws: the standard errors are 0.002 and 0.0014.
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1.0) < 0.01
    assert torch.equal(noise, model.sample_noise(1000, seeded_generator(1)))


# Encoder and decoder


def test_the_embedded_model_is_an_image_to_image_model(model):
    assert isinstance(model, ImageToImage)


def test_encoder_parameters_are_exactly_those_that_change_the_encoder_output(model, split):
    inputs = model.prepare(split.forget_train.images[:4])
    before = model.encode(inputs).detach()
    changing = set()
    for name, parameter in model.named_parameters():
        original = parameter.detach().clone()
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, generator=seeded_generator(len(name)))
            if not torch.equal(model.encode(inputs), before):
                changing.add(name)
            parameter.copy_(original)
    listed = {id(parameter) for parameter in model.encoder_parameters()}
    assert changing == {name for name, parameter in model.named_parameters() if id(parameter) in listed}


def test_the_decoder_after_the_encoder_is_the_model(model, split):
    inputs = model.prepare(split.forget_train.images[:4])
    assert torch.equal(model.decode(model.encode(inputs)), model(inputs))


def test_training_loss_is_the_error_of_removed_plus_that_of_visible_patches(model, split):
    inputs = model.prepare(split.forget_train.images[:8])
    squared = (model(inputs) - inputs).square()
    hole = torch.zeros(4, 4, dtype=torch.bool)
    hole[1:3, 1:3] = True
    expected = squared[:, hole.flatten()].mean() + squared[:, ~hole.flatten()].mean()
    assert model.training_loss(inputs).item() == pytest.approx(expected.item(), rel=1e-6)


# The shipped weights


def test_the_shipped_weights_are_under_a_megabyte():
    assert checkpoint_path(BUILTIN).stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["forget_heldout", "retain_heldout"])
def test_shipped_weights_fill_heldout_holes_far_better_than_the_mean_image(model, split, name):
    # Measured: hole MSE 0.0036 (forget) and 0.0049 (retain), against 0.091 and 0.077 of the mean training
    # image.
    images, hole = getattr(split, name).images, model.removed_pixels()
    train = torch.cat([split.forget_train.images, split.retain_train.images])
    with torch.no_grad():
        outputs = model.to_images(model(model.prepare(images)))
    ours = float((outputs - images)[..., hole].square().mean())
    mean_image = float((train.mean(dim=0) - images)[..., hole].square().mean())
    assert ours < mean_image / 15


# Saving and loading


def test_a_saved_model_loads_bit_for_bit(tmp_path):
    model = initialise_model(TASK, seeded_generator(5))
    (tmp_path / "model.safetensors").write_bytes(save_model(model))
    loaded = load_model(file_of(tmp_path / "model.safetensors"), TASK)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_the_same_weights_are_saved_as_the_same_bytes(model):
    # Twenty times: metadata with several keys came out in an order drawn anew at each call.
    assert len({save_model(model) for _ in range(20)}) == 1


def test_saving_the_shipped_weights_gives_the_shipped_file(model):
    assert save_model(model) == checkpoint_path(BUILTIN).read_bytes()


def test_a_model_of_another_shape_is_rebuilt_from_its_file(tmp_path):
    small = DigitsMae(DigitsMaeShape(width=8, heads=2, encoder_blocks=1), center(16, 0.5))
    (tmp_path / "small.safetensors").write_bytes(save_model(small))
    assert load_model(file_of(tmp_path / "small.safetensors"), TASK).describe() == small.describe()


def test_a_loaded_model_is_in_evaluation_mode(model):
    assert not any(module.training for module in model.modules())


def test_weights_are_identified_by_their_content(tmp_path):
    (tmp_path / "copy.safetensors").write_bytes(checkpoint_path(BUILTIN).read_bytes())
    assert weights_sha256(file_of(tmp_path / "copy.safetensors")) == weights_sha256(BUILTIN)


def test_the_embedded_family_has_its_weights_in_the_package():
    assert checkpoint_path(BUILTIN).name == "digits_mae.safetensors"
    assert weights_sha256(BUILTIN) == hashlib.sha256(checkpoint_path(BUILTIN).read_bytes()).hexdigest()


# Every family


SQUARE = TaskSection(patches=2)


def random_of(family: str) -> ModelSection:
    return ModelSection(family=family, variant=ROWS[family].variants[-1], checkpoint="random")


@pytest.mark.parametrize("row", FAMILIES, ids=lambda row: row.name)
def test_a_row_says_what_its_family_has(row):
    family = family_of(row.name)
    assert set(row.baselines) == set(family.baselines)
    assert row.smoke_variant is None or row.smoke_variant in row.variants
    assert set(row.keys) <= set(ModelSection.model_fields)


def test_no_two_rows_have_one_name():
    assert len(ROWS) == len(FAMILIES)


@pytest.mark.parametrize("family", ROWS)
def test_every_variant_says_which_images_it_reads(family):
    for variant in ROWS[family].variants:
        pixels = pixel_format(ModelSection(family=family, variant=variant, checkpoint="x"))
        assert pixels.side % 8 == 0
        assert pixels.channels == (1 if family == "digits_mae" else 3)


@pytest.mark.parametrize("family", ROWS)
def test_a_model_of_random_weights_keeps_the_protocol_and_comes_out_the_same_again(family):
    first, again = (load_model(random_of(family), SQUARE) for _ in range(2))
    assert isinstance(first, ImageToImage)
    assert (first.family, first.is_redrawn) == (family, family == "palette")
    assert not any(module.training for module in first.modules())
    assert save_model(first) == save_model(again)
    side = pixel_format(random_of(family)).side
    assert tuple(first.removed_pixels().shape) == (side, side)
    assert all(first.describe_features(space) for space in ("output", "encoder"))


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_inputs_are_drawn_anew_where_the_published_removal_is_asked_for(family):
    model = load_model(random_of(family), TaskSection(patches=2, removal="published"))
    side = pixel_format(random_of(family)).side
    images = torch.rand(2, 3, side, side, generator=seeded_generator(0))
    inputs = model.prepare(images, [seeded_generator(index) for index in (1, 2)])
    first, again, other = (
        model.redraw(inputs, [seeded_generator(index) for index in seeds])
        for seeds in ((3, 4), (3, 4), (5, 6))
    )
    assert model.is_redrawn
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, inputs)


def test_random_weights_of_two_families_and_variants_have_other_digests():
    sections = [
        ModelSection(family=f, variant=v, checkpoint="random") for f in ROWS for v in ROWS[f].variants
    ]
    assert len({weights_sha256(section) for section in sections}) == len(sections)


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_a_missing_published_file_is_asked_for_by_its_name(family, tmp_path):
    with pytest.raises(WeightsError) as caught:
        load_model(ModelSection(family=family, checkpoint=str(tmp_path / "x.pth")), SQUARE)
    assert str(caught.value).startswith(f"model.checkpoint: expected {ROWS[family].file}, found nothing at ")
    assert caught.value.exit_code == 8


def test_the_tokenizer_counts_by_its_content(tmp_path):
    (tmp_path / "mage.pth").write_bytes(b"weights")
    digests = set()
    for name, content in (("a.ckpt", b"one"), ("b.ckpt", b"one"), ("c.ckpt", b"two")):
        (tmp_path / name).write_bytes(content)
        section = ModelSection(
            family="mage", checkpoint=str(tmp_path / "mage.pth"), tokenizer=str(tmp_path / name)
        )
        digests.add(weights_sha256(section))
    alone = weights_sha256(ModelSection(family="mage", checkpoint=str(tmp_path / "mage.pth")))
    assert len(digests) == 2
    assert alone not in digests


def test_a_missing_tokenizer_is_named(tmp_path):
    (tmp_path / "mage.pth").write_bytes(b"weights")
    section = ModelSection(family="mage", checkpoint=str(tmp_path / "mage.pth"), tokenizer="missing.ckpt")
    with pytest.raises(WeightsError, match=r"model\.tokenizer: expected vqgan_jax_strongaug\.ckpt"):
        weights_sha256(section)


# Files that are exported


@pytest.mark.parametrize("family", ROWS)
def test_exported_weights_load_again_as_the_original_did(family, tmp_path):
    original = load_model(random_of(family), SQUARE)
    moved = {
        name: tensor + 0.25
        if tensor.is_floating_point() and name in dict(original.named_parameters())
        else tensor
        for name, tensor in original.state_dict().items()
    }
    path = tmp_path / f"unlearned{family_of(family).suffix}"
    export_model(path, random_of(family), SQUARE, moved)
    section = ModelSection(family=family, variant=ROWS[family].variants[-1], checkpoint=str(path))
    again = load_model(section, SQUARE).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in moved.items())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_the_embedded_model_is_exported_under_a_name_that_loads_again(tmp_path):
    with pytest.raises(WeightsError, match=r"expected a \.safetensors file"):
        export_model(tmp_path / "unlearned.pth", BUILTIN, TASK, shipped_state())
    assert list(tmp_path.iterdir()) == []


# Weights that do not fit


def refused(path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_model(file_of(path), TASK)
    assert caught.value.exit_code == 8
    assert str(path) in str(caught.value)
    return str(caught.value)


def refused_content(tmp_path, content: bytes) -> str:
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    return refused(path)


def test_a_missing_file_is_named(tmp_path):
    message = refused(tmp_path / "missing.safetensors")
    assert "expected a .safetensors file written by this package, or `builtin`, found nothing at " in message


def test_a_folder_is_no_checkpoint(tmp_path):
    assert "expected a .safetensors file" in refused(tmp_path)


@pytest.mark.parametrize("kept", [4, 100, 5000, 254_000])
def test_a_truncated_file_is_refused(tmp_path, kept):
    message = refused_content(tmp_path, checkpoint_path(BUILTIN).read_bytes()[:kept])
    assert "not a safetensors file, or damaged" in message


def test_a_pickled_checkpoint_is_refused(tmp_path):
    torch.save(shipped_state(), tmp_path / "model.pt")
    assert "expected a .safetensors file written by this package" in refused(tmp_path / "model.pt")


def test_a_pickle_under_the_right_name_is_refused(tmp_path):
    torch.save(shipped_state(), tmp_path / "model.safetensors")
    assert "found a file of torch.save under .safetensors" in refused(tmp_path / "model.safetensors")


def test_weights_of_another_family_are_refused(tmp_path):
    message = refused_content(tmp_path, save(shipped_state(), description(family="mage")))
    assert "expected weights of family digits_mae, found mage" in message


def test_weights_without_a_description_are_refused(tmp_path):
    assert "found no family" in refused_content(tmp_path, save(shipped_state()))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"family": "digits_mae"}', '{"family": "digits_mae", "shape": {"depth": 3}}']
)
def test_a_damaged_description_is_refused(tmp_path, text):
    message = refused_content(tmp_path, save(shipped_state(), {"pareto_unlearn": text}))
    assert "the description of the network is damaged" in message


def test_a_missing_weight_is_named(tmp_path):
    state = shipped_state()
    del state["encoder_norm.bias"]
    assert "missing encoder_norm.bias" in refused_content(tmp_path, save(state, description()))


def test_an_unexpected_weight_is_named(tmp_path):
    state = shipped_state() | {"head.weight": torch.zeros(3)}
    assert "unexpected head.weight" in refused_content(tmp_path, save(state, description()))


def test_a_weight_of_another_shape_is_named_with_both_shapes(tmp_path):
    state = shipped_state() | {"predict.bias": torch.zeros(17)}
    message = refused_content(tmp_path, save(state, description()))
    assert "misshapen predict.bias (17,) instead of (16,)" in message
