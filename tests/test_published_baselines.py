"""The published baselines of every family: their losses, their trials, and what a sweep file may ask for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles import mae as mae_oracle
from oracles import mage as mage_oracle
from oracles import palette as palette_oracle
from oracles.losses import Losses
from package_losses import baseline_losses, baseline_term, encoder_objectives, max_losses
from small_sweep import QUICKSTART
from tiny_families import FAMILIES, configure, load_on_generated, moved
from torch import Tensor

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models import Batch, ImageToImage, family_of
from pareto_unlearn.models.baselines import draw_like
from pareto_unlearn.models.palette_inputs import build_condition, mix_noise, unpack
from pareto_unlearn.records import Phase, TrialRecord, TrialSpec, TrialState
from pareto_unlearn.trial import Hooks, Material, Trial, run_trial, running
from pareto_unlearn.trial.building import build_problem

OWN = {name: tuple(family_of(name).baselines) for name in FAMILIES}
EACH = pytest.mark.parametrize(
    ("family", "method"), [(family, method) for family in FAMILIES for method in OWN[family]]
)
EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES)
TRAINED = ("retain_label", "noisy_label", "random_encoder")
ROWS = torch.arange(3)

ROUNDING = 1e-5
"""Relative: in float32, the published losses sum over one mixed batch, the package's over each set alone."""


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
    with torch.no_grad():
        return baseline_term(material.model, seeded(batch), method, part)


def mixed(worlds, family: str) -> tuple[ImageToImage, ImageToImage, Tensor, Tensor]:
    """Return model, original, a batch of retain and then forget images, and which are forget images."""
    _, material, batch = worlds[family]
    forget = torch.tensor([False] * 3 + [True] * 3)
    return material.model, batch.original, torch.cat([batch.retain, batch.forget]), forget


def both(worlds, family: str, method: str) -> tuple[float, float]:
    """Return both losses of a baseline as they run."""
    _, material, batch = worlds[family]
    with torch.no_grad():
        return tuple(each.item() for each in baseline_losses(material.model, seeded(batch), method))


def trained(worlds, family: str) -> tuple[float, float]:
    """Return both losses of maximum loss as they run."""
    _, material, batch = worlds[family]
    with torch.no_grad():
        return tuple(each.item() for each in max_losses(material.model, batch.retain, batch.forget))


def objectives(worlds, family: str, noise: Tensor) -> tuple[float, float]:
    """Return f2 and f1 of encoder outputs as they run."""
    _, material, batch = worlds[family]
    with torch.no_grad():
        losses = encoder_objectives(material.model, batch.original, batch.retain, batch.forget, noise)
    return tuple(each.item() for each in losses)


def values(losses: Losses, factor: float = 1.0) -> object:
    """Return both terms to compare with; 2 turns a mean over a batch of halves into the mean over one set."""
    return pytest.approx([factor * each.item() for each in losses], rel=ROUNDING)


# MAE against the formulas of the paper, written out with the hole in place of numbers of patches.


def test_mae_objectives_are_those_of_the_paper(worlds):
    _, material, batch = worlds["mae"]
    noise = material.model.sample_noise(3, seeded_generator(0, 9))
    with torch.no_grad():
        losses = mae_oracle.encoder_losses(material.model, batch.original, batch.retain, batch.forget, noise)
    assert objectives(worlds, "mae", noise) == values(losses)


def test_mae_random_encoder_is_that_of_the_paper(worlds):
    _, material, batch = worlds["mae"]
    model = material.model
    noise = mae_oracle.draw_features(model, 3, seeded_generator(0, 9))
    with torch.no_grad():
        losses = mae_oracle.random_encoder_losses(model, batch.original, batch.retain, batch.forget, noise)
    assert both(worlds, "mae", "random_encoder") == values(losses)


def test_mae_max_loss_is_that_of_the_paper(worlds):
    _, material, batch = worlds["mae"]
    with torch.no_grad():
        losses = mae_oracle.max_losses(material.model, batch.retain, batch.forget)
    assert trained(worlds, "mae") == values(losses)


