"""Images drawn from a seed."""

import hashlib

import pytest
import torch
from image_folders import ids_of, rows_of

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import load_split, write_manifest
from pareto_unlearn.records import PixelFormat


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
