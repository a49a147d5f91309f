"""A folder for the Hugging Face Hub is loaded by Hugging Face's own code, with the same outputs."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file
from tiny_families import PATCHES, build, section

from pareto_unlearn.config import TaskSection
from pareto_unlearn.models import export_to_hub, load_model
from pareto_unlearn.models.mae_transformers import published_names, transformers_names

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import ViTImageProcessor, ViTMAEForPreTraining

TASK = TaskSection(patches=PATCHES["mae"])


@pytest.fixture(params=["pixels", "normalised_patches"])
def exported(request, tmp_path):
    """Return a model of ours, and the folder that it was written to."""
    state = build("mae").published_state()
    torch.save({"model": state}, tmp_path / "tiny.pth")
    model = section("mae", checkpoint=str(tmp_path / "tiny.pth"), predicts=request.param)
    ours = load_model(model, TASK)
    folder = tmp_path / "hub"
    folder.mkdir()
    assert export_to_hub(folder, model, TASK, ours.state_dict())
    return ours, folder


def test_transformers_reconstructs_as_this_package_does(exported):
    ours, folder = exported
    theirs, told = ViTMAEForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] | told["unexpected_keys"] | told["mismatched_keys"]
    theirs.eval()
    images = torch.rand(3, 3, ours.shape.side, ours.shape.side, generator=torch.Generator().manual_seed(0))
    visible = torch.zeros(1, ours.shape.patches)
    visible[:, ours.visible_ids] = -1.0  # transformers keeps the patches of the lowest noise
    theirs.config.mask_ratio = theirs.vit.embeddings.config.mask_ratio = (
        1 - len(ours.visible_ids) / ours.shape.patches
    )
    with torch.no_grad():
        found = theirs(images, noise=visible.expand(3, -1)).logits
        expected = ours(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_settings_are_those_of_the_model(exported):
    ours, folder = exported
    config = json.loads((folder / "config.json").read_text())
    assert config["norm_pix_loss"] == (ours.predicts == "normalised_patches")
    assert ViTImageProcessor.from_pretrained(folder).size["height"] == ours.shape.side


def test_the_file_is_read_again_by_this_package(exported):
    ours, folder = exported
    again = published_names(load_file(folder / "model.safetensors"))
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.published_state().items())


def test_names_of_version_five_are_read(exported):
    ours, _ = exported
    theirs = {
        name.replace("decoder.decoder_layers", "decoder.decoder_encoder.layer"): tensor
        for name, tensor in transformers_names(ours.published_state()).items()
    }
    assert set(published_names(theirs)) == set(ours.published_state())


@pytest.mark.parametrize("name", ["mage", "palette"])
def test_a_family_that_no_library_loads_writes_nothing(tmp_path, name):
    model = section(name, checkpoint="random")
    assert not export_to_hub(tmp_path, model, TASK, {})
    assert list(tmp_path.iterdir()) == []
