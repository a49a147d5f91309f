"""Masked autoencoders of other sizes: ViT-Huge, and images of another side by interpolated positions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sweep_text import only_error
from timm.models.vision_transformer import VisionTransformer
from tiny_families import build, section

from pareto_unlearn.config import TaskSection
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models import describe_checkpoint, export_model, family_of, load_model, look_at_checkpoint
from pareto_unlearn.models.checkpoint_files import read_checkpoint, write_checkpoint
from pareto_unlearn.models.holes import center_patches
from pareto_unlearn.models.mae import VIT_HUGE, Mae
from pareto_unlearn.models.mae_files import PUBLISHED
from pareto_unlearn.models.mae_patches import position_embedding, resize_positions
from pareto_unlearn.models.mae_transformers import transformers_names

TASK = TaskSection(patches=8)


def write(path: Path) -> Mae:
    model = build("mae")
    write_checkpoint(path, model.published_state(), PUBLISHED)
    return model


def test_vit_huge_has_the_encoder_of_the_published_size():
    hole = center_patches(224, 14, 8)
    with torch.device("meta"):
        ours = Mae(VIT_HUGE, hole)
        theirs = VisionTransformer(224, 14, num_classes=0, embed_dim=1280, depth=32, num_heads=16)
    state = ours.state_dict()
    for name, tensor in theirs.state_dict().items():
        assert state[name].shape == tensor.shape, name
    assert state["decoder_pred.weight"].shape == (3 * 14 * 14, 512)
    trained = sum(one.numel() for name, one in theirs.named_parameters() if name != "pos_embed")
    assert sum(one.numel() for one in ours.encoder_parameters()) == trained


def test_positions_of_the_same_number_of_patches_are_taken_to_the_bit(tmp_path):
    model = write(tmp_path / "a.pth")
    same = load_model(section("mae", checkpoint=str(tmp_path / "a.pth"), side=56), TASK)
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert torch.equal(same(same.prepare(images)), model(model.prepare(images)))


@pytest.mark.parametrize("names", ["published", "transformers"])
def test_another_side_interpolates_and_exports_the_positions_of_the_file(tmp_path, names):
    path = tmp_path / "a.pth"
    before = write(path)
    if names == "transformers":
        write_checkpoint(path, transformers_names(before.published_state()), PUBLISHED)
    config = section("mae", checkpoint=str(path), side=80)
    model = load_model(config, TASK)
    wanted = resize_positions(before.pos_embed, 20)
    assert torch.equal(model.pos_embed, wanted)
    assert torch.equal(model.pos_embed[:, 0], before.pos_embed[:, 0])
    assert model.generate(torch.rand(1, 3, 80, 80), []).shape == (1, 3, 80, 80)
    lines = describe_checkpoint(look_at_checkpoint(path, model.state_dict()))
    assert "pos_embed: (1, 197, 64) in the file, (1, 401, 64) in the model, interpolated" in lines
    export_model(tmp_path / "b.pth", config, TASK, model.state_dict())
    old, new = (read_checkpoint(tmp_path / name)[0] for name in ("a.pth", "b.pth"))
    assert list(old) == list(new)
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_file_of_another_side_names_the_key(tmp_path):
    write(tmp_path / "a.pth")
    large = load_model(section("mae", checkpoint=str(tmp_path / "a.pth"), side=80), TASK)
    write_checkpoint(tmp_path / "b.pth", large.published_state(), PUBLISHED)
    with pytest.raises(WeightsError, match=r"found 20: its images had 80 pixels; set model\.side to that"):
        load_model(section("mae", checkpoint=str(tmp_path / "b.pth")), TASK)
    again = load_model(section("mae", checkpoint=str(tmp_path / "b.pth"), side=80), TASK)
    assert torch.equal(again.pos_embed, large.pos_embed)


def test_interpolated_positions_lie_between_those_of_the_training():
    """Four places of the finer grid surround one of the coarse grid, and their mean is near it."""
    places = position_embedding(64, 14)
    finer = resize_positions(places, 28)[0, 1:].reshape(28, 28, 64)
    coarse = places[0, 1:].reshape(14, 14, 64)
    pooled = finer.reshape(14, 2, 14, 2, 64).mean((1, 3))
    inside = np.s_[2:-2, 2:-2, 16:]  # the fastest waves are no longer than a place
    assert float((pooled[inside] - coarse[inside])[..., 8:16].abs().max()) < 0.02


def test_sides_that_are_no_whole_patches_are_refused_with_the_nearest():
    vit = "model={family: mae, variant: vit_base, checkpoint: a.pth, side: 230}"
    assert "expected whole patches of 16 pixels, 4 at least along a side, found 230; use 224" in only_error(
        "", vit, "data={dataset: generated, forget_classes: [0]}"
    )
    small = "model={family: mae, variant: small, checkpoint: a.pth, side: 160}"
    assert "expected 16 to 128 with variant small, found 160" in only_error("", small)


def test_a_size_that_changes_nothing_changes_no_hash(tmp_path):
    from pareto_unlearn.config.identity import _model_identity

    class Config:
        model = section("mae")

    plain = _model_identity(Config)
    Config.model = section("mae", side=56)
    assert _model_identity(Config) == plain
    Config.model = section("mae", side=80)
    assert _model_identity(Config) == {**plain, "side": 80}
    assert family_of("mae").pixels("vit_huge").side == 224
