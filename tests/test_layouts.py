"""Data sets as they lie on people's disks: published layouts, links, and names in two spellings."""

import unicodedata
from pathlib import Path

import pytest
from image_folders import EXACT, SIDE, ids_of, make_folder, noise, refused, save, section
from PIL import Image, features

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import load_split
from pareto_unlearn.data.layouts import find_folder, find_imagenet, find_places365
from pareto_unlearn.data.reading import read_image

WNIDS = ("n01443537", "n02437616", "n03444034")


def of_wnids(root: Path, dataset: str = "imagenet") -> DataSection:
    return section(root, dataset, forget_classes=[WNIDS[1]], retain_classes=[WNIDS[0]])


def draw(path: Path, seed: int) -> None:
    save(noise(SIDE, SIDE, seed), path, format="PNG")  # exact to the pixel under any name


def make_tiny(root: Path) -> Path:
    """Write Tiny ImageNet: 64-pixel JPEGs in folders ``images``, and one list of validation images."""
    lines = []
    for label, wnid in enumerate(WNIDS):
        for number in range(3):
            draw(root / f"train/{wnid}/images/{wnid}_{number}.JPEG", label * 10 + number)
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t7\t7\n")
        draw(root / f"val/images/val_{label}.JPEG", 100 + label)
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t32\t44\t62")
    draw(root / "test/images/test_0.JPEG", 99)
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    (root / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")
    return root


def make_kaggle(root: Path) -> Path:
    """Write ImageNet as Kaggle ships it: flat validation images, and a CSV of classes and boxes."""
    images, lines = root / "ILSVRC/Data/CLS-LOC", ["ImageId,PredictionString"]
    for label, wnid in enumerate(WNIDS):
        for number in range(2):
            draw(images / f"train/{wnid}/{wnid}_{number}.JPEG", label * 10 + number)
        draw(images / f"val/ILSVRC2012_val_0000000{label}.JPEG", 100 + label)
        lines.append(f"ILSVRC2012_val_0000000{label},{wnid} 85 1 499 272 {wnid} 1 2 3 4 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("dataset", ["imagenet", "folder"])
def test_tiny_imagenet_is_known_by_its_list(tmp_path, dataset):
    ids = ids_of(load_split(of_wnids(make_tiny(tmp_path), dataset), 0, EXACT))
    assert ids["forget_train"] == tuple(f"train/{WNIDS[1]}/images/{WNIDS[1]}_{n}.JPEG" for n in range(3))
    assert ids["forget_heldout"] == ("val/images/val_1.JPEG",)
    assert ids["retain_heldout"] == ("val/images/val_0.JPEG",)
    assert "Tiny ImageNet" in (find_imagenet if dataset == "imagenet" else find_folder)(tmp_path).layout


def test_imagenet_as_kaggle_ships_it(tmp_path):
    ids = ids_of(load_split(of_wnids(make_kaggle(tmp_path)), 0, EXACT))
    images = "ILSVRC/Data/CLS-LOC"
    assert ids["forget_train"] == tuple(f"{images}/train/{WNIDS[1]}/{WNIDS[1]}_{n}.JPEG" for n in range(2))
    assert ids["forget_heldout"] == (f"{images}/val/ILSVRC2012_val_00000001.JPEG",)
    assert "as Kaggle ships it" in find_imagenet(tmp_path).layout


def test_a_flat_folder_of_validation_images_needs_its_list(tmp_path):
    root = make_kaggle(tmp_path)
    (root / "LOC_val_solution.csv").rename(root / "labels.csv")
    assert "LOC_val_solution.csv must lie in <root>" in refused(of_wnids(root))


@pytest.mark.parametrize("line", ["x.JPEG", "../x.JPEG\tn01443537", "\tn01443537"])
def test_a_list_of_tiny_imagenet_unlike_the_published_one_is_refused(tmp_path, line):
    path = make_tiny(tmp_path) / "val/val_annotations.txt"
    path.write_text(f"{line}\n{path.read_text()}")
    assert refused(of_wnids(tmp_path)).startswith(f"{path}: expected the name and the wnid of an image")


CATEGORIES = {"/a/airfield": 0, "/a/apartment_building/outdoor": 8}


def of_places(root: Path) -> DataSection:
    forget, retain = reversed(CATEGORIES)
    return section(root, "places365", forget_classes=[forget], retain_classes=[retain])


def test_large_images_of_places365(tmp_path):
    val, train = [], []
    for name, label in CATEGORIES.items():
        draw(tmp_path / f"data_large{name}/00000001.jpg", label)
        draw(tmp_path / f"val_large/Places365_val_0000000{label}.jpg", 100 + label)
        train.append(f"{name}/00000001.jpg {label}")
        val.append(f"Places365_val_0000000{label}.jpg {label}")
    lists = {"categories_places365": [f"{name} {label}" for name, label in CATEGORIES.items()]}
    lists |= {"places365_train_standard": train, "places365_val": val}
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    ids = ids_of(load_split(of_places(tmp_path), 0, EXACT))
    assert ids["forget_train"] == ("data_large/a/apartment_building/outdoor/00000001.jpg",)
    assert ids["forget_heldout"] == ("val_large/Places365_val_00000008.jpg",)
    assert find_places365(tmp_path).layout == "Places365, large images"


@pytest.mark.parametrize("inside", ["", "places365_standard/"])
@pytest.mark.parametrize("is_flat", [False, True])
def test_the_easy_format_of_places365_has_the_published_names_of_classes(tmp_path, inside, is_flat):
    val = []
    for name, label in CATEGORIES.items():
        folder = name[3:].replace("/", "-")
        draw(tmp_path / f"{inside}train/{folder}/00000001.jpg", label)
        image = f"Places365_val_0000000{label}.jpg"
        draw(tmp_path / f"{inside}val" / ("" if is_flat else folder) / image, 100 + label)
        val.append(f"{image} {label}")
    if is_flat:
        (tmp_path / "places365_val.txt").write_text("\n".join(val))
        lines = [f"{name} {label}" for name, label in CATEGORIES.items()]
        (tmp_path / "categories_places365.txt").write_text("\n".join(lines))
    assert find_places365(tmp_path).class_names == tuple(CATEGORIES)
    ids = ids_of(load_split(of_places(tmp_path), 0, EXACT))
    assert ids["forget_train"] == (f"{inside}train/apartment_building-outdoor/00000001.jpg",)
    place = "" if is_flat else "apartment_building-outdoor/"
    assert ids["forget_heldout"] == (f"{inside}val/{place}Places365_val_00000008.jpg",)


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_category_of_ones_own_keeps_its_hyphens_beside_the_published_list(tmp_path, is_listed):
    for folder in ("field-cultivated", "field_road", "drive-in"):
        draw(tmp_path / f"train/{folder}/00000001.jpg", 1)
        draw(tmp_path / f"val/{folder}/00000001.jpg", 2)
    if is_listed:
        lines = ["/f/field/cultivated 140", "/f/field_road 142"]
        (tmp_path / "categories_places365.txt").write_text("\n".join(lines))
    own = "/d/drive-in" if is_listed else "/d/drive/in"
    assert find_places365(tmp_path).class_names == (own, "/f/field/cultivated", "/f/field_road")


# Links


def make_blobs(root: Path) -> Path:
    """Write a data set as the cache of Hugging Face holds it: links in ``snapshots``, bytes in ``blobs``."""
    blobs, linked = make_folder(root / "plain"), root / "snapshots"
    for path in sorted(blobs.rglob("*.png")):
        link = linked / path.relative_to(blobs)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return linked


def test_links_that_lead_out_are_followed_only_where_the_sweep_says_so(tmp_path):
    linked = make_blobs(tmp_path)
    assert "or set data.follow_links: true" in refused(section(linked))
    followed = load_split(section(linked, follow_links=True), 0, EXACT)
    plain = load_split(section(tmp_path / "plain"), 0, EXACT)
    assert ids_of(followed) == ids_of(plain)
    assert list(followed.forget_train.sha256) == list(plain.forget_train.sha256)


@pytest.mark.parametrize("target", [".", "..", "c0/../.."])
def test_a_class_that_is_a_link_to_a_folder_around_it_is_refused(tmp_path, target):
    root = make_folder(tmp_path / "images")
    (root / "loop").symlink_to(target)
    config = section(root, forget_classes=["loop"], retain_classes=["c1"], follow_links=True)
    assert "a link that leads back to a folder around it" in refused(config)


def test_an_image_that_is_a_link_to_itself_is_named(tmp_path):
    root = make_folder(tmp_path / "images")
    (root / "c0" / "900.png").symlink_to(root / "c0" / "900.png")
    assert "900.png: expected an image file, found: Too many levels" in refused(
        section(root, follow_links=True)
    )


# Names


def test_names_match_in_both_spellings_of_unicode(tmp_path):
    composed, split = (unicodedata.normalize(form, "Zoé") for form in ("NFC", "NFD"))
    root = make_folder(tmp_path / "images")
    (root / "c0").rename(root / split)
    chosen = load_split(section(root, forget_classes=[composed]), 0, EXACT)
    assert chosen.forget_train.class_names == (split,)
    every = [f"{composed}/{number:03d}.png" for number in range(10)]
    named = {"forget_classes": None, "retain_classes": None, "forget": every}
    assert load_split(section(root, **named), 0, EXACT).forget_train.image_ids[0].startswith(split)
    make_folder(tmp_path / "other", classes=1)
    (tmp_path / "other" / "c0").rename(root / composed)  # now both are there, and each is meant as written
    assert load_split(section(root, forget_classes=[split]), 0, EXACT).forget_train.class_names == (split,)


def test_screenshots_of_macos_can_be_named(tmp_path):
    root = make_folder(tmp_path / "images")
    name = "c0/Screenshot 2026-11-28 at 9.41.00\u202fAM.png"
    draw(root / name, 7777)
    named = {"forget_classes": None, "retain_classes": None, "forget_split": "named"}
    config = section(root, **named, forget=[name, "c0/000.png", "c0/001.png"])
    assert name in {one for ids in ids_of(load_split(config, 0, EXACT)).values() for one in ids}


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif"])
def test_pictures_with_rarer_endings_are_read(tmp_path, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    form = "AVIF" if suffix == ".avif" else "JPEG"
    save(Image.new("RGB", (SIDE, SIDE), (200, 100, 50)), tmp_path / f"a{suffix}", format=form)
    assert abs(read_image(tmp_path / f"a{suffix}", EXACT)[0].astype(int) - 200).max() <= 6


def test_avif_without_a_reader_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    path.write_bytes(b"\0\0\0\x20ftypavif" + bytes(64))
    monkeypatch.setattr("pareto_unlearn.data.reading.READS_AVIF", False)
    monkeypatch.setattr("pareto_unlearn.data.reading.FORMATS", ("JPEG", "PNG"))
    root = make_folder(tmp_path / "images")
    path.rename(root / "c0" / "a.avif")
    with pytest.raises(Exception, match=r"found: AVIF, which this build of Pillow does not read: install"):
        read_image(root / "c0" / "a.avif", EXACT)
