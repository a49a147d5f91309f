"""Images from files: the layouts, the rules that turn a file into pixels, the cache, and images drawn from a seed."""

import csv
import errno
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as torchvision

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import Images, SplitData, file_images, load_split, pixel_cache, write_manifest
from pareto_unlearn.data.layouts import find_folder, find_imagenet, find_places365
from pareto_unlearn.data.reading import check_image, read_image
from pareto_unlearn.records import ConfigError, PixelFormat

SIDE = 8
EXACT = PixelFormat(side=SIDE, channels=3)
SQUASH = PixelFormat(side=SIDE, channels=3, fit="squash", resample="bilinear")
CROP = PixelFormat(side=SIDE, channels=3, fit="crop")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return an image in which no two pixels are alike."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def make_folder(root: Path, classes: int = 3, images: int = 10, side: int = SIDE) -> Path:
    """Write <root>/<class>/<image>.png, the later names first, as a file system may list them."""
    for class_id in reversed(range(classes)):
        for number in reversed(range(images)):
            seed = class_id * 1000 + number
            save(noise(side, side, seed), root / f"c{class_id}" / f"{number:03d}.png")
    return root


def section(root: Path, dataset: str = "folder", **changes) -> DataSection:
    values = {"dataset": dataset, "root": str(root), "forget_classes": ["c0"], "retain_classes": ["c1", "c2"]}
    return DataSection.model_validate(values | changes)


def rows_of(split: SplitData) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(write_manifest(split))))


def ids_of(split: SplitData) -> dict[str, tuple[str, ...]]:
    return {f"{name}_{part}": images.image_ids for name, part, images in split.items()}


def refused(config: DataSection, pixels: PixelFormat = EXACT) -> str:
    with pytest.raises(ConfigError) as caught:
        load_split(config, 0, pixels)
    return str(caught.value)


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
    assert "expected image files (.bmp, " in refused(section(root, forget_classes=["c9"]))


def test_a_class_without_validation_folder_is_refused(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "val", classes=2)
    message = refused(section(tmp_path, "imagenet"))
    assert f"expected a folder of images at {tmp_path / 'val/c2'}" in message
    assert "<root>/val/<wnid>/<image>.JPEG" in message


@pytest.mark.parametrize("name", ["a\nb.png", "a\udce4.png"])
def test_a_name_that_no_manifest_can_hold_is_refused(root, name):
    (root / "c0" / name).write_bytes(b"x")
    assert "expected printable names" in refused(section(root))


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
        ConfigError, match=r"a\.png: expected an image that the model can read \(BMP, GIF, JPEG"
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


# Golden pixels of each kind of file: what is saved, and the RGB it becomes


def pixel(tmp_path: Path, image: Image.Image, name: str, channels: int = 3, **options) -> list[int]:
    """Save an image of one colour, read it, and return its only colour."""
    found = read_image(save(image, tmp_path / name, **options), PixelFormat(side=SIDE, channels=channels))
    assert found.shape == (channels, SIDE, SIDE)
    assert found.dtype == np.uint8
    assert (found == found[:, :1, :1]).all()
    return found[:, 0, 0].tolist()


def plain(mode: str, colour) -> Image.Image:
    return Image.new(mode, (SIDE, SIDE), colour)


