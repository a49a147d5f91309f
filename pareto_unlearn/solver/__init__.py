r"""The epsilon-constrained solver (Algorithm 1, arXiv:2408.01689) for any torch parameters and two losses.

It takes losses and gradients and never sees a model, so its words are constraint and objective; the caller
decides whether the forget or the retain loss is the constraint. Legend, used in this package only:

    f1, f2   constraint and objective; the problem is  min f2  s.t.  f1 <= epsilon
    g1, g2   their gradients, each one flat vector
    psi      control function, which requires  g1 . g >= psi
    eta      multiplier:  eta = max((psi - g1.g2) / (|g1|^2 + w), 0)
    g        direction:   g = g2 + eta g1,  the projection of g2 on {g : g1.g >= psi} when w = 0  (Eq. 7)
    w        numerical stability, the paper's varpi
    c1, c2   coefficients of the direction of any rule, g = c1 g1 + c2 g2;  eta = c1 / c2

A ``Rule`` chooses the direction: ``rules`` has those of Algorithm 1, ``arc`` those of published rivals.

All of a step runs on the device; ``EpsilonSolver.flush`` is the only synchronisation with the host.
"""

from pareto_unlearn.solver.adam import FlatAdam
from pareto_unlearn.solver.arc import (
    RIVALS,
    ConflictProjection,
    DynamicBarrier,
    MinimumNorm,
    NashBargaining,
    Orthogonal,
    Pivot,
)
from pareto_unlearn.solver.courses import COURSES, Course, Curve, Start
from pareto_unlearn.solver.flat import FlatParameters
from pareto_unlearn.solver.path import PathClock, PathPlan, prune
from pareto_unlearn.solver.rules import (
    BoundaryControl,
    Coefficients,
    FixedMultiplier,
    Gram,
    LevelControl,
    Rule,
    direction,
    multiplier,
)
from pareto_unlearn.solver.stepping import EpsilonSolver, Level, StepLoss, StepRow, UpdateSettings, ramp
from pareto_unlearn.solver.stopping import Outcome, StopRule, solve

__all__ = [
    "COURSES",
    "RIVALS",
    "BoundaryControl",
    "Coefficients",
    "ConflictProjection",
    "Course",
    "Curve",
    "DynamicBarrier",
    "EpsilonSolver",
    "FixedMultiplier",
    "FlatAdam",
    "FlatParameters",
    "Gram",
    "Level",
    "LevelControl",
    "MinimumNorm",
    "NashBargaining",
    "Orthogonal",
    "Outcome",
    "PathClock",
    "PathPlan",
    "Pivot",
    "Rule",
    "Start",
    "StepLoss",
    "StepRow",
    "StopRule",
    "UpdateSettings",
    "direction",
    "multiplier",
    "prune",
    "ramp",
    "solve",
]
