"""Images from files: the layouts, and files that are none, or not what they seem to be."""

import hashlib
from pathlib import Path

import pytest
from image_folders import (
    CROP,
    EXACT,
    SIDE,
    SQUASH,
    ids_of,
    make_folder,
    noise,
    refused,
    rows_of,
    save,
    section,
)
from PIL import Image, features

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import load_split, write_manifest
from pareto_unlearn.data.layouts import find_folder, find_imagenet, find_places365
from pareto_unlearn.data.reading import check_image, read_image
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "images")


# One folder per class


def test_a_fifth_of_each_class_of_a_folder_is_held_out(root):
    split = load_split(section(root), 0, EXACT)
    counts = {name: len(ids) for name, ids in ids_of(split).items()}
    assert counts == {"forget_train": 8, "forget_heldout": 2, "retain_train": 16, "retain_heldout": 4}


def test_ids_are_paths_below_the_root_and_sorted(root):
    for ids in ids_of(load_split(section(root), 0, EXACT)).values():
        assert list(ids) == sorted(ids)
        assert all((root / image_id).is_file() and "\\" not in image_id for image_id in ids)


def test_the_place_of_a_folder_does_not_move_an_image(root, tmp_path):
    before = rows_of(load_split(section(root), 0, EXACT))
    moved = root.rename(tmp_path / "moved")
    assert rows_of(load_split(section(moved), 0, EXACT)) == before


def test_the_digest_is_of_the_bytes_of_the_file(root):
    for row in rows_of(load_split(section(root), 0, EXACT)):
        assert row["sha256"] == hashlib.sha256((root / row["image_id"]).read_bytes()).hexdigest()
        assert row["class_name"] == row["image_id"].split("/")[0]


def test_a_folder_with_train_and_val_has_its_own_split(tmp_path):
    make_folder(tmp_path / "train", images=4)
    make_folder(tmp_path / "val", images=3)
    for name, ids in ids_of(load_split(section(tmp_path), 0, EXACT)).items():
        folder = "train" if name.endswith("train") else "val"
        assert {image_id.split("/")[0] for image_id in ids} == {folder}
    assert find_imagenet(tmp_path).class_names == find_folder(tmp_path).class_names == ("c0", "c1", "c2")


def test_a_limit_takes_the_first_names(root):
    split = load_split(section(root, train_per_class=2, heldout_per_class=1), 0, EXACT)
    whole = load_split(section(root), 0, EXACT)
    assert split.forget_train.image_ids == whole.forget_train.image_ids[:2]
    assert (len(split.retain_train), len(split.retain_heldout)) == (4, 2)


def test_other_and_hidden_files_are_left_alone(root):
    before = ids_of(load_split(section(root), 0, EXACT))
    for name in ("README.txt", "._000.png", ".hidden.png", "Thumbs.db"):
        (root / "c0" / name).write_bytes(b"no image")
    (root / ".git").mkdir()
    (root / "c0" / "deeper.png").mkdir()
    assert ids_of(load_split(section(root), 0, EXACT)) == before


def test_classes_that_nobody_chose_are_not_looked_into(root):
    (root / "c9").mkdir()
    assert len(load_split(section(root), 0, EXACT).forget_train) == 8


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"forget_classes": ["c7"]}, "unknown class c7; the data set has c0, c1, c2"),
        ({"train_per_class": 9}, "data.train_per_class: found 9, but class c0 has only 8 such images"),
        ({"heldout_per_class": 3}, "data.heldout_per_class: found 3, but class c0 has only 2 such images"),
    ],
)
def test_wrong_classes_and_numbers_are_refused(root, changes, expected):
    assert expected in refused(section(root, **changes))


def test_an_unknown_class_among_many_is_answered_with_the_nearest(tmp_path):
    for number in range(30):
        (tmp_path / f"n{number:08d}").mkdir()
    message = refused(section(tmp_path, forget_classes=["n0000012"]))
    assert "the data set has 30 classes, such as n00000012" in message


def test_a_missing_root_is_refused_with_the_layout(tmp_path):
    message = refused(section(tmp_path / "none"))
    assert message.startswith(
        f"data.root: expected a folder of classes at {tmp_path / 'none'}, found No such file"
    )
    assert "<root>/<class>/<image>" in message


