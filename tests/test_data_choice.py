"""Who is forgotten and who is kept: published lists, random images, proxies, limited retain sets, copies."""

import contextlib
import csv
import hashlib
import io
import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import (
    BatchOrder,
    ClassChoice,
    SplitData,
    check_duplicates,
    choose_classes,
    load_split,
    write_manifest,
)
from pareto_unlearn.data.class_lists import read_class_list
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

PIXELS = PixelFormat(side=4, channels=3)
PLACES = tuple(f"/{chr(97 + index % 26)}/place_{index:03d}" for index in range(365))
WNIDS = tuple(f"n{index:08d}" for index in range(300))


def digits(**changes) -> DataSection:
    values = {"dataset": "digits", "forget_classes": [0, 1, 2], "retain_classes": [3, 4]}
    return DataSection.model_validate(values | changes)


def listed(path: Path, rule: str, **changes) -> DataSection:
    return digits(forget_classes=None, retain_classes=None, class_list=str(path), class_rule=rule, **changes)


def counts(split: SplitData) -> dict[str, list[int]]:
    """Return how many images every class of every set has."""
    return {
        f"{name}_{part}": torch.bincount(images.class_ids, minlength=len(images.class_names)).tolist()
        for name, part, images in split.items()
    }


def ids(split: SplitData) -> dict[str, tuple[str, ...]]:
    return {f"{name}_{part}": images.image_ids for name, part, images in split.items()}


def write_imagenet_r(path: Path, numbers: dict[str, int]) -> Path:
    path.write_text(json.dumps(numbers))
    return path


