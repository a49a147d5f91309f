"""f1, f2 and whole trials of every family: exact, the same in any batch, and the same when resumed."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny_families import COUNTS, FAMILIES, SPACES, load_on_generated, moved
from torch import Tensor
from trial_rows import epsilon_spec

from pareto_unlearn.objectives import compute_features, feature_function
from pareto_unlearn.objectives import features as features_module
from pareto_unlearn.objectives import targets as targets_module
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import TrialState
from pareto_unlearn.trial import Hooks, Trial, run_trial, running
from pareto_unlearn.trial.distances import StepInputs, forget_distances, retain_distances, take_batch
from pareto_unlearn.trial.forward import step_targets
from pareto_unlearn.trial.inputs import SETS, generators_of, make_noise, noise_inputs
from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss, reconstruct
from pareto_unlearn.trial.targets import ComputedAnswers, ImageBatch, PairedNoise, SharedNoise, StoredAnswers

REMOVALS = [(family, "hole") for family in FAMILIES] + [(family, "published") for family in ("mae", "mage")]
every_removal = pytest.mark.parametrize(
    ("family", "removal"), REMOVALS, ids=["-".join(each) for each in REMOVALS]
)
every_distance = pytest.mark.parametrize("distance", ["mse", "l2"])
every_objective = pytest.mark.parametrize(
    ("space", "distance"), [("output", "mse"), ("encoder", "mse"), ("encoder", "l2")]
)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that makes config and material, with a fresh model, of a family and overrides."""
    loaded = {}

    def fresh(family, *overrides, removal="hole", space="output", distance="mse", counts=COUNTS):
        chosen = (f"task.removal={removal}", f"objective.space={space}", f"objective.distance={distance}")
        key = (family, *chosen, *overrides, *counts.values())
        if key not in loaded:
            cache = tmp_path_factory.mktemp(family)
            loaded[key] = load_on_generated(family, cache, *chosen, *overrides, counts=counts)
        config, material = loaded[key]
        return config, replace(material, model=copy.deepcopy(material.model))

    return fresh


def distances(material) -> Tensor:
    """Return f1 and f2 of all images of both splits."""
    return torch.cat(
        [
            function(material, split)
            for function in (forget_distances, retain_distances)
            for split in ("train", "heldout")
        ]
    )


def close(one, other, tolerance=1e-6) -> bool:
    return bool(((one - other).abs() <= tolerance * other.abs().clamp(min=1e-12)).all())


@every_objective
@every_removal
def test_the_original_has_f2_of_nothing_and_e_of_one(load, family, removal, space, distance):
    config, material = load(family, removal=removal, space=space, distance=distance)
    is_stored = isinstance(material.retain_target.answers, StoredAnswers)
    assert is_stored == (config.objective.retain_target == "cached")
    kind = PairedNoise if config.objective.noise_target == "paired" else SharedNoise
    assert isinstance(material.forget_target, kind)
    for split in ("train", "heldout"):
        assert measure_retain_loss(material, split) == 0.0
        completeness = measure_completeness(material, split)
        assert completeness.e == 1.0
        # An image of hardly any range of its own counts in a tenth of the mean one's.
        assert 0.0 < float(completeness.own_e.min()) <= float(completeness.own_e.max()) == 1.0
        assert completeness.f1 > 0.0


@every_objective
@every_removal
def test_f1_and_f2_are_the_same_numbers_at_every_call_and_in_any_batch(
    load, family, removal, space, distance
):
    _, material = load(family, removal=removal, space=space, distance=distance)
    moved(material)
    found = distances(material)
    assert found.min() > 0.0
    assert torch.equal(found, distances(material))
    for batch in (1, 2):
        material.model.evaluation_batch = batch
        other = distances(material)
        assert float(other.mean()) == pytest.approx(float(found.mean()), rel=1e-6)
        # Of one image: convolutions round otherwise in other batches, and f2 is a small difference of
        # features.
        assert close(other, found, 1e-5)


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage"])
def test_f2_of_the_original_is_nothing_beside_it_too(load, family):
    _, material = load(family, "objective.retain_target=computed")
    assert isinstance(material.retain_target.answers, ComputedAnswers)
    assert "retain_train" not in material.targets.arrays
    assert measure_retain_loss(material, "train") == 0.0
    moved(material)
    _, cached = load(family)
    moved(cached)
    assert close(retain_distances(material, "train"), retain_distances(cached, "train"))