def test_an_empty_root_and_an_empty_class_are_refused(tmp_path, root):
    (tmp_path / "empty").mkdir()
    assert "expected one folder per class" in refused(section(tmp_path / "empty"))
    (root / "c9").mkdir()
    assert "expected image files (.avif, .bmp, " in refused(section(root, forget_classes=["c9"]))


@pytest.mark.parametrize("name", ["Screenshot\u202fPM.png", "a\u00a0b.png", "ä\U0001f600.png"])
def test_a_name_that_people_have_is_read(root, name):
    save(noise(SIDE, SIDE, 999), root / "c0" / name)
    assert f"c0/{name}" in {row["image_id"] for row in rows_of(load_split(section(root), 0, EXACT))}


def test_names_of_what_is_not_read_do_not_matter(root):
    (root / "c0" / "read\nme.txt").write_bytes(b"x")
    (root / "other\nclass").mkdir()
    load_split(section(root), 0, EXACT)


def test_pictures_of_a_class_that_would_be_left_out_are_refused(root):
    save(noise(SIDE, SIDE, 998), root / "c0" / "more" / "deep" / "a.png")
    message = refused(section(root))
    assert "c0: 1 image files lie in folders inside it (more) and would not be used" in message
    (root / "c0" / "more" / "deep" / "a.png").unlink()
    load_split(section(root), 0, EXACT)
    (root / "c0" / "IMG_1.HEIC").write_bytes(b"x")
    assert "1 pictures are of a kind that is not read" in refused(section(root))
    assert load_split(section(root, forget_classes=["c1"], retain_classes=["c2"]), 0, EXACT)


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif"])
def test_rarer_endings_of_pictures_are_read(root, suffix):
    if suffix == ".avif" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    form = "AVIF" if suffix == ".avif" else "JPEG"
    save(noise(SIDE, SIDE, 997), root / "c0" / f"z{suffix}", format=form)
    assert (
        sum(len(ids) for name, ids in ids_of(load_split(section(root), 0, EXACT)).items() if "forget" in name)
        == 11
    )


@pytest.mark.parametrize(
    ("train", "heldout"), [("train", "valid"), ("Train", "Test"), ("train", "validation"), ("TRAIN", "VAL")]
)
def test_the_folders_of_a_split_have_the_names_that_people_give_them(tmp_path, train, heldout):
    make_folder(tmp_path / train, images=4)
    make_folder(tmp_path / heldout, images=3, side=SIDE + 1)
    counts = {name: len(ids) for name, ids in ids_of(load_split(section(tmp_path), 0, SQUASH)).items()}
    assert counts == {"forget_train": 4, "forget_heldout": 3, "retain_train": 8, "retain_heldout": 6}


