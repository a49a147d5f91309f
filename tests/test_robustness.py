"""What a front owes to its seed and to its steps."""

from dataclasses import replace

import pytest
from synthetic_run import SCALES, epsilon_range, synthetic_info
from trial_rows import finished_record

from pareto_unlearn.analysis.robustness import (
    choose_checked,
    explain_gap,
    find_gains,
    find_gap,
    spread_of_ends,
)
from pareto_unlearn.records import Phase, Role, TrialRecord, TrialState, ValidRange
from pareto_unlearn.sweep.summary import describe_gains, describe_gap, describe_spread

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
    assert describe_spread(replace(synthetic_info(), ranges=found)) == []


def test_without_scales_or_a_range_of_f1_there_is_no_spread():
    assert spread_of_ends(ranges(), None) is None
    assert spread_of_ends(ranges(), replace(SCALES, f1_original=SCALES.f1_floor)) is None


def test_the_summary_says_mean_and_largest_difference_of_both_ends():
    assert describe_spread(replace(synthetic_info(), ranges=ranges())) == [
        "ends over 3 seeds: lower end e 0.020 (0.018 to 0.022, 0.004 apart), "
        "upper end e 0.630 (0.610 to 0.660, 0.050 apart)"
    ]


# Steps


def solved(trial_id: str, f1: float, f2: float, **changes) -> TrialRecord:
    values = {"epsilon": f1, "epsilon_fraction": 0.25, "f1": f1, "f2": f2}
    return finished_record(trial_id, **(values | changes))


HIGHEST = solved("aa", 0.53, 0.04, phase=Phase.BOUNDARY, role=Role.HIGHEST, epsilon_fraction=None)
CHECKED = (
    HIGHEST,
    replace(HIGHEST, trial_id="ca", phase=Phase.CHECK, checks="aa", f1=0.52076, f2=0.038),
    solved("bb", 0.7, 0.01),
    solved("cb", 0.70924, 0.008, phase=Phase.CHECK, checks="bb"),
)


@pytest.mark.parametrize(
    ("count", "chosen"),
    [
        (0, []),
        (1, [0]),
        (2, [0, 1]),
        (3, [0, 1, 2]),
        (4, [1, 2, 3]),
        (5, [1, 2, 3]),
        (9, [2, 4, 6]),
        (21, [5, 10, 15]),
    ],
)
def test_the_trials_at_the_quartiles_of_f1_are_checked(count, chosen):
    ranked = [solved(f"{index:02}", 1.0 + index, 1.0) for index in range(count)]
    assert choose_checked(ranked[::-1]) == tuple(ranked[index] for index in chosen)


def test_trials_without_a_model_are_not_chosen():
    broken = solved("99", float("nan"), float("nan"), state=TrialState.DIVERGED)
    infeasible = solved("01", 1.0, 1.0, state=TrialState.INFEASIBLE)
    assert choose_checked([broken, infeasible]) == (infeasible,)


def test_a_gain_is_the_share_of_f2_that_twice_the_steps_take_away():
    highest, epsilon = find_gains(CHECKED[::-1], SCALES)
    assert (highest.checked, highest.doubled) == CHECKED[:2]
    assert (highest.gain, highest.f1_change) == pytest.approx((0.05, -0.01))
    assert (epsilon.gain, epsilon.f1_change) == pytest.approx((0.2, 0.01))


def test_a_check_without_a_model_has_no_gain():
    broken = replace(CHECKED[1], state=TrialState.DIVERGED, f1=float("nan"), f2=float("nan"))
    (found,) = find_gains([HIGHEST, broken], SCALES)
    assert (found.gain, found.f1_change) == (None, None)
    (line, _) = describe_gains([found])
    assert line.markup.endswith(": unknown at highest, [red]DIVERGED[/red]")


def test_rows_that_check_nothing_have_no_gain():
    lost = replace(CHECKED[1], checks="dd")  # the row it checks is not in the store any more
    assert find_gains([HIGHEST, CHECKED[2], lost], SCALES) == ()
    assert describe_gains([]) == []


def test_the_summary_says_the_gains_and_how_to_read_them():
    line, reading = describe_gains(find_gains(CHECKED, SCALES))
    assert line.plain == (
        "gain in f2 when the steps are doubled (seed 0): 5.0% at highest (f1 -1.00% of its range), "
        "20.0% at epsilon 25.0% (f1 +1.00% of its range)"
    )
    assert "solver.path.steps" in reading


def kept(trial_id: str, train: float, heldout: float, **changes) -> TrialRecord:
    return solved(trial_id, 1.0, 1.0, retained_quality=train, retained_quality_heldout=heldout, **changes)


def test_the_largest_loss_from_training_to_heldout_images_is_found():
    small, large = kept("01", 0.99, 0.95), kept("02", 0.99, 0.60)
    assert find_gap([small, large, kept("03", 0.99, 0.70)]) == large
    assert find_gap([small]) is None
    assert find_gap([]) is None
    text = explain_gap(large)
    (line,) = describe_gap(large)
    assert text in line
    assert describe_gap(None) == []
    assert "99.0%" in text
    assert "60.0% on held-out" in text


def test_only_models_of_the_front_have_a_gap():
    baseline = kept("01", 0.99, 0.1, phase=Phase.BASELINE)
    diverged = kept("02", 0.99, 0.1, state=TrialState.DIVERGED)
    unmeasured = solved("03", 1.0, 1.0, retained_quality=None, retained_quality_heldout=None)
    assert find_gap([baseline, diverged, unmeasured]) is None