def test_mae_noisy_label_is_that_of_the_paper(worlds):
    _, material, batch = worlds["mae"]
    noise = material.model.sample_noise(3, seeded_generator(0, 9))
    with torch.no_grad():
        losses = mae_oracle.noisy_label_losses(material.model, batch.retain, batch.forget, noise)
    assert both(worlds, "mae", "noisy_label") == values(losses)


def test_mae_retain_label_is_that_of_the_paper(worlds):
    _, material, batch = worlds["mae"]
    with torch.no_grad():
        losses = mae_oracle.retain_label_losses(material.model, batch.retain, batch.forget)
    assert both(worlds, "mae", "retain_label") == values(losses)


# Palette against the published losses of one mixed batch of halves: means over all of it, so half of ours.


def test_palette_objectives_are_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        losses = palette_oracle.encoder_losses(model, original, inputs, forget)
    own = model.noise_like(inputs[forget], [])
    assert objectives(worlds, "palette", own) == values(losses, 2.0)


def test_palette_retain_label_fork_is_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        clean = unpack(inputs).clean
        losses = palette_oracle.retain_label_losses(model, original, inputs, forget, clean)
    assert both(worlds, "palette", "retain_label_fork") == values(losses, 2.0)


def test_palette_noisy_label_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        losses = palette_oracle.noisy_label_losses(model, inputs, forget)
    assert both(worlds, "palette", "noisy_label") == values(losses, 2.0)


def test_palette_random_encoder_fork_is_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "palette")
    generator = seeded_generator(0, 9)
    with torch.no_grad():
        normal = [draw_like(each, generator) for each in original.feature_maps(inputs)]
        losses = palette_oracle.random_encoder_losses(model, original, inputs, forget, normal)
    assert both(worlds, "palette", "random_encoder_fork") == values(losses, 2.0)


def test_palette_max_loss_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "palette")
    with torch.no_grad():
        losses = palette_oracle.max_losses(model, inputs, forget)
    assert trained(worlds, "palette") == values(losses, 2.0)


# MAGE against the published losses of one mixed batch of halves.


def mage_token_losses(model, inputs: Tensor, truth: Tensor, forget: Tensor) -> Losses:
    masked = inputs[:, 0] == model.shape.mask_word
    with torch.no_grad():
        return mage_oracle.token_losses(model(inputs), truth, masked, forget)


def test_mage_objectives_are_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "mage")
    noise = model.sample_noise(3, seeded_generator(0, 9))
    with torch.no_grad():
        targets = original.encode(torch.cat([noise, noise]))
        losses = mage_oracle.squared_losses(model.encode(inputs), original.encode(inputs), targets, forget)
    assert objectives(worlds, "mage", noise) == values(losses)


def test_mage_max_loss_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "mage")
    retain, forget_term = mage_token_losses(model, inputs, inputs[:, 1], forget)
    assert trained(worlds, "mage") == values(Losses(retain, -forget_term), 2.0)


def test_mage_noisy_label_fork_is_the_published_loss(worlds):
    model, _, inputs, forget = mixed(worlds, "mage")
    truth = inputs[:, 1]
    gauss = torch.randn(truth.shape, generator=seeded_generator(0, 9))
    codes = mage_oracle.noisy_codes(truth, gauss, model.shape.tokenizer.codes)
    labels = torch.where(forget[:, None], codes, truth)
    assert not torch.equal(labels, truth)
    assert both(worlds, "mage", "noisy_label_fork") == values(
        mage_token_losses(model, inputs, labels, forget), 2.0
    )


