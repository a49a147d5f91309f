"""The recipes of the shipped weights: the same seed gives the same file."""

import hashlib
import re
from importlib.resources import files

import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors
from small_sweep import QUICKSTART

from pareto_unlearn.config import SweepConfig, TaskSection, load_config
from pareto_unlearn.data import load_digits, mark_heldout, seeded_generator
from pareto_unlearn.data.file_images import FileImages
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.metrics import DigitClassifier
from pareto_unlearn.models import initialise_model, load_model
from pareto_unlearn.pretraining import loop
from pareto_unlearn.pretraining.runs import TRAINERS, train_digits_mae, train_sweep_model


@pytest.fixture(params=sorted(TRAINERS))
def name(request) -> str:
    return request.param


def test_training_twice_gives_the_same_bytes(name):
    assert TRAINERS[name](steps=20) == TRAINERS[name](steps=20)


def test_another_seed_gives_other_initial_weights(name):
    assert TRAINERS[name](steps=0, seed=1) != TRAINERS[name](steps=0, seed=0)


def test_training_does_not_depend_on_the_state_of_the_process(name):
    expected = TRAINERS[name](steps=2)
    torch.rand(7)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert TRAINERS[name](steps=2) == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_training_reports_the_first_and_the_last_step(name):
    reports: list[tuple[int, float]] = []
    TRAINERS[name](steps=5, report=lambda step, loss: reports.append((step, loss)))
    assert [step for step, _ in reports] == [0, 4]
    assert reports[1][1] < reports[0][1]


def test_every_recipe_has_its_weights_in_the_package():
    shipped = {
        path.name for path in files("pareto_unlearn.assets").iterdir() if path.name.endswith("safetensors")
    }
    assert shipped == {f"{name}.safetensors" for name in TRAINERS}


def heldout_score(name: str, content: bytes) -> float:
    """Return the loss of a trained autoencoder, or the accuracy of a classifier, on held-out digits."""
    whole = load_digits()
    chosen = mark_heldout(whole)
    model = (
        initialise_model(TaskSection(), seeded_generator(0)) if name == "digits_mae" else DigitClassifier()
    )
    model.load_state_dict(load_safetensors(content))
    with torch.no_grad():
        if name == "digits_mae":
            return float(model.training_loss(model.prepare(whole.images[chosen], ())))
        found = model(whole.images[chosen]).argmax(dim=1)
    return float((found == whole.class_ids[chosen]).double().mean())


@pytest.mark.nightly
def test_the_full_recipe_makes_weights_as_good_as_the_shipped_ones(name):
    # A minute on one core. Only the kind of CPU and the torch that made the file give its very bits.
    shipped = (files("pareto_unlearn.assets") / f"{name}.safetensors").read_bytes()
    assert heldout_score(name, TRAINERS[name]()) == pytest.approx(heldout_score(name, shipped), rel=0.03)


# The model of a sweep


def small_sweep(family: str = "digits_mae", *overrides: str) -> SweepConfig:
    own = {
        "digits_mae": "model={family: digits_mae, checkpoint: builtin}",
        "mae": "model={family: mae, variant: tiny, checkpoint: nowhere.pth}",
    }
    dataset = "digits" if family == "digits_mae" else "generated"
    data = f"data={{dataset: {dataset}, forget_classes: 5, retain_classes: 5}}"
    few = () if family == "digits_mae" else ("data.train_per_class=4", "task={kind: center, patches: 6}")
    return load_config(QUICKSTART, [own.get(family, family), data, *few, *overrides])


def test_a_sweep_of_all_digits_trains_the_embedded_model(tmp_path):
    out = tmp_path / "model.safetensors"
    digest = train_sweep_model(small_sweep(), out, steps=3)
    assert out.read_bytes() == train_digits_mae(steps=3)
    assert digest == hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.mark.parametrize(("family", "name"), [("digits_mae", "a.safetensors"), ("mae", "a.pth")])
