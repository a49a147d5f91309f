"""Reconstructions of reconstructions: the original sees the generated hole and nothing else."""

from pathlib import Path

import pytest
import torch
from small_sweep import QUICKSTART
from tiny_families import configure, load_on_generated

from pareto_unlearn.config import TaskSection, load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.trial import load_material
from pareto_unlearn.trial.measuring import measure_metrics, reconstruct
from pareto_unlearn.trial.second import SecondScores, load_second, opposite_task, reconstruct_again

ASK = "evaluate.second_reconstruction=true"


@pytest.fixture(scope="module")
def config():
    return load_config(QUICKSTART, [ASK, "data.heldout_per_class=6", "objective.noise_images=16"])


@pytest.fixture(scope="module")
def material(config, tmp_path_factory):
    return load_material(config, tmp_path_factory.mktemp("second"), "key")


@pytest.mark.parametrize(
    "task",
    [
        {"kind": "center"}, {"kind": "center", "size": 0.25}, {"patches": 2},
        {"kind": "outpaint", "size": 0.25}, {"kind": "up", "size": 0.25}, {"kind": "left", "size": 0.75},
        {"kind": "right"}, {"kind": "down"},
    ],
)  # fmt: skip
def test_the_opposite_removes_exactly_what_the_task_leaves(task):
    section = TaskSection(**task)
    hole = build_hole(section, 32, 4, 0)
    opposite = opposite_task(section, float(hole.double().mean()))
    assert torch.equal(build_hole(opposite, 32, 4, 0), ~hole)


@pytest.mark.parametrize("family", ["digits_mae", "mae", "mage", "palette"])
def test_nothing_but_what_was_generated_is_seen(family, tmp_path):
    config, material = load_on_generated(family, tmp_path, ASK)
    second = load_second(config, material)
    pictures = reconstruct(material, "forget", torch.arange(3))
    hole = second.removed_pixels()
    assert torch.equal(hole, material.model.removed_pixels()) == (family == "digits_mae")
    changed = torch.where(hole, torch.rand_like(pictures), pictures)
    again, other = (
        reconstruct_again(second, images, material.seed, "forget", torch.arange(3))
        for images in (pictures, changed)
    )
    made = hole.expand_as(again)
    assert torch.equal(again[made], other[made])


def test_rows_say_what_they_are_for_both_sets(config, material):
    rows = [row for row in measure_metrics(config, material) if row.metric.startswith("second_")]
    assert {row.metric.removeprefix("second_reconstruction_") for row in rows} == {
        "mse", "psnr", "frechet_distance", "inception_score", "embedding_cosine",
    }  # fmt: skip
    assert {(row.set, row.split, row.n) for row in rows} == {
        ("forget", "heldout", 30),
        ("retain", "heldout", 30),
    }


def test_noise_tells_less_of_the_image_than_the_original_s_picture(config, material):
    second, images = load_second(config, material), material.split.forget_heldout.images[:]
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    for pictures in (reconstruct(material, "forget", torch.arange(30)), noise):
        scores = SecondScores(second, material, ("mse",), "forget")
        scores.add(pictures, images, torch.arange(30))
        errors += [row.value for row in scores.rows()]
    assert errors[0] < errors[1]


def test_without_the_key_nothing_is_loaded_or_measured(material):
    plain = load_config(QUICKSTART)
    assert load_second(plain, material) is None
    assert not [row for row in measure_metrics(plain, material) if row.metric.startswith("second_")]


@pytest.mark.parametrize("family", ["mae", "mage", "palette"])
def test_every_family_can_do_it(family, tmp_path: Path):
    config = configure(family, ASK, "evaluate.metrics=[mse]")
    material = load_on_generated(family, tmp_path, ASK, "evaluate.metrics=[mse]")[1]
    rows = [row for row in measure_metrics(config, material) if row.metric == "second_reconstruction_mse"]
    assert [row.set for row in rows] == ["forget", "retain"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model={family: palette, checkpoint: a.pth}", "data.dataset=generated", "task={kind: random}"],
            "task.kind random, whose opposite is no task",
        ),
        (
            [
                "model={family: mae, checkpoint: a.pth, predicts: normalised_patches}",
                "data.dataset=generated",
            ],
            "would give the truth away",
        ),
    ],
)
def test_what_would_not_be_a_test_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config(QUICKSTART, ["evaluate={second_reconstruction: true}", *overrides])
