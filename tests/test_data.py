"""Which images are forgotten and kept: splits that never move, batches that are a function of the step."""

import csv
import hashlib
import io
import itertools

import pytest
import torch

from pareto_unlearn.config import DataSection
from pareto_unlearn.data import (
    BatchOrder,
    ImageSet,
    SplitData,
    choose_classes,
    load_digits,
    load_split,
    mark_heldout,
    write_manifest,
)
from pareto_unlearn.errors import ConfigError

DIGITS = tuple("0123456789")


def data_section(**changes) -> DataSection:
    values = {"dataset": "digits", "forget_classes": [0, 1, 2, 3, 4], "retain_classes": [5, 6, 7, 8, 9]}
    return DataSection.model_validate(values | changes)


@pytest.fixture(scope="module")
def whole() -> ImageSet:
    return load_digits()


@pytest.fixture(scope="module")
def split() -> SplitData:
    return load_split(data_section(), seed=0)


def parse_manifest(split: SplitData) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(write_manifest(split))))


# Splits


def test_digits_are_1797_images_of_one_channel_16_by_16_between_0_and_1(whole):
    assert whole.images.shape == (1797, 1, 16, 16)
    assert whole.images.dtype == torch.float32
    assert float(whole.images.min()) == 0.0
    assert float(whole.images.max()) == 1.0


def test_a_manifest_is_the_same_on_every_call(split):
    assert write_manifest(load_split(data_section(), seed=0)) == write_manifest(split)


def test_a_manifest_of_named_classes_does_not_depend_on_the_seed(split):
    assert write_manifest(load_split(data_section(), seed=12345)) == write_manifest(split)


def test_the_manifest_is_pinned(split):
    # It decides which images the shipped weights were trained on: it may never move.
    digest = hashlib.sha256(write_manifest(split).encode()).hexdigest()
    assert digest.startswith("22b4f904dfc3")


def test_a_fifth_of_every_class_is_held_out(whole):
    heldout = mark_heldout(whole)
    for class_id in range(10):
        members = whole.class_ids == class_id
        assert int(heldout[members].sum()) == round(0.2 * int(members.sum()))


def test_what_is_held_out_depends_on_the_image_id_alone(whole):
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    shuffled = ImageSet(
        images=whole.images[order],
        class_ids=whole.class_ids[order],
        class_names=whole.class_names,
        image_ids=tuple(whole.image_ids[index] for index in order.tolist()),
        sha256=tuple(whole.sha256[index] for index in order.tolist()),
    )
    assert torch.equal(mark_heldout(shuffled), mark_heldout(whole)[order])


def test_the_four_image_sets_share_no_image_and_cover_the_data(split, whole):
    ids = [image_id for _, _, images in split.items() for image_id in images.image_ids]
    assert len(ids) == len(set(ids))
    assert set(ids) == set(whole.image_ids)


def test_a_choice_of_classes_never_moves_an_image_between_train_and_heldout(split):
    usual = {row["image_id"]: row["split"] for row in parse_manifest(split)}
    other = parse_manifest(load_split(data_section(forget_classes=[7], retain_classes=[0, 3]), seed=3))
    assert all(usual[row["image_id"]] == row["split"] for row in other)


def test_class_ids_index_the_class_names_of_their_set(split, whole):
    truth = dict(zip(whole.image_ids, whole.class_ids.tolist(), strict=True))
    for _, _, images in split.items():
        for image_id, class_id in zip(images.image_ids, images.class_ids.tolist(), strict=True):
            assert images.class_names[class_id] == str(truth[image_id])


def test_images_keep_the_order_of_their_ids(split):
    for _, _, images in split.items():
        assert list(images.image_ids) == sorted(images.image_ids)


def test_a_limit_takes_that_many_images_of_every_class():
    few = load_split(data_section(train_per_class=7, heldout_per_class=3), seed=0)
    assert torch.bincount(few.forget_train.class_ids).tolist() == [7] * 5
    assert torch.bincount(few.retain_heldout.class_ids).tolist() == [3] * 5


# The manifest


def test_a_manifest_has_one_row_per_image(split):
    rows = parse_manifest(split)
    assert list(rows[0]) == ["image_id", "class_name", "set", "split", "sha256"]
    assert len(rows) == 1797


