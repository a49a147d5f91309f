"""Dominance and hypervolume against volumes worked out by hand."""

import itertools
import math

import jaxtyping
import numpy as np
import pytest
from beartype import beartype

from pareto_unlearn.analysis.front import hypervolume, is_non_dominated, is_on_lower_hull

UNIT = {"ideal": (0.0, 0.0), "reference": (1.0, 1.0)}
NONE = np.empty((0, 2))


def costs(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, dtype=float)


def random_costs(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, 2))


# Dominance


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (((1, 1),), (True,)),
        (((1, 2), (2, 1)), (True, True)),
        (((1, 1), (2, 2)), (True, False)),
        (((1, 1), (1, 2)), (True, False)),
        (((1, 2), (2, 1), (2, 2), (0, 3)), (True, True, False, True)),
    ],
)
def test_a_row_that_another_beats_is_dominated(rows, expected):
    assert is_non_dominated(costs(*rows)).tolist() == list(expected)


def test_equal_rows_are_all_in_the_front():
    assert is_non_dominated(costs((1, 2), (1, 2), (2, 1), (3, 3))).tolist() == [True, True, True, False]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_that_of_the_definition(seed):
    rows = np.round(random_costs(40, seed), 1)  # rounded, so that ties occur
    beaten = [any(np.all(b <= a) and np.any(b < a) for b in rows) for a in rows]
    assert is_non_dominated(rows).tolist() == [not one for one in beaten]


def test_the_front_follows_a_permutation_of_the_rows():
    rows = random_costs(30)
    order = np.random.default_rng(1).permutation(30)
    assert np.array_equal(is_non_dominated(rows[order]), is_non_dominated(rows)[order])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 1])
def test_a_row_that_is_not_finite_is_never_in_the_front_and_beats_no_other(bad, column):
    rows = costs((1, 2), (0, 0), (2, 1))
    rows[1, column] = bad
    assert is_non_dominated(rows).tolist() == [True, False, True]


def test_without_finite_rows_the_front_is_empty():
    assert is_non_dominated(costs((math.nan, 1), (math.inf, 0))).tolist() == [False, False]


def test_no_rows_have_no_front():
    assert is_non_dominated(NONE).shape == (0,)


def test_dominance_holds_in_three_costs():
    rows = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [2.0, 0.0, 2.0]])
    assert is_non_dominated(rows).tolist() == [True, False, True]


# Lower hull


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (((1, 1),), (True,)),
        (((0, 2), (1, 0.9), (2, 0)), (True, True, True)),
        (((0, 2), (1, 1.1), (2, 0)), (True, False, True)),
        (((0, 2), (1, 1), (2, 0)), (True, False, True)),
        (((2, 0), (0, 2), (1, 0.9), (3, 0)), (True, True, True, False)),
    ],
)
def test_a_row_on_or_above_a_line_between_two_others_is_no_corner(rows, expected):
    assert is_on_lower_hull(costs(*rows)).tolist() == list(expected)


def test_of_equal_rows_the_first_is_the_corner():
    rows = costs((2, 0), (0, 2), (0, 2), (2, 0))
    assert is_on_lower_hull(rows).tolist() == [True, True, False, False]


@pytest.mark.parametrize("seed", range(5))
def test_the_hull_is_that_of_the_definition(seed):
    rows = random_costs(25, seed)
    weights = np.linspace(0, 1, 20_001)[1:-1]
    best = {int(np.argmin(rows @ (w, 1 - w))) for w in weights}
    assert set(np.flatnonzero(is_on_lower_hull(rows)).tolist()) == best


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_no_corner(bad):
    assert is_on_lower_hull(costs((0, 1), (bad, -5), (-5, bad), (1, 0))).tolist() == [
        True,
        False,
        False,
        True,
    ]


def test_no_rows_have_no_corners():
    assert is_on_lower_hull(NONE).tolist() == []


# Hypervolume


@pytest.mark.parametrize(
    ("rows", "volume"),
    [
        (((0.0, 0.0),), 1.0),
        (((0.5, 0.5),), 0.25),
        (((0.25, 0.5),), 0.375),
        (((0.25, 0.75), (0.75, 0.25)), 0.3125),
        (((0.2, 0.6), (0.4, 0.4), (0.6, 0.2)), 0.52),
        (((0.0, 0.9), (0.9, 0.0)), 0.19),
    ],
)
def test_hypervolume_is_the_area_worked_out_by_hand(rows, volume):
    assert hypervolume(costs(*rows), **UNIT) == pytest.approx(volume, abs=1e-12)


def test_hypervolume_is_a_share_of_the_box():
    rows = costs((3.0, 15.0))  # half of each side of the box
    assert hypervolume(rows, ideal=(1.0, 10.0), reference=(5.0, 20.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("extra", [(0.5, 0.5), (0.6, 0.9), (1.0, 0.0), (0.0, 1.0), (1.5, 0.1), (7.0, 7.0)])
def test_duplicates_dominated_rows_and_rows_beyond_the_reference_add_nothing(extra):
    assert hypervolume(costs((0.5, 0.5), extra), **UNIT) == pytest.approx(0.25)


@pytest.mark.parametrize("bad", [(math.nan, 0.0), (0.0, math.nan), (-math.inf, 0.0), (math.inf, 0.0)])
def test_rows_that_are_not_finite_add_nothing(bad):
    assert hypervolume(costs((0.5, 0.5), bad), **UNIT) == pytest.approx(0.25)


def test_a_row_beyond_the_ideal_counts_as_lying_on_the_edge_of_the_box():
    assert hypervolume(costs((-3.0, 0.5)), **UNIT) == pytest.approx(0.5)


def test_no_rows_have_no_hypervolume():
    assert hypervolume(NONE, **UNIT) == 0.0


def test_rows_all_outside_the_box_have_no_hypervolume():
    assert hypervolume(costs((2.0, 2.0), (1.0, 1.0)), **UNIT) == 0.0


def test_hypervolume_does_not_depend_on_the_order_of_rows():
    rows = random_costs(4)
    volumes = {
        round(hypervolume(rows[list(order)], **UNIT), 12) for order in itertools.permutations(range(4))
    }
    assert len(volumes) == 1


def test_a_further_row_never_lowers_the_hypervolume():
    rows = random_costs(30)
    volumes = [hypervolume(rows[:count], **UNIT) for count in range(31)]
    assert volumes == sorted(volumes)


@pytest.mark.parametrize("reference", [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_an_empty_box_is_refused(reference):
    with pytest.raises(ValueError, match="must exceed the ideal point"):
        hypervolume(costs((0.5, 0.5)), ideal=(0.0, 0.0), reference=reference)


# Shapes


@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros((3, 2), dtype=int), np.zeros((2, 2, 2))])
def test_annotations_refuse_rows_of_a_wrong_shape_or_type(wrong):
    checked = jaxtyping.jaxtyped(is_non_dominated, typechecker=beartype)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(wrong)


def test_annotations_refuse_a_hypervolume_of_three_costs():
    checked = jaxtyping.jaxtyped(hypervolume, typechecker=beartype)
    with pytest.raises(jaxtyping.TypeCheckError):
        checked(np.zeros((4, 3)), ideal=(0.0, 0.0), reference=(1.0, 1.0))
