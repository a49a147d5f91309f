"""Every task removes exactly the pixels it names."""

import pytest
import torch

from pareto_unlearn.config import TaskSection
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.holes import (
    Edge,
    build_hole,
    center,
    center_patches,
    extend,
    outpaint,
    random_patches,
    removed_patches,
)


def box(side, rows, columns):
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize(
    ("side", "patch", "count", "rows"),
    [(224, 16, 8, slice(3 * 16, 11 * 16)), (224, 16, 4, slice(5 * 16, 9 * 16)), (256, 16, 8, slice(64, 192))],
)
def test_center_patches_are_the_published_rows_and_columns(side, patch, count, rows):
    hole = center_patches(side, patch, count)
    assert hole.sum() == (count * patch) ** 2
    assert torch.equal(hole, box(side, rows, rows))


@pytest.mark.parametrize(("ratio", "pixels"), [(0.5, 128), (0.25, 64), (0.125, 32)])
def test_center_removes_a_square_of_that_share_of_the_side(ratio, pixels):
    hole = center(256, ratio)
    start = (256 - pixels) // 2
    assert hole.sum() == pixels**2
    assert torch.equal(hole, box(256, slice(start, start + pixels), slice(start, start + pixels)))


def test_center_by_ratio_is_center_by_patches():
    assert torch.equal(center(224, 8 / 14), center_patches(224, 16, 8))


@pytest.mark.parametrize("sixteenths", range(1, 14))
def test_outpaint_removes_half_the_ratio_on_each_side(sixteenths):
    hole = outpaint(256, sixteenths / 16)
    kept = 256 - 16 * sixteenths
    assert hole.sum() == 256**2 - kept**2
    border = 8 * sixteenths
    inside = slice(border, 256 - border)
    assert torch.equal(~hole, box(256, inside, inside))


def test_extension_removes_the_named_side():
    everything = slice(None)
    assert torch.equal(extend(16, Edge.UP, 0.25), box(16, slice(0, 4), everything))
    assert torch.equal(extend(16, Edge.DOWN, 0.25), box(16, slice(12, 16), everything))
    assert torch.equal(extend(16, Edge.LEFT, 0.25), box(16, everything, slice(0, 4)))
    assert torch.equal(extend(16, Edge.RIGHT, 0.75), box(16, everything, slice(4, 16)))


@pytest.mark.parametrize(("ratio", "count"), [(0.75, 147), (0.5, 98), (0.25, 49), (0.9, 176)])
def test_random_patches_removes_that_share_of_whole_patches(ratio, count):
    hole = random_patches(224, 16, ratio, torch.Generator().manual_seed(1))
    assert hole.sum() == count * 16 * 16
    assert removed_patches(hole, 16).sum() == count


def test_random_patches_come_from_the_generator_alone():
    first, again, other = (
        random_patches(224, 16, 0.75, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_patches_are_drawn_evenly():
    generator = torch.Generator().manual_seed(0)
    share = torch.stack([random_patches(8, 2, 0.5, generator).float() for _ in range(800)]).mean(0)
    assert (share - 0.5).abs().max() < 0.1  # 5.6 standard deviations of the mean of 800 coins


def test_removed_patches_names_the_whole_patches():
    assert torch.equal(removed_patches(center_patches(32, 4, 4), 4), box(8, slice(2, 6), slice(2, 6)))


def test_a_hole_that_cuts_patches_is_refused_with_the_first_cut():
    with pytest.raises(
        ConfigError, match=r"found 4 patches cut by it, the first in row 2, column 0 of the 4 x 4"
    ):
        removed_patches(extend(16, Edge.DOWN, 6 / 16), 4)


@pytest.mark.parametrize("value", [True, False])
def test_a_hole_of_everything_or_nothing_is_refused(value):
    with pytest.raises(ConfigError, match="removes some patches and keeps some"):
        removed_patches(torch.full((16, 16), value), 4)


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (center_patches, (224, 16, 7)),
        (center_patches, (224, 16, 14)),
        (center_patches, (224, 16, 0)),
        (center_patches, (224, 15, 4)),
        (center, (256, 0.0)),
        (center, (256, 1.0)),
        (center, (256, 129 / 256)),
        (center, (224, float("nan"))),
        (outpaint, (256, 1.0)),
        (outpaint, (256, 0.33)),
        (extend, (256, Edge.UP, 0.0)),
        (extend, (256, Edge.UP, 1.5)),
        (random_patches, (224, 16, 0.0, torch.Generator())),
        (random_patches, (224, 16, 1.0, torch.Generator())),
        (random_patches, (224, 16, float("nan"), torch.Generator())),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(map(str, value[:3])),
)
def test_what_cannot_be_removed_exactly_is_refused(build, arguments):
    with pytest.raises(ConfigError, match="expected"):
        build(*arguments)


# The task of a sweep file


@pytest.mark.parametrize(
    ("task", "hole"),
    [
        (TaskSection(), center_patches(64, 4, 8)),
        (TaskSection(size=0.25), center_patches(64, 4, 4)),
        (TaskSection(patches=4), center_patches(64, 4, 4)),
        (TaskSection(kind="outpaint"), outpaint(64, 0.5)),
        (TaskSection(kind="outpaint", size=0.25), outpaint(64, 0.25)),
        (TaskSection(kind="up", size=0.25), extend(64, Edge.UP, 0.25)),
        (TaskSection(kind="down", size=0.25), extend(64, Edge.DOWN, 0.25)),
        (TaskSection(kind="left", size=0.25), extend(64, Edge.LEFT, 0.25)),
        (TaskSection(kind="right", size=0.25), extend(64, Edge.RIGHT, 0.25)),
    ],
    ids=str,
)
def test_a_task_is_the_hole_it_names_whatever_the_seed(task, hole):
    assert all(torch.equal(build_hole(task, 64, 4, seed), hole) for seed in (0, 1))


def test_a_random_hole_is_drawn_from_the_seed():
    task = TaskSection(kind="random", size=0.75)
    first, again, other = (build_hole(task, 64, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert removed_patches(first, 4).sum() == removed_patches(other, 4).sum() == 192


def test_a_square_need_not_lie_on_patches_for_a_model_that_sees_pixels():
    task = TaskSection(size=0.5)
    assert torch.equal(build_hole(task, 56, 4, 0, whole=False), center(56, 0.5))
    with pytest.raises(
        ConfigError, match=r"task\.size: found 0\.5.* 14 x 14 patches: use one of .*, or task\.patches$"
    ):
        build_hole(task, 56, 4, 0)


def test_patches_that_cannot_be_centred_are_refused_with_the_possible_numbers():
    with pytest.raises(ConfigError, match=r"3 x 3 patches.* 16 x 16: 2, 4, 6, 8, 10, 12, 14$"):
        build_hole(TaskSection(patches=3), 64, 4, 0)
