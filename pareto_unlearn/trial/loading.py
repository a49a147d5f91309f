"""What every trial of a sweep starts from: images, the original model, its targets."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import PixelNoise, SplitData, load_split, seeded_generator
from pareto_unlearn.metrics import DigitClassifier, Scoring, load_classifier
from pareto_unlearn.models import ImageToImage, load_model, pixel_format
from pareto_unlearn.objectives import (
    Objectives,
    Targets,
    build_objectives,
    compute_paired_targets,
    compute_reference_targets,
    compute_targets,
    feature_function,
    open_targets,
)
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.image_metrics import open_scoring
from pareto_unlearn.trial.inputs import (
    Rows,
    noise_inputs,
    open_inputs,
)
from pareto_unlearn.trial.noise import open_noise
from pareto_unlearn.trial.reference_model import load_reference


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Everything on its device. ``model`` holds the original weights until a solver moves them.

    ``original`` keeps them where its outputs are computed beside the model's, and is None where they are in ``targets``.
    ``reference`` says what forget images should become; None where that is in ``targets``, and where noise says it.
    ``sampler`` draws noise images; None leaves that to the model.
    ``scoring`` measures the published metrics and is None where the sweep measures none.
    """

    model: ImageToImage
    split: SplitData
    inputs: Mapping[tuple[str, str], Rows]
    objectives: Objectives
    targets: Targets
    classifier: DigitClassifier | None
    device: torch.device
    original: ImageToImage | None = None
    reference: ImageToImage | None = None
    scoring: Scoring | None = None
    seed: int = 0
    shared: bool = False
    sampler: PixelNoise | None = None

    def trainable(self, space: str) -> list[nn.Parameter]:
        """Return the parameters a trial may change: all, or the encoder's where f1 and f2 compare its outputs."""
        return self.model.trainable(space, shared=self.shared)

    def asked(self, split: str) -> Rows | None:
        """Return the inputs whose answers are the forget images' own targets, None where no model is asked for them."""
        if self.targets.noise is not None or self.targets.reference(split) is not None:
            return None
        if self.reference is not None:
            return self.inputs["forget", split]
        return noise_inputs(self.model, self.inputs["forget", split], split, self.seed, sampler=self.sampler)


def load_material(config: SweepConfig, cache: Path, targets_key: str) -> Material:
    """Load data and model, and open the original model's targets, computing them if no trial has yet.

    Args:
        config: the sweep.
        cache: folder of the run's memory-mapped files on this machine.
        targets_key: changes whenever anything that decides the targets changes.

    Raises:
        ConfigError: the data does not fit the sweep file.
        WeightsError: the weights of the model or of a metric are missing or do not fit.
    """
    torch.set_num_threads(config.run.cpus_per_trial)
    device = torch.device("cuda" if config.run.gpus_per_trial > 0 else "cpu")
    split = load_split(config.data, config.seed, pixel_format(config.model), cache)
    return assemble_material(config, split, load_original(config, device), device, cache, targets_key)


def assemble_material(
    config: SweepConfig,
    split: SplitData,
    model: ImageToImage,
    device: torch.device,
    cache: Path,
    targets_key: str,
) -> Material:
    """Return what trials start from, of images and an original model that are already there.

    Args:
        config: the sweep.
        split: its images.
        model: the original, on its device.
        device: where the model is.
        cache: folder of the run's memory-mapped files on this machine.
        targets_key: changes whenever anything that decides the targets changes.
    """
    scoring = open_scoring(config, cache, targets_key, device)
    inputs = open_inputs(model, split, config.seed, device, cache, targets_key)
    objectives, sampler = build_objectives(config.objective), open_noise(config, split, cache, targets_key)
    targets = open_targets(
        cache / f"targets-{targets_key}",
        lambda: _compute_targets(config, model, inputs, objectives, sampler, cache),
    ).to(device)
    beside = config.objective.retain_target == "computed"
    return Material(
        model=model,
        split=split,
        inputs=inputs,
        objectives=objectives,
        targets=targets,
        classifier=load_classifier(device) if config.data.dataset == "digits" else None,
        device=device,
        original=copy.deepcopy(model) if beside else None,
        reference=load_reference(config, device) if beside else None,
        scoring=scoring,
        seed=config.seed,
        shared=config.objective.shared_parameters == "trained",
        sampler=sampler,
    )


def load_original(config: SweepConfig, device: torch.device | None = None) -> ImageToImage:
    """Load the model of a sweep as it was before anything was forgotten.

    Raises:
        ConfigError: the task does not fit the model.
        WeightsError: the model's weights are missing or do not fit.
    """
    return load_model(config.model, config.task, device, sampling=config.evaluate.sampling, seed=config.seed)


def _compute_targets(
    config: SweepConfig,
    model: ImageToImage,
    inputs: Mapping[tuple[str, str], Rows],
    objectives: Objectives,
    sampler: PixelNoise | None,
    cache: Path,
) -> Targets:
    features, batch = feature_function(model, config.objective.space), model.evaluation_batch
    keep, reference = config.objective.retain_target == "cached", load_reference(config, _device_of(model))
    if reference is not None:
        wanted = feature_function(reference, config.objective.space)
        return compute_reference_targets(
            features, wanted, inputs, objectives, batch=batch, spill=cache, keep=keep
        )
    if config.objective.noise_target == "paired":
        pairs = {
            split: (
                noise_inputs(model, inputs["forget", split], split, config.seed, Stream.NOISE, sampler),
                noise_inputs(
                    model, inputs["forget", split], split, config.seed, Stream.SECOND_NOISE, sampler
                ),
            )
            for split in ("train", "heldout")
        }
        return compute_paired_targets(features, inputs, pairs, objectives, batch=batch)
    return compute_targets(
        features,
        inputs,
        _draw_bank(config, model, sampler),
        objectives,
        batch=batch,
        spill=cache,
        keep_retain=keep,
    )


def _device_of(model: ImageToImage) -> torch.device:
    return next(model.parameters()).device


def _draw_bank(config: SweepConfig, model: ImageToImage, sampler: PixelNoise | None) -> Tensor:
    """Return the inputs of pure noise that all images have as their target, on the model's device."""
    count, generator = config.objective.noise_images, seeded_generator(config.seed, Stream.NOISE_BANK)
    device = _device_of(model)
    if sampler is None:
        return model.sample_noise(count, generator).to(device)
    generators = [generator] * count
    return model.prepare(sampler(generators).to(device), generators)
