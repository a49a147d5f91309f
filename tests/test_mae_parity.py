"""The masked autoencoder computes what the published one does, on recorded tensors of a tiny network.

``pytest -s`` prints the largest difference of every tensor.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pareto_unlearn.models.checkpoint_files import Wrapper, write_checkpoint
from pareto_unlearn.models.holes import center_patches
from pareto_unlearn.models.mae import (
    TINY,
    VIT_BASE,
    VIT_LARGE,
    Mae,
    Masking,
    Predicts,
    mask_by_noise,
    patchify,
    position_embedding,
    unpatchify,
)
from pareto_unlearn.models.mae_files import fill_mae

FIXTURES = Path(__file__).parent / "fixtures" / "parity" / "mae"
GOLDEN = load_file(FIXTURES / "mae_tiny.safetensors")
CASES = ("random75", "center4x4")
TOLERANCE = 1e-5
"""Fused attention instead of an explicit softmax moves float32 outputs by about 2e-6."""


def golden_state():
    return {
        name.removeprefix("state_dict."): tensor
        for name, tensor in GOLDEN.items()
        if name.startswith("state_dict.")
    }


def golden_masking(case):
    return mask_by_noise(GOLDEN[f"{case}.noise"], GOLDEN[f"{case}.ids_keep"].shape[1])


def compute_case(model: Mae, normalised: Mae, case: str) -> dict[str, torch.Tensor]:
    inputs, masking = GOLDEN["input.imgs"], golden_masking(case)
    latent = model.encode_masked(inputs, masking)
    outputs = model.decode_masked(latent, masking)
    loss = model.reconstruction_loss(inputs, inputs, masking)
    model.zero_grad()
    loss.backward()
    found = {
        "noise": GOLDEN[f"{case}.noise"],
        "ids_keep": masking.keep,
        "ids_restore": masking.restore,
        "mask": masking.removed.float(),
        "latent": latent,
        "pred": outputs,
        "loss": loss,
        "loss_norm_pix": normalised.reconstruction_loss(inputs, inputs, masking),
        "recon_img": unpatchify(outputs, TINY.patch, TINY.side),
        # Where masks are random no picture is made: the recorded one is put together here.
        "paste_img": unpatchify(
            torch.where(masking.removed[..., None], outputs, patchify(inputs, TINY.patch)),
            TINY.patch,
            TINY.side,
        ),
        **{f"grad.{name}": parameter.grad for name, parameter in model.named_parameters()},
    }
    return {f"{case}.{name}": tensor for name, tensor in found.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("published") / "tiny.pth"
    write_checkpoint(path, golden_state(), Wrapper("model"))
    return path


def load(checkpoint: Path, predicts: Predicts) -> Mae:
    model = Mae(TINY, center_patches(32, 4, 4), predicts)
    fill_mae(model, checkpoint)
    return model.eval()


@pytest.fixture(scope="module")
def model(checkpoint) -> Mae:
    return load(checkpoint, Predicts.PIXELS)


@pytest.fixture(scope="module")
def computed(checkpoint, model) -> dict[str, torch.Tensor]:
    """Everything the golden file may hold, computed here; inputs stand for themselves."""
    normalised = load(checkpoint, Predicts.NORMALISED_PATCHES)
    inputs = GOLDEN["input.imgs"]
    tensors = {f"state_dict.{name}": tensor for name, tensor in model.published_state().items()}
    tensors |= {
        "state_dict.pos_embed": position_embedding(TINY.width, 8),
        "state_dict.decoder_pos_embed": position_embedding(TINY.decoder_width, 8),
        "input.imgs": inputs,
        "patch_embed": model.patch_embed(inputs),
        "patchify": patchify(inputs, TINY.patch),
    }
    for case in CASES:
        tensors |= {name: tensor.detach() for name, tensor in compute_case(model, normalised, case).items()}
    return tensors


def largest_error(found, wanted) -> float:
    return (found.double() - wanted.double()).abs().max().item()


def tolerance_of(name, wanted) -> float:
    if not wanted.is_floating_point() or name.startswith("state_dict.") or name.endswith(".mask"):
        return 0.0
    # Gradients are small numbers: they are measured against the largest of their tensor.
    return TOLERANCE * (wanted.abs().max().item() if ".grad." in name else 1.0)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_tensor_equals_the_published_one(computed, name):
    assert name in computed, "no test computes this tensor"
    found, wanted = computed[name], GOLDEN[name]
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    assert largest_error(found, wanted) <= tolerance_of(name, wanted)


def test_table_of_errors_names_every_tensor(computed):
    errors = {name: largest_error(computed[name], GOLDEN[name]) for name in sorted(GOLDEN)}
    sys.stdout.write("".join(f"\n{name:45} {error:.1e}" for name, error in errors.items()) + "\n")
    assert len(errors) == len(json.loads((FIXTURES / "mae_tiny.json").read_text())["tensors"])


def test_the_fixed_hole_is_the_recorded_centre(model):
    inputs = GOLDEN["input.imgs"]
    fixed = model.fixed_masking(2)
    recorded = golden_masking("center4x4")
    for name in Masking.__slots__:
        assert torch.equal(getattr(fixed, name), getattr(recorded, name))
    assert largest_error(model.encode(inputs), GOLDEN["center4x4.latent"]) <= TOLERANCE
    assert largest_error(model(inputs), GOLDEN["center4x4.pred"]) <= TOLERANCE
    assert largest_error(model.training_loss(inputs), GOLDEN["center4x4.loss"]) <= TOLERANCE
    # Recorded pixels lie in the normalised space, where some are outside of what an image can hold.
    pictures = model.generate(inputs * model.pixel_std + model.pixel_mean, []).clamp(0.0, 1.0)
    wanted = model.to_images(patchify(GOLDEN["center4x4.paste_img"], TINY.patch))
    assert largest_error(pictures, wanted) <= TOLERANCE


@pytest.mark.parametrize(("size", "shape"), [("base", VIT_BASE), ("large", VIT_LARGE)])
def test_full_size_has_the_published_keys_shapes_and_order(size, shape):
    published = json.loads((FIXTURES / f"keys_mae_vit_{size}_patch16.json").read_text())
    hole = center_patches(224, 16, 8)
    with torch.device("meta"):
        model = Mae(shape, hole)
    state = model.published_state()
    found = [[name, list(t.shape), str(t.dtype).removeprefix("torch.")] for name, t in state.items()]
    assert found == published["keys"]
    assert sum(tensor.numel() for tensor in state.values()) == published["n_params"]
    assert state.keys() == model.state_dict().keys()
