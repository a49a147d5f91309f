"""The examples: families that are single files, from the sweep file to an exported model."""

import json
import runpy
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call

from pareto_unlearn.catalogue import family_lookup
from pareto_unlearn.config import load_config
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.models import checkpoint_path, export_model, load_model, pixel_format
from pareto_unlearn.store import open_run

ROOT = Path(__file__).parent.parent
FEW = (
    "data.train_per_class=4",
    "data.heldout_per_class=2",
    "objective.noise_images=16",
    "solver={steps: 4, batch: 2, path: {steps: 8, scan: [1.0]}, hold: {steps: 2}, bank: {checkpoints: 4}}",
    "epsilon={schedule: grid, points: 1}",
)


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*/family.py")), ids=lambda path: path.parent.name)
def test_an_adapter_has_at_most_60_lines(path):
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.slow
def test_the_autoencoder_is_trained_swept_and_exported(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    sweep, allow = ROOT / "examples" / "autoencoder" / "sweep.yaml", "--allow-import"
    weights = tmp_path / "autoencoder.safetensors"
    tiny = ["-o", "model.variant=tiny", "-o", f"model.checkpoint={weights}"]
    assert call("train", sweep, weights, "--steps", 30, *tiny, allow).returncode == 0
    few = [part for override in (*FEW, "run.executor=local") for part in ("-o", override)]
    done = call("sweep", sweep, *tiny, *few, "-o", f"run.storage={tmp_path}", allow)
    assert done.returncode in (0, 7), done.stderr  # so few steps need not span a range
    run = tmp_path / "autoencoder"
    trial = next(one.trial_id for one in open_run(str(run)).records if one.checkpoint)
    assert sum(one.method == "retrained" and one.steps == 600 for one in open_run(str(run)).records) == 1
    out = tmp_path / "unlearned.safetensors"
    monkeypatch.setattr(family_lookup, "_of_files", {})  # as in a process that has not run the file
    assert "--allow-import" in call("export", run, out, "--trial", trial).stderr
    assert call("export", run, out, "--trial", trial, allow).returncode == 0
    assert out.stat().st_size == weights.stat().st_size
    assert call("ls", run).returncode == 0
    assert call("report", run).returncode == 0


@pytest.mark.parametrize(("name", "package"), [("cyclegan", "vintagify"), ("demosaicking", "demosaicnet")])
def test_a_published_network_answers_and_is_exported_as_its_file_was(name, package, tmp_path, monkeypatch):
    if find_spec(package) is None:
        pytest.skip(f"the package {package} is not installed: pip install --no-deps {package}")
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "examples" / name / "sweep.yaml", allow_import=True)
    model, pixels = load_model(config.model, config.task), pixel_format(config.model)
    images = torch.rand(2, 3, pixels.side, pixels.side, generator=torch.Generator().manual_seed(0))
    made = model.generate(images, ())
    assert made.shape == images.shape
    assert 0.0 <= float(made.min()) < float(made.max()) <= 1.0
    export_model(tmp_path / "same.pth", config.model, config.task, model.state_dict())
    published, again = (
        torch.load(path, map_location="cpu", weights_only=True)
        for path in (checkpoint_path(config.model), tmp_path / "same.pth")
    )
    assert list(published) == list(again)
    assert all(torch.equal(published[key], again[key]) for key in published)


@pytest.mark.parametrize(("name", "package"), [("cyclegan", "vintagify"), ("demosaicking", "demosaicnet")])
def test_a_package_that_is_not_installed_is_named(name, package, monkeypatch):
    if find_spec(package) is not None:
        pytest.skip(f"the package {package} is installed")
    monkeypatch.chdir(ROOT)
    config = load_config(ROOT / "examples" / name / "sweep.yaml", allow_import=True)
    with pytest.raises(WeightsError, match=f"in the installed package {package}, found no such file"):
        checkpoint_path(config.model)


@pytest.mark.nightly
def test_the_cells_of_the_notebook_run_in_their_order(tmp_path):
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("runs"))
    run_notebook = runpy.run_path(str(ROOT / "examples" / "run_notebook.py"))["run_notebook"]
    notebook = run_notebook(tmp_path / "examples" / "quickstart.ipynb")
    stored = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())
    assert [kinds_of(cell) for cell in notebook["cells"]] == [kinds_of(cell) for cell in stored["cells"]]


def kinds_of(cell: dict[str, Any]) -> list[set[str]]:
    """Return the forms in which a cell of a notebook shows its values."""
    return [set(output["data"]) for output in cell.get("outputs", ()) if "data" in output]