def by_hand(config, material, split: str) -> Tensor:
    """Return paired f1 of every forget image, one image at a time, from nothing but the Protocol."""
    features = feature_function(material.model, config.objective.space)
    original = feature_function(material.original(), config.objective.space)
    place, images = SETS["forget", split], getattr(material.split, f"forget_{split}").images
    found = []
    with torch.no_grad():
        for row in range(len(images)):
            drawn = material.model.prepare(
                images[row : row + 1], generators_of(config.seed, Stream.INPUTS, [row], place)
            )
            noise = material.model.noise_like(drawn, generators_of(config.seed, Stream.NOISE, [row], place))
            gap = features(drawn) - original(noise)
            found.append(gap.norm() if config.objective.distance == "l2" else gap.square().mean())
    return torch.stack(found)


@every_distance
@pytest.mark.parametrize(("family", "removal"), [("palette", "hole"), *REMOVALS[-2:]])
def test_paired_f1_is_the_distance_from_the_originals_answer_to_the_images_own_noise(
    load, family, removal, distance
):
    config, material = load(family, removal=removal, distance=distance)
    moved(material)
    for split in ("train", "heldout"):
        assert close(forget_distances(material, split), by_hand(config, material, split), 1e-5)


@pytest.mark.parametrize("removal", ["hole", "published"])
@pytest.mark.parametrize("space", SPACES)
def test_the_floor_of_palette_is_nothing(load, removal, space):
    _, material = load("palette", removal=removal, space=space)
    assert material.targets.scales.f1_floor == 0.0
    assert material.targets.scales.f1_floor_heldout == 0.0


@pytest.mark.parametrize(
    ("family", "space", "distance"),
    [
        ("mae", "output", "mse"),
        ("mae", "encoder", "mse"),
        ("mae", "output", "l2"),
        ("mage", "encoder", "mse"),
    ],
)
def test_paired_floors_are_the_spread_of_the_noise_targets(load, family, space, distance):
    counts = {"forget_train": 16, "forget_heldout": 1, "retain_train": 2, "retain_heldout": 1}
    _, material = load(family, removal="published", space=space, distance=distance, counts=counts)
    features, inputs = feature_function(material.original(), space), material.inputs["forget", "train"]
    with torch.no_grad():
        draws = torch.stack(
            [
                features(noise_inputs(material.model, inputs, "train", 0, 1000 + draw)[torch.arange(16)])
                for draw in range(8)
            ]
        )
    centred = draws - draws.mean(dim=0)
    factor = 8 / 7  # the mean of the draws themselves is nearer to them than the true one
    wanted = (
        centred.square().mean() * factor if distance == "mse" else centred.norm(dim=2).mean() * factor**0.5
    )
    # One pair of draws for each of 16 images: a few percent; for norms, the median is nearly the mean.
    assert material.targets.scales.f1_floor == pytest.approx(float(wanted), rel=0.1)
    assert material.targets.scales.f1_floor < material.targets.scales.f1_original


# Inputs


def test_codes_of_mage_are_made_once_a_run(load):
    _, material = load("mage")
    assert all(isinstance(rows, Tensor) for rows in material.inputs.values())
    for key, images in [(("forget", "train"), material.split.forget_train)]:
        wanted = material.model.prepare(images.images, generators_of(0, Stream.INPUTS, range(5), SETS[key]))
        assert torch.equal(material.inputs[key], wanted)


def test_stored_codes_are_read_instead_of_made_again(tmp_path, monkeypatch):
    _, first = load_on_generated("mage", tmp_path, "task.removal=published")
    calls, prepare = [], type(first.model).prepare
    monkeypatch.setattr(type(first.model), "prepare", lambda *given: calls.append(1) or prepare(*given))
    _, second = load_on_generated("mage", tmp_path, "task.removal=published")
    assert not calls
    for key, rows in first.inputs.items():
        assert torch.equal(rows, second.inputs[key])


def noise_of(material, batch: ImageBatch) -> Tensor:
    """Return the inputs of the images' own noise targets."""
    return make_noise(material.model, batch.inputs, batch.draw_generators(), None)


