"""The problems of rivals of which one run leaves a whole front, with all that the path has.

Their forget loss is the mean f1, whatever epsilon bounds: how a method of others treats classes is its own.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pareto_unlearn.data import seeded_generator
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.solver import COURSES, FlatParameters, Start, StepLoss, StepRow
from pareto_unlearn.trial.constrained import plan_path
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.mixing import weights_of
from pareto_unlearn.trial.problem import Problem, units_of
from pareto_unlearn.trial.step_losses import unlearning_losses


@dataclass(frozen=True, slots=True)
class _Watched:
    """A loss that keeps its values until they are logged: what a course makes of them is another number."""

    loss: StepLoss
    values: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, step: int) -> Float[Tensor, ""]:
        value = self.loss(step)
        if torch.is_grad_enabled():  # a second look at the loss of a step is one without gradient
            self.values[step] = value.detach()
        return value


def course(trial: Trial) -> Problem:
    """Return the problem of a course at the weight that the trial is planned with.

    The model's parameters stay tied to the course until somebody else flattens them.
    """
    spec, solver, units = trial.spec, trial.config.solver, units_of(trial)
    forget, retain = (_Watched(loss) for loss in unlearning_losses(trial, units))

    def draw(step: int) -> float:
        generator = seeded_generator(spec.seed, Stream.CURVE_POINTS, step)
        return float(torch.rand(1, generator=generator, dtype=torch.float64))

    def logged(row: StepRow) -> StepRow:
        return row._replace(f1=float(forget.values.pop(row.step)), f2=float(retain.values.pop(row.step)))

    start = Start(
        forget=forget,
        retain=retain,
        flat=FlatParameters(trial.material.trainable()),
        original=weights_of(trial.material),
        plan=plan_path(trial),
        learning_rate=solver.path.learning_rate,
        unit=1.0 if spec.weight is None else spec.weight,
        draw=draw,
    )
    made = COURSES[spec.method](start)
    return Problem(
        made.forget,
        made.retain,
        made.rule,
        replace(made.settings, betas=solver.betas, average=solver.average, clip=solver.clip),
        units,
        is_due=made.is_due,
        curve=made.curve,
        epsilon=made.epsilon,
        has_epsilon=callable(made.epsilon),
        state=made.state,
        logged=logged,
    )
