"""Finished models measured on a drawn part of the images: which, what is stored, and what stays as it was."""

import math

import pytest
import torch
from small_sweep import QUICKSTART, TINIEST, run, run_of, small_sweep
from tiny_families import load_on_generated

from pareto_unlearn.config import config_hash, load_config, result_fields
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.trial.distances import forget_distances, retain_distances
from pareto_unlearn.trial.measuring import measure_completeness, measure_metrics, measure_retain
from pareto_unlearn.trial.subset import draw_evenly, standard_error

FEW = ("evaluate.images=2", "evaluate.pictures=2")
CAPPED = ("evaluate.images=20", "evaluate.pictures=10")


def test_every_class_has_its_share_of_what_is_drawn_and_a_larger_draw_holds_a_smaller_one():
    class_ids = torch.tensor([0] * 50 + [1] * 30 + [2] * 2)

    def draw(count: int, seed: int = 0) -> set[int]:
        return set(draw_evenly(class_ids, count, seeded_generator(seed, 63)).tolist())

    counts = torch.bincount(class_ids[sorted(draw(12))]).tolist()
    assert counts[2] == 2
    assert {counts[0], counts[1]} == {5}
    assert draw(12) < draw(13) < draw(60)
    assert draw(12) == draw(12) != draw(12, seed=1)
    assert draw(82) == set(range(82))


def test_the_standard_error_is_what_means_of_drawn_images_are_apart():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0)).double()
    means = [
        values[torch.randperm(200, generator=seeded_generator(seed))[:50]].mean() for seed in range(2000)
    ]
    assert standard_error(values[:200], 200) == 0.0
    errors = [
        standard_error(values[torch.randperm(200, generator=seeded_generator(seed))[:50]], 200)
        for seed in range(50)
    ]
    assert sum(errors) / 50 == pytest.approx(float(torch.stack(means).std()), rel=0.08)


def test_f1_f2_and_pictures_are_those_of_the_drawn_images(tmp_path):
    config, material = load_on_generated("mae", tmp_path, *FEW)
    for split in ("train", "heldout"):
        rows = material.evaluated["forget", split]
        every = forget_distances(material, split).double()
        found = measure_completeness(material, split)
        assert found.f1 == pytest.approx(float(every[rows].mean()), rel=1e-5)
        assert found.f1_error == pytest.approx(standard_error(every[rows], len(every)), rel=1e-4)
        kept = measure_retain(material, split)
        own = retain_distances(material, split).double()[material.evaluated["retain", split]]
        assert kept.f2 == pytest.approx(float(own.mean()), abs=1e-12)
    assert {row.n for row in measure_metrics(config, material)} == {2}


@pytest.mark.slow
def test_a_sweep_stores_standard_errors_only_where_it_caps_the_images(tmp_path):
    config = small_sweep(tmp_path, *CAPPED, "baselines=[]", "solver.path.steps=60")
    assert run(config) in (0, 4)
    for row in run_of(config).records:
        assert row.f1_error is not None
        assert 0 < row.f1_error < row.f1
        assert 0 <= row.f2_error < math.inf
    metrics = run_of(config).metrics
    assert set(metrics[metrics.protocol == "pixel"].n) == {10}


def test_hashes_are_as_they_were_where_nothing_is_capped():
    plain = load_config(QUICKSTART, list(TINIEST))
    assert not {"images", "pictures"} & result_fields(plain)["evaluate"].keys()
    assert config_hash(load_config(QUICKSTART, [*TINIEST, *CAPPED]), "a") != config_hash(plain, "a")
