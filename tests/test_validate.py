"""What validate refuses before any work: sets without variance, and places that are none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call
from image_folders import make_folder
from PIL import Image
from tiny_families import build

from pareto_unlearn.models.checkpoint_files import write_checkpoint
from pareto_unlearn.models.mae_files import PUBLISHED

DIGITS = "data={dataset: digits, forget_classes: [0], retain_classes: [5], heldout_per_class: 1}"


def validate(*overrides: object):
    options = [part for one in overrides for part in ("-o", one)]
    return call("validate", Path(__file__).parent.parent / "sweeps" / "quickstart.yaml", *options)


def of_files(root: Path, checkpoint: Path) -> list[str]:
    return [
        f"model={{family: mae, variant: tiny, checkpoint: {checkpoint}}}",
        f"data={{dataset: folder, root: {root}, forget_classes: [c0], retain_classes: [c1, c2]}}",
        "task={kind: center, patches: 8}", "evaluate={metrics: [mse, psnr]}", "baselines=[]",
    ]  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "tiny.pth", build("mae").published_state(), PUBLISHED)
    return tmp_path / "tiny.pth"


def test_one_held_out_image_has_no_variance():
    done = validate(DIGITS)
    assert done.returncode == 3
    assert "expected at least two different held-out images to keep, found one image" in done.stderr


def test_images_that_are_all_the_same_have_none_either(tmp_path, checkpoint):
    root = make_folder(tmp_path / "images", images=10)
    for name in ("c1", "c2"):
        for file in (root / name).iterdir():
            Image.fromarray(np.full((32, 32, 3), 128, np.uint8)).save(file)
    done = validate(*of_files(root, checkpoint), "data.duplicates=allow")
    assert done.returncode == 3, done.stderr
    assert "expected at least two different" in done.stderr


def test_outputs_that_are_no_numbers_are_refused(tmp_path):
    root = make_folder(tmp_path / "images", images=10)
    state = build("mae").published_state()
    state["decoder_pred.weight"] = torch.full_like(state["decoder_pred.weight"], 1e38)
    write_checkpoint(tmp_path / "huge.pth", state, PUBLISHED)
    done = validate(*of_files(root, tmp_path / "huge.pth"))
    assert done.returncode == 3, done.stderr
    assert "expected finite outputs of the original" in done.stderr


def test_sets_of_different_images_are_valid(tmp_path, checkpoint):
    done = validate(*of_files(make_folder(tmp_path / "images", images=10), checkpoint))
    assert done.returncode == 0, done.stderr


def test_a_path_may_start_at_home(tmp_path, checkpoint, monkeypatch):
    make_folder(tmp_path / "images", images=10)
    monkeypatch.setenv("HOME", str(tmp_path))
    done = validate(*of_files(Path("~/images"), Path("~/tiny.pth")))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("https://dl.example.org/a.pth", "found https://dl.example.org/a.pth; download it"),
        ("images", "found the folder images; name the file in it"),
        ("nowhere.pth", "found nothing at nowhere.pth"),
    ],
)
def test_a_checkpoint_that_is_no_file_is_refused_with_what_it_is(tmp_path, place, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = make_folder(tmp_path / "images", images=10)
    done = validate(
        *of_files(root, tmp_path / "x.pth")[1:],
        f"model={{family: mae, variant: tiny, checkpoint: '{place}'}}",
    )
    assert (done.returncode, words in done.stderr) == (8, True), done.stderr
