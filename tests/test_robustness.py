"""What a front owes to its seed."""

from dataclasses import replace

import pytest
from synthetic_run import SCALES, epsilon_range, synthetic_info

from pareto_unlearn.records import ValidRange
from pareto_unlearn.robustness import spread_of_ends
from pareto_unlearn.sweep.progress import describe_spread

ENDS = ((0.018, 0.61), (0.022, 0.66), (0.020, 0.62))


def ranges(ends: tuple[tuple[float, float], ...] = ENDS) -> tuple[ValidRange, ...]:
    """One range a seed, its ends given in e."""
    raw = [[SCALES.f1_floor + e * SCALES.f1_range for e in pair] for pair in ends]
    return tuple(
        replace(epsilon_range(), seed=seed, lower=low, upper=high) for seed, (low, high) in enumerate(raw)
    )


# Seeds


def test_the_spread_of_both_ends_is_in_units_of_the_range_of_f1():
    lower, upper = spread_of_ends(ranges(), SCALES)
    assert (lower.mean, lower.low, lower.high) == pytest.approx((0.02, 0.018, 0.022))
    assert (upper.mean, upper.low, upper.high) == pytest.approx((0.63, 0.61, 0.66))
    assert (lower.deviation, upper.deviation) == pytest.approx((0.004, 0.05))


def test_the_order_of_seeds_does_not_matter():
    assert spread_of_ends(ranges(), SCALES) == spread_of_ends(ranges()[::-1], SCALES)


@pytest.mark.parametrize("found", [(), ranges()[:1]], ids=["no range", "one seed"])
def test_without_a_second_seed_there_is_no_spread(found):
    assert spread_of_ends(found, SCALES) is None
    assert describe_spread(replace(synthetic_info(), ranges=found)) == ""


def test_without_scales_or_a_range_of_f1_there_is_no_spread():
    assert spread_of_ends(ranges(), None) is None
    assert spread_of_ends(ranges(), replace(SCALES, f1_original=SCALES.f1_floor)) is None


def test_the_summary_says_mean_and_largest_difference_of_both_ends():
    assert describe_spread(replace(synthetic_info(), ranges=ranges())) == (
        "ends over 3 seeds: lower end e 0.020 (0.018 to 0.022, 0.004 apart), "
        "upper end e 0.630 (0.610 to 0.660, 0.050 apart)"
    )
