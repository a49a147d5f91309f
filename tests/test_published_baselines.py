"""The published baselines of every family: their losses, their trials, and what a sweep file may ask for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_sweep import QUICKSTART
from tiny_families import FAMILIES, configure, load_on_generated, moved
from torch import Tensor

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import Batch, ImageToImage, family_of
from pareto_unlearn.models.mage_losses import ForgetRows, retain_logits, squared_losses, token_losses
from pareto_unlearn.models.palette_inputs import build_condition, mix_noise, unpack
from pareto_unlearn.models.palette_losses import (
    compute_max_loss,
    compute_noisy_label_loss,
    compute_random_encoder_loss,
    compute_retain_label_loss,
    draw_like,
)
from pareto_unlearn.records import Phase, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.trial import Hooks, Material, run_trial, running
from pareto_unlearn.trial.building import build_problem

OWN = {name: tuple(family_of(name).baselines) for name in FAMILIES}
EACH = pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in FAMILIES for method in OWN[family]]
)
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
TRAINED = ("retain_label", "noisy_label", "random_encoder")
ROWS = torch.arange(3)
# Sums over maps and tokens are grouped differently than in one mixed batch.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[str, tuple[SweepConfig, Material, Batch]]:
    """Every family with a model that has moved away from the original, and three images of each set."""
    found = {}
    for family in FAMILIES:
        config, material = load_on_generated(family, tmp_path_factory.mktemp(family))
        original, _ = load_on_generated(family, tmp_path_factory.mktemp(family))[1], moved(material)
        forget, retain = (material.inputs[name, "train"][ROWS] for name in ("forget", "retain"))
        found[family] = (
            config,
            material,
            Batch(original=original.model, forget=forget, retain=retain, generator=torch.Generator()),
        )
    return found


def seeded(batch: Batch, seed: int = 0) -> Batch:
    return replace(batch, generator=seeded_generator(seed, 9))


def term(worlds, family: str, method: str, part: str) -> Tensor:
    """Return one of the two losses of a baseline, with fresh draws."""
    _, material, batch = worlds[family]
    half = getattr(family_of(family).baselines[method], part)
    with torch.no_grad():
        return half.loss(material.model, *half.given(seeded(batch)))


def mixed(worlds, family: str) -> tuple[ImageToImage, ImageToImage, Tensor, Tensor]:
    """Return the model, the original, and a batch of retain, then forget images with which are forget images."""
    _, material, batch = worlds[family]
    forget = torch.tensor([False] * 3 + [True] * 3)
    return material.model, batch.original, torch.cat([batch.retain, batch.forget]), forget


def parts(losses) -> tuple[float, float]:
    return losses.retain.item(), losses.forget.item()


def both(worlds, family: str, method: str) -> tuple[float, float]:
    return tuple(term(worlds, family, method, part).item() for part in ("retain", "forget"))


# Against the published losses of one mixed batch of halves: Palette's are means over all of it, half of ours.


def test_palette_retain_label_fork_is_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        losses = compute_retain_label_loss(model, original, inputs, forget, unpack(inputs).clean)
    assert both(worlds, "palette", "retain_label_fork") == pytest.approx(
        [2 * one for one in parts(losses)], rel=ROUNDING
    )


def test_palette_noisy_label_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        losses = compute_noisy_label_loss(model, inputs, forget)
    assert both(worlds, "palette", "noisy_label") == pytest.approx(
        [2 * one for one in parts(losses)], rel=ROUNDING
    )


def test_palette_random_encoder_fork_is_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        normal = draw_like(original.feature_maps(inputs), seeded_generator(0, 9))
        losses = compute_random_encoder_loss(model, original, inputs, forget, normal)
    assert both(worlds, "palette", "random_encoder_fork") == pytest.approx(
        [2 * one for one in parts(losses)], rel=ROUNDING
    )


def test_palette_max_loss_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        losses = compute_max_loss(model, inputs, forget)
        ours = model.training_loss(inputs[:3]).item(), -model.training_loss(inputs[3:]).item()
    assert ours == pytest.approx([2 * one for one in parts(losses)], rel=ROUNDING)


def test_mage_max_loss_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "mage")
    with torch.no_grad():
        losses = token_losses(model(inputs), inputs[:, 1], inputs[:, 0] == model.shape.mask_word, forget)
        ours = model.training_loss(inputs[:3]).item(), model.training_loss(inputs[3:]).item()
    assert ours == pytest.approx([2 * one for one in parts(losses)], rel=ROUNDING)


def test_mage_retain_label_fork_is_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "mage")
    with torch.no_grad():
        outputs, kept = model.all_logits(inputs), original.all_logits(inputs)
        losses = squared_losses(outputs, kept, retain_logits(kept, forget, outputs), forget)
    assert outputs.shape == (6, model.shape.tokens + 1, model.shape.mask_word + 1)
    assert both(worlds, "mage", "retain_label_fork") == pytest.approx(parts(losses), rel=ROUNDING)


def test_mage_random_encoder_fork_pulls_to_noise_like_the_features_of_both_sets(worlds):
    _, _, batch = worlds["mage"]
    half = family_of("mage").baselines["random_encoder_fork"].forget
    with torch.no_grad():
        inputs, noise = half.given(seeded(batch))
        features = batch.original.encode(torch.cat([batch.retain, batch.forget]))
    assert torch.equal(inputs, batch.forget)
    assert float(noise.mean()) == pytest.approx(float(features.mean()), abs=0.02)
    assert float(noise.std()) == pytest.approx(float(features.std()), rel=0.02)


@pytest.mark.parametrize("method", ["retain_label", "random_encoder"])
def test_mage_fork_bug_leaves_forget_images_out(worlds, method):
    _, _, batch = worlds["mage"]
    half = family_of("mage").baselines[f"{method}_fork_bug"].forget
    with torch.no_grad():
        assert torch.equal(half.given(seeded(batch))[0], batch.retain)


def test_mage_fork_bug_is_the_published_mistake(worlds):
    model, original, inputs, _ = mixed(worlds, "mage")
    retained = torch.randperm(6, generator=seeded_generator(0, 9))[:3]
    order = torch.full((6,), 3).scatter(0, retained, torch.arange(3))
    order[order == 3] = torch.tensor([3, 4, 5])
    shuffled, forget = inputs[order], order > 2
    with torch.no_grad():
        outputs, kept = model.all_logits(shuffled), original.all_logits(shuffled)
        # In the batch's own order of retain images, as there.
        wanted = original.all_logits(inputs[:3])[torch.arange(6) % 3]
        losses = squared_losses(outputs, kept, wanted, forget, ForgetRows.FORK_BASELINES)
    assert both(worlds, "mage", "retain_label_fork_bug") == pytest.approx(parts(losses), rel=ROUNDING)


def test_mage_noisy_label_fork_asks_for_codes_that_exist(worlds):
    _, material, batch = worlds["mage"]
    half = family_of("mage").baselines["noisy_label_fork"].forget
    with torch.no_grad():
        inputs, codes = half.given(seeded(batch))
    assert torch.equal(inputs, batch.forget)
    assert codes.dtype == torch.int64
    assert int(codes.min()) >= 0
    assert int(codes.max()) < material.model.shape.tokenizer.codes
    assert not torch.equal(codes, batch.forget[:, 1])


# The paper's formulas.


@pytest.mark.parametrize("family", ["digits_mae", "mae"])
def test_labels_of_masked_autoencoders_are_other_images(worlds, family):
    _, material, batch = worlds[family]
    model = material.model
    with torch.no_grad():
        wanted = model.training_loss(batch.forget, batch.retain)
    assert term(worlds, family, "retain_label", "forget") == wanted
    noise = model.sample_noise(3, seeded_generator(0, 9))
    with torch.no_grad():
        assert term(worlds, family, "noisy_label", "forget") == model.training_loss(batch.forget, noise)


def test_mage_retain_label_asks_for_the_codes_of_retain_images(worlds):
    _, material, batch = worlds["mage"]
    with torch.no_grad():
        wanted = material.model.code_loss(batch.forget, batch.retain[:, 1])
    assert term(worlds, "mage", "retain_label", "forget") == wanted


def test_palette_retain_label_shows_the_retain_image_under_the_condition_of_the_forget_image(worlds):
    _, material, batch = worlds["palette"]
    forget, clean = unpack(batch.forget), unpack(batch.retain).clean
    noisy = mix_noise(forget._replace(clean=clean)) * forget.hole + clean * (1 - forget.hole)
    with torch.no_grad():
        images = torch.cat([build_condition(forget), noisy], dim=1)
        predicted = material.model.denoise_fn(images, forget.gamma)
        wanted = (forget.hole * (forget.noise - predicted)).square().mean()
    assert term(worlds, "palette", "retain_label", "forget").item() == pytest.approx(wanted.item())


@EACH_FAMILY
def test_random_encoder_pulls_features_to_standard_noise(worlds, family):
    _, _, batch = worlds[family]
    half = family_of(family).baselines["random_encoder"].forget
    with torch.no_grad():
        _, noise = half.given(seeded(batch))
    assert abs(float(noise.mean())) < 0.03
    if family != "palette":  # whose maps are scaled
        assert float(noise.std()) == pytest.approx(1.0, abs=0.03)


@EACH_FAMILY
def test_retain_terms_are_the_training_loss_or_keep_the_encoder(worlds, family):
    _, material, batch = worlds[family]
    with torch.no_grad():
        trained = material.model.training_loss(batch.retain)
        kept = (material.model.encode(batch.retain) - batch.original.encode(batch.retain)).square().mean()
    assert term(worlds, family, "noisy_label", "retain") == trained
    assert term(worlds, family, "retain_label", "retain") == trained
    assert term(worlds, family, "random_encoder", "retain").item() == pytest.approx(kept.item())


@EACH
def test_every_term_is_positive_and_drawn_from_the_generator_alone(worlds, family, method):
    for part in ("forget", "retain"):
        first = term(worlds, family, method, part)
        assert first > 0
        assert first == term(worlds, family, method, part)


@EACH
def test_retain_images_come_in_turn_where_they_are_fewer(worlds, family, method):
    _, material, batch = worlds[family]
    few = replace(seeded(batch), retain=batch.retain[:2])
    half = family_of(family).baselines[method].forget
    with torch.no_grad():
        assert torch.isfinite(half.loss(material.model, *half.given(few)))


# Trials.


def solve(family: str, method: str, cache: Path, *overrides: str) -> tuple[Material, TrialRecord, list]:
    config, material = load_on_generated(
        family, cache, "objective={noise_images: 16, space: encoder}", *overrides
    )
    spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=0.25)
    result = run_trial(config, spec, material, Hooks(), "1")
    return material, result.record, list(result.curves)


@pytest.mark.parametrize(
    ("family", "method"),
    [(family, method) for family in FAMILIES for method in ("random_encoder", "noisy_label")]
    + [("mage", "retain_label_fork_bug"), ("digits_mae", "retain_only")],
)
def test_trials_train_what_the_published_ones_train(family, method, tmp_path):
    material, record, curves = solve(family, method, tmp_path)
    space = "encoder" if method == "random_encoder" else "output"
    assert record.state is TrialState.DONE
    assert record.num_parameters == sum(one.numel() for one in material.trainable(space))
    assert len(curves) == 3
    assert record.f2 > 0


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_what_the_published_training_removes_goes_with_baselines(family, tmp_path):
    task = "task={kind: center, patches: 8, removal: published}"
    for method in TRAINED:
        config, material = load_on_generated(family, tmp_path / method, task)
        spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=1.0)
        problem = build_problem(config, spec, material)
        assert problem.constraint(0) > 0
        assert problem.constraint(0) == problem.constraint(0)
        assert problem.constraint(0) != problem.constraint(1)


@pytest.mark.parametrize(("family", "method"), [("digits_mae", "noisy_label"), ("mae", "random_encoder")])
def test_a_resumed_trial_ends_as_an_unbroken_one(family, method, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "FLUSH_EVERY", 1)
    kept: dict[int, dict[str, bytes]] = {}
    spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=0.25)
    config, material = load_on_generated(family, tmp_path / "a")
    whole = run_trial(config, spec, material, Hooks(save_resume=kept.__setitem__), "1")
    config, material = load_on_generated(family, tmp_path / "b")
    resumed = run_trial(config, spec, material, Hooks(load_resume=lambda: (2, kept[2])), "1")
    assert list(kept) == [2]
    assert resumed.files == whole.files


@pytest.mark.parametrize("method", TRAINED)
def test_baselines_run_in_bfloat16(method, tmp_path):
    _, record, _ = solve("digits_mae", method, tmp_path, "solver.precision=bfloat16")
    assert record.state is TrialState.DONE


def test_retain_only_moves_along_the_retain_gradient_alone(tmp_path):
    config, material = load_on_generated("digits_mae", tmp_path)
    spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method="retain_only", seed=0, weight=1.0)
    assert build_problem(config, spec, material).rule.weight == 0.0


# Sweep files.


@EACH_FAMILY
@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("variant", ["paper", "fork", "fork_bug"])
def test_a_sweep_file_takes_exactly_what_the_family_has(family, method, variant):
    name = method if variant == "paper" else f"{method}_{variant}"
    override = f"baselines=[{{method: {method}, variant: {variant}}}]"
    if name not in OWN[family]:
        with pytest.raises(ConfigError, match=r"leave `variant` out|expected paper"):
            configure(family, override)
    else:
        assert [one.name for one in configure(family, override).baselines] == [name]


@pytest.mark.parametrize(
    ("family", "baseline", "text"),
    [
        (
            "mae",
            "{method: retain_label, variant: fork}",
            "expected variant fork of retain_label with family mage or palette",
        ),
        ("palette", "{method: random_encoder, variant: fork_bug}", "with family mage, found palette"),
        (
            "mage",
            "{method: noisy_label, variant: fork_bug}",
            "expected paper or fork with noisy_label, found fork_bug",
        ),
        ("mage", "{method: max_loss, variant: fork}", "expected paper with max_loss, found fork"),
        ("mage", "{method: retain_only, weights: [0.5]}", "retain_only has no weight"),
    ],
)
def test_what_a_family_has_not_is_refused(family, baseline, text):
    with pytest.raises(ConfigError, match=text):
        configure(family, f"baselines=[{baseline}]")


def test_two_variants_of_a_method_stand_side_by_side():
    config = configure("mage", "baselines=[retain_label, {method: retain_label, variant: fork_bug}]")
    assert [one.name for one in config.baselines] == ["retain_label", "retain_label_fork_bug"]


def test_the_published_weight_is_the_default():
    config = load_config(QUICKSTART, [f"baselines=[{', '.join(TRAINED)}]"])
    assert {one.weights for one in config.baselines} == {(0.25,)}