def palette(**info) -> Image.Image:
    image = plain("P", 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "name", "expected"),
    [
        (plain("RGB", (10, 20, 30)), "a.png", [10, 20, 30]),
        (plain("RGB", (10, 20, 30)), "png_named.JPEG", [10, 20, 30]),
        (plain("L", 77), "a.png", [77, 77, 77]),
        (plain("1", 1), "a.png", [255, 255, 255]),
        (plain("1", 1), "a.tiff", [255, 255, 255]),
        (palette(), "a.png", [200, 100, 50]),
        (palette(), "a.gif", [200, 100, 50]),
        # alpha 51 of 255 is a fifth: 4/5 of white and 1/5 of the colour
        (plain("LA", (100, 51)), "a.png", [224, 224, 224]),
        (plain("RGBA", (100, 0, 250, 51)), "a.png", [224, 204, 254]),
        (plain("RGBA", (100, 0, 250, 0)), "a.png", [255, 255, 255]),
        (plain("RGBA", (100, 0, 250, 255)), "a.png", [100, 0, 250]),
        # cyan, magenta, yellow, black: (255 - c)(255 - k) / 255
        (plain("CMYK", (255, 0, 0, 0)), "a.tiff", [0, 255, 255]),
        (plain("CMYK", (51, 102, 0, 0)), "a.tiff", [204, 153, 255]),
        (plain("CMYK", (51, 102, 0, 0)), "a.jpg", [204, 153, 255]),
        (plain("CMYK", (0, 0, 0, 255)), "a.jpg", [0, 0, 0]),
    ],
)  # fmt: skip
def test_each_kind_of_colour_becomes_this_rgb(tmp_path, image, name, expected):
    kind = {"png_named.JPEG": {"format": "PNG"}}.get(name, {})
    assert pixel(tmp_path, image, name, **kind) == expected


@pytest.mark.parametrize(
    ("transparency", "expected"), [(1, [255, 255, 255]), (b"\xff\x33", [244, 224, 214]), (0, [200, 100, 50])]
)
def test_a_palette_with_transparency_is_composited_on_white(tmp_path, transparency, expected):
    assert pixel(tmp_path, palette(), "a.png", transparency=transparency) == expected


def test_the_transparent_colour_of_an_rgb_image_is_white(tmp_path):
    image = plain("RGB", (10, 20, 30))
    assert pixel(tmp_path, image, "a.png", transparency=(10, 20, 30)) == [255, 255, 255]


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm"])
@pytest.mark.parametrize(
    ("value", "expected"), [(0, 0), (257, 1), (128, 0), (129, 1), (40000, 156), (65535, 255)]
)
def test_16_bit_grays_are_scaled_not_clipped(tmp_path, name, value, expected):
    image = Image.fromarray(np.full((SIDE, SIDE), value, np.uint16))
    assert pixel(tmp_path, image, name) == [expected] * 3


@pytest.mark.parametrize("values", [np.float32(0.5), np.int32(70000), np.int32(-1)])
def test_32_bit_values_have_no_rule(tmp_path, values):
    path = save(Image.fromarray(np.full((SIDE, SIDE), values)), tmp_path / "a.tiff")
    with pytest.raises(ConfigError, match="for which there is no rule"):
        read_image(path, EXACT)


@pytest.mark.parametrize(
    ("colour", "gray"), [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((9, 9, 9), 9)]
)
def test_a_model_of_one_channel_reads_gray(tmp_path, colour, gray):
    assert pixel(tmp_path, plain("RGB", colour), "a.png", channels=1) == [gray]


