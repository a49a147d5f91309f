"""The example of one person: its pictures are made, its sweep file fits them, and its picture is drawn."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from command_line import call
from PIL import Image

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "one_person"
SIZES = ((100, 512), (512, 256), (256, 128), (128, 64), (64, 3))
"""Channels of the published generator, layer by layer."""


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLE / name), run_name="__main__")


def write_weights(folder: Path) -> None:
    """Write a file of the form that the package holds, with random weights."""
    generator, state = torch.Generator().manual_seed(0), {}
    for number, (before, after) in enumerate(SIZES):
        state[f"main.{3 * number}.weight"] = torch.randn(before, after, 4, 4, generator=generator) / 50
        if after > 3:
            for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                state[f"main.{3 * number + 1}.{name}"] = torch.full((after,), value)
            state[f"main.{3 * number + 1}.num_batches_tracked"] = torch.tensor(1)
    folder.mkdir(parents=True)
    torch.save({"netG_state_dict": state}, folder / "weights.tar")


def test_its_pictures_fit_its_sweep_file(tmp_path, monkeypatch):
    write_weights(tmp_path / "gan" / "gan_face_generate")
    monkeypatch.chdir(tmp_path)
    people = tmp_path / "pictures" / "people"
    run_script(monkeypatch, "make_people.py", "gan", people, "--photos", 5, "--people", 4)
    files = sorted(people.rglob("*.png"))
    assert len(files) == 20
    with Image.open(files[0]) as picture:
        assert picture.size == (64, 64)
    told = call("validate", ROOT / "sweeps" / "one_person.yaml")
    assert told.returncode == 8, told.stderr
    assert "on 4 images to forget and 12 to keep" in told.stderr
    with pytest.raises(SystemExit):
        run_script(monkeypatch, "make_people.py", "nowhere", people)


def test_its_picture_shows_both_sets_before_and_after(tmp_path, monkeypatch, copy_small_sweep):
    copy_small_sweep(tmp_path / "runs")
    run = tmp_path / "runs" / "quickstart"
    out = tmp_path / "pictures" / "a.png"
    run_script(monkeypatch, "picture.py", run, out, "--forget", 2, "--retain", 2)
    with Image.open(out) as opened:
        picture = opened.convert("L")
    assert picture.size == (78 + 12 + 4 * 96, 18 + 4 * 96)
    rows = [picture.crop((78, 18 + 96 * row, 78 + 96, 114 + 96 * row)).tobytes() for row in range(4)]
    assert len(set(rows)) == 4
