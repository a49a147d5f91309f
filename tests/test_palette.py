"""Palette beside its published numbers: what chance decides, how holes are filled, which files are read."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from test_palette_parity import golden_model, golden_weights

from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models.checkpoint_files import read_checkpoint
from pareto_unlearn.models.palette import TINY, Palette, PaletteShape
from pareto_unlearn.models.palette_files import PaletteFile, fill_palette, read_palette, save_palette
from pareto_unlearn.models.palette_inputs import replace_hole_by_noise, unpack
from pareto_unlearn.models.palette_masks import HybridHole, Stroke, draw_hybrid_hole, rasterise_hole
from pareto_unlearn.models.palette_sampling import Method, Sampling, iterate_filling
from pareto_unlearn.models.palette_schedule import (
    SCHEDULE_NAMES,
    UPSTREAM_TEST,
    LinearSchedule,
    build_schedule,
    respace_schedule,
)
from pareto_unlearn.models.palette_unet import UnetShape

SHORT = build_schedule(LinearSchedule(steps=8, first=1e-4, last=0.5))
DDIM = Sampling(method=Method.DDIM)

BATCH_TOLERANCE = 1e-4
"""Convolutions of other batch sizes may sum in another order; clipped sampling steps amplify that a bit."""


@pytest.fixture
def model() -> Palette:
    return golden_model()


def redrawing(model: Palette) -> Palette:
    """Return a model of the same weights whose inputs have holes as in the published training."""
    other = Palette(TINY, model.hole, hybrid=True)
    other.load_state_dict(model.state_dict())
    return other


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeds(*each: int) -> list[torch.Generator]:
    return [seeded(seed) for seed in each]


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=seeded(1))


# What chance decides


def test_equal_seeds_make_equal_inputs(model):
    assert torch.equal(model.prepare(images(), seeded(0)), model.prepare(images(), seeded(0)))


def test_draws_do_not_depend_on_how_images_are_split_into_batches(model):
    generator = seeded(0)
    parts = [model.prepare(part, generator) for part in images().split([1, 2])]
    assert torch.equal(torch.cat(parts), model.prepare(images(), seeded(0)))


def test_nothing_draws_from_the_global_generator(model):
    drawing = redrawing(model)
    before = torch.random.get_rng_state()
    inputs = drawing.prepare(images(1), seeded(0))
    model.train().training_loss(inputs).backward()
    model.fill(inputs, SHORT, Sampling(), seeds(0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_inputs_hold_the_images_and_the_hole_of_the_model(model):
    parts = unpack(model.prepare(images(), seeded(0)))
    torch.testing.assert_close(model.to_images(parts.clean), images())
    assert torch.equal(parts.hole[1, 0].bool(), model.removed_pixels())
    assert torch.equal(parts.gamma, parts.mixed_gamma)


def test_noise_levels_lie_within_the_schedule_of_the_training(model):
    gamma = unpack(model.prepare(images(200), seeded(0))).gamma
    assert float(gamma.min()) >= float(model.gammas[-1])
    assert float(gamma.max()) <= float(model.gammas[0])
    assert float(gamma.min()) < 0.01
    assert float(gamma.max()) > 0.9


def test_redrawing_keeps_the_images_and_changes_all_noise(model):
    inputs = model.prepare(images(), seeded(0))
    before, after = unpack(inputs), unpack(model.redraw(inputs, seeded(1)))
    assert torch.equal(after.clean, before.clean)
    assert all((one != other).all() for one, other in zip(after[1:3], before[1:3], strict=True))
    assert (after.gamma != before.gamma).all()


def test_pixels_in_the_hole_do_not_reach_the_conditioning_image(model):
    changed = images()
    changed[:, :, model.hole] = 0.5
    first, second = (
        list(
            iterate_filling(
                model.denoise_fn, unpack(model.prepare(each, seeded(0))), SHORT, DDIM, lambda: torch.zeros(1)
            )
        )
        for each in (images(), changed)
    )
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


def test_the_forget_target_changes_the_noisy_image_in_the_hole_of_the_chosen_images_only(model):
    inputs = model.prepare(images(), seeded(0))
    chosen = torch.tensor([False, True, False])
    replaced = replace_hole_by_noise(inputs, chosen)
    assert torch.equal(replaced[~chosen], inputs[~chosen])
    assert torch.equal(replaced[chosen, :-1], inputs[chosen, :-1])
    assert torch.equal(replace_hole_by_noise(inputs)[chosen], replaced[chosen])


def test_noise_images_are_standard_normal(model):
    clean = unpack(model.sample_noise(40, seeded(0))).clean
    assert abs(float(clean.mean())) < 0.02
    assert abs(float(clean.std()) - 1) < 0.02


# The hole


def test_an_empty_hole_is_refused():
    with pytest.raises(ConfigError, match="at least one pixel"):
        Palette(TINY, torch.zeros(16, 16, dtype=torch.bool))


def test_a_hole_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(ConfigError, match=r"16 by 16 pixels, found \(8, 16\)"):
        Palette(TINY, torch.ones(8, 16, dtype=torch.bool))


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match="16 by 16 pixels, found 8 by 8"):
        model.prepare(torch.zeros(1, 3, 8, 8), seeded(0))


@pytest.mark.parametrize(("size", "found"), [({"side": 20}, "20"), ({"width": 48}, "48")])
def test_impossible_sizes_are_refused(size, found):
    with pytest.raises(ConfigError, match=f"found {found}"):
        UnetShape(**size)


def test_the_hole_of_published_training_is_a_box_within_its_limits_and_strokes():
    for seed in range(30):
        hole = draw_hybrid_hole(256, seeded(seed))
        top, left, height, width = hole.box
        assert 20 <= top <= 127
        assert 20 <= left <= 127
        assert 108 <= height <= 128
        assert 108 <= width <= 128
        assert max(top + height, left + width) <= 236
        assert 1 <= len(hole.strokes) <= 3
        assert all(5 <= len(stroke.points) <= 12 for stroke in hole.strokes)
        assert all(12 <= stroke.width <= 39 for stroke in hole.strokes)


def test_a_hole_covers_its_box_and_the_joints_of_its_strokes():
    hole = HybridHole(box=(2, 3, 4, 5), strokes=(Stroke(points=((12, 2), (12, 14)), width=2),))
    removed = rasterise_hole(hole, 16)
    assert removed[2:6, 3:8].all()
    assert removed[2:15, 12].all()
    assert not removed[8:, :9].any()


def test_holes_of_training_differ_between_images_and_reach_the_inputs(model):
    drawn = unpack(redrawing(model).prepare(images(4), seeds(3, 4, 5, 6))).hole[:, 0].bool()
    assert len({hole.numpy().tobytes() for hole in drawn}) > 1
    model_hole = model.removed_pixels()
    assert not any(torch.equal(hole, model_hole) for hole in drawn)


# Filling holes


def test_filling_is_deterministic(model):
    inputs = model.prepare(images(), seeded(0))
    first, second = (model.fill(inputs, SHORT, Sampling(), seeds(1, 2, 3)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(steps=4), DDIM, replace(DDIM, steps=3, eta=0.5)])
def test_a_batch_is_filled_as_its_images_one_by_one(model, sampling):
    inputs = redrawing(model).prepare(images(), seeded(0))
    together = model.fill(inputs, SHORT, sampling, seeds(1, 2, 3))
    single = [
        model.fill(inputs[[i]], SHORT, sampling, [generator]) for i, generator in enumerate(seeds(1, 2, 3))
    ]
    torch.testing.assert_close(together, torch.cat(single), rtol=0, atol=BATCH_TOLERANCE)


def test_visible_pixels_are_exactly_the_inputs_own(model):
    inputs = model.prepare(images(), seeded(0))
    filled = model.fill(inputs, SHORT, Sampling(), seeds(1, 2, 3))
    assert torch.equal(filled[:, :, ~model.hole], unpack(inputs).clean[:, :, ~model.hole])
    assert float(filled.abs().max()) <= 1.0


def test_ddim_that_draws_everything_is_ancestral_sampling(model):
    inputs = model.prepare(images(), seeded(0))
    one, other = (
        model.fill(inputs, SHORT, sampling, seeds(1, 2, 3))
        for sampling in (Sampling(), replace(DDIM, eta=1.0))
    )
    torch.testing.assert_close(
        one, other, rtol=0, atol=1e-4
    )  # the step before the last divides by small noise


def test_ddim_finds_the_image_when_the_noise_is_known():
    clean, noise = torch.rand(2, 2, 3, 16, 16, generator=seeded(0)) * 2 - 1
    model = golden_model()
    parts = unpack(model.prepare((clean + 1) / 2, seeded(0)))

    def know(images: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        level = gamma[:, :, None, None]
        return (images[:, 3:] - level.sqrt() * clean) / (1 - level).sqrt()

    steps = list(iterate_filling(know, parts, SHORT, DDIM, lambda: noise))
    torch.testing.assert_close(steps[-1], clean, rtol=0, atol=1e-5)


def test_the_number_of_network_calls_is_the_number_of_steps_asked_for(model):
    parts, levels = unpack(model.prepare(images(1), seeded(0))), []

    def denoise(images: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        levels.append(float(gamma))
        return images[:, :3]

    for _ in iterate_filling(
        denoise, parts, build_schedule(LinearSchedule()), replace(DDIM, steps=5), images
    ):
        pass
    assert levels == pytest.approx(model.gammas[[1999, 1499, 1000, 500, 0]].tolist(), rel=1e-4)


@pytest.mark.parametrize("linear", [LinearSchedule(), UPSTREAM_TEST])
def test_all_steps_of_a_schedule_are_the_schedule_itself(linear):
    schedule = build_schedule(linear)
    assert respace_schedule(schedule, linear.steps) is schedule


def test_a_respaced_schedule_has_levels_of_the_original_and_its_last():
    schedule = build_schedule(LinearSchedule())
    fewer = respace_schedule(schedule, 50)
    assert len(fewer.gammas) == 50
    for ours in fewer.gammas:
        assert float((schedule.gammas - ours).abs().min()) < 1e-6
    assert fewer.gammas[-1] == pytest.approx(float(schedule.gammas[-1]), rel=1e-5)
    torch.testing.assert_close(fewer.sqrt_recipm1_gammas[0], schedule.sqrt_recipm1_gammas[0])
    assert respace_schedule(schedule, 1).gammas[0] == pytest.approx(float(schedule.gammas[-1]), rel=1e-5)


@pytest.mark.parametrize("steps", [0, 9])
def test_steps_the_schedule_does_not_have_are_refused(steps):
    with pytest.raises(ConfigError, match=f"expected 1 to 8 .* found {steps}"):
        respace_schedule(SHORT, steps)


def test_eta_is_refused_where_it_means_nothing():
    with pytest.raises(ConfigError, match="belongs to ddim"):
        Sampling(eta=0.5)
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        Sampling(method=Method.DDIM, eta=2.0)


def test_every_image_needs_a_generator(model):
    with pytest.raises(ValueError, match="expected 3 generators, one per image, found 1"):
        model.fill(model.prepare(images(), seeded(0)), SHORT, Sampling(), seeds(0))


# Parts and precision


def test_the_encoder_is_closed_to_the_noise_level_unless_it_is_opened(model):
    closed = {id(each) for each in model.encoder_parameters()}
    opened = {id(each) for each in model.encoder_parameters(with_noise_level=True)}
    embedding = {id(each) for each in model.denoise_fn.cond_embed.parameters()}
    assert opened - closed == embedding


def test_encoder_parameters_are_those_that_move_the_features(model):
    model.encode(model.prepare(images(), seeded(0))).square().mean().backward()
    moving = {id(each) for each in model.parameters() if each.grad is not None}
    assert moving == {id(each) for each in model.encoder_parameters(with_noise_level=True)}


def test_channels_last_changes_rounding_only(model):
    inputs = model.prepare(images(), seeded(0))
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for function in ("encode", "__call__"):
            one, two = getattr(model, function)(inputs), getattr(other, function)(inputs)
            # Flat features are scaled up, here they reach 22, and their rounding errors with them.
            torch.testing.assert_close(two, one, rtol=0, atol=1e-4)


def test_half_precision_stays_within_three_percent(model):
    inputs = model.prepare(images(), seeded(0))
    with torch.no_grad():
        exact = [model(inputs), model.encode(inputs)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = [model(inputs), model.encode(inputs)]
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert (
            float((one - other).norm() / other.norm()) < 0.03
        )  # bfloat16 has two to three significant digits; found: 0.02


# Files


def save_pickle(path, content):
    torch.save(content, path)
    return path


def hole() -> torch.Tensor:
    return golden_model().hole


def load(path, hole: torch.Tensor, shape: PaletteShape) -> tuple[Palette, PaletteFile]:
    """Return the model of a file, and what else the file holds."""
    model = Palette(shape, hole)
    return model, fill_palette(model, path)


def test_a_file_is_written_as_it_was_read(tmp_path):
    path = save_pickle(tmp_path / "16_Network.pth", golden_weights())
    model, file = load(path, hole(), TINY)
    save_palette(tmp_path / "again.pth", model, file)
    before, after = (read_checkpoint(each) for each in (path, tmp_path / "again.pth"))
    assert before[1] == after[1]
    assert list(before[0]) == list(after[0])
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert all(before[0][name].dtype == after[0][name].dtype for name in before[0])


def test_averaged_weights_get_the_schedule_of_the_shape_and_are_written_without(tmp_path):
    weights = {name: each for name, each in golden_weights().items() if name not in SCHEDULE_NAMES}
    path = save_pickle(tmp_path / "16_Network_ema.pth", weights)
    model, file = load(path, hole(), TINY)
    assert not file.has_schedule
    assert torch.equal(model.gammas, golden_weights()["gammas"])
    save_palette(tmp_path / "again.pth", model, file)
    assert list(read_checkpoint(tmp_path / "again.pth")[0]) == list(weights)


def test_the_original_network_in_unlearned_files_is_dropped(tmp_path):
    extra = {
        name.replace("denoise_fn", "teacher_denoise_fn"): each
        for name, each in golden_weights().items()
        if name.startswith("denoise_fn")
    }
    tensors, file = read_palette(save_pickle(tmp_path / "1_Network.pth", golden_weights() | extra))
    assert list(tensors) == list(golden_weights())
    assert len(file.dropped) == len(extra)


def test_safetensors_are_read_and_written(tmp_path):
    save_file(golden_weights(), tmp_path / "palette.safetensors")
    model, file = load(tmp_path / "palette.safetensors", hole(), TINY)
    save_palette(tmp_path / "again.safetensors", model, file)
    again = read_palette(tmp_path / "again.safetensors")[0]
    assert again.keys() == golden_weights().keys()
    assert all(torch.equal(again[name], each) for name, each in golden_weights().items())


def test_another_schedule_than_asked_for_is_refused(tmp_path):
    path = save_pickle(tmp_path / "16_Network.pth", golden_weights())
    asked = PaletteShape(unet=TINY.unet, schedule=LinearSchedule(steps=2000, first=1e-4, last=0.09))
    with pytest.raises(WeightsError, match=r"2000 steps from 0.0001 to 0.09, found other values of gammas"):
        load(path, hole(), asked)


def test_weights_that_do_not_fit_are_named_with_the_file_that_was_expected(tmp_path):
    weights = golden_weights()
    weights["module.denoise_fn.out.2.bias"] = weights.pop("denoise_fn.out.2.bias")
    weights["denoise_fn.out.0.bias"] = torch.zeros(7)
    path = save_pickle(tmp_path / "16_Network.pth", weights)
    with pytest.raises(WeightsError) as caught:
        load(path, hole(), TINY)
    for part in (
        str(path),
        "expected 16_Network.pth",
        "missing denoise_fn.out.2.bias",
        "unexpected module.denoise_fn.out.2.bias",
        "misshapen denoise_fn.out.0.bias (7,) instead of (32,)",
    ):
        assert part in str(caught.value)


class Harmful:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path, capsys):
    path = save_pickle(tmp_path / "16_Network.pth", golden_weights() | {"gammas": Harmful()})
    with pytest.raises(WeightsError, match="refused"):
        read_palette(path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Harmful(), protocol=2))
    with pytest.raises(WeightsError):
        read_palette(tmp_path / "plain.pth")
    assert "executed" not in capsys.readouterr().out