def test_a_class_without_validation_folder_is_refused(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", classes=2)
    message = refused(section(tmp_path, "imagenet"))
    assert f"expected a folder of images at {tmp_path / 'val/c2'}" in message
    assert "<root>/val/<wnid>/<image>.JPEG" in message


@pytest.mark.parametrize("name", ["a\nb.png", "a\udce4.png"])
def test_a_name_that_no_manifest_can_hold_is_refused(root, name):
    (root / "c0" / name).write_bytes(b"x")
    assert "expected names that are text without control characters" in refused(section(root))


# Places365


def make_places(root: Path, train: str = "data_256") -> Path:
    names = {"/a/airfield": 0, "/a/apartment_building/outdoor": 8, "/z/zen_garden": 364}
    (root / "val_256").mkdir(parents=True)
    train_lines, val_lines = [], []
    for name, label in names.items():
        for number in (3, 1, 2):
            train_lines.append(f"{name}/{number:08d}.jpg {label}")
            save(noise(SIDE, SIDE, label * 10 + number), root / f"{train}{name}/{number:08d}.jpg")
        val_lines.append(f"Places365_val_{label:08d}.jpg {label}")
        save(noise(SIDE, SIDE, label), root / "val_256" / f"Places365_val_{label:08d}.jpg")
    lists = {
        "categories_places365": [f"{name} {label}" for name, label in names.items()],
        "places365_train_standard": train_lines,
        "places365_val": val_lines,
    }
    for name, lines in lists.items():
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return root


def places(root: Path) -> DataSection:
    return section(
        root, "places365", forget_classes=["/a/apartment_building/outdoor"], retain_classes=["/a/airfield"]
    )


@pytest.mark.parametrize("train", ["data_256", "data_256_standard"])
def test_places365_follows_the_published_lists(tmp_path, train):
    split = load_split(places(make_places(tmp_path, train)), 0, EXACT)
    assert split.forget_train.image_ids == tuple(
        f"{train}/a/apartment_building/outdoor/{number:08d}.jpg" for number in (1, 2, 3)
    )
    assert split.forget_heldout.image_ids == ("val_256/Places365_val_00000008.jpg",)
    assert split.retain_heldout.image_ids == ("val_256/Places365_val_00000000.jpg",)
    assert find_places365(tmp_path).class_names == (
        "/a/airfield",
        "/a/apartment_building/outdoor",
        "/z/zen_garden",
    )
    assert len(rows_of(split)) == 8


@pytest.mark.parametrize(
    "name",
    ["data_256", "val_256", "categories_places365.txt", "places365_train_standard.txt", "places365_val.txt"],
)
def test_a_missing_part_of_places365_is_named(tmp_path, name):
    make_places(tmp_path)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    message = refused(places(tmp_path))
    assert message.startswith("data.root: expected ")
    assert name in message.split("; the layout is ")[0]


@pytest.mark.parametrize("line", ["no label", "/a/airfield/00000009.jpg 77", "/a/airfield/00000009.jpg", ""])
def test_a_list_unlike_the_published_one_is_refused(tmp_path, line):
    path = make_places(tmp_path) / "places365_train_standard.txt"
    path.write_text(f"{line}\n{path.read_text()}")
    assert refused(places(tmp_path)).startswith(f"{path}: expected lines of a name and a number")


def test_a_listed_file_that_is_missing_is_named(tmp_path):
    path = make_places(tmp_path) / "data_256/a/airfield/00000002.jpg"
    path.unlink()
    assert refused(places(tmp_path)) == f"{path}: expected an image file, found: No such file or directory"


# Files that are no images, or not where they seem to be


def test_an_empty_file_is_refused_before_anything_is_read(root):
    path = root / "c1" / "005.png"
    path.write_bytes(b"")
    assert (
        refused(section(root)) == f"{path}: expected an image file, found an empty one; replace or remove it"
    )


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_link_that_leaves_the_root_is_refused(root, tmp_path, linked):
    outside = make_folder(tmp_path / "outside")
    if linked == "file":
        path = root / "c0" / "000.png"
        path.unlink()
        path.symlink_to(outside / "c0" / "000.png")
    else:
        (root / "c3").symlink_to(outside / "c0")
    message = refused(section(root, forget_classes=["c3" if linked == "folder" else "c0"]))
    assert f"expected a file below {root}, found a link that leads out of it" in message


def test_links_within_the_root_and_to_the_root_are_followed(root, tmp_path):
    (tmp_path / "link").symlink_to(root)
    (root / "c0" / "900.png").symlink_to(root / "c1" / "001.png")
    (root / "c0" / "901.png").symlink_to("../c1/002.png")
    split = load_split(section(tmp_path / "link"), 0, EXACT)
    assert len(split.forget_train) + len(split.forget_heldout) == 12
    assert len(rows_of(split)) == 32


def test_a_broken_link_is_named(root):
    (root / "c0" / "900.png").symlink_to(root / "none")
    assert "900.png: expected an image file, found: No such file" in refused(section(root))


def damage(path: Path, kind: str) -> None:
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "text": b"<html>not found</html>"}[kind])


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kind", ["truncated", "text"])
def test_a_damaged_file_is_named_by_the_manifest_and_when_it_is_read(tmp_path, kind, suffix):
    for class_id in range(3):
        for number in range(5):
            save(noise(64, 48, number), tmp_path / f"c{class_id}" / f"{number}.{suffix}")
    split = load_split(section(tmp_path), 0, CROP)
    row = 2
    path = tmp_path / split.forget_train.image_ids[row]
    damage(path, kind)
    for read in (lambda: write_manifest(split), lambda: split.forget_train.images[[0, row]]):
        with pytest.raises(ConfigError, match="expected an image that the model can read") as caught:
            read()
        assert str(path) in str(caught.value)
    assert len(split.forget_train.images[[0, 1]]) == 2


