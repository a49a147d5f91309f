"""The control that never saw the forget images: the original's own training on the retain images alone."""

import time
from collections.abc import Callable, Mapping

import torch

from pareto_unlearn.catalogue.families import require_recipe
from pareto_unlearn.data import BatchOrder, seeded_generator
from pareto_unlearn.models import family_of
from pareto_unlearn.pretraining.loop import Watch, train
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.context import Trial
from pareto_unlearn.trial.measuring import measure_costs

STATE_FILE = "training.safetensors"
GLANCE = 64
"""Images of each training set that f1 and f2 are looked at on while the training goes on."""


def retrain(
    trial: Trial,
    on_progress: Callable[[int, float, float], None],
    save: Callable[[int, Mapping[str, bytes]], None],
    kept: Mapping[str, bytes] | None,
) -> float:
    """Train the trial's model anew on the retain images alone; return the seconds since the last resume.

    Args:
        trial: its seed decides initial weights and batches.
        on_progress: takes step, f1 and f2.
        save: keeps a state to resume from.
        kept: such a state, None for a start from scratch.
    """
    started, model, inputs = time.monotonic(), trial.material.model, trial.training_inputs("retain")
    family, seed = trial.config.model.family, trial.spec.seed
    recipe = require_recipe(trial.config.model.row, trial.config.model.variant)
    with torch.no_grad():
        # Drawn on the CPU, so that the weights do not depend on the device.
        model.to(torch.device("cpu"))
        family_of(family).initialise(model, seeded_generator(seed, Stream.INITIAL_WEIGHTS))
        model.to(trial.material.device)

    def report(step: int, _: float) -> None:
        costs = measure_costs(trial.material, GLANCE)
        on_progress(step + 1, costs.f1, costs.f2)

    order = BatchOrder(len(inputs), recipe.batch, seed, Stream.TRAINING_BATCHES)
    watch = Watch(
        report=report,
        save=lambda step, state: save(step, {STATE_FILE: state}),
        state=None if kept is None else kept[STATE_FILE],
    )
    train(
        list(model.parameters()),
        lambda step: model.training_loss(inputs[order(step)]),
        trial.steps,
        recipe.peak_learning_rate,
        watch,
    )
    return time.monotonic() - started
