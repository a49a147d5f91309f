"""The way in: a folder of pictures becomes a sweep file, and what is not trained yet says how to train it."""

import re
from pathlib import Path

import pytest
import torch
from command_line import call
from image_folders import make_folder, noise, save

from pareto_unlearn.config import load_config
from pareto_unlearn.first_sweep import Kind
from pareto_unlearn.models import load_model


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with pictures of three people in it, 40 pixels high."""
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "my people", images=5, side=40)
    return tmp_path


def initialise(*arguments: object) -> Path:
    done = call("init", *arguments)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.mark.slow
def test_a_folder_of_pictures_is_validated_trained_and_valid(here):
    file = initialise("folder", "my people")
    assert file == Path("my-people.yaml")
    text = file.read_text()
    assert "15 pictures (3 of them held out) in 3 folders, 40 x 40 pixels, colour" in text
    assert "# found: c0 (5), c1 (5), c2 (5)" in text
    told = call("validate", file, "-o", "model.patch=8")
    assert told.returncode == 8
    assert "not trained yet" in told.stderr
    assert call("sweep", file, "-o", "model.patch=8").stderr.endswith(told.stderr)
    assert not Path("runs").exists()
    command = re.search(r"run `pareto-unlearn (.*?)`", told.stderr)
    assert command is not None
    assert command[1] == "train my-people.yaml -o model.patch=8"
    # The command as it is told, but for the steps, which would take minutes.
    trained = call(*command[1].split(), "--steps", 2)
    assert trained.stdout.startswith("my-people.pth sha256 ")
    assert call("validate", file, "-o", "model.patch=8").returncode == 0
    config = load_config(file, ["model.patch=8"])
    assert (
        config.model.side,
        sum(one.numel() for one in load_model(config.model, config.task).parameters()),
    ) == (32, pytest.approx(2.2e6, rel=0.1))
    again = call("train", file, "--steps", 2)
    assert (again.returncode, "expected no file at my-people.pth yet" in again.stderr) == (3, True)


def test_what_is_not_trained_yet_says_so_once_all_else_is_right(here):
    file = initialise("folder", "my people")
    broken = here / "my people" / "c2" / "002.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100])
    assert "002.png: expected an image" in call("validate", file).stderr
    broken.write_bytes(whole)
    told = call("validate", file, "-o", "seed=1")
    assert told.returncode == 8
    assert "run `pareto-unlearn train my-people.yaml -o seed=1`" in told.stderr


def test_one_person_of_several_or_single_pictures_can_be_chosen(here):
    assert load_config(initialise("folder", "my people", "--forget", "c1")).data.forget_classes == ("c1",)
    Path("one.txt").write_text("c0/000.png\nc1/001.png\n")
    named = load_config(initialise("folder", "my people", "--forget", "one.txt", "-o", "a/named.yaml"))
    assert named.data.forget == ("c0/000.png", "c1/001.png")
    done = call("init", "folder", "my people", "--forget", "c9", "-o", "other.yaml")
    assert (done.returncode, "the folders are c0, c1, c2" in done.stderr) == (3, True)


def test_larger_pictures_get_a_larger_model(here):
    for number in range(4):
        save(noise(200, 120), here / "large" / ("a" if number % 2 else "0001") / f"{number}.jpg")
        save(noise(100, 130).convert("L"), here / "large" / "b: #1" / f"{number}.jpg")
    file = initialise("mae", "large", "--forget", "b: #1")
    config = load_config(file)
    assert (config.model.side, config.model.patch, config.data.forget_classes) == (64, 8, ("b: #1",))
    assert "100 to 200 x 120 to 130 pixels, gray and colour" in file.read_text()


@pytest.mark.parametrize(
    ("kind", "path"), [("mae", ()), ("mage", ("my people",)), ("palette", ()), ("palette", ("my people",))]
)
def test_a_published_model_gets_a_file_that_can_be_tried_out(here, kind, path):
    file = initialise(kind, *path)
    config = load_config(file)
    assert config.model.family == kind
    if path:
        assert config.data.forget_classes == ("c0",)
    if kind != "palette":
        done = call("validate", file, "--smoke")
        assert done.returncode == 0, done.stderr


def test_the_digits_need_nothing(here):
    assert call("validate", initialise("digits")).returncode == 0


@pytest.mark.parametrize("words", [("digits",), ("folder", "my people")])
def test_the_control_that_a_comment_offers_is_valid(here, words):
    file = initialise(*words)
    file.write_text(file.read_text().replace("# controls: [retrained]", "controls: [retrained]"))
    assert load_config(file).controls[0].method == "retrained"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("folder",), 2, "needs the PATH"),
        (("digits", "my people"), 2, "knows neither PATH"),
        (("vae", "my people"), 2, "expected one of folder, mae, mage, palette, digits"),
        (("folder", "nowhere"), 3, "found none at nowhere"),
        (("folder", "my people/c0"), 3, "found 5 files and no folder"),
        (("folder", "one"), 3, "found only c0; name single pictures"),
        (("folder", "my people", "-o", "taken.yaml"), 2, "is there already"),
        (("folder", "few"), 3, "expected at least 3 pictures to forget"),
    ],
)
def test_what_cannot_become_a_sweep_says_what_to_do(here, arguments, code, message):
    make_folder(here / "one", classes=1)
    make_folder(here / "few", images=2)
    Path("taken.yaml").touch()
    done = call("init", *arguments)
    assert done.returncode == code, done.stderr
    assert message in " ".join(re.sub(r"[│╭╮╯╰─]", " ", done.stderr).split())


def test_every_kind_is_in_the_help():
    assert {*Kind} == {"folder", "mae", "mage", "palette", "digits"}
    for kind in Kind:
        assert kind in call("init", "--help").stdout


def test_a_training_without_a_usual_number_of_steps_is_refused_before_torch_is_asked(here, monkeypatch):
    file = initialise("mae")
    monkeypatch.setattr(torch, "Generator", None)
    done = call("train", file)
    assert done.returncode == 3
    assert "--steps: expected a number of steps with family mae" in done.stderr
    assert "model.variant: small has a usual number" in done.stderr


def test_a_training_makes_the_reference_where_the_sweep_looks_for_it(here):
    file = initialise("folder", "my people")
    target = "objective={forget_target: reference, reference: models/reference.pth}"
    done = call("train", file, "--leave-out-forget", "--steps", 1, "-o", target)
    assert done.stdout.startswith("models/reference.pth sha256 "), done.stderr
    assert Path("models/reference.pth").is_file()
