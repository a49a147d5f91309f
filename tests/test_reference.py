"""Which e on a front leaves as much error as a model that never saw the forget images."""

from dataclasses import replace

import pytest
from synthetic_run import SCALES, Planned, epsilon_range, synthetic_result

from pareto_unlearn.analysis.likeness import Errors, Likeness, explain_likeness, find_likeness, interpolate_e
from pareto_unlearn.records import Phase, TrialRecord

CURVE = ((1.0, 0.05), (0.6, 0.15), (0.2, 0.55))


def row(phase: Phase, method: str, e: float, seed: int = 0) -> TrialRecord:
    record = synthetic_result(Planned(phase=phase, method=method, e=e, loss=0.02)).record
    return replace(record, trial_id=f"{method}-{e}-{seed}", seed=seed, e=e)


def match(error: Errors, seeds: tuple[int, ...] = (0,)) -> tuple[Likeness, ...]:
    front = [row(Phase.EPSILON, "epsilon_constraint", e) for e, _ in CURVE]
    errors = {one.trial_id: Errors(value=value) for one, (_, value) in zip(front, CURVE, strict=True)}
    controls = [row(Phase.CONTROL, "retrained", 0.96, seed) for seed in seeds]
    errors |= {one.trial_id: error for one in controls}
    return find_likeness([*front, *controls], dict.fromkeys(seeds, front), errors, SCALES, [epsilon_range()])


def test_between_two_models_the_error_is_linear_in_e():
    assert interpolate_e(CURVE, 0.10) == pytest.approx(0.8)
    assert interpolate_e(CURVE[::-1], 0.35) == pytest.approx(0.4)


@pytest.mark.parametrize(("e", "error"), CURVE)
def test_a_model_itself_is_met_exactly(e, error):
    assert interpolate_e(CURVE, error) == pytest.approx(e)


@pytest.mark.parametrize("error", [0.04, 0.56])
def test_an_error_that_the_front_does_not_have_is_met_nowhere(error):
    assert interpolate_e(CURVE, error) is None
    assert interpolate_e((), error) is None


def test_where_the_error_falls_in_between_the_first_crossing_from_the_original_counts():
    assert interpolate_e(((1.0, 0.1), (0.8, 0.3), (0.6, 0.2), (0.4, 0.4)), 0.25) == pytest.approx(0.85)


def test_equal_errors_side_by_side_divide_by_nothing():
    assert interpolate_e(((1.0, 0.1), (0.8, 0.1), (0.6, 0.2)), 0.1) == 1.0


def test_a_match_names_epsilon_and_the_interval_over_images():
    (found,) = match(Errors(value=0.10, low=0.05, high=0.15))
    assert (found.e, found.e_low, found.e_high) == pytest.approx((0.8, 0.6, 1.0))
    assert found.epsilon == pytest.approx(SCALES.f1_floor + 0.8 * SCALES.f1_range)
    assert found.epsilon_fraction == pytest.approx(epsilon_range().fraction_of(found.epsilon))
    text = explain_likeness(found)
    assert "0.1 (0.05 to 0.15), equals that of the front at e 0.8 (0.6 to 1): completeness 20.0%" in text
    assert "one training with one seed" in text


def test_an_end_of_the_interval_that_the_front_does_not_reach_is_open():
    (found,) = match(Errors(value=0.5, low=0.4, high=0.6))
    assert found.e_low is None
    assert "(? to 0.35)" in explain_likeness(found)


def test_an_error_beyond_the_front_is_said_to_be():
    (above,), (below,) = match(Errors(value=0.9)), match(Errors(value=0.01))
    assert (above.e, above.is_beyond_front, below.is_beyond_front) == (None, True, False)
    assert "is larger than any solved model's: no epsilon matches it" in explain_likeness(above)
    assert "is no larger than the original's: no epsilon matches it" in explain_likeness(below)


def test_every_seed_has_its_own_match_and_no_control_none():
    assert [one.seed for one in match(Errors(value=0.1), seeds=(1, 0))] == [0, 1]
    assert match(Errors(value=0.1), seeds=()) == ()
    assert find_likeness([], {}, {}, None, []) == ()