def test_text_in_place_of_an_image_is_told_from_a_damaged_one(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(
        ConfigError, match="found: none of these kinds, or a damaged header; replace or remove"
    ):
        read_image(path, EXACT)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_cut_off_anywhere_fails_the_check_and_the_reading_alike(tmp_path, progressive):
    data = save(noise(64, 48), tmp_path / "whole.jpg", progressive=progressive).read_bytes()
    path = tmp_path / "cut.jpg"
    for end in [*range(20, len(data), 97), *range(len(data) - 6, len(data))]:
        path.write_bytes(data[:end])
        outcomes = []
        for read in (check_image, read_image):
            try:
                read(path, CROP)
                outcomes.append("read")
            except ConfigError:
                outcomes.append("refused")
        assert outcomes == ["refused", "refused"] or (end > len(data) - 3 and outcomes == ["read", "read"])


def test_the_manifest_names_several_damaged_files_at_once(root):
    split = load_split(section(root), 0, EXACT)
    for image_id in split.forget_train.image_ids[:7]:
        damage(root / image_id, "text")
    with pytest.raises(ConfigError) as caught:
        write_manifest(split)
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert lines[-1] == "and 2 more files that cannot be read"


def test_a_damaged_file_stops_the_filling_of_the_cache_and_leaves_nothing(root, tmp_path):
    split = load_split(section(root), 0, EXACT, tmp_path / "cache")
    damage(root / split.forget_train.image_ids[-1], "truncated")
    with pytest.raises(ConfigError, match=split.forget_train.image_ids[-1]):
        split.forget_train.images[[0]]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_a_format_outside_the_list_is_refused(tmp_path):
    path = save(noise(SIDE, SIDE), tmp_path / "a.png", format="PCX")
    with pytest.raises(
        ConfigError, match=r"a\.png: expected an image that the model can read \((AVIF, )?BMP, GIF, JPEG"
    ):
        read_image(path, EXACT)


@pytest.mark.parametrize("size", [(9000, 8000), (14000, 14000)])  # above our limit, and above Pillow's
def test_a_huge_image_is_refused_by_its_header(tmp_path, size, monkeypatch):
    path = save(Image.new("1", size), tmp_path / "bomb.png")
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("its pixels were decoded"))
    with pytest.raises(ConfigError, match=r"bomb\.png: expected an image"):
        read_image(path, SQUASH)


def test_a_strip_that_would_grow_huge_is_refused(tmp_path):
    path = save(Image.new("RGB", (40000, 1)), tmp_path / "strip.png")
    with pytest.raises(ConfigError, match="too narrow to be cropped"):
        read_image(path, PixelFormat(side=256, channels=3, fit="crop"))


def test_exact_wants_the_size(tmp_path):
    path = save(noise(9, 8), tmp_path / "a.png")
    with pytest.raises(ConfigError, match="found: 9 x 8 pixels, but the model reads 8 x 8 as they are"):
        read_image(path, EXACT)


# Data that does not have what the model reads


def test_digits_of_another_size_are_refused_with_both_sizes():
    digits = DataSection.model_validate({"dataset": "digits", "forget_classes": [0], "retain_classes": [1]})
    message = refused(digits, PixelFormat(side=224, channels=3, fit="squash"))
    assert "expected images of 224 x 224 pixels and 3 channels" in message
    assert "found digits, whose images have 16 x 16 and 1" in message


def test_images_of_another_size_are_named_by_the_manifest(root):
    split = load_split(section(root), 0)  # the embedded model's 16 x 16
    with pytest.raises(
        ConfigError, match=r"\d\.png: .* found: 8 x 8 pixels, but the model reads 16 x 16 as they are"
    ):
        write_manifest(split)
