"""The shipped sweeps on folders like the real data sets: names, lists, JPEG files; tiny models, few steps."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call
from PIL import Image
from tiny_families import PATCHES, build

from pareto_unlearn.config import TaskSection
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase, Role
from pareto_unlearn.store import StoredRun, open_run

SWEEPS = Path(__file__).parent.parent / "sweeps"
TRAIN, HELDOUT = 6, 3
WNIDS = ("n01440764", "n01443537", "n02437616", "n04285008", "n07697313", "n12267677")
PLACES = ("/a/airfield", "/a/apartment_building/outdoor", "/b/badlands", "/z/zen_garden")
FEW_STEPS = (
    "solver.steps=4", "solver.path={steps: 6, learning_rate: 0.002, scan: []}", "solver.hold.steps=3",
    "solver.batch=4", "solver.bank.checkpoints=3", "epsilon.points=1", "baselines=[]",
    "objective.noise_images=16", "run={executor: local, gpus_per_trial: 0, cpus_per_trial: 1}",
    "evaluate.max_samples=2", f"data.train_per_class={TRAIN}", f"data.heldout_per_class={HELDOUT}",
)  # fmt: skip


def save(path: Path, seed: int, size: tuple[int, int] = (60, 45)) -> None:
    """Write a JPEG of a colour field as large as a thumbnail."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def make_imagenet(root: Path) -> Path:
    """Write train/<wnid>/<wnid>_<number>.JPEG and val/<wnid>/ILSVRC2012_val_<number>.JPEG."""
    for place, wnid in enumerate(WNIDS):
        for number in range(TRAIN):
            save(root / "train" / wnid / f"{wnid}_{100 - number}.JPEG", 1000 * place + number)
        for number in range(HELDOUT):
            name = f"ILSVRC2012_val_{place * HELDOUT + number + 1:08d}.JPEG"
            save(root / "val" / wnid / name, 1000 * place + 500 + number)
    return root


def make_places(root: Path) -> Path:
    """Write data_256/<letter>/<class>/<n>.jpg, val_256/Places365_val_<n>.jpg and the three lists."""
    train, heldout = [], []
    for label, name in enumerate(PLACES):
        for number in range(TRAIN):
            train.append(f"{name}/{number + 1:08d}.jpg {label}")
            save(root / f"data_256{name}" / f"{number + 1:08d}.jpg", 1000 * label + number, (48, 48))
        for number in range(HELDOUT):
            heldout.append(f"Places365_val_{label * HELDOUT + number + 1:08d}.jpg {label}")
            save(root / "val_256" / heldout[-1].split()[0], 1000 * label + 500 + number, (48, 48))
    categories = [f"{name} {label}" for label, name in enumerate(PLACES)]
    lists = {"categories_places365": categories, "places365_train_standard": train, "places365_val": heldout}
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def write_checkpoint(path: Path, family: str) -> Path:
    """Write a tiny model with random weights as its family is published."""
    model = build(family, TaskSection(patches=PATCHES[family]))
    torch.save({"model": model.published_state()} if family == "mae" else model.state_dict(), path)
    return path


def overrides(*keys: str) -> list[str]:
    return [part for key in keys for part in ("-o", key)]


def sweep(name: str, tmp_path: Path, family: str, root: Path, *keys: str) -> StoredRun:
    """Run a shipped sweep with the local executor and return what it left."""
    checkpoint = write_checkpoint(tmp_path / "tiny.pth", family)
    own = (
        "model.variant=tiny",
        f"model.checkpoint={checkpoint}",
        f"data.root={root}",
        f"run.storage={tmp_path}",
    )
    done = call("sweep", SWEEPS / name, *overrides(*FEW_STEPS, *own, *keys))
    assert done.returncode in (0, 4), done.stderr
    return open_run(str(tmp_path / Path(name).stem.replace("_", "-")))


def manifest_of(run: StoredRun) -> list[dict[str, str]]:
    return list(csv.DictReader(Path(run.path, "manifest.csv").read_text().splitlines()))


