"""Palette computes every tensor that the published code did, and names its weights as the checkpoint does."""

import copy
import json
from pathlib import Path

import pytest
import torch
from oracles import palette as oracle
from oracles.losses import Losses
from package_losses import baseline_term, encoder_objectives, max_losses
from safetensors.torch import load_file

from pareto_unlearn.models import Batch, palette_baselines
from pareto_unlearn.models.palette import PLACES2, TINY, Palette
from pareto_unlearn.models.palette_inputs import (
    Draws,
    build_condition,
    build_unet_images,
    mix_noise,
    pack,
    replace_hole_by_noise,
    unpack,
)
from pareto_unlearn.models.palette_sampling import Sampling, iterate_filling
from pareto_unlearn.models.palette_schedule import (
    SCHEDULE_NAMES,
    LinearSchedule,
    build_schedule,
    interpolate_level,
)
from pareto_unlearn.models.palette_unet import embed_level

FIXTURES = Path(__file__).parent / "fixtures" / "parity" / "palette"
GOLDEN = load_file(FIXTURES / "palette_tiny.safetensors")
DESCRIPTION = json.loads((FIXTURES / "palette_tiny.json").read_text())

TOLERANCE = 1e-5
"""Float32 sums in another order; the golden tensors were made with another version of torch."""

SAMPLING_TOLERANCE = 1e-4
"""Seven network calls, each on the pictures of the one before: up to 1.1e-5 on some processors."""

ALPHA = 0.25
GROUPS = {"both": [False, True], "retain_only": [False, False], "forget_only": [True, True]}

CONSUMED = {"input.sampling_noise", "loss.t", "loss.u"}
"""Draws that only go in; a test shows that each is used."""

LOSS_NAMES = {name for name in GOLDEN if name.startswith("loss.")} - CONSUMED


def golden_weights() -> dict[str, torch.Tensor]:
    prefix = "state_dict."
    return {name.removeprefix(prefix): GOLDEN[name] for name in GOLDEN if name.startswith(prefix)}


def golden_model() -> Palette:
    model = Palette(TINY, GOLDEN["input.mask"][0, 0].bool())
    model.load_state_dict(golden_weights())
    return model


def original_model() -> Palette:
    """The golden losses compare with a network of weights 0.9 times those of the model."""
    model = golden_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    return model


def golden_inputs(gamma: torch.Tensor) -> torch.Tensor:
    # Inside the hole the conditioning image is its noise, so it can stand in for the noise.
    condition = GOLDEN["input.y_cond"]
    return pack(
        GOLDEN["input.y_0"], Draws(condition, GOLDEN["input.noise"], gamma, GOLDEN["input.mask"].bool())
    )


def linear_values(like: torch.Tensor) -> torch.Tensor:
    return torch.linspace(-2, 2, like.numel()).view_as(like)


def compute_weights() -> dict[str, torch.Tensor]:
    schedule = build_schedule(TINY.schedule)
    own = golden_model().state_dict() | {name: getattr(schedule, name) for name in SCHEDULE_NAMES}
    test = build_schedule(LinearSchedule(steps=8, first=1e-4, last=0.5))
    return {f"state_dict.{name}": tensor for name, tensor in own.items()} | {
        f"test_schedule.{name}": getattr(test, name) for name in SCHEDULE_NAMES
    }


def compute_inputs() -> dict[str, torch.Tensor]:
    inputs = golden_inputs(GOLDEN["input.gamma"])
    parts = unpack(inputs)
    replaced = unpack(replace_hole_by_noise(inputs, torch.tensor(GROUPS["both"])))
    return {
        "input.y_0": parts.clean,
        "input.mask": parts.hole,
        "input.noise": parts.noise,
        "input.gamma": parts.gamma,
        "input.y_cond": build_condition(parts),
        "q_sample.y_noisy": mix_noise(parts),
        "q_sample.forget_target_mix": mix_noise(replaced),
        "unet.input": build_unet_images(parts),
        "gamma_embedding": embed_level(parts.gamma, TINY.unet.width),
    }


def compute_outputs() -> dict[str, torch.Tensor]:
    model, inputs = golden_model(), golden_inputs(GOLDEN["input.gamma"])
    with torch.no_grad():
        maps = model.feature_maps(inputs)
        return {"unet.noise_hat": model(inputs)} | {f"unet.feat.{i:02}": each for i, each in enumerate(maps)}


def loss_inputs() -> torch.Tensor:
    gammas = GOLDEN["state_dict.gammas"]
    return golden_inputs(interpolate_level(gammas, GOLDEN["loss.t"], GOLDEN["loss.u"]))