def test_a_manifest_row_states_class_set_split_and_hash_of_the_pixels(split, whole):
    rows = {row["image_id"]: row for row in parse_manifest(split)}
    for index in (0, 5, 1796):
        row = rows[whole.image_ids[index]]
        label = int(whole.class_ids[index])
        assert row["class_name"] == str(label)
        assert row["set"] == ("forget" if label < 5 else "retain")
        assert row["sha256"] == hashlib.sha256(whole.images[index].numpy().tobytes()).hexdigest()


# Drawn classes


def test_drawn_classes_are_disjoint_and_as_many_as_asked_for():
    for seed in range(20):
        forget, retain, _ = choose_classes(data_section(forget_classes=3, retain_classes=4), DIGITS, seed)
        assert (len(forget), len(retain)) == (3, 4)
        assert not set(forget) & set(retain)


def test_drawn_classes_are_a_function_of_the_seed():
    section = data_section(forget_classes=3, retain_classes=4)
    drawn = [choose_classes(section, DIGITS, seed) for seed in range(10)]
    assert drawn == [choose_classes(section, DIGITS, seed) for seed in range(10)]
    assert len(set(drawn)) > 5


def test_without_retain_classes_all_others_are_retained():
    forget, retain, _ = choose_classes(data_section(forget_classes=[8, 2], retain_classes=None), DIGITS, 0)
    assert forget == ("2", "8")
    assert retain == ("0", "1", "3", "4", "5", "6", "7", "9")


@pytest.mark.parametrize(
    ("changes", "key", "found"),
    [
        ({"forget_classes": ["10"]}, "data.forget_classes", "unknown class 10"),
        ({"retain_classes": ["cat", "5"]}, "data.retain_classes", "unknown class cat"),
        ({"forget_classes": 11, "retain_classes": 1}, "data.forget_classes", "found 11"),
        ({"retain_classes": 6}, "data.retain_classes", "found 6, but between 1 and 5"),
        ({"forget_classes": 10, "retain_classes": None}, "data.forget_classes", "found all 10 classes"),
        ({"train_per_class": 1000}, "data.train_per_class", "found 1000, but class 0 has only"),
        ({"heldout_per_class": 37}, "data.heldout_per_class", "found 37, but class 0 has only 36"),
    ],
)
def test_impossible_data_is_refused_with_the_key_and_what_was_found(changes, key, found):
    with pytest.raises(ConfigError) as caught:
        load_split(data_section(**changes), seed=0)
    assert key in str(caught.value)
    assert found in str(caught.value)


def test_drawn_forget_classes_that_meet_named_retain_classes_are_refused():
    section = data_section(forget_classes=9, retain_classes=[0, 1, 2])
    with pytest.raises(ConfigError, match="are in both forget_classes and retain_classes"):
        choose_classes(section, DIGITS, seed=0)


# Batches


@pytest.mark.parametrize(("count", "batch"), [(10, 1), (10, 5), (37, 10), (7, 7), (5, 12), (1, 3), (3, 64)])
def test_every_image_is_used_once_an_epoch(count, batch):
    order = BatchOrder(count, batch, seed=0, stream=1)
    stream = torch.cat([order(step) for step in range(3 * count)])
    for epoch in range(len(stream) // count):
        assert sorted(stream[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


@pytest.mark.parametrize(("count", "batch"), [(10, 5), (37, 10), (5, 12), (3, 64)])
def test_every_batch_is_full(count, batch):
    order = BatchOrder(count, batch, seed=0, stream=1)
    assert {len(order(step)) for step in range(20)} == {batch}


@pytest.mark.parametrize(("count", "batch"), [(37, 10), (5, 12)])
def test_a_batch_is_a_function_of_the_step_alone(count, batch):
    forward = BatchOrder(count, batch, seed=4, stream=2)
    expected = [forward(step) for step in range(30)]
    order = BatchOrder(count, batch, seed=4, stream=2)
    steps = torch.randperm(30, generator=torch.Generator().manual_seed(1)).tolist()
    for step in [*steps, *reversed(steps), *range(29, -1, -1)]:
        assert torch.equal(order(step), expected[step])


def test_epochs_seeds_and_streams_have_different_orders():
    epochs = [
        BatchOrder(50, 50, seed, stream)(step) for seed in (0, 1) for stream in (0, 1) for step in (0, 1)
    ]
    for one, other in itertools.combinations(epochs, 2):
        assert not torch.equal(one, other)


def test_batches_from_an_empty_set_are_refused():
    with pytest.raises(ValueError, match="empty set"):
        BatchOrder(0, 4, seed=0, stream=0)
