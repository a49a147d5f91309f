"""What every trial of a sweep starts from: images, the original model, its targets."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import SplitData, load_split, seeded_generator
from pareto_unlearn.metrics import DigitClassifier, load_classifier
from pareto_unlearn.models import DigitsMae, load_model
from pareto_unlearn.objectives import (
    Objectives,
    Targets,
    build_objectives,
    compute_targets,
    feature_function,
    open_targets,
)

NOISE_STREAM = 30


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Everything on its device. ``model`` holds the original weights until a solver moves them."""

    model: DigitsMae
    split: SplitData
    inputs: dict[tuple[str, str], Tensor]
    objectives: Objectives
    targets: Targets
    classifier: DigitClassifier
    device: torch.device

    def trainable(self, space: str) -> list[nn.Parameter]:
        """Return the parameters a trial may change: all, or the encoder's where f1 and f2 compare its outputs."""
        return trainable_parameters(self.model, space)


def trainable_parameters(model: DigitsMae, space: str) -> list[nn.Parameter]:
    """Return the parameters of a model that a trial may change."""
    return model.encoder_parameters() if space == "encoder" else list(model.parameters())


def load_material(config: SweepConfig, cache: Path, targets_key: str) -> Material:
    """Load data and model, and open the original model's targets, computing them if no trial has yet.

    Args:
        config: the sweep.
        cache: folder of the run's memory-mapped files on this machine.
        targets_key: changes whenever anything that decides the targets changes.

    Raises:
        ConfigError: the data does not fit the sweep file.
        WeightsError: the model's weights are missing or do not fit.
    """
    torch.set_num_threads(config.run.cpus_per_trial)
    device = torch.device("cuda" if config.run.gpus_per_trial > 0 else "cpu")
    split = load_split(config.data, config.seed)
    model = load_model(config.model, config.task, device)
    inputs = {
        (name, part): model.prepare(images.images[:].to(device)) for name, part, images in split.items()
    }
    objectives = build_objectives(config.objective)

    def compute() -> Targets:
        bank = model.sample_noise(config.objective.noise_images, seeded_generator(config.seed, NOISE_STREAM))
        features = feature_function(model, config.objective.space)
        return compute_targets(features, inputs, bank.to(device), objectives)

    targets = open_targets(cache / f"targets-{targets_key}", compute)
    return Material(model, split, inputs, objectives, targets.to(device), load_classifier(device), device)