def write_flist(path: Path, lines: tuple[str, ...]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


# Published lists


def test_numbers_below_100_are_forgotten_and_the_others_retained(tmp_path):
    path = write_imagenet_r(tmp_path / "list.yaml", {name: place for place, name in enumerate(WNIDS[:200])})
    chosen = choose_classes(listed(path, "imagenet_r"), WNIDS, 0)
    assert chosen == ClassChoice(WNIDS[:100], WNIDS[100:200], WNIDS[100:200])


def test_the_first_50_lines_are_retained_and_the_next_50_forgotten(tmp_path):
    lines = random.Random(0).sample(PLACES, len(PLACES))
    path = write_flist(tmp_path / "class.txt", tuple(lines))
    chosen = choose_classes(listed(path, "places_flist"), PLACES, 0)
    assert set(chosen.retain) == set(lines[:50])
    assert set(chosen.forget) == set(lines[50:100])


def test_the_rest_of_a_list_is_the_proxy(tmp_path):
    lines = random.Random(0).sample(PLACES, len(PLACES))
    path = write_flist(tmp_path / "class.txt", tuple(lines))
    chosen = choose_classes(listed(path, "places_flist", proxy_retain=True), PLACES, 0)
    assert set(chosen.trained) == set(lines[100:])
    assert len(chosen.trained) == 265


def test_a_listed_split_does_not_depend_on_the_seed(tmp_path):
    path = write_imagenet_r(tmp_path / "list.json", {"3": 0, "7": 100, "1": 5})
    one, other = (write_manifest(load_split(listed(path, "imagenet_r"), seed)) for seed in (0, 1))
    assert one == other


@pytest.mark.parametrize(
    ("rule", "text", "found"),
    [
        ("imagenet_r", "{", "no JSON"),
        ("imagenet_r", '["3", "7"]', "something else"),
        ("imagenet_r", '{"3": "0", "7": 100}', "something else"),
        ("imagenet_r", '{"3": true, "7": 100}', "something else"),
        ("imagenet_r", '{"3": 0, "3": 100}', "'3' more than once"),
        ("imagenet_r", '{"3": 0}', "1 classes to forget and 0 to retain"),
        ("imagenet_r", "{}", "0 classes to forget"),
        ("places_flist", "/a/b\n" * 99, "99 lines"),
        ("places_flist", "/a/b\n" * 100, "'/a/b' more than once"),
    ],
)
def test_a_list_unlike_its_rule_is_refused(tmp_path, rule, text, found):
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_class_list(path, rule)
    assert str(caught.value).startswith("data.class_list: expected ")
    assert str(path) in str(caught.value)
    assert found in str(caught.value)


def test_a_missing_list_and_an_unknown_class_in_one_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.json, found No such file"):
        load_split(listed(tmp_path / "none.json", "imagenet_r"), 0)
    path = write_imagenet_r(tmp_path / "list.json", {"3": 0, "n01443537": 100})
    with pytest.raises(ConfigError, match=r"data\.class_list: unknown class n01443537"):
        load_split(listed(path, "imagenet_r"), 0)


# Random images


def random_images(**changes) -> DataSection:
    return DataSection.model_validate({"dataset": "digits", "split": "random_images"} | changes)


@pytest.mark.parametrize("share", [None, 0.25])
def test_a_random_share_of_each_split_is_forgotten(share):
    split = load_split(random_images(forget_share=share), 0)
    for part in ("train", "heldout"):
        forget, retain = getattr(split, f"forget_{part}"), getattr(split, f"retain_{part}")
        assert len(forget) == round((share or 0.5) * (len(forget) + len(retain)))
    assert sum(map(len, ids(split).values())) == 1797


def test_a_random_share_is_a_function_of_the_seed_and_never_moves_what_is_held_out():
    one, same, other = (ids(load_split(random_images(), seed)) for seed in (0, 0, 1))
    assert one == same != other
    for part in ("train", "heldout"):
        assert {*one[f"forget_{part}"], *one[f"retain_{part}"]} == {
            *other[f"forget_{part}"],
            *other[f"retain_{part}"],
        }


def test_random_images_are_of_all_classes_and_limits_bound_them():
    split = load_split(random_images(train_per_class=20, heldout_per_class=6), 0)
    both = [
        sum(pair)
        for pair in zip(*(counts(split)[f"{name}_train"] for name in ("forget", "retain")), strict=True)
    ]
    assert both == [20] * 10


def test_only_classes_with_images_are_named():
    split = load_split(random_images(train_per_class=2, heldout_per_class=2), 0)
    for sizes in counts(split).values():
        assert 0 not in sizes
    rows = csv.DictReader(io.StringIO(write_manifest(split)))
    assert len({(row["image_id"], row["class_name"]) for row in rows}) == 40


# Proxy and limited retain sets


def test_a_proxy_is_trained_on_and_the_retain_classes_are_measured():
    whole, split = load_split(digits(), 0), load_split(digits(proxy_retain=True), 0)
    assert split.retain_train.class_names == ("5", "6", "7", "8", "9")
    assert split.retain_heldout.image_ids == whole.retain_heldout.image_ids
    assert split.forget_train.image_ids == whole.forget_train.image_ids


def test_a_proxy_has_as_many_images_as_the_forget_set_evenly_from_its_classes():
    split = load_split(digits(proxy_retain=True, train_per_class=20), 0)
    assert counts(split)["retain_train"] == [12] * 5


def test_classes_and_images_of_a_proxy_can_be_told():
    split = load_split(digits(proxy_retain={"classes": 2, "per_class": 7}), 0)
    assert counts(split)["retain_train"] == [7, 7]
    drawn = {
        load_split(digits(proxy_retain={"classes": 2}), seed).retain_train.class_names for seed in range(8)
    }
    assert len(drawn) > 2
    assert not any(set(names) & set("01234") for names in drawn)


def test_the_manifest_says_which_images_stand_in():
    rows = list(csv.DictReader(io.StringIO(write_manifest(load_split(digits(proxy_retain=True), 0)))))
    assert {(row["set"], row["split"]) for row in rows} == {
        ("forget", "train"),
        ("forget", "heldout"),
        ("proxy", "train"),
        ("retain", "heldout"),
    }
    assert {row["class_name"] for row in rows if row["set"] == "proxy"} == set("56789")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"retain_classes": None, "proxy_retain": True},
            "data.proxy_retain: expected classes that are neither",
        ),
        ({"proxy_retain": {"classes": 6}}, "data.proxy_retain.classes: found 6, but between 1 and 5"),
        (
            {"proxy_retain": {"per_class": 999}},
            "data.proxy_retain.per_class: found 999, but class 5 has only",
        ),
        ({"retain_per_class": 999}, "data.retain_per_class: found 999, but class 3 has only"),
    ],
)  # fmt: skip
def test_impossible_substitutes_are_refused(changes, expected):
    with pytest.raises(ConfigError) as caught:
        load_split(digits(**changes), 0)
    assert expected in str(caught.value)


