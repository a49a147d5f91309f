"""The rules of ``solver.arc``: their definitions, the same with whole vectors, and degenerate gradients."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from rule_directions import direction_of
from torch import Tensor
from toy import spheres, take_steps

from pareto_unlearn.solver import (
    BoundaryControl,
    ConflictProjection,
    DynamicBarrier,
    EpsilonSolver,
    FixedMultiplier,
    MinimumNorm,
    NashBargaining,
    Orthogonal,
    Pivot,
    Rule,
    UpdateSettings,
)

Vector = np.ndarray
DTYPES = [torch.float32, torch.float64]
BOTH_DTYPES = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
GAMMAS = pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 0.9, 1.0])
# A few dozen roundings, magnified where the angle is small: the pairs below have a sine of at least 0.2.
ROUNDING = {torch.float32: 3e-5, torch.float64: 3e-13}


@cache
def pairs(count: int, dtype: torch.dtype = torch.float64) -> tuple[tuple[Tensor, Tensor], ...]:
    """Return gradients at 12 to 168 degrees of each other in 2 to 40 dimensions, norms over four decades."""
    generator, found = torch.Generator().manual_seed(0), []
    while len(found) < count:
        size = 2 + len(found) % 39
        scales = 10.0 ** (4.0 * torch.rand(2, generator=generator, dtype=torch.float64) - 2.0)
        first, second = torch.randn(2, size, generator=generator, dtype=torch.float64)
        # In many dimensions random vectors are all but orthogonal: mix them to see every angle.
        mixed = second + float(4.0 * torch.rand((), generator=generator) - 2.0) * first
        if abs(cosine(first.numpy(), mixed.numpy())) < 0.98:
            found.append(((scales[0] * first).to(dtype), (scales[1] * mixed).to(dtype)))
    return tuple(found)


def unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def without(vector: Vector, other: Vector) -> Vector:
    """Return a vector without its part along another."""
    return vector - (vector @ unit(other)) * unit(other)


def cosine(a: Vector, b: Vector) -> float:
    return float(unit(a) @ unit(b))


def found_by(rule: Rule, g1: Tensor, g2: Tensor) -> Vector:
    return direction_of(rule, g1, g2)[0].double().numpy()


def position(d: Vector, g1: Vector, g2: Vector) -> float:
    """Return gamma of a direction: 0 leaves f1 alone, 1 leaves f2 alone, outside of both one loss rises."""
    perpendicular1, perpendicular2 = unit(without(g2, g1)), unit(without(g1, g2))
    theta = math.acos(np.clip(perpendicular1 @ perpendicular2, -1.0, 1.0))
    return math.atan2(d @ unit(g1), d @ perpendicular1) / theta


# the same formulas with whole vectors


def pivot(gamma: float) -> Callable[[Vector, Vector], Vector]:
    def formula(g1: Vector, g2: Vector) -> Vector:
        perpendicular1, perpendicular2 = unit(without(g2, g1)), unit(without(g1, g2))
        theta = math.acos(perpendicular1 @ perpendicular2)
        arc = math.sin(gamma * theta) * unit(g1) + math.cos(gamma * theta) * perpendicular1
        return np.linalg.norm(g1 + g2) / 2 * arc

    return formula


def bisector(g1: Vector, g2: Vector) -> Vector:
    return math.sqrt(2) * unit(unit(g1) + unit(g2))


def shortest(g1: Vector, g2: Vector) -> Vector:
    """Drop a perpendicular from the origin on the segment from g1 to g2."""
    if g1 @ (g2 - g1) >= 0:
        return g1
    return g2 if g2 @ (g1 - g2) >= 0 else without(g1, g2 - g1)


def surgery(g1: Vector, g2: Vector) -> Vector:
    return without(g1, g2) + without(g2, g1) if g1 @ g2 < 0 else g1 + g2


def barrier(eta: float) -> Callable[[Vector, Vector], Vector]:
    """Lift the part of g2 along g1 to eta |g1|, or leave it where it is higher."""
    return lambda g1, g2: without(g2, g1) + max(g2 @ unit(g1), eta * np.linalg.norm(g1)) * unit(g1)


def barrier_with_cosine(eta: float) -> Callable[[Vector, Vector], Vector]:
    return lambda g1, g2: g2 + max(eta - cosine(g1, g2), 0.0) * g1


RULES: dict[str, tuple[Rule, Callable[[Vector, Vector], Vector]]] = {
    "pivot 0": (Pivot(gamma=0.0), pivot(0.0)),
    "pivot 0.3": (Pivot(gamma=0.3), pivot(0.3)),
    "pivot 1": (Pivot(gamma=1.0), pivot(1.0)),
    "nash": (NashBargaining(), bisector),
    "minimum norm": (MinimumNorm(), shortest),
    "projection": (ConflictProjection(), surgery),
    "barrier": (DynamicBarrier(eta=0.1), barrier(0.1)),
    "barrier cosine": (DynamicBarrier(eta=0.1, cosine=True), barrier_with_cosine(0.1)),
    "orthogonal": (Orthogonal(weight=0.7), lambda g1, g2: g2 + 0.7 * without(g1, g2)),
    "weighted sum": (FixedMultiplier(weight=0.3), lambda g1, g2: g2 + 0.3 * g1),
}
ALL_RULES = pytest.mark.parametrize("rule", [rule for rule, _ in RULES.values()], ids=RULES)


@pytest.mark.parametrize(("rule", "formula"), RULES.values(), ids=RULES)
@BOTH_DTYPES
def test_a_rule_is_its_formula_written_with_vectors(rule: Rule, formula, dtype: torch.dtype):
    for g1, g2 in pairs(80, dtype):
        expected = formula(g1.double().numpy(), g2.double().numpy())
        scale = np.linalg.norm(expected) + float(g1.norm() + g2.norm())
        assert np.linalg.norm(found_by(rule, g1, g2) - expected) <= ROUNDING[dtype] * scale


@ALL_RULES
@BOTH_DTYPES
def test_a_direction_is_the_coefficients_times_the_gradients(rule: Rule, dtype: torch.dtype):
    for g1, g2 in pairs(20, dtype):
        found, (c1, c2, _) = direction_of(rule, g1, g2)
        expected = float(c1) * g1.double() + float(c2) * g2.double()
        assert found.dtype == dtype
        scale = float(c1.abs() * g1.norm() + c2.abs() * g2.norm())
        assert float((found.double() - expected).norm()) <= ROUNDING[dtype] * scale


# the place of every rule on the arc


@GAMMAS
def test_a_pivot_lies_on_the_arc_at_its_gamma(gamma: float):
    for g1, g2 in pairs(200):
        found = found_by(Pivot(gamma=gamma), g1, g2)
        assert position(found, g1.numpy(), g2.numpy()) == pytest.approx(gamma, abs=1e-10)


def test_nash_bargaining_lies_in_the_middle_of_the_arc():
    for g1, g2 in pairs(200):
        found = found_by(NashBargaining(), g1, g2)
        assert position(found, g1.numpy(), g2.numpy()) == pytest.approx(0.5, abs=1e-10)


@pytest.mark.parametrize("rule", [MinimumNorm(), ConflictProjection()])
def test_minimum_norm_and_conflict_projection_lie_on_the_arc(rule: Rule):
    for g1, g2 in pairs(200):
        assert -1e-10 < position(found_by(rule, g1, g2), g1.numpy(), g2.numpy()) < 1 + 1e-10


def test_the_dynamic_barrier_never_leaves_the_arc_at_the_end_that_raises_the_constraint():
    for g1, g2 in pairs(200):
        assert position(found_by(DynamicBarrier(eta=0.1), g1, g2), g1.numpy(), g2.numpy()) > 0


def test_orthogonal_lies_between_the_objective_alone_and_the_end_that_leaves_it_alone():
    for g1, g2 in pairs(200):
        a, b = g1.numpy(), g2.numpy()
        places = [position(found_by(Orthogonal(weight=w), g1, g2), a, b) for w in (0.5, 5.0)]
        assert position(b, a, b) < places[0] < places[1] < 1


@pytest.mark.parametrize(
    ("rule", "place"),
    [(MinimumNorm(), 0.151), (ConflictProjection(), 0.849), (FixedMultiplier(weight=1.0), 1.420)],
    ids=["short", "long", "off the arc"],
)
def test_a_forget_gradient_five_times_as_long_pulls_the_rules_apart(rule: Rule, place: float):
    g1, g2 = np.array([5.0, 0.0]), np.array([-0.56, math.sqrt(1 - 0.56**2)])
    found = found_by(rule, torch.from_numpy(g1), torch.from_numpy(g2))
    assert position(found, g1, g2) == pytest.approx(place, abs=0.0006)


# what defines each rule


@BOTH_DTYPES
def test_the_ends_of_the_pivot_leave_one_loss_alone(dtype: torch.dtype):
    for g1, g2 in pairs(80, dtype):
        for gamma, neutral in ((0.0, g1), (1.0, g2)):
            found = found_by(Pivot(gamma=gamma), g1, g2)
            bound = ROUNDING[dtype] * float(g1.norm() + g2.norm()) * float(neutral.norm())
            assert abs(found @ neutral.double().numpy()) <= bound


@GAMMAS
def test_a_pivot_is_half_as_long_as_the_sum_of_the_gradients(gamma: float):
    for g1, g2 in pairs(80):
        length = np.linalg.norm(found_by(Pivot(gamma=gamma), g1, g2))
        assert length == pytest.approx(float((g1 + g2).norm()) / 2, rel=1e-11)


@GAMMAS
def test_a_pivot_with_the_losses_swapped_is_the_pivot_from_the_other_end(gamma: float):
    for g1, g2 in pairs(80):
        found, mirrored = found_by(Pivot(gamma=gamma), g1, g2), found_by(Pivot(gamma=1.0 - gamma), g2, g1)
        np.testing.assert_allclose(found, mirrored, atol=1e-12 * float(g1.norm() + g2.norm()))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_pivot_beyond_the_arc_is_refused(gamma: float):
    with pytest.raises(ValueError, match="gamma must lie in 0 to 1"):
        Pivot(gamma=gamma)


def test_nash_bargaining_improves_both_losses_by_the_same_cosine():
    for g1, g2 in pairs(80):
        found = found_by(NashBargaining(), g1, g2)
        assert cosine(found, g1.numpy()) == pytest.approx(cosine(found, g2.numpy()), abs=1e-12)


def test_nash_bargaining_solves_the_bargaining_equations():
    for g1, g2 in pairs(80):
        found, (c1, c2, _) = direction_of(NashBargaining(), g1, g2)
        assert (float(c1 * (g1 @ found)), float(c2 * (g2 @ found))) == pytest.approx((1.0, 1.0), rel=1e-11)


def test_nash_bargaining_has_a_length_of_its_own():
    for g1, g2 in pairs(80):
        assert np.linalg.norm(found_by(NashBargaining(), g1, g2)) == pytest.approx(math.sqrt(2), rel=1e-12)


def test_nash_bargaining_does_not_depend_on_the_scale_of_either_loss():
    for g1, g2 in pairs(80):
        found, scaled = found_by(NashBargaining(), g1, g2), found_by(NashBargaining(), 7.0 * g1, 0.01 * g2)
        np.testing.assert_allclose(found, scaled, atol=1e-11)


@pytest.mark.parametrize("rule", [NashBargaining(), MinimumNorm(), ConflictProjection()])
def test_a_balanced_rule_does_not_care_which_loss_comes_first(rule: Rule):
    for g1, g2 in pairs(80):
        scale = float(g1.norm() + g2.norm() + 1.0)
        np.testing.assert_allclose(found_by(rule, g1, g2), found_by(rule, g2, g1), atol=1e-12 * scale)


def test_no_mixture_of_the_gradients_is_shorter_than_the_minimum_norm():
    shares = np.linspace(0.0, 1.0, 1001)[:, None]
    for g1, g2 in pairs(80):
        grid = np.linalg.norm(shares * g1.numpy() + (1.0 - shares) * g2.numpy(), axis=1).min()
        length = np.linalg.norm(found_by(MinimumNorm(), g1, g2))
        step = 1e-3 * float((g1 - g2).norm())  # the grid misses the shortest by up to half of this
        assert grid - step <= length <= grid * (1 + 1e-12)


def test_the_minimum_norm_improves_both_losses_by_at_least_its_square():
    for g1, g2 in pairs(80):
        found = found_by(MinimumNorm(), g1, g2)
        gains = (found @ g1.numpy(), found @ g2.numpy())
        assert min(gains) >= found @ found - 1e-12 * float(g1.norm() + g2.norm()) ** 2


def test_conflict_projection_conflicts_with_neither_gradient():
    for g1, g2 in pairs(80):
        found = found_by(ConflictProjection(), g1, g2)
        assert found @ g1.numpy() > 0
        assert found @ g2.numpy() > 0


def test_conflict_projection_leaves_gradients_that_agree_alone():
    for g1, g2 in pairs(80):
        if g1 @ g2 >= 0:
            assert torch.equal(direction_of(ConflictProjection(), g1, g2)[0], g1 + g2)


@pytest.mark.parametrize("eta", [0.05, 0.3, 2.0])
def test_the_dynamic_barrier_is_boundary_control_without_a_stabiliser(eta: float):
    for g1, g2 in pairs(200):
        found = direction_of(DynamicBarrier(eta=eta), g1, g2)[1]
        expected = direction_of(BoundaryControl(alpha=eta, delta=2.0, stabiliser=0.0), g1, g2)[1]
        scale = eta + float(g1.norm() * g2.norm() / (g1 @ g1))
        assert float(found.psi) == pytest.approx(float(expected.psi), rel=1e-14)
        assert float(found.c1) == pytest.approx(float(expected.c1), abs=1e-14 * scale)
        assert found.c2 == expected.c2 == 1


@pytest.mark.parametrize("eta", [0.05, 2.0])
def test_the_dynamic_barrier_lowers_the_constraint_by_eta_times_its_square(eta: float):
    for g1, g2 in pairs(80):
        found = found_by(DynamicBarrier(eta=eta), g1, g2)
        slack = found @ g1.numpy() - eta * float(g1 @ g1)
        assert slack >= -1e-12 * float(g1.norm() * (g1.norm() + g2.norm()))


def test_orthogonal_lowers_the_objective_as_if_there_were_no_constraint():
    for g1, g2 in pairs(80):
        for weight in (0.1, 10.0):
            found = found_by(Orthogonal(weight=weight), g1, g2)
            error = abs(found @ g2.numpy() - float(g2 @ g2))
            assert error <= 1e-13 * float(g2.norm() * (g2.norm() + weight * g1.norm()))


# gradients that span no plane

A, B = [3.0, 0.0], [0.0, 4.0]
NOTHING = [0.0, 0.0]
# (g1, g2) and the direction of every rule: gamma = 0.3, eta = 0.1, weight = 0.7.
S, ROOT = math.sin(0.3 * math.pi), math.sqrt(2)
DEGENERATE = {
    "no objective gradient": (A, NOTHING, [1.5, ROOT, 0.0, 3.0, 0.3, 0.3, 2.1]),
    "no constraint gradient": (NOTHING, A, [1.5, ROOT, 0.0, 3.0, 3.0, 3.0, 3.0]),
    "no gradient": (NOTHING, NOTHING, [0.0] * 7),
    "equal": (A, A, [3.0 * S, ROOT, 3.0, 6.0, 3.0, 3.0, 3.0]),
    "parallel": (A, [6.0, 0.0], [4.5 * S, ROOT, 3.0, 9.0, 6.0, 6.0, 6.0]),
    "opposite": (A, [-3.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.3, 0.3, -3.0]),
    "opposite, unequal": (A, [-6.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.3, -2.7, -6.0]),
}
ORDER = [
    Pivot(gamma=0.3), NashBargaining(), MinimumNorm(), ConflictProjection(), DynamicBarrier(eta=0.1),
    DynamicBarrier(eta=0.1, cosine=True), Orthogonal(weight=0.7),
]  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("index", range(len(ORDER)), ids=map(repr, ORDER))
@BOTH_DTYPES
def test_a_rule_has_its_documented_value_where_the_gradients_span_no_plane(
    index: int, case: str, dtype: torch.dtype
):
    g1, g2, expected = DEGENERATE[case]
    found = found_by(ORDER[index], torch.tensor(g1, dtype=dtype), torch.tensor(g2, dtype=dtype))
    np.testing.assert_allclose(found, [expected[index], 0.0], atol=10 * ROUNDING[dtype])


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 1e-2])
@ALL_RULES
@BOTH_DTYPES
def test_a_rule_is_finite_and_bounded_about_a_line(rule: Rule, noise: float, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, -1.0, 2.5, -0.01) * 5:
        g1, other = torch.randn(2, 500, generator=generator, dtype=torch.float64)
        g2 = factor * g1 + noise * other
        found = found_by(rule, g1.to(dtype), g2.to(dtype))
        assert np.isfinite(found).all()
        assert np.linalg.norm(found) <= 2.5 * float(g1.norm() + g2.norm()) + 2.0


@pytest.mark.parametrize("gamma", [0.1, 0.5])
@BOTH_DTYPES
def test_a_pivot_does_not_follow_the_rounding_errors_across_a_line(gamma: float, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        g1 = torch.randn(500, generator=generator, dtype=dtype)
        found = found_by(Pivot(gamma=gamma), g1, g1 / 3.0)
        expected = 2.0 / 3.0 * math.sin(gamma * math.pi) * g1.double().numpy()
        np.testing.assert_allclose(found, expected, rtol=0.1 * ROUNDING[dtype])


@pytest.mark.parametrize("size", [1e-45, 1e-30, 1e-18, 1e-9, 1e9, 1e15])
@ALL_RULES
def test_a_rule_is_finite_whatever_the_size_of_the_gradients(rule: Rule, size: float):
    for g1, g2 in [(A, B), (A, A), (A, [-3.0, 0.0]), (A, NOTHING), (NOTHING, A)]:
        found, chosen = direction_of(rule, size * torch.tensor(g1), size * torch.tensor(g2))
        assert torch.isfinite(found).all()
        assert all(torch.isfinite(value) for value in (*chosen, chosen.multiplier))


def test_the_multiplier_is_the_ratio_of_the_coefficients():
    _, chosen = direction_of(NashBargaining(), torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert float(chosen.multiplier) == pytest.approx(0.5, rel=1e-6)


def test_the_multiplier_is_zero_without_the_objective():
    _, chosen = direction_of(Pivot(gamma=0.5), torch.tensor([2.0, 0.0]), torch.zeros(2))
    assert (float(chosen.c1), float(chosen.c2), float(chosen.multiplier)) == (0.5, 0.0, 0.0)


# in the solver


def solved(rule: Rule, start: Tensor, **settings: object) -> tuple[Tensor, list[float]]:
    """Return the last x on two spheres and the multipliers of all steps."""
    pair, x = spheres(), torch.nn.Parameter(start.clone())
    chosen = UpdateSettings(**({"steps": 300, "learning_rate": 0.02, "learning_rate_end": 0.0} | settings))  # type: ignore[arg-type]
    solver = EpsilonSolver([x], rule, chosen, log_size=chosen.steps)
    take_steps(solver, lambda: pair.f1(x), lambda: pair.f2(x), chosen.steps)
    return x.detach(), [row.eta for row in solver.flush() if row.finite]


@pytest.mark.parametrize("kind", ["paper", "averaged"])
@pytest.mark.parametrize("rule", ORDER, ids=repr)
def test_every_rule_but_the_minimum_norm_leaves_the_optimum_of_the_objective(rule: Rule, kind: str):
    start = spheres().center2
    found, multipliers = solved(rule, start, kind=kind)
    assert len(multipliers) == 300
    assert torch.equal(found, start) == isinstance(rule, MinimumNorm)


@pytest.mark.parametrize(
    "rule", [Pivot(gamma=0.5), NashBargaining(), MinimumNorm(), ConflictProjection()], ids=repr
)
def test_a_rule_that_lowers_both_losses_ends_on_the_segment_between_their_optima(rule: Rule):
    pair = spheres()
    found, _ = solved(rule, pair.center2 + 1.0, kind="paper", learning_rate=0.1)
    along = pair.center1 - pair.center2
    share = float((found - pair.center2) @ along / (along @ along))
    assert -1e-12 < share < 1.0  # the minimum norm follows the shorter gradient to the very end
    # The steps of rules with a length of their own stop only with the learning rate.
    assert float((found - pair.center2 - share * along).norm()) < 1e-3


def test_the_coefficients_follow_from_the_averaged_gradients():
    x = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    solver = EpsilonSolver([x], Orthogonal(weight=0.5), UpdateSettings(average=0.8))
    slopes = torch.randn(6, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean1 = mean2 = np.zeros(2)
    expected = []
    for slope1, slope2 in slopes:
        solver.step(lambda slope=slope1: slope @ x, lambda slope=slope2: slope @ x)
        mean1, mean2 = 0.8 * mean1 + 0.2 * slope1.numpy(), 0.8 * mean2 + 0.2 * slope2.numpy()
        expected.append(0.5 / (1.0 - 0.5 * (mean1 @ mean2) / (mean2 @ mean2)))
    assert [row.eta for row in solver.flush()] == pytest.approx(expected, rel=1e-12)