def check_solved(run: StoredRun) -> None:
    assert {(record.phase, record.role) for record in run.records} == {
        (Phase.ORIGINAL, None), (Phase.BOUNDARY, Role.HIGHEST), (Phase.BOUNDARY, Role.LOWEST),
        (Phase.EPSILON, None),
    }  # fmt: skip
    assert all(record.f1 > 0 for record in run.records)


def test_imagenet_from_folders_lists_and_a_proxy_to_a_run(tmp_path):
    root = make_imagenet(tmp_path / "imagenet")
    numbers = {WNIDS[1]: 0, WNIDS[0]: 1, WNIDS[2]: 100, WNIDS[5]: 101}
    (tmp_path / "img_r_folder_dict.yaml").write_text(json.dumps(numbers))
    run = sweep(
        "imagenet_mae.yaml", tmp_path, "mae", root, "data.forget_classes=null", "data.retain_classes=null",
        f"data.class_list={tmp_path / 'img_r_folder_dict.yaml'}", "data.class_rule=imagenet_r",
        "data.proxy_retain=true",
    )  # fmt: skip
    check_solved(run)
    assert (run.info.classes_forget, run.info.classes_retain) == (WNIDS[:2], (WNIDS[2], WNIDS[5]))
    rows = manifest_of(run)
    classes = {row["class_name"] for row in rows if row["set"] == "proxy"}
    assert classes == {WNIDS[3], WNIDS[4]}
    assert len(rows) == 2 * (TRAIN + HELDOUT) + 2 * TRAIN + 2 * HELDOUT
    assert "trained on other classes" in run.info.objective


@pytest.mark.slow
def test_places_from_its_archives_and_lists_to_a_run(tmp_path):
    root = make_places(tmp_path / "places")
    run = sweep(
        "places_diffusion.yaml", tmp_path, "palette", root, "data.forget_classes=1", "data.retain_classes=2",
        "solver.precision=float32", "objective.original_precision=float32", "evaluate.sampling.steps=2",
        "solver.path={steps: 16, learning_rate: 0.0003, scan: []}",
    )  # fmt: skip
    check_solved(run)
    chosen = {(row["set"], row["class_name"]) for row in manifest_of(run)}
    assert len(chosen) == 3
    assert {name for _, name in chosen} < set(PLACES)


# Data that cannot be used ends before anything starts, with what was expected where


def remove_validation_folder(root: Path) -> None:
    (root / "val" / WNIDS[0]).rename(root / "val" / "elsewhere")


def damage_image(root: Path) -> None:
    path = root / "train" / WNIDS[0] / f"{WNIDS[0]}_100.JPEG"
    path.write_bytes(path.read_bytes()[:200])


def copy_image(root: Path) -> None:
    source = root / "train" / WNIDS[0] / f"{WNIDS[0]}_100.JPEG"
    (root / "val" / WNIDS[0] / "ILSVRC2012_val_00000001.JPEG").write_bytes(source.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            remove_validation_folder,
            ["data.root: expected a folder of images", "<root>/val/<wnid>/<image>.JPEG"],
        ),
        (damage_image, [f"{WNIDS[0]}_100.JPEG: expected an image that the model can read"]),
        (copy_image, [f"{WNIDS[0]}_100.JPEG (forget train) = val/{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG"]),
    ],
)
def test_images_that_cannot_be_used_end_with_exit_code_3(tmp_path, spoil, expected):
    root = make_imagenet(tmp_path / "imagenet")
    spoil(root)
    keys = (
        "model.variant=tiny", f"model.checkpoint={write_checkpoint(tmp_path / 'tiny.pth', 'mae')}",
        f"data.root={root}", f"data.forget_classes=[{WNIDS[0]}]", f"data.retain_classes=[{WNIDS[1]}]",
        f"run.storage={tmp_path / 'runs'}",
    )  # fmt: skip
    done = call("sweep", SWEEPS / "imagenet_mae.yaml", *overrides(*FEW_STEPS, *keys))
    assert done.returncode == ConfigError.exit_code == 3
    said = " ".join(done.stderr.split())
    assert all(" ".join(part.split()) in said for part in expected), said
    assert not (tmp_path / "runs").exists()