@pytest.mark.parametrize(("family", "removal"), [("palette", "hole"), *REMOVALS[-2:]])
def test_inputs_of_a_step_are_a_function_of_seed_and_step(load, family, removal):
    _, material = load(family, removal=removal)
    rows = torch.tensor([3, 0])
    one, same, other = (StepInputs(material, seed) for seed in (0, 0, 1))
    first = one.forget(rows, 5)
    for again, equal in [
        (same.forget(rows, 5), True),
        (one.forget(rows, 6), False),
        (other.forget(rows, 5), False),
    ]:
        assert torch.equal(first.inputs, again.inputs) == equal
        assert torch.equal(noise_of(material, first), noise_of(material, again)) == equal
    assert torch.equal(one.retain(rows, 5).inputs, same.retain(rows, 5).inputs)
    assert not torch.equal(one.retain(rows, 5).inputs, first.inputs)


def test_a_step_of_a_fixed_hole_takes_the_stored_inputs(load):
    _, material = load("mage")
    rows = torch.tensor([3, 0])
    images = StepInputs(material, 0).forget(rows, 5).inputs
    assert torch.equal(images, material.inputs["forget", "train"][rows])


@pytest.mark.parametrize("family", FAMILIES)
def test_large_features_spill_to_a_file_with_the_same_values(load, family, tmp_path, monkeypatch):
    _, material = load(family)
    features, inputs = feature_function(material.model, "encoder"), material.inputs["retain", "train"]
    kept = compute_features(features, inputs, batch=3)
    monkeypatch.setattr(features_module, "SPILL_BYTES", 1)
    made = []
    monkeypatch.setattr(
        features_module.np,
        "memmap",
        lambda *given, real=features_module.np.memmap, **named: made.append(1) or real(*given, **named),
    )
    spilled = compute_features(features, inputs, batch=3, spill=tmp_path)
    assert made
    assert torch.equal(kept, spilled)
    assert not any(path.is_file() for path in tmp_path.iterdir())


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage"])
def test_targets_do_not_depend_on_where_features_are_kept(load, family, monkeypatch):
    _, kept = load(family, space="encoder")
    monkeypatch.setattr(features_module, "SPILL_BYTES", 1)
    monkeypatch.setattr(targets_module, "CHUNK_VALUES", 10_000)
    _, spilled = load(family, space="encoder")
    assert torch.equal(kept.targets.arrays["retain_train"], spilled.targets.arrays["retain_train"])
    assert torch.equal(kept.targets.forget_f1("train"), spilled.targets.forget_f1("train"))
    assert spilled.targets.scales.variance_retain == pytest.approx(
        kept.targets.scales.variance_retain, rel=1e-9
    )


# What is measured


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_depend_on_the_image_alone(load, family):
    _, material = load(family)
    whole = reconstruct(material, "retain", torch.arange(4))
    material.model.evaluation_batch = 1
    some = reconstruct(material, "retain", torch.tensor([3, 1]))
    torch.testing.assert_close(some, whole[[3, 1]], rtol=0, atol=1e-3 if family == "palette" else 1e-5)


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_a_narrow_original_changes_what_steps_compare_with_and_nothing_that_is_measured(load, family):
    removal = "hole" if family == "palette" else "published"
    config, material = load(family, "objective.original_precision=bfloat16", removal=removal)
    batch = take_batch(material, ("retain", "train"), torch.arange(3))
    features = feature_function(material.model, "output")(batch.inputs).detach()
    _, target = step_targets(config, material)
    narrow = target.per_image(features, batch)
    assert narrow.dtype == torch.float32
    # 8 bits: an error of a few percent of the spread at most, squared.
    assert 0.0 < float(narrow.max()) < 0.04**2 * float(features.var())
    assert measure_retain_loss(material, "train") == 0.0


# Trials

FEW = {"forget_train": 4, "forget_heldout": 2, "retain_train": 4, "retain_heldout": 2}
"""Images enough for two batches of two."""
LEVEL = 0.02
"""The e that a trial has to reach."""


SOLVES = [(family, "hole", space) for family in FAMILIES for space in SPACES]
SOLVES += [(family, "published", "encoder") for family in FAMILIES if family != "digits_mae"]
QUICK_SOLVES = {"digits_mae": SPACES, "mae": SPACES, "mage": ("output",), "palette": ("encoder",)}
"""The spaces of every family that are tried in every run; the others take more than three seconds each."""


def is_quick(family: str, removal: str, space: str) -> bool:
    return space in QUICK_SOLVES[family] and (removal == "hole" or family == "mae")