PUBLISHED = {
    "composite": oracle.encoder_losses,
    "random_encoder": lambda model, original, inputs, forget: oracle.random_encoder_losses(
        model, original, inputs, forget, [linear_values(each) for each in original.feature_maps(inputs)]
    ),
    "max_loss": lambda model, _, inputs, forget: oracle.max_losses(model, inputs, forget),
    "noisy_label": lambda model, _, inputs, forget: oracle.noisy_label_losses(model, inputs, forget),
    "retain_label": lambda model, original, inputs, forget: oracle.retain_label_losses(
        model, original, inputs, forget, linear_values(GOLDEN["input.noise"])
    ),
}
"""The losses as the published code has them, from one mixed batch."""

BASELINES = {
    "random_encoder": "random_encoder_fork",
    "noisy_label": "noisy_label",
    "retain_label": "retain_label_fork",
}
"""The recorded losses that are baselines here, by their name in the golden file."""


def running_term(method: str, name: str, model: Palette, batch: Batch) -> torch.Tensor:
    """Return a term of a loss as trials compute it, a mean over its own images."""
    images = getattr(batch, name)
    if method == "composite":
        noise = model.noise_like(images, [])
        return getattr(encoder_objectives(model, batch.original, images, images, noise), name)
    if method == "max_loss":
        return getattr(max_losses(model, images, images), name)
    if method == "retain_label" and not len(batch.retain):
        # A trial always has retain images; the published code takes noise in place of their outputs.
        loss = palette_baselines.BASELINES["retain_label_fork"].forget.loss
        return loss(model, images, linear_values(GOLDEN["input.noise"]))
    return baseline_term(model, batch, BASELINES[method], name)


def running_losses(method: str, model: Palette, original: Palette, inputs, forget) -> Losses:
    """Return both terms of a loss as shares of one mixed batch; 0 for a set without images."""
    sets = Losses(inputs[~forget], inputs[forget])
    batch = Batch(original=original, generator=torch.Generator(), **sets._asdict())
    terms = [
        running_term(method, name, model, batch) * len(images) / len(inputs)
        if len(images)
        else torch.zeros(())
        for name, images in sets._asdict().items()
    ]
    return Losses(*terms)


def compute_losses(losses) -> dict[str, torch.Tensor]:
    """Return the recorded losses and gradients; ``losses`` gives the terms of a method on a batch."""
    inputs, original, found = loss_inputs(), original_model(), {}
    for method in PUBLISHED:
        for group, forget in GROUPS.items():
            model = golden_model()
            total = losses(method, model, original, inputs, torch.tensor(forget)).total(ALPHA)
            found[f"loss.{method}.{group}"] = total.detach()
            if group == "both":
                total.backward()
                network = model.denoise_fn
                found[f"loss.{method}.grad.input_conv"] = network.input_blocks[0][0].weight.grad
                found[f"loss.{method}.grad.cond_embed_bias"] = network.cond_embed[2].bias.grad
    return found