def test_mage_retain_label_fork_is_the_published_loss(worlds):
    model, original, inputs, forget = mixed(worlds, "mage")
    with torch.no_grad():
        outputs, kept = model.all_logits(inputs), original.all_logits(inputs)
        wanted = mage_oracle.retain_logits(kept, forget)
        losses = mage_oracle.squared_losses(outputs, kept, wanted, forget)
    assert outputs.shape == (6, model.shape.tokens + 1, model.shape.mask_word + 1)
    assert both(worlds, "mage", "retain_label_fork") == values(losses)


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("random_encoder_fork", mage_oracle.ForgetRows.FORGET),
        ("random_encoder_fork_bug", mage_oracle.ForgetRows.FORK_BASELINES),
    ],
)
def test_mage_random_encoder_fork_is_the_published_loss(worlds, method, rows):
    model, original, inputs, forget = mixed(worlds, "mage")
    with torch.no_grad():
        outputs, kept = model.encode(inputs), original.encode(inputs)
        gauss = torch.randn(kept.shape, generator=seeded_generator(0, 9))
        wanted = mage_oracle.random_features(kept, gauss)
        losses = mage_oracle.squared_losses(outputs, kept, wanted, forget, rows)
    assert both(worlds, "mage", method) == values(losses)


@pytest.mark.parametrize("method", ["retain_label", "random_encoder"])
def test_mage_fork_bug_leaves_forget_images_out(worlds, method):
    _, _, batch = worlds["mage"]
    half = family_of("mage").baselines[f"{method}_fork_bug"].forget
    with torch.no_grad():
        assert torch.equal(half.make_targets(seeded(batch))[0], batch.retain)


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
        rows = mage_oracle.ForgetRows.FORK_BASELINES
        losses = mage_oracle.squared_losses(outputs, kept, wanted, forget, rows)
    assert both(worlds, "mage", "retain_label_fork_bug") == values(losses)


def test_mage_noisy_label_fork_wants_codes_that_exist(worlds):
    _, material, batch = worlds["mage"]
    half = family_of("mage").baselines["noisy_label_fork"].forget
    with torch.no_grad():
        inputs, codes = half.make_targets(seeded(batch))
    assert torch.equal(inputs, batch.forget)
    assert codes.dtype == torch.int64
    assert int(codes.min()) >= 0
    assert int(codes.max()) < material.model.shape.tokenizer.codes


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
        _, noise = half.make_targets(seeded(batch))
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
        assert torch.isfinite(half.loss(material.model, *half.make_targets(few)))


# Trials.


def solve(family: str, method: str, cache: Path, *overrides: str) -> tuple[Material, TrialRecord, list]:
    config, material = load_on_generated(
        family, cache, "objective={noise_images: 16, space: encoder}", *overrides
    )
    spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=0.25)
    result = run_trial(Trial(config, spec, material), Hooks(), "1")
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
        problem = build_problem(Trial(config, spec, material))
        assert problem.constraint(0) > 0
        assert problem.constraint(0) == problem.constraint(0)
        assert problem.constraint(0) != problem.constraint(1)


@pytest.mark.parametrize(("family", "method"), [("digits_mae", "noisy_label"), ("mae", "random_encoder")])
def test_a_resumed_trial_ends_as_an_unbroken_one(family, method, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "FLUSH_EVERY", 1)
    kept: dict[int, dict[str, bytes]] = {}
    spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method=method, seed=0, weight=0.25)
    config, material = load_on_generated(family, tmp_path / "a")
    whole = run_trial(Trial(config, spec, material), Hooks(save_resume=kept.__setitem__), "1")
    config, material = load_on_generated(family, tmp_path / "b")
    resumed = run_trial(Trial(config, spec, material), Hooks(load_resume=lambda: (2, kept[2])), "1")
    assert list(kept) == [2]
    assert resumed.files == whole.files


@pytest.mark.parametrize("method", TRAINED)
def test_baselines_run_in_bfloat16(method, tmp_path):
    _, record, _ = solve("digits_mae", method, tmp_path, "solver.precision=bfloat16")
    assert record.state is TrialState.DONE


def test_retain_only_moves_along_the_retain_gradient_alone(tmp_path):
    config, material = load_on_generated("digits_mae", tmp_path)
    spec = TrialSpec(trial_id="0" * 16, phase=Phase.BASELINE, method="retain_only", seed=0, weight=1.0)
    assert build_problem(Trial(config, spec, material)).rule.weight == 0.0


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
