"""The masked autoencoder: its hole, its parameters, its pictures, its losses, its files."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.models.checkpoint_files import Wrapper, read_checkpoint
from pareto_unlearn.models.holes import Edge, center_patches, extend, random_patches
from pareto_unlearn.models.mae import (
    TINY,
    VIT_BASE,
    VIT_LARGE,
    Mae,
    Predicts,
    initialise,
    mask_by_noise,
    normalise_patches,
    patchify,
)
from pareto_unlearn.models.mae_files import MaeFile, fill_mae, write_mae

HOLE = center_patches(32, 4, 4)
INPUTS = load_file(Path(__file__).parent / "fixtures" / "parity" / "mae" / "mae_tiny.safetensors")[
    "input.imgs"
]


def build(seed=0, hole=HOLE, predicts=Predicts.PIXELS) -> Mae:
    model = Mae(TINY, hole, predicts)
    initialise(model, torch.Generator().manual_seed(seed))
    return model.eval()


@pytest.fixture
def model() -> Mae:
    return build()


def draw(count, seed=0):
    return build().sample_noise(count, torch.Generator().manual_seed(seed))


# The hole


def test_the_model_is_an_image_to_image(model):
    assert isinstance(model, ImageToImage)
    assert model.describe()["width"] == TINY.width


@pytest.mark.parametrize(
    ("hole", "message"),
    [
        (extend(32, Edge.UP, 6 / 32), "found 8 patches cut by it"),
        (center_patches(16, 4, 2), r"expected a hole in 32 x 32 pixels, found \(16, 16\)"),
        (torch.zeros(32, 32, dtype=torch.bool), "found 0 of 64 removed"),
    ],
    ids=["misaligned", "other size", "empty"],
)
def test_a_hole_that_does_not_fit_is_refused(hole, message):
    with pytest.raises(ConfigError, match=message):
        Mae(TINY, hole)


@pytest.mark.parametrize(
    "hole",
    [HOLE, extend(32, Edge.LEFT, 0.25), random_patches(32, 4, 0.75, torch.Generator().manual_seed(3))],
    ids=["center", "left", "random"],
)
def test_removed_pixels_change_nothing_and_visible_ones_do(hole):
    model = build(hole=hole)
    assert torch.equal(model.removed_pixels(), hole)
    other = torch.where(hole, draw(2), INPUTS)
    assert torch.equal(model(other), model(INPUTS))
    assert model.encode(INPUTS).shape[1] == 1 + int((~hole).sum()) // TINY.patch**2
    assert not torch.allclose(model(torch.where(hole, INPUTS, draw(2))), model(INPUTS), atol=1e-3)


def test_a_batch_is_its_images_one_by_one(model):
    inputs = draw(3)
    together = model(inputs)
    alone = torch.cat([model(one[None]) for one in inputs])
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.equal(together, model(inputs))


def test_random_masks_keep_the_published_number_and_come_from_the_draws():
    noise = torch.rand(4, VIT_BASE.patches, generator=torch.Generator().manual_seed(0))
    masking = mask_by_noise(noise, 49)
    assert masking.removed.sum(1).tolist() == [147] * 4
    kept = [set(row.tolist()) for row in masking.keep]
    assert kept == [set((~row).nonzero().flatten().tolist()) for row in masking.removed]
    assert kept[0] != kept[1]
    assert torch.equal(torch.take_along_dim(noise, masking.keep, 1), noise.sort(1).values[:, :49])


def test_equal_draws_keep_their_order():
    masking = mask_by_noise(torch.zeros(1, 6), 2)
    assert masking.keep.tolist() == [[0, 1]]
    assert masking.restore.tolist() == [[0, 1, 2, 3, 4, 5]]


# Parameters


def test_positions_are_constants(model):
    model.requires_grad_(True)
    assert not {"pos_embed", "decoder_pos_embed"} & {name for name, _ in model.named_parameters()}
    assert {"pos_embed", "decoder_pos_embed"} < model.state_dict().keys()


def test_encoder_parameters_are_those_the_encoder_uses(model):
    model.encode(INPUTS).square().sum().backward()
    used = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    listed = {id(parameter) for parameter in model.encoder_parameters()}
    assert used == {name for name, parameter in model.named_parameters() if id(parameter) in listed}
    assert not any(name.startswith(("decoder", "mask")) for name in used)


def test_every_parameter_changes_the_output(model):
    model.training_loss(INPUTS).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_initial_weights_come_from_the_generator():
    first, again, other = build(1), build(1), build(2)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert not torch.equal(first.patch_embed.proj.weight, other.patch_embed.proj.weight)
    width = TINY.patch**2 * 3 + TINY.width
    assert first.patch_embed.proj.weight.abs().max() <= (6 / width) ** 0.5  # Glorot's bound of the matrix


# Precision


def test_attention_is_fused(model):
    assert all(block.attn.fused_attn for block in [*model.blocks, *model.decoder_blocks])


def test_bfloat16_is_close_to_float32(model):
    with torch.autocast("cpu", torch.bfloat16):
        found = model(INPUTS)
        loss = model.training_loss(INPUTS)
    wanted = model(INPUTS)
    # Numbers of 8 bits, through three blocks: about 1 % of the outputs' spread.
    assert (found - wanted).square().mean().sqrt() < 0.02 * wanted.std()
    assert abs(loss - model.training_loss(INPUTS)) < 0.01 * loss
    loss.backward()


def test_channels_last_inputs_and_weights_change_nothing(model):
    wanted = model(INPUTS)
    found = model.to(memory_format=torch.channels_last)(INPUTS.to(memory_format=torch.channels_last))
    assert torch.allclose(found, wanted, atol=1e-5)


# Pictures


def test_a_perfect_prediction_gives_the_image_back(model):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = model.prepare(images)
    assert torch.allclose(model.to_images(patchify(inputs, 4)), images, atol=1e-6)
    assert torch.allclose(inputs[:, 1], (images[:, 1] - 0.456) / 0.224)


def test_images_are_clipped(model):
    assert model.to_images(torch.full((1, 64, 48), 99.0)).max() == 1.0
    assert model.to_images(torch.full((1, 64, 48), -99.0)).min() == 0.0


def test_pictures_keep_visible_pixels_and_show_the_predicted_ones(model):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pictures = model.generate(images, [])
    assert torch.equal(pictures[..., ~HOLE], images[..., ~HOLE])
    predicted = model.to_images(model(model.prepare(images)))
    assert torch.equal(pictures[..., HOLE], predicted[..., HOLE])


def test_normalised_patches_are_no_picture_without_the_true_image():
    model = build(predicts=Predicts.NORMALISED_PATCHES)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = model.prepare(images)
    perfect = normalise_patches(patchify(inputs, 4))
    with pytest.raises(ValueError, match="to_images_with_truth"):
        model.to_images(perfect)
    assert torch.allclose(model.to_images_with_truth(perfect, inputs), images, atol=1e-5)
    predicted = model.to_images_with_truth(model(inputs), inputs)
    assert torch.equal(model.generate(images, [])[..., HOLE], predicted[..., HOLE])


def test_noise_is_standard_normal_and_seeded():
    noise = draw(64)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1.0) < 0.01
    assert torch.equal(noise, draw(64))


# Losses


def test_the_training_loss_counts_removed_patches_only(model):
    outputs, inputs = model(INPUTS), INPUTS
    errors = (outputs - patchify(inputs, 4)).square()
    removed = model.fixed_masking(2).removed
    assert torch.allclose(model.training_loss(inputs), errors[removed].mean())


# Files


def form_of(model: Mae, wrapper: Wrapper) -> MaeFile:
    return MaeFile(wrapper=wrapper, dtypes={name: one.dtype for name, one in model.published_state().items()})


def load(path, shape, hole, predicts=Predicts.PIXELS) -> tuple[Mae, Wrapper]:
    """Return the model of a file, and the wrapper of its weights."""
    model = Mae(shape, hole, predicts)
    wrapper = fill_mae(model, path).wrapper
    return model.eval(), wrapper


def test_a_published_file_comes_back_as_it_was(model, tmp_path):
    extras = {"epoch": 7, "args": Namespace(lr=1.5e-4)}
    write_mae(tmp_path / "a.pth", model, form_of(model, Wrapper("model", after=extras)))
    loaded, wrapper = load(tmp_path / "a.pth", TINY, HOLE)
    assert wrapper.after == extras
    assert torch.equal(loaded(INPUTS), model(INPUTS))
    write_mae(tmp_path / "b.pth", loaded, form_of(loaded, wrapper))
    assert (tmp_path / "b.pth").read_bytes() == (tmp_path / "a.pth").read_bytes()
    tensors, _ = read_checkpoint(tmp_path / "b.pth", allowed=(Namespace,))
    assert list(tensors) == list(model.published_state())
    assert list(tensors)[:4] == ["cls_token", "pos_embed", "mask_token", "decoder_pos_embed"]


def test_the_default_file_is_what_the_published_code_reads(model, tmp_path):
    write_mae(tmp_path / "a.pth", model)
    assert list(torch.load(tmp_path / "a.pth", weights_only=True)) == ["model"]


def test_safetensors_hold_the_same_weights(model, tmp_path):
    write_mae(tmp_path / "a.safetensors", model)
    loaded, _ = load(tmp_path / "a.safetensors", TINY, HOLE)
    assert torch.equal(loaded(INPUTS), model(INPUTS))


def test_one_file_serves_every_hole(model, tmp_path):
    write_mae(tmp_path / "a.pth", model)
    bottom = extend(32, Edge.DOWN, 0.25)
    other, _ = load(tmp_path / "a.pth", TINY, bottom)
    assert torch.equal(other(INPUTS), build(hole=bottom)(INPUTS))


def write_encoder_only(model, path):
    encoder = {
        name: tensor
        for name, tensor in model.published_state().items()
        if "decoder" not in name and name != "mask_token"
    }
    torch.save({"model": encoder}, path)


def test_an_encoder_without_a_decoder_is_refused(model, tmp_path):
    write_encoder_only(model, tmp_path / "encoder.pth")
    with pytest.raises(
        WeightsError, match=r"encoder\.pth: expected weights of MaeShape.*missing mask_token and"
    ):
        load(tmp_path / "encoder.pth", TINY, HOLE)


@pytest.mark.parametrize(
    ("shape", "predicts", "file"),
    [
        (VIT_BASE, Predicts.PIXELS, "mae_visualize_vit_base.pth"),
        (VIT_LARGE, Predicts.NORMALISED_PATCHES, "mae_pretrain_vit_large_full.pth"),
    ],
)
def test_weights_of_another_size_name_the_published_file(model, tmp_path, shape, predicts, file):
    write_mae(tmp_path / "tiny.pth", model)
    hole = center_patches(224, 16, 8)
    with torch.device("meta"), pytest.raises(WeightsError, match=f"expected {file}.*misshapen") as caught:
        load(tmp_path / "tiny.pth", shape, hole, predicts)
    assert "missing blocks.2" in str(caught.value)
