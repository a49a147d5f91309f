"""f1 as the distance from what a model says that never saw the forget images."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_sweep import QUICKSTART
from tiny_families import FAMILIES, build, configure, load_on_generated, moved, section
from typer.testing import CliRunner

from pareto_unlearn.cli import app
from pareto_unlearn.config import config_hash, load_config, result_fields
from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models import load_model, save_model
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.records import Phase, TrialSpec, TrialState
from pareto_unlearn.trial import Hooks, Trial, check_reference, load_original, run_trial, weights_digest
from pareto_unlearn.trial.distances import StepInputs, forget_distances
from pareto_unlearn.trial.forward import step_features, step_targets
from pareto_unlearn.trial.measuring import measure_completeness, measure_retain_loss
from pareto_unlearn.trial.reference_model import load_reference
from pareto_unlearn.trial.targets import ComputedAnswers, ModelTarget, StoredAnswers

CASES = [(family, "hole") for family in FAMILIES] + [("mae", "published"), ("mage", "published")]
every_case = pytest.mark.parametrize(("family", "removal"), CASES, ids=["-".join(case) for case in CASES])
COMPUTED = [("digits_mae", "hole"), ("palette", "hole"), ("mae", "published"), ("mage", "published")]


def write_reference(folder: Path, family: str, *, seed: int = 1) -> Path:
    """Write the weights of the family's smallest model, all that is trained changed, as a file of ours."""
    model = build(family)
    trained = model.trainable("output", shared=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    path = folder / f"{family}-{seed}.safetensors"
    path.write_bytes(save_model(model))
    return path


def overrides(reference: Path, *others: str) -> list[str]:
    return ["objective.forget_target=reference", f"objective.reference={reference}", *others]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a function that makes config, material with a fresh model, and reference model of a family."""
    loaded = {}

    def fresh(family, removal="hole", distance="mse", *others):
        key = (family, removal, distance, *others)
        if key not in loaded:
            folder = tmp_path_factory.mktemp(family)
            path = write_reference(folder, family)
            chosen = overrides(path, f"task.removal={removal}", f"objective.distance={distance}", *others)
            loaded[key] = load_on_generated(family, folder / "cache", *chosen)
        config, material = loaded[key]
        return config, replace(material, model=copy.deepcopy(material.model)), load_reference(config)

    return fresh


@every_case
def test_the_original_has_e_of_one_and_the_reference_has_none(load, family, removal):
    _, material, reference = load(family, removal)
    assert isinstance(material.forget_target, ModelTarget)
    for split in ("train", "heldout"):
        assert measure_completeness(material, split).e == 1.0
        assert measure_retain_loss(material, split) == 0.0
    material.model.load_state_dict(reference.state_dict())
    for split in ("train", "heldout"):
        completeness = measure_completeness(material, split)
        assert (completeness.f1, completeness.e, completeness.worst_class) == (0.0, 0.0, 1.0)
        assert measure_retain_loss(material, split) > 0.0


@pytest.mark.parametrize("distance", ["mse", "l2"])
@every_case
def test_f1_is_the_distance_from_the_references_answer_on_the_same_input(load, family, removal, distance):
    _, material, other = load(family, removal, distance)
    moved(material)
    model, reference = (feature_function(one, "output") for one in (material.model, other))
    for split in ("train", "heldout"):
        inputs = material.inputs["forget", split]
        rows = torch.arange(len(inputs))
        with torch.no_grad():
            gaps = (model(inputs[rows]) - reference(inputs[rows])).double()
        expected = gaps.square().mean(dim=1) if distance == "mse" else gaps.norm(dim=1)
        torch.testing.assert_close(forget_distances(material, split).double(), expected, rtol=1e-4, atol=0.0)


@every_case
def test_the_references_answers_are_stored_where_inputs_stay_the_same(load, family, removal):
    _, material, reference = load(family, removal)
    answers = material.forget_target.answers
    if material.model.is_redrawn:
        assert isinstance(answers, ComputedAnswers)
        assert "reference_train" not in material.targets.arrays
        return
    assert set(answers.rows) == {"train", "heldout"}
    for split, rows in answers.rows.items():
        inputs = material.inputs["forget", split]
        with torch.no_grad():
            expected = feature_function(reference, "output")(inputs[torch.arange(len(inputs))])
        torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-6)


def test_stored_and_computed_answers_are_the_same_target(load):
    found = []
    for place in ("cached", "computed"):
        _, material, _ = load("digits_mae", "hole", "mse", f"objective.retain_target={place}")
        kind = StoredAnswers if place == "cached" else ComputedAnswers
        assert isinstance(material.forget_target.answers, kind)
        moved(material)
        found.append([forget_distances(material, split) for split in ("train", "heldout")])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(("family", "removal"), COMPUTED)
def test_a_step_compares_on_the_inputs_it_drew(load, family, removal):
    config, material, reference = load(family, removal, "mse", "objective.retain_target=computed")
    inputs, (target, _) = StepInputs(material, seed=0), step_targets(config, material)
    rows, draw = torch.tensor([0, 2]), torch.tensor([0, 0])
    material.model.load_state_dict(reference.state_dict())
    features = step_features(config, material)
    for step in (0, 5):
        batch = inputs.forget(rows, step)
        assert target.step_loss(features(batch.inputs), batch, draw).item() == 0.0
    parameter = material.model.trainable("output")[0]
    with torch.no_grad():
        parameter.add_(0.1)
    batch = inputs.forget(rows, 0)
    loss = target.step_loss(features(batch.inputs), batch, draw)
    loss.backward()
    assert loss.item() > 0.0
    assert float(parameter.grad.abs().sum()) > 0.0
    assert all(one.grad is None for one in material.forget_target.answers.model.parameters())


def test_a_trial_goes_towards_the_reference(tmp_path):
    path = write_reference(tmp_path, "digits_mae")
    config, material = load_on_generated(
        "digits_mae", tmp_path / "cache", *overrides(path, "solver.steps=30")
    )
    spec = TrialSpec(
        trial_id="1" * 16, phase=Phase.EPSILON, method="epsilon", seed=0,
        epsilon=0.3 * material.targets.scales.f1_range,
    )  # fmt: skip
    result = run_trial(Trial(config, spec, material), Hooks(), code_version="0")
    assert result.record.state in (TrialState.DONE, TrialState.INFEASIBLE)
    assert result.record.e < 0.7


def test_reference_answers_in_bfloat16_where_the_original_does(load):
    config, material, _ = load("digits_mae", "hole", "mse", "objective.retain_target=computed")
    narrow = config.model_copy(
        update={"objective": config.objective.model_copy(update={"original_precision": "bfloat16"})}
    )
    rows = torch.tensor([0, 1])
    batch = StepInputs(material, seed=0).forget(rows, 0)
    features = step_features(config, material)(batch.inputs)
    losses = [step_targets(one, material)[0].per_image(features, batch).mean() for one in (config, narrow)]
    assert losses[0] != losses[1]
    torch.testing.assert_close(losses[0], losses[1], rtol=0.05, atol=0.0)


# The sweep file.


def parse(*keys: str):
    return load_config(QUICKSTART, keys)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        (["objective.forget_target=reference"], "--leave-out-forget"),
        (["objective={forget_target: reference, reference: a.safetensors, space: encoder}"], "decoder"),
        (["objective={forget_target: reference, reference: random}"], "--smoke"),
        (
            [
                "model={family: mae, checkpoint: a.pth}",
                "objective={forget_target: reference, reference: builtin}",
                "evaluate={metrics: [mse]}",
            ],
            "digits_mae",
        ),
    ],
)
def test_what_makes_no_target_is_refused(keys, complaint):
    with pytest.raises(ConfigError, match=complaint):
        parse(*keys)


def test_the_references_content_counts_and_its_path_does_not(tmp_path):
    one, other = (write_reference(tmp_path, "digits_mae", seed=seed) for seed in (1, 2))
    moved_file = tmp_path / "moved.safetensors"
    moved_file.write_bytes(one.read_bytes())
    configs = {path: parse(*overrides(path)) for path in (one, other, moved_file)}
    assert len({str(result_fields(config)) for config in configs.values()}) == 1
    hashes = {path: config_hash(config, weights_digest(config)) for path, config in configs.items()}
    assert hashes[one] == hashes[moved_file] != hashes[other]
    noise = parse(f"objective.reference={one}")
    assert weights_digest(noise) == weights_digest(parse())
    assert config_hash(noise, weights_digest(noise)) not in hashes.values()


def check(*keys: str, family: str = "digits_mae") -> None:
    config = configure(family, *keys)
    check_reference(config, load_original(config))


def test_a_missing_reference_is_named_with_its_key(tmp_path):
    with pytest.raises(WeightsError, match=r"objective\.reference: .*leave-out-forget.*absent\.safetensors"):
        check(*overrides(tmp_path / "absent.safetensors"))


def test_the_originals_own_weights_are_no_reference(tmp_path):
    again = tmp_path / "again.safetensors"
    again.write_bytes(save_model(load_model(section("digits_mae"), configure("digits_mae").task)))
    for name in ("builtin", again):
        with pytest.raises(ConfigError, match="the original's own weights"):
            check(*overrides(name))


def write_mage_with_another(name: str, folder: Path) -> Path:
    """Write the reference with other values of one weight, made anew."""
    model = load_model(
        section("mage", checkpoint=str(write_reference(folder, "mage"))), configure("mage").task
    )
    with torch.no_grad():
        dict(model.named_parameters())[name].normal_(generator=torch.Generator().manual_seed(0))
    path = folder / f"{name}.safetensors"
    path.write_bytes(save_model(model))
    return path


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_a_random_reference_of_a_smoke_run_is_a_reference(family):
    config = configure(family, *overrides("random"))
    check_reference(config, load_original(config))


@pytest.mark.parametrize("name", ["cls_token", "patch_embed.proj.weight"])
def test_weights_that_nothing_uses_may_differ(name, tmp_path):
    check(*overrides(write_mage_with_another(name, tmp_path)), family="mage")


def test_a_reference_with_another_tokeniser_is_refused(tmp_path):
    (name,) = [
        name
        for name, _ in build("mage").vqgan.named_parameters()
        if name.startswith("encoder.conv_in.weight")
    ]
    path = write_mage_with_another(f"vqgan.{name}", tmp_path)
    with pytest.raises(WeightsError, match="its answers mean something else"):
        check(*overrides(path), family="mage")


def test_doctor_looks_for_the_reference(tmp_path):
    sweep = tmp_path / "sweep.yaml"
    text = QUICKSTART.read_text()
    sweep.write_text(
        text.replace("objective:", "objective:\n  forget_target: reference\n  reference: absent.safetensors")
    )
    done = CliRunner().invoke(app, ["doctor", str(sweep)])
    assert done.exit_code == 8
    assert "objective.reference absent.safetensors" in " ".join(done.output.split())
