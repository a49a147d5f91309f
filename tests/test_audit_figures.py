"""Figures of an audit against other implementations and against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from pareto_unlearn.audit.leaks import membership, retrieval, roughness
from pareto_unlearn.audit.statistics import (
    area_under_curve,
    hits_at_false_positives,
    mean_figure,
    share_figure,
)
from pareto_unlearn.audit.subject import errors_of, spread_over_classes


def draws(seed: int, shift: float, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    members, others = rng.normal(shift, 1.0, 80), rng.normal(0.0, 1.0, 60)
    return (np.round(members), np.round(others)) if ties else (members, others)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("shift", [-1.0, 0.0, 0.5])
def test_the_area_under_the_curve_is_that_of_scikit_learn(shift: float, ties: bool):
    members, others = draws(0, shift, ties)
    labels = np.r_[np.ones(len(members)), np.zeros(len(others))]
    found = area_under_curve(members, others)
    assert found.value == pytest.approx(roc_auc_score(labels, np.r_[members, others]), abs=1e-12)
    assert found.n == len(labels)


def test_its_interval_is_close_to_a_bootstrap():
    members, others = draws(1, 0.7, ties=False)

    def area(first: np.ndarray, second: np.ndarray) -> float:
        return area_under_curve(np.asarray(first), np.asarray(second)).value

    found = area_under_curve(members, others)
    expected = bootstrap(
        (members, others), area, vectorized=False, n_resamples=1000, method="percentile", rng=0
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_a_perfect_detector_has_an_area_of_one_and_a_useless_one_a_half():
    assert area_under_curve(np.array([3.0, 4.0]), np.array([1.0, 2.0])).value == 1.0
    assert area_under_curve(np.ones(5), np.ones(7)).value == 0.5


def test_the_guess_of_membership_takes_the_smaller_error_for_the_member():
    assert membership(np.array([0.1, 0.2]), np.array([0.8, 0.9])).value == 1.0


def test_hits_are_counted_above_all_but_one_in_a_hundred_others():
    others = np.arange(200.0)  # two of them may lie above the threshold, which is 197
    found = hits_at_false_positives(np.array([197.0, 197.5, 300.0, 0.0]), others)
    assert (found.value, found.n) == (0.5, 4)
    few = hits_at_false_positives(np.array([9.0, 10.0]), np.arange(10.0))
    assert few.value == 0.5


def test_a_share_has_wilsons_interval():
    found = share_figure(0, 100)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(3.8416 / (100 + 3.8416), rel=1e-4)
    half = share_figure(50, 100)
    assert (half.low + half.high) / 2 == pytest.approx(0.5)


def test_a_mean_has_the_interval_of_its_standard_error():
    found = mean_figure(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.high - found.value) == pytest.approx((2.0, 1.959964 / math.sqrt(3)))
    assert math.isnan(mean_figure(np.array([1.0])).low)


HOLE = torch.zeros(6, 6, dtype=torch.bool)
HOLE[2:4, 2:4] = True


def test_errors_count_the_pixels_of_the_hole_alone():
    truth = torch.zeros(2, 3, 6, 6)
    pictures = truth.clone()
    pictures[0, :, 2:4, 2:4] = 0.5
    pictures[1, :, 0, 0] = 1.0
    assert errors_of(pictures, truth, HOLE).tolist() == [0.25, 0.0]


def test_a_slope_is_smooth_and_a_chessboard_rough():
    slope = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 6, 6) / 6
    board = (torch.arange(6).view(6, 1) + torch.arange(6).view(1, 6)) % 2
    found = roughness(torch.cat([slope, board.view(1, 1, 6, 6).float()]), HOLE)
    assert found[0] == pytest.approx(0.0, abs=1e-12)
    assert found[1] == pytest.approx(16.0)


def test_retrieval_counts_pictures_that_are_nearest_to_their_own_truth():
    truth = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert retrieval(truth, truth, HOLE).value == 1.0
    assert retrieval(truth.roll(1, dims=0), truth, HOLE).value == 0.0
    elsewhere = torch.where(HOLE, truth, torch.zeros(()))
    assert retrieval(elsewhere, truth, HOLE).value == 1.0


def test_images_are_taken_from_all_classes_by_turns():
    class_ids = torch.tensor([0, 0, 0, 1, 2, 2])
    assert spread_over_classes(class_ids, 4).tolist() == [0, 3, 4, 1]
    assert sorted(spread_over_classes(class_ids, 99).tolist()) == list(range(6))
