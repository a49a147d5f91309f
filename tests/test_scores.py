"""Scores in fixed units: areas of two boxes and the least quality loss at fixed e."""

import math

import numpy as np
import pytest

from pareto_unlearn.analysis.scores import LEVELS, median_scores, score


def test_areas_are_those_worked_out_by_hand():
    # One model at e 0.2, loss 1 %: it dominates (1 - 0.2) of the width and all but its loss of each height.
    found = score(np.array([[0.2, 0.01]]))
    assert found.areas == pytest.approx((0.8 * 0.8, 0.8 * 0.99))


def test_a_better_boundary_never_makes_a_score_smaller():
    front = np.array([[0.1, 0.03], [0.4, 0.01]])
    better = np.vstack([front, [[0.02, 0.045]]])
    assert all(new > old for old, new in zip(score(front).areas, score(better).areas, strict=True))


def test_a_loss_is_the_least_among_models_that_are_complete_enough():
    found = score(np.array([[0.08, 0.05], [0.3, 0.02], [0.04, 0.09], [math.nan, 0.0]]))
    assert dict(zip(LEVELS, found.losses, strict=True)) == {
        0.05: 0.09,
        0.1: 0.05,
        0.2: 0.05,
        0.35: 0.02,
        0.5: 0.02,
    }


def test_without_models_there_is_no_loss_and_no_area():
    found = score(np.empty((0, 2)))
    assert found.areas == (0.0, 0.0)
    assert set(found.losses) == {None}


def test_the_median_over_seeds_is_unknown_where_a_seed_has_none():
    one, other = score(np.array([[0.04, 0.02]])), score(np.array([[0.3, 0.04]]))
    found = median_scores([one, other])
    assert found.losses == (None, None, None, pytest.approx(0.03), pytest.approx(0.03))
    with pytest.raises(ValueError, match="at least one seed"):
        median_scores([])