def test_a_limited_retain_set_leaves_the_others_as_they_are():
    split = load_split(digits(retain_per_class=1, train_per_class=20, heldout_per_class=6), 0)
    assert counts(split) == {
        "forget_train": [20] * 3,
        "forget_heldout": [6] * 3,
        "retain_train": [1] * 2,
        "retain_heldout": [6] * 2,
    }


def test_a_limited_retain_set_is_oversampled_evenly_to_full_batches():
    split = load_split(digits(retain_per_class=3), 0)
    order = BatchOrder(len(split.retain_train), 64, seed=0, stream=2)
    drawn = torch.cat([order(step) for step in range(30)])
    assert {len(order(step)) for step in range(30)} == {64}
    times = torch.bincount(drawn, minlength=6)
    assert int(times.max() - times.min()) <= 1


# Copies


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = random.Random(seed).randbytes(4 * 4 * 3)
    # Without compression: all files have the same size, so every copy must be told by its bytes.
    Image.frombytes("RGB", (4, 4), content).save(path, format="BMP")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four classes of four training and three held-out images."""
    for seed, (part, count) in enumerate((("train", 4), ("val", 3))):
        for class_id in range(4):
            for number in range(count):
                save(
                    tmp_path / "images" / part / f"c{class_id}" / f"{number}.bmp",
                    1000 * seed + 10 * class_id + number,
                )
    return tmp_path / "images"


def folder(root: Path, **changes) -> DataSection:
    values = {"dataset": "folder", "root": str(root), "forget_classes": ["c0"], "retain_classes": ["c1"]}
    return DataSection.model_validate(values | changes)


def refused(config: DataSection) -> str:
    with pytest.raises(ConfigError) as caught:
        check_duplicates(load_split(config, 0, PIXELS), config.duplicates)
    return str(caught.value)


def test_images_that_are_alone_pass(root):
    check_duplicates(load_split(folder(root), 0, PIXELS), "refuse")


@pytest.mark.parametrize(
    ("source", "copy", "expected"),
    [
        ("train/c0/1.bmp", "train/c1/2.bmp", "train/c0/1.bmp (forget train) = train/c1/2.bmp (retain train)"),
        ("train/c0/1.bmp", "val/c0/2.bmp", "train/c0/1.bmp (forget train) = val/c0/2.bmp (forget heldout)"),
        ("val/c0/1.bmp", "val/c1/0.bmp", "val/c0/1.bmp (forget heldout) = val/c1/0.bmp (retain heldout)"),
    ],
)
def test_a_copy_in_another_set_or_split_is_refused_by_name(root, source, copy, expected):
    shutil.copy(root / source, root / copy)
    message = refused(folder(root))
    assert expected in message
    assert "found 1 with the same bytes (SHA-256) in two" in message
    assert "data.duplicates: drop_heldout, or allow" in message


def test_many_copies_are_counted_and_the_first_ones_named(root):
    for number in range(4):
        shutil.copy(root / f"train/c0/{number}.bmp", root / f"train/c1/{number}.bmp")
    message = refused(folder(root))
    assert "found 4 with" in message
    assert message.count(" = ") == 3
    assert "and 1 more" in message


def test_a_copy_within_one_set_and_split_is_left_alone(root):
    shutil.copy(root / "train/c0/0.bmp", root / "train/c0/1.bmp")
    check_duplicates(load_split(folder(root), 0, PIXELS), "refuse")


def test_copies_can_be_allowed_and_are_reported(root, caplog):
    shutil.copy(root / "train/c0/0.bmp", root / "train/c1/0.bmp")
    config = folder(root, duplicates="allow")
    check_duplicates(load_split(config, 0, PIXELS), config.duplicates)
    assert "1 images have the same bytes in two sets or splits: train/c0/0.bmp" in caplog.text


def test_held_out_copies_can_be_dropped(root, caplog):
    shutil.copy(root / "train/c1/0.bmp", root / "val/c0/2.bmp")
    shutil.copy(root / "val/c0/1.bmp", root / "val/c1/0.bmp")
    config = folder(root, duplicates="drop_heldout")
    split = load_split(config, 0, PIXELS)
    check_duplicates(split, config.duplicates)
    assert split.forget_heldout.image_ids == ("val/c0/0.bmp",)
    assert split.retain_heldout.image_ids == ("val/c1/1.bmp", "val/c1/2.bmp")
    assert len(split.forget_train) == len(split.retain_train) == 4
    assert "dropped 2 images of forget_heldout" in caplog.text


def test_dropping_refuses_what_it_cannot_resolve(root):
    shutil.copy(root / "train/c0/0.bmp", root / "train/c1/0.bmp")
    message = refused(folder(root, duplicates="drop_heldout"))
    assert "or set data.duplicates: allow" in message
    for number in range(3):
        shutil.copy(root / f"train/c1/{number + 1}.bmp", root / f"val/c1/{number}.bmp")
    assert "drop_heldout leaves no image in retain_heldout: all 3 are copies" in refused(
        folder(root, duplicates="drop_heldout")
    )


@pytest.mark.parametrize("dataset", ["digits", "generated"])
def test_the_shipped_images_are_all_different(dataset):
    pixels = PixelFormat(side=16, channels=1 if dataset == "digits" else 3)
    for policy in ("refuse", "drop_heldout"):
        config = DataSection(dataset=dataset, forget_classes=2, duplicates=policy)
        check_duplicates(load_split(config, 0, pixels), "refuse")


# The manifest


def test_what_a_seed_draws_is_pinned():
    # The same on every machine: stored runs are continued elsewhere.
    drawn = choose_classes(
        digits(forget_classes=3, retain_classes=4, proxy_retain={"classes": 2}), "0123456789", 5
    )
    assert drawn == ClassChoice(("2", "5", "6"), ("1", "3", "4", "8"), ("0", "7"))
    manifest = write_manifest(load_split(random_images(train_per_class=3, heldout_per_class=2), 5))
    assert hashlib.sha256(manifest.encode()).hexdigest()[:12] == "cba9b4825516"


def test_an_image_that_a_list_names_twice_is_refused(tmp_path):
    lists = {
        "categories_places365": ["/a/airfield 0", "/b/badlands 1"],
        "places365_train_standard": ["/a/airfield/1.jpg 0", "/b/badlands/1.jpg 1"],
        "places365_val": ["1.jpg 0", "2.jpg 1", "2.jpg 0"],
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    for folder in ("data_256", "val_256"):
        (tmp_path / folder).mkdir()
    config = DataSection(
        dataset="places365",
        root=str(tmp_path),
        forget_classes=("/a/airfield",),
        retain_classes=("/b/badlands",),
    )
    with pytest.raises(ConfigError, match=r"found val_256/2\.jpg in forget_heldout and in retain_heldout"):
        load_split(config, 0, PIXELS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forget_classes": 1, "retain_classes": 2},
        {"forget_classes": None, "retain_classes": None, "split": "random_images"},
    ],
)
def test_the_order_of_a_folder_never_matters(root, monkeypatch, changes):
    before = write_manifest(load_split(folder(root, **changes), 3, PIXELS))
    scandir, shuffled = os.scandir, random.Random(0)

    @contextlib.contextmanager
    def scan(path):
        with scandir(path) as entries:
            found = list(entries)
        shuffled.shuffle(found)
        yield found

    monkeypatch.setattr("pareto_unlearn.data.listing.os.scandir", scan)
    for _ in range(5):
        assert write_manifest(load_split(folder(root, **changes), 3, PIXELS)) == before
