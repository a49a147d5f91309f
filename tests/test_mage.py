"""MAGE as a family: what T removes, which weights move, how images are generated, which files it reads."""

import math
import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from oracles.mage import token_losses
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor

from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.models.checkpoint_files import read_checkpoint
from pareto_unlearn.models.holes import removed_patches
from pareto_unlearn.models.mage import RING, TINY, Mage
from pareto_unlearn.models.mage_checkpoints import load_mage, read_mage_checkpoint, write_mage_checkpoint
from pareto_unlearn.models.mage_generation import (
    Draws,
    Rounds,
    Seam,
    complete,
    draw_codes,
    draw_rounds,
    inpaint,
    soft_hole,
)
from pareto_unlearn.models.mage_masks import dilate, draw_mask_rate, masks_from_noise

GOLDEN = Path(__file__).parent / "fixtures" / "parity" / "mage" / "mage_tiny.safetensors"
MASK = TINY.mask_word


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def center(side: int, hole_side: int) -> Tensor:
    start = (side - hole_side) // 2
    hole = torch.zeros(side, side, dtype=torch.bool)
    hole[start : start + hole_side, start : start + hole_side] = True
    return hole


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    prefix = "state_dict."
    return {k.removeprefix(prefix): v for k, v in load_file(GOLDEN).items() if k.startswith(prefix)}


@pytest.fixture
def model(weights) -> Mage:
    built = Mage(TINY, center(64, 32)).eval()
    built.load_state_dict({name: weights[name] for name in built.state_dict()})
    return built


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=seeded())


@pytest.fixture
def inputs(model, images) -> Tensor:
    return model.prepare(images)