def test_the_exif_orientation_is_not_applied(tmp_path):
    halves = plain("RGB", (255, 255, 255))
    halves.paste((0, 0, 0), (0, 0, SIDE // 2, SIDE))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    path = save(halves, tmp_path / "a.png", exif=exif)
    found = read_image(path, EXACT)
    assert (found[:, :, : SIDE // 2] == 0).all()
    assert (found[:, :, SIDE // 2 :] == 255).all()


def test_of_several_frames_the_first_counts(tmp_path):
    frames = [plain("RGB", (value, 0, 0)) for value in (10, 200)]
    assert pixel(tmp_path, frames[0], "a.tiff", save_all=True, append_images=frames[1:]) == [10, 0, 0]


# Sizes


@pytest.mark.parametrize("size", [(50, 37), (37, 50), (8, 8), (8, 13), (5, 5), (500, 9), (21, 22)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_sizes_and_filters_are_those_of_torchvision(tmp_path, size, resample):
    image = noise(*size)
    path = save(image, tmp_path / "a.png")
    mode = torchvision.InterpolationMode(resample)
    squashed = torchvision.resize(image, [SIDE, SIDE], mode)
    cropped = torchvision.center_crop(torchvision.resize(image, SIDE, mode), [SIDE, SIDE])
    for fit, expected in (("squash", squashed), ("crop", cropped)):
        pixels = PixelFormat(side=SIDE, channels=3, fit=fit, resample=resample)
        assert np.array_equal(read_image(path, pixels), np.asarray(expected).transpose(2, 0, 1))


# Images that behave like a tensor


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    "rows",
    [
        slice(None), slice(2, 5), slice(0, 0), [3, 1, 1], [], torch.tensor([7, 0]), torch.arange(8) % 3 == 0,
        torch.tensor([], dtype=torch.int64), [-1],
    ],
)  # fmt: skip
def test_files_are_indexed_like_a_tensor(root, tmp_path, rows, cached):
    images = load_split(section(root), 0, EXACT, tmp_path / "cache" if cached else None).forget_train
    expected = torch.stack(
        [
            torch.from_numpy(np.asarray(Image.open(root / image_id)).transpose(2, 0, 1) / np.float32(255))
            for image_id in images.image_ids
        ]
    )
    found = images.images[rows]
    assert found.dtype == torch.float32
    assert torch.equal(found, expected[rows])
    assert images.images.shape == expected.shape
    assert len(images) == len(images.images) == 8


def test_tensors_and_files_are_both_images(root):
    files = load_split(section(root), 0, EXACT).forget_train.images
    assert isinstance(files, Images)
    assert isinstance(torch.zeros(1, 3, 4, 4), Images)


def test_a_place_beyond_the_end_is_an_index_error(root):
    with pytest.raises(IndexError):
        load_split(section(root), 0, EXACT).forget_train.images[[8]]


def test_loading_a_split_opens_no_file(root, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("an image was opened"))
    monkeypatch.setattr(Path, "read_bytes", lambda *_: pytest.fail("a file was read"))
    split = load_split(section(root), 0, EXACT)
    assert split.forget_train.images.shape == (8, 3, SIDE, SIDE)
    assert len(split.forget_train.sha256) == 8


# The cache of decoded pixels


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The files that were decoded, one entry each time."""
    seen: list[Path] = []

    def read(path: Path, pixels: PixelFormat):
        seen.append(path)
        return read_image(path, pixels)

    monkeypatch.setattr(file_images, "read_image", read)
    return seen


def arrays_in(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.npy"))


def test_a_set_is_decoded_once_whoever_reads_it(root, tmp_path, decoded):
    for _ in range(3):
        split = load_split(section(root), 0, EXACT, tmp_path)
        assert len(split.forget_train.images[[1, 2]]) == 2
    assert sorted(decoded) == [root / image_id for image_id in split.forget_train.image_ids]
    (stored,) = arrays_in(tmp_path)
    assert np.load(stored).shape == (8, 3, SIDE, SIDE)


def test_without_a_cache_only_what_is_asked_for_is_decoded(root, decoded):
    split = load_split(section(root), 0, EXACT)
    split.forget_train.images[[1, 5]]
    assert decoded == [root / split.forget_train.image_ids[place] for place in (1, 5)]


def test_several_readers_at_once_decode_once_and_see_the_same(root, tmp_path, decoded):
    splits = [load_split(section(root), 0, EXACT, tmp_path) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda split: split.retain_train.images[:], splits))
    assert len(decoded) == 16
    assert all(torch.equal(one, found[0]) for one in found)


def test_what_a_killed_process_left_is_overwritten(root, tmp_path):
    expected = load_split(section(root), 0, EXACT, tmp_path).forget_train.images[:]
    (stored,) = arrays_in(tmp_path)
    stored.rename(stored.with_name(stored.name + ".part"))
    assert torch.equal(load_split(section(root), 0, EXACT, tmp_path).forget_train.images[:], expected)
    assert [path.suffix for path in sorted(tmp_path.glob("pixels*"))] == [".npy", ".lock"]


def test_another_file_or_format_is_another_array(root, tmp_path):
    def read(pixels: PixelFormat = EXACT) -> torch.Tensor:
        return load_split(section(root), 0, pixels, tmp_path).forget_train.images[:]

    before = read()
    image_id = load_split(section(root), 0, EXACT).forget_train.image_ids[0]
    save(noise(SIDE, SIDE, 99), root / image_id)
    os.utime(root / image_id, ns=(1, 1))
    after = read()
    assert not torch.equal(after[0], before[0])
    assert torch.equal(after[1:], before[1:])
    read(SQUASH)
    assert len(arrays_in(tmp_path)) == 3


def test_sets_beyond_the_limit_are_decoded_on_demand_training_sets_last(root, tmp_path):
    one = 3 * SIDE * SIDE
    for limit, stored in ((0, 0), (8 * one, 1), (24 * one, 2), (24 * one + 1, 2), (30 * one, 4)):
        cache = tmp_path / str(limit)
        split = load_split(section(root, cache_bytes=limit), 0, EXACT, cache)
        found = {(name, part): images.images[:] for name, part, images in split.items()}
        assert {key: len(part) for key, part in found.items()} == {
            ("forget", "train"): 8, ("forget", "heldout"): 2, ("retain", "train"): 16, ("retain", "heldout"): 4,
        }  # fmt: skip
        assert len(arrays_in(cache)) == stored


@pytest.mark.parametrize("trouble", ["too small", "fills up"])
def test_a_full_disk_means_decoding_on_demand(root, tmp_path, monkeypatch, trouble, caplog):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if trouble == "too small":
        monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    else:
        monkeypatch.setattr(pixel_cache.os, "fsync", fail)
    images = load_split(section(root), 0, EXACT, tmp_path).forget_train.images
    assert len(images[[0, 1]]) == 2
    assert "images are decoded on demand" in caplog.text
    assert [path.suffix for path in tmp_path.glob("pixels*")] == [".lock"]


# Images drawn from a seed


def generated(**changes) -> DataSection:
    values = {"dataset": "generated", "forget_classes": ["class-0", "class-3"], "retain_classes": None}
    return DataSection.model_validate(values | changes)


def test_ten_classes_of_32_images_are_generated_and_a_fifth_is_held_out():
    split = load_split(generated(), 0, PixelFormat(side=24, channels=3))
    counts = {name: len(ids) for name, ids in ids_of(split).items()}
    assert counts == {"forget_train": 52, "forget_heldout": 12, "retain_train": 208, "retain_heldout": 48}
    assert split.retain_train.class_names == tuple(f"class-{index}" for index in (1, 2, 4, 5, 6, 7, 8, 9))


@pytest.mark.parametrize(
    ("pixels", "digest"),
    [
        (PixelFormat(side=16, channels=1), "5ee213938352"),
        (PixelFormat(side=48, channels=3, fit="crop"), "649e762e24b5"),
    ],
)
def test_generated_images_are_pinned_to_the_bit(pixels, digest):
    text = write_manifest(load_split(generated(), 0, pixels))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == digest


def test_generated_images_do_not_depend_on_the_seed_or_the_choice_of_classes():
    pixels = PixelFormat(side=16, channels=3)
    usual = {row["image_id"]: row for row in rows_of(load_split(generated(), 0, pixels))}
    for row in rows_of(
        load_split(generated(forget_classes=["class-0"], retain_classes=["class-9"]), 5, pixels)
    ):
        assert row == usual[row["image_id"]]


def test_a_generated_class_is_told_by_its_looks():
    # The nearest class mean knows nine images in ten: a model can learn what a class is.
    split = load_split(generated(), 0, PixelFormat(side=16, channels=3))
    train = torch.cat([split.forget_train.images[:], split.retain_train.images[:]])
    heldout = torch.cat([split.forget_heldout.images[:], split.retain_heldout.images[:]])
    classes = [
        torch.cat([forget.class_ids, retain.class_ids + 2])
        for forget, retain in (
            (split.forget_train, split.retain_train),
            (split.forget_heldout, split.retain_heldout),
        )
    ]
    means = torch.stack([train[classes[0] == class_id].mean(dim=0) for class_id in range(10)])
    nearest = torch.cdist(heldout.flatten(1), means.flatten(1)).argmin(dim=1)
    assert float((nearest == classes[1]).float().mean()) > 0.9


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