def test_a_trained_file_is_a_checkpoint_of_its_family_and_the_same_again(family, name, tmp_path):
    config = small_sweep(family)
    first = train_sweep_model(config, tmp_path / name, steps=2)
    assert train_sweep_model(config, tmp_path / f"other-{name}", steps=2) == first
    section = config.model.model_copy(update={"checkpoint": str(tmp_path / name)})
    assert load_model(section, config.task).family == family


def test_a_model_without_the_forget_set_sees_the_retain_images_alone(tmp_path):
    whole, left_out = (
        train_sweep_model(small_sweep(), tmp_path / f"{flag}.safetensors", steps=2, leave_out_forget=flag)
        for flag in (False, True)
    )
    retained = "data={dataset: digits, forget_classes: [9], retain_classes: [5, 6, 7, 8]}"
    with_others = "data={dataset: digits, forget_classes: [0], retain_classes: [5, 6, 7, 8]}"
    same = {
        train_sweep_model(
            small_sweep("digits_mae", data), tmp_path / "x.safetensors", steps=2, leave_out_forget=True
        )
        for data in (retained, with_others)
    }
    assert whole != left_out
    assert len(same) == 1


@pytest.mark.parametrize("family", ["digits_mae", "mae"])
def test_an_interrupted_training_ends_with_the_same_bytes(family, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    monkeypatch.setattr(loop, "REPORT_EVERY", 100)
    name, config = {"digits_mae": "a.safetensors", "mae": "a.pth"}[family], small_sweep(family)
    (tmp_path / "whole").mkdir()
    expected = train_sweep_model(config, tmp_path / "whole" / name, steps=5)
    out, steps = tmp_path / name, []

    def stop(step: int, _: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sweep_model(config, out, steps=5, report=stop)
    assert not out.exists()
    assert train_sweep_model(config, out, steps=5, report=lambda step, _: steps.append(step)) == expected
    assert steps == [4]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [name]


def test_a_state_is_not_taken_for_that_of_another_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 2)
    out = tmp_path / "a.safetensors"
    expected = train_sweep_model(small_sweep(), out, steps=4, seed=1)

    def stop(step: int, _: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_sweep_model(small_sweep(), out, steps=4, report=stop)
    assert train_sweep_model(small_sweep(), out, steps=4, seed=1) == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model={family: mage, checkpoint: a.pth}"], "found mage: it generates the codes of a tokeniser"),
        (["model={family: palette, checkpoint: a.pth}"], "found palette: its published training"),
        (["model={family: mae, checkpoint: a.pth}"], "--steps: expected a number of steps with family mae"),
    ],
)
def test_what_cannot_be_trained_says_why(overrides, message, tmp_path):
    config = small_sweep("digits_mae", *overrides, "data={dataset: generated, forget_classes: 5}")
    with pytest.raises(ConfigError, match=re.escape(message)):
        train_sweep_model(config, tmp_path / "a.pth")


def test_training_on_image_files_reads_the_next_batch_ahead_and_is_the_same_without(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 256, (20, 24, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    data = (
        f"data={{dataset: folder, root: {tmp_path / 'images'}, forget_classes: [cat], retain_classes: [dog]}}"
    )
    config = small_sweep("mae", data, "data.train_per_class=3", "data.heldout_per_class=2")
    asked = []
    own = FileImages.read_ahead

    def watched(self, rows):
        asked.append(len(rows))
        own(self, rows)

    monkeypatch.setattr(FileImages, "read_ahead", watched)
    ahead = train_sweep_model(config, tmp_path / "ahead.pth", steps=2)
    # Two sets, two steps; a batch holds every image about as often.
    assert [sum(asked[:2]), sum(asked[2:])] == [64, 64]
    monkeypatch.setattr(FileImages, "read_ahead", lambda *_: None)
    assert train_sweep_model(config, tmp_path / "plain.pth", steps=2) == ahead