@pytest.fixture(scope="module")
def running() -> dict[str, torch.Tensor]:
    """The recorded losses as trials compute them, with the recorded noise in place of the drawn one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(palette_baselines, "draw_like", lambda values, _: linear_values(values))
        return compute_losses(running_losses)


def compute_sampling() -> dict[str, torch.Tensor]:
    schedule = build_schedule(LinearSchedule(steps=8, first=1e-4, last=0.5))
    noise = iter(GOLDEN["input.sampling_noise"])
    parts = unpack(golden_inputs(GOLDEN["input.gamma"]))
    steps = list(iterate_filling(golden_model().denoise_fn, parts, schedule, Sampling(), lambda: next(noise)))
    assert next(noise, None) is None  # all seven were used
    return {"sampling.trajectory": torch.stack(steps), "sampling.output": steps[-1]}


@pytest.fixture(scope="module")
def computed() -> dict[str, torch.Tensor]:
    found = compute_weights() | compute_inputs() | compute_outputs() | compute_sampling()
    found |= compute_losses(lambda method, *given: PUBLISHED[method](*given))
    print_errors(found)
    return found


def largest_error(name: str, found: torch.Tensor) -> float:
    assert found.shape == GOLDEN[name].shape
    assert found.dtype == GOLDEN[name].dtype
    return float((found - GOLDEN[name]).abs().max())


def print_errors(computed: dict[str, torch.Tensor]) -> None:
    """Print the largest error of every tensor (`pytest -s`), all weights of the network in one line."""
    errors: dict[str, float] = {}
    for name in sorted(computed):
        line = "state_dict.denoise_fn.*" if name.startswith("state_dict.denoise_fn.") else name
        errors[line] = max(errors.get(line, 0.0), largest_error(name, computed[name]))
    table = [f"{name:52} {error:.1e}" for name, error in errors.items()]
    print("\n".join(["", f"{'tensor':52} max error", *table]))  # noqa: T201 - what -s shows


def test_every_golden_tensor_is_compared(computed):
    assert computed.keys() | CONSUMED == GOLDEN.keys()
    assert not computed.keys() & CONSUMED
    assert DESCRIPTION["tensors"].keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", [name for name in DESCRIPTION["tensors"] if name not in CONSUMED])
def test_tensor_equals_the_published_one(computed, name):
    tolerance = SAMPLING_TOLERANCE if name.startswith("sampling.") else TOLERANCE
    assert largest_error(name, computed[name]) <= tolerance


@pytest.mark.parametrize("name", [name for name in DESCRIPTION["tensors"] if name in LOSS_NAMES])
def test_loss_of_a_trial_equals_the_published_one(running, name):
    assert largest_error(name, running[name]) <= TOLERANCE


@pytest.mark.parametrize("name", ["loss.t", "loss.u"])
def test_the_draws_of_the_loss_decide_its_noise_level(name):
    steps, shares = (GOLDEN[each].clone() for each in ("loss.t", "loss.u"))
    before = interpolate_level(GOLDEN["state_dict.gammas"], steps, shares)
    {"loss.t": steps, "loss.u": shares}[name].mul_(0).add_(1)
    assert not torch.equal(interpolate_level(GOLDEN["state_dict.gammas"], steps, shares), before)


def test_the_tiny_network_has_the_described_sizes():
    unet, ours = DESCRIPTION["unet"], TINY.unet
    assert (ours.side, ours.width, ours.blocks) == (
        unet["image_size"],
        unet["inner_channel"],
        unet["res_blocks"],
    )
    assert list(ours.multipliers) == unet["channel_mults"]
    assert list(ours.attention_rates) == unet["attn_res"]
    assert ours.head_width == unet["num_head_channels"]


def test_names_shapes_types_and_order_are_those_of_the_published_checkpoint():
    published = json.loads((FIXTURES / "keys_palette_places2.json").read_text())
    with torch.device("meta"):
        model = Palette(PLACES2, torch.ones(256, 256, dtype=torch.bool))
    own = [
        [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for name, tensor in model.state_dict().items()
    ]
    assert own == published["keys"]
    assert len(own) == published["n_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == published["n_params"]


def test_the_published_network_has_thirteen_feature_maps():
    with torch.device("meta"):
        model = Palette(PLACES2, torch.ones(256, 256, dtype=torch.bool))
        inputs = torch.empty(2, 12, 256, 256)
        sizes = [tuple(each.shape[1:]) for each in model.feature_maps(inputs)]
        row = model.encode(inputs)
    levels = [(64, 256)] * 3 + [(64, 128)] + [(128, 128)] * 2 + [(128, 64)] + [(256, 64)] * 2
    levels += [(256, 32)] + [(512, 32)] * 3
    assert sizes == [(channels, side, side) for channels, side in levels]
    assert row.shape == (2, sum(channels * side * side for channels, side in levels))


def test_names_and_order_are_those_of_the_tiny_network():
    golden = [name for name in DESCRIPTION["tensors"] if name.startswith("state_dict.")]
    assert [f"state_dict.{name}" for name in golden_model().state_dict()] == golden


def test_flat_features_have_the_published_loss_as_their_mean_squared_error():
    model, original, inputs = golden_model(), original_model(), loss_inputs()
    forget = torch.tensor(GROUPS["both"])
    with torch.no_grad():
        targets = original.encode(replace_hole_by_noise(inputs, forget))
        per_image = (model.encode(inputs) - targets).square().mean(dim=1)
    weights = torch.tensor([1.0, ALPHA])
    total = (weights * per_image).mean()
    assert float((total - GOLDEN["loss.composite.both"]).abs()) <= TOLERANCE


def test_the_training_loss_is_that_of_retain_images_under_max_loss():
    with torch.no_grad():
        loss = golden_model().training_loss(loss_inputs())
    assert float((loss - GOLDEN["loss.max_loss.retain_only"]).abs()) <= TOLERANCE


def test_recomputed_blocks_have_equal_gradients():
    plain = golden_model()
    recomputing = copy.deepcopy(plain)
    recomputing.denoise_fn.recompute = True
    for model in (plain, recomputing):
        model.training_loss(loss_inputs()).backward()
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-7)
