"""What the solver is given for a trial: two losses, a rule, settings, and the units they are in."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.records import CurveRow, Unit
from pareto_unlearn.solver import Curve, Level, Rule, StepLoss, StepRow, UpdateSettings
from pareto_unlearn.trial.context import Trial

Units = tuple[Unit, Unit]
"""Of the constraint and the objective; before a problem is swapped, of f1 and f2."""

RAW = (Unit(), Unit())


@dataclass(frozen=True, slots=True)
class Problem:
    """Constraint and objective as functions of the step, and how the solver treats them.

    ``swapped`` means that f2 is the constraint and f1 the objective. ``spreads`` are the full ranges of
    constraint and objective in their units, against which a change of either is measured. A solve that leaves
    a bank takes checkpoints where ``is_due`` says so of the steps taken, or trains the members of a ``curve``
    in place of the model and takes points of it in the end. ``state`` holds tensors that the losses update at
    every step and that a resume must restore. ``space`` names the parameters that are trained; empty: those
    of the sweep's objectives. ``logged`` turns a step's row into that of f1 and f2 in ``units``, where
    constraint and objective are something else. ``further_passes`` is the number of backward passes that the
    first so many steps take beyond two each.
    """

    constraint: StepLoss
    objective: StepLoss
    rule: Rule
    settings: UpdateSettings
    units: Units
    is_due: Callable[[int], bool] = lambda _: False
    curve: Curve | None = None
    swapped: bool = False
    epsilon: float | Level = 0.0
    has_epsilon: bool = False
    spreads: tuple[float, float] = (1.0, 1.0)
    state: dict[str, Tensor] = field(default_factory=dict)
    space: str = ""
    logged: Callable[[StepRow], StepRow] = lambda row: row
    further_passes: Callable[[int], int] = lambda _: 0

    def curve_row(self, row: StepRow, images_per_second: float | None) -> CurveRow:
        """Return a logged step with raw f1, f2 and epsilon; the rest stays in the solver's units."""
        constraint, objective = self.units[0].raw(row.f1), self.units[1].raw(row.f2)
        norms = (row.norm2, row.norm1) if self.swapped else (row.norm1, row.norm2)
        return CurveRow(
            step=row.step,
            f1=objective if self.swapped else constraint,
            f2=constraint if self.swapped else objective,
            multiplier=row.eta,
            control=row.psi,
            gradient_norm_f1=norms[0],
            gradient_norm_f2=norms[1],
            cosine=row.cosine,
            learning_rate=row.learning_rate,
            epsilon=self.units[0].raw(row.epsilon) if self.has_epsilon else None,
            images_per_second=images_per_second,
        )


def trained_parameters(trial: Trial, problem: Problem) -> list[nn.Parameter]:
    """Return what the solver trains: parameters of the model, or the members of a curve."""
    return trial.material.trainable(problem.space) if problem.curve is None else [problem.curve.members]


def units_of(trial: Trial) -> Units:
    """Return the units of f1 and f2: raw for the paper's update, else e and the outputs' variance."""
    if trial.config.solver.update == "paper":
        return RAW
    return trial.scales.f1_unit, trial.scales.f2_unit


def settings_of(config: SweepConfig) -> UpdateSettings:
    """Return how a direction becomes a step, as the sweep file has it."""
    solver = config.solver
    return UpdateSettings(
        kind=solver.update,
        steps=solver.steps,
        learning_rate=solver.learning_rate,
        learning_rate_end=solver.learning_rate_end,
        betas=solver.betas,
        average=solver.average,
        clip=solver.clip,
    )