class TestTask:
    def test_the_adapter_keeps_the_protocol(self, model):
        assert isinstance(model, ImageToImage)

    def test_the_encoder_never_sees_the_hole(self, model, images, inputs):
        other = torch.where(model.removed_pixels(), 1.0 - images, images)
        assert torch.equal(model.prepare(other)[:, 0], inputs[:, 0])
        assert not torch.equal(model.prepare(other)[:, 1], inputs[:, 1])

    def test_inputs_are_visible_codes_and_whole_codes(self, model, images, inputs):
        removed = inputs[:, 0] == MASK
        assert torch.equal(removed, model.masked.expand(3, -1))
        assert torch.equal(inputs[:, 1], model.tokenize(images))

    @pytest.mark.parametrize(("pixels", "masked"), [(64, 36), (128, 100)])
    def test_published_holes_mask_a_ring_too(self, pixels, masked):
        removed = removed_patches(center(256, pixels), 16)
        assert removed.sum() == (pixels // 16) ** 2
        assert dilate(removed, RING).sum() == masked

    def test_a_hole_at_the_border_has_a_ring_inside_only(self):
        hole = torch.zeros(64, 64, dtype=torch.bool)
        hole[:, :8] = True
        assert dilate(removed_patches(hole, 4), RING).sum() == 3 * 16

    @pytest.mark.parametrize(
        ("hole", "message"),
        [
            (center(64, 30), "the first in row 4, column 4 of the 16 x 16 grid"),
            (center(32, 16), r"64 x 64 pixels, found \(32, 32\)"),
            (torch.zeros(64, 64, dtype=torch.bool), "found 0 of 256 removed"),
            (torch.ones(64, 64, dtype=torch.bool), "found 256 of 256 removed"),
        ],
        ids=["cut token", "other size", "nothing", "everything"],
    )
    def test_a_hole_that_does_not_fit_is_refused(self, hole, message):
        with pytest.raises(ConfigError, match=message):
            Mage(TINY, hole)

    def test_visible_codes_alone_are_inputs_too(self, model, inputs):
        assert torch.equal(model.encode(inputs), model.encode(inputs[:, 0]))
        assert torch.equal(model(inputs), model(inputs[:, 0]))

    def test_encoder_outputs_cover_the_class_token_and_all_codes(self, model, inputs):
        assert model.encode(inputs).shape == (3, 257, 32)
        assert model(inputs).shape == (3, 256, 64)

    def test_noise_is_the_generators_and_within_the_codebook(self, model):
        first, again, other = (model.sample_noise(2, seeded(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.shape == (2, 2, 256)
        assert first[:, 1].max() < TINY.tokenizer.codes


class TestTrainingTask:
    @pytest.fixture
    def drawn(self, model, images) -> Tensor:
        """Inputs with masks as in a training step, on the codes of the whole images."""
        redrawn = Mage(TINY, center(64, 32), is_redrawn=True)
        redrawn.load_state_dict(model.state_dict())
        generators = [seeded(seed) for seed in range(3)]
        return redrawn.redraw(redrawn.prepare(images, generators), generators)

    def test_masks_have_the_published_sizes_and_dropped_codes_are_masked(self, drawn, inputs):
        masked, dropped = drawn[:, 0] == MASK, drawn[:, 2].bool()
        assert (dropped.sum(1) == 128).all()
        assert len(masked.sum(1).unique()) == 1
        assert (masked | ~dropped).all()
        assert torch.equal(drawn[:, 1], inputs[:, 1])

    def test_equal_noise_still_masks_the_asked_number(self):
        masks = masks_from_noise(torch.zeros(2, 16), 8, 10)
        assert (masks.masked.sum(1) == 10).all()

    def test_more_dropped_than_masked_codes_are_refused(self):
        with pytest.raises(ValueError, match="found 11 and 10"):
            masks_from_noise(torch.rand(2, 16, generator=seeded()), 11, 10)

    def test_mask_rates_follow_the_published_distribution(self):
        generator = seeded()
        rates = [draw_mask_rate(generator) for _ in range(500)]
        published = stats.truncnorm((0.5 - 0.55) / 0.25, (1.0 - 0.55) / 0.25, loc=0.55, scale=0.25)
        assert stats.kstest(rates, published.cdf).pvalue > 0.05
        assert min(rates) >= 0.5
        assert max(rates) <= 1.0

    def test_dropped_and_masked_codes_do_not_change_the_features(self, model, drawn):
        other = drawn.clone()
        other[:, 1] = torch.where(drawn[:, 0] == MASK, (drawn[:, 1] + 1) % 64, drawn[:, 1])
        assert torch.equal(model.encode(drawn), model.encode(other))

    def test_without_dropped_codes_training_and_evaluation_agree(self, model, inputs):
        masks = masks_from_noise((~model.masked).float().expand(3, -1), 0, int(model.masked.sum()))
        features = model.encode_masked(inputs[:, 1], masks)
        seen = inputs[:, 1].masked_fill(model.masked, MASK)
        assert torch.equal(features, model.encode(seen))
        assert torch.equal(model.predict(model.decode(features, masks)[:, 1:], 64), model(seen))


class TestWeights:
    def test_only_weights_that_matter_can_move(self, model, inputs):
        model.training_loss(inputs).backward()
        moving = {name for name, p in model.named_parameters() if p.requires_grad}
        assert moving == {name for name, p in model.named_parameters() if p.grad is not None}
        assert not any(name.startswith(("vqgan.", "patch_embed.", "decoder_pred.")) for name in moving)

    def test_training_loss_is_the_token_loss_at_the_removed_codes(self, model, inputs):
        losses = token_losses(
            model(inputs), inputs[:, 1], model.masked.expand(3, -1), torch.tensor([True, False, False])
        )
        assert model.training_loss(inputs).item() == pytest.approx(losses.total(1.0).item(), rel=1e-6)

    def test_no_gradient_reaches_the_words_through_the_output(self, model, inputs):
        model.training_loss(inputs).backward()
        unseen = torch.ones(TINY.mask_word + 1, dtype=torch.bool)
        unseen[inputs[:, 0].unique()] = False
        unseen[TINY.class_word] = False
        assert model.token_emb.word_embeddings.weight.grad[unseen].count_nonzero() == 0

    @pytest.mark.parametrize("tied_words", [False, True])
    def test_only_opened_words_move_the_decoder(self, model, inputs, tied_words):
        features = model.encode(inputs).detach()
        masks = masks_from_noise(torch.rand(3, 256, generator=seeded()), 0, 100)
        before = model.predict(model.decode(features, masks), 64)
        with torch.no_grad():
            for parameter in model.encoder_parameters(tied_words=tied_words):
                parameter.mul_(0.5)
        unchanged = torch.equal(model.predict(model.decode(features, masks), 64), before)
        assert unchanged is not tied_words
        assert not torch.equal(model.encode(inputs), features)

    def test_encoder_parameters_are_those_the_features_depend_on_but_the_words(self, model, inputs):
        model.encode(inputs).square().mean().backward()
        found = {id(parameter) for parameter in model.encoder_parameters(tied_words=True)}
        assert found == {id(parameter) for parameter in model.parameters() if parameter.grad is not None}
        assert len(model.encoder_parameters()) == len(found) - 1

    def test_channels_last_gives_the_same_codes_and_pixels(self, model, images):
        codes, pixels = model.tokenize(images), model.vqgan.draw(model.tokenize(images))
        model.vqgan.to(memory_format=torch.channels_last)
        assert torch.equal(model.tokenize(images.to(memory_format=torch.channels_last)), codes)
        assert (
            model.vqgan.draw(codes) - pixels
        ).abs().max() < 1e-4  # other summation order in the convolutions

    def test_bfloat16_is_close_to_float32(self, model, images, inputs):
        exact, features = model(inputs), model.encode(inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, rough_features = model(inputs), model.encode(inputs)
            assert torch.equal(
                model.prepare(images), inputs
            )  # codes are whole numbers: never rounded differently
        # bfloat16 keeps 8 bits; after three blocks one to two percent of the spread remain.
        assert (rough_features - features).square().mean().sqrt() < 0.03 * features.std()
        assert (rough - exact).square().mean().sqrt() < 0.03 * exact.std()


class TestGeneration:
    def seen(self, model, images, sides) -> Tensor:
        holes = torch.stack([dilate(removed_patches(center(64, side), 4), RING).flatten() for side in sides])
        return model.tokenize(images).masked_fill(holes, MASK)

    def test_a_batch_of_different_holes_is_the_same_as_one_by_one(self, model, images):
        seen = self.seen(model, images, (16, 32, 48))
        draws = draw_rounds(3, 256, seeded())
        together = complete(model, seen, draws)
        single = [
            complete(model, seen[i : i + 1], Draws(draws.codes[i : i + 1], draws.gumbel[i : i + 1]))
            for i in range(3)
        ]
        assert torch.equal(together, torch.cat(single))

    def test_a_batch_draws_what_its_images_draw_one_by_one(self):
        together, generator = draw_rounds(3, 256, seeded()), seeded()
        single = [draw_rounds(1, 256, generator) for _ in range(3)]
        assert torch.equal(together.codes, torch.cat([draws.codes for draws in single]))
        assert torch.equal(together.gumbel, torch.cat([draws.gumbel for draws in single]))

    def test_same_draws_same_codes_other_draws_other_codes(self, model, inputs):
        first, again, other = (
            complete(model, inputs[:, 0], draw_rounds(3, 256, seeded(s))) for s in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_visible_codes_stay_and_the_others_are_of_the_codebook(self, model, inputs):
        seen = inputs[:, 0]
        codes = complete(model, seen, draw_rounds(3, 256, seeded()))
        assert torch.equal(codes[seen != MASK], seen[seen != MASK])
        assert codes.max() < TINY.tokenizer.codes

    @pytest.mark.parametrize(("side", "forwards"), [(16, 2), (32, 6)])
    def test_published_holes_take_the_published_number_of_rounds(self, model, images, side, forwards):
        calls = []
        model.register_forward_hook(lambda *_: calls.append(1))
        complete(model, self.seen(model, images[:1], (side,)), draw_rounds(1, 256, seeded()))
        assert len(calls) == forwards

    def test_whole_images_are_generated_too(self, model):
        rounds = Rounds(count=3, temperature=4.5)
        nothing = torch.full((2, 256), MASK)
        codes = complete(model, nothing, draw_rounds(2, 256, seeded(), rounds), rounds)
        assert codes.max() < TINY.tokenizer.codes

    def test_codes_without_a_hole_come_back(self, model, inputs):
        whole = inputs[:, 1]
        assert torch.equal(complete(model, whole, draw_rounds(3, 256, seeded())), whole)

    def test_codes_are_drawn_with_their_probabilities(self):
        logits = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(1, 10, 4)
        uniform = torch.linspace(0.05, 0.95, 10)[None]
        assert draw_codes(logits, uniform)[0].tolist() == [0] * 5 + [2] * 3 + [3] * 2
        assert draw_codes(logits, torch.zeros(1, 10)).unique().tolist() == [0]

    def test_inpainting_pastes_visible_pixels_and_hides_the_hole(self, model, images, inputs):
        draws, seam = draw_rounds(3, 256, seeded()), Seam(margin=4, blur=1.0)
        result = inpaint(model, images, draws, seam=seam)
        far = soft_hole(model.hole, seam) == 0.0
        assert far.any()
        assert torch.equal(result[..., far], images[..., far])
        other = torch.where(model.hole, 1.0 - images, images)
        assert torch.equal(inpaint(model, other, draws, seam=seam), result)
        assert torch.equal(inpaint(model, images, draws, seen=inputs[:, 0], seam=seam), result)

    def test_generated_pixels_alone_fill_the_middle_of_the_hole(self):
        soft = soft_hole(center(256, 128))
        assert soft[128, 128] == 1.0
        assert soft[0, 0] == 0.0
        assert math.isclose(soft[128, 50].item(), 0.5, abs_tol=0.05)  # the grown edge: 64 - 14


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def split(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    own = {k.removeprefix("vqgan."): v for k, v in weights.items() if k.startswith("vqgan.")}
    return {k: v for k, v in weights.items() if not k.startswith("vqgan.")}, own


class TestCheckpoints:
    @pytest.fixture
    def state(self, model) -> dict[str, Tensor]:
        return dict(model.state_dict())

    def assert_same_file(self, exported: Path, published: Path):
        found, wrapper = read_checkpoint(exported, allowed=(Namespace,))
        wanted, published_wrapper = read_checkpoint(published, allowed=(Namespace,))
        assert list(found) == list(wanted)
        assert [value.dtype for value in found.values()] == [value.dtype for value in wanted.values()]
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
        assert wrapper == published_wrapper

    def test_the_published_file_survives_load_and_export(self, tmp_path, model, state):
        published, exported = tmp_path / "mage-vitb-1600.pth", tmp_path / "exported.pth"
        content = {"model": state, "optimizer": {"lr": 1e-4}, "epoch": 5, "args": Namespace(blr=1e-4)}
        torch.save(content, published)
        fresh = Mage(TINY, center(64, 16))
        files = load_mage(fresh, published)
        write_mage_checkpoint(exported, fresh.state_dict(), files)
        self.assert_same_file(exported, published)

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_a_tokeniser_of_its_own_survives_load_and_export(self, tmp_path, state, wrapped):
        rest, own = split(state)
        paths = tmp_path / "mage.pth", tmp_path / "vqgan_jax_strongaug.ckpt"
        torch.save({"model": rest}, paths[0])
        torch.save({"state_dict": own} if wrapped else own, paths[1])
        fresh = Mage(TINY, center(64, 16))
        files = load_mage(fresh, *paths)
        assert all(torch.equal(fresh.state_dict()[name], state[name]) for name in state)
        exported = tmp_path / "new.pth", tmp_path / "new.ckpt"
        write_mage_checkpoint(exported[0], fresh.state_dict(), files, exported[1])
        for found, wanted in zip(exported, paths, strict=True):
            self.assert_same_file(found, wanted)

    def test_another_order_and_type_of_the_file_are_kept(self, tmp_path, state):
        doubles = {k: v.double() if v.is_floating_point() else v for k, v in reversed(state.items())}
        torch.save({"model": doubles}, tmp_path / "double.pth")
        fresh = Mage(TINY, center(64, 16))
        files = load_mage(fresh, tmp_path / "double.pth")
        write_mage_checkpoint(tmp_path / "new.pth", fresh.state_dict(), files)
        self.assert_same_file(tmp_path / "new.pth", tmp_path / "double.pth")

    def test_both_files_may_hold_the_same_tokeniser_but_not_two(self, tmp_path, state):
        _, own = split(state)
        torch.save({"model": state}, tmp_path / "mage.pth")
        torch.save(own, tmp_path / "same.ckpt")
        torch.save(
            {**own, "encoder.conv_out.bias": own["encoder.conv_out.bias"] + 1}, tmp_path / "other.ckpt"
        )
        tensors, files = read_mage_checkpoint(tmp_path / "mage.pth", tmp_path / "same.ckpt")
        assert list(tensors) == list(state)
        assert files.tokenizer is None
        with pytest.raises(WeightsError, match=r"differ in vqgan\.encoder\.conv_out\.bias"):
            read_mage_checkpoint(tmp_path / "mage.pth", tmp_path / "other.ckpt")

    def test_a_missing_tokeniser_is_named(self, tmp_path, state):
        rest, _ = split(state)
        torch.save({"model": rest}, tmp_path / "mage.pth")
        with pytest.raises(WeightsError, match=r"give the tokeniser's own file, vqgan_jax_strongaug\.ckpt"):
            read_mage_checkpoint(tmp_path / "mage.pth")

    def test_weights_of_another_network_are_named(self, tmp_path, state):
        wrong = {k: v for k, v in state.items() if k != "norm.bias"} | {
            "head.bias": torch.zeros(1),
            "norm.weight": torch.zeros(3),
        }
        torch.save({"model": wrong}, tmp_path / "mage.pth")
        with pytest.raises(WeightsError) as caught:
            load_mage(Mage(TINY, center(64, 16)), tmp_path / "mage.pth")
        for part in (
            "mage-vitb-1600.pth",
            "missing norm.bias",
            "unexpected head.bias",
            "misshapen norm.weight (3,)",
        ):
            assert part in str(caught.value)

    def test_a_lost_weight_is_not_exported(self, tmp_path, state):
        torch.save({"model": state}, tmp_path / "mage.pth")
        _, files = read_mage_checkpoint(tmp_path / "mage.pth")
        del state["norm.bias"]
        with pytest.raises(WeightsError, match=r"no norm\.bias"):
            write_mage_checkpoint(tmp_path / "new.pth", state, files)
        assert not (tmp_path / "new.pth").exists()

    def test_a_file_that_would_run_something_is_refused(self, tmp_path, state):
        torch.save({"model": state, "args": Bomb(tmp_path / "ran")}, tmp_path / "mage.pth")
        with pytest.raises(WeightsError, match="would call"):
            read_mage_checkpoint(tmp_path / "mage.pth")
        assert not (tmp_path / "ran").exists()