@pytest.mark.parametrize(
    ("family", "removal", "space"),
    [one if is_quick(*one) else pytest.param(*one, marks=pytest.mark.slow) for one in SOLVES],
)
def test_a_short_solve_is_finite_and_the_same_when_resumed(load, monkeypatch, family, removal, space):
    monkeypatch.setattr(running, "FLUSH_EVERY", 1)
    kept: dict[int, dict[str, bytes]] = {}
    config, material = load(family, removal=removal, space=space, counts=FEW)
    before = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
    spec = epsilon_spec(material.targets.scales, LEVEL)
    trained = {id(one) for one in material.trainable(space)}
    whole = run_trial(Trial(config, spec, material), Hooks(save_resume=kept.__setitem__), "1")
    record = whole.record
    assert record.state in (TrialState.DONE, TrialState.INFEASIBLE), record.reason
    assert record.steps == 3
    assert record.skipped_steps == 0
    for name in ("f1", "f2", "f1_heldout", "f2_heldout", "e", "residual_norm_f1", "completeness_worst_5pct"):
        assert torch.isfinite(torch.tensor(getattr(record, name))), name
    assert record.f2 > 0.0
    own = {name: id(parameter) for name, parameter in material.model.named_parameters()}
    for name, tensor in material.model.state_dict().items():
        assert torch.equal(tensor, before[name]) or own.get(name) in trained, name
    assert list(kept) == [2]
    config, material = load(family, removal=removal, space=space, counts=FEW)
    resumed = run_trial(Trial(config, spec, material), Hooks(load_resume=lambda: (2, kept[2])), "1")
    assert resumed.files == whole.files
    times = {"seconds": 0.0, "images_per_second": 0.0, "peak_memory_bytes": 0}
    assert replace(resumed.record, **times) == replace(record, **times)
    assert resumed.metrics == whole.metrics
    assert resumed.samples == whole.samples


@pytest.mark.parametrize("family", ["mage", "palette"])
def test_shared_parameters_are_trained_where_asked_for(load, family):
    config, material = load(family, "objective.shared_parameters=trained", space="encoder", counts=FEW)
    frozen = material.model.trainable("encoder")
    assert len(material.trainable("encoder")) > len(frozen)
    before = {name: tensor.clone() for name, tensor in material.model.state_dict().items()}
    run_trial(Trial(config, epsilon_spec(material.targets.scales, LEVEL), material), Hooks(), "1")
    changed = {
        name for name, tensor in material.model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    shared = "token_emb.word_embeddings" if family == "mage" else "denoise_fn.cond_embed"
    assert any(name.startswith(shared) for name in changed)


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
@pytest.mark.parametrize("completeness", ["per_class", "per_image"])
def test_every_constraint_works_on_every_family(load, family, completeness):
    removal = "hole" if family == "palette" else "published"
    config, material = load(
        family, f"solver.completeness={completeness}", removal=removal, space="encoder", counts=FEW
    )
    record = run_trial(
        Trial(config, epsilon_spec(material.targets.scales, LEVEL), material), Hooks(), "1"
    ).record
    assert record.state in (TrialState.DONE, TrialState.INFEASIBLE), record.reason
    assert record.f2 > 0.0


@pytest.mark.parametrize("family", ["mage", pytest.param("palette", marks=pytest.mark.slow)])
def test_a_channels_last_trial_saves_what_it_trained(load, family):
    config, material = load(family, "model.channels_last=true", counts=FEW)
    result = run_trial(Trial(config, epsilon_spec(material.targets.scales, LEVEL), material), Hooks(), "1")
    assert "model.safetensors" in result.files
    other, plain = load(family, counts=FEW)
    wanted = run_trial(Trial(other, epsilon_spec(plain.targets.scales, LEVEL), plain), Hooks(), "1")
    assert result.record.f1 == pytest.approx(wanted.record.f1, rel=1e-3)
    assert result.record.f2 == pytest.approx(wanted.record.f2, rel=1e-2)


def test_a_step_of_palette_draws_its_noise_once(tmp_path, monkeypatch):
    _, material = load_on_generated("palette", tmp_path)
    rows, model = torch.tensor([2, 0]), material.model
    draws = generators_of(7, Stream.STEP_INPUTS, [0, 1], 0, 3)
    wanted = model.redraw(material.inputs["forget", "train"][rows], draws)
    drawn, own = [], type(model)._draw_each
    monkeypatch.setattr(type(model), "_draw_each", lambda self, *rest: drawn.append(self) or own(self, *rest))
    assert torch.equal(StepInputs(material, 7).forget(rows, 3).inputs, wanted)
    assert len(drawn) == 1
