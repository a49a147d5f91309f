"""The loading of what trials start from: images, the original model, and the targets of f1 and f2."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import PixelNoise, SplitData, load_split, seeded_generator
from pareto_unlearn.metrics import load_classifier
from pareto_unlearn.models import ImageToImage, load_model, pixel_format
from pareto_unlearn.objectives import (
    Features,
    Objectives,
    Targets,
    build_objectives,
    compute_mean_targets,
    compute_own_targets,
    compute_paired_targets,
    compute_targets,
    feature_function,
    open_targets,
)
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.trial.context import Material
from pareto_unlearn.trial.image_metrics import open_scoring
from pareto_unlearn.trial.inputs import Rows, noise_inputs, open_inputs
from pareto_unlearn.trial.noise import open_noise
from pareto_unlearn.trial.numerics import exact_float32
from pareto_unlearn.trial.own_targets import background_targets, nearest_retain_targets, reference_targets
from pareto_unlearn.trial.ranks import ALONE, Ranks
from pareto_unlearn.trial.reference_model import load_reference
from pareto_unlearn.trial.subset import choose_evaluated
from pareto_unlearn.trial.targets import (
    Answers,
    ComputedAnswers,
    ForgetTarget,
    ModelTarget,
    PairedNoise,
    SharedNoise,
    StoredAnswers,
)

OWN_TARGETS = ("reference", "background", "nearest_retain")
"""The values of ``objective.forget_target`` that give every forget image a target of its own to store."""


@exact_float32()
def load_material(
    config: SweepConfig,
    cache: Path,
    targets_key: str,
    on_stage: Callable[[str], None] = lambda _: None,
    ranks: Ranks = ALONE,
) -> Material:
    """Load data and model, and open the targets, computing them if no trial has yet.

    Args:
        config: the sweep.
        cache: folder of the run's memory-mapped files on this machine.
        targets_key: changes whenever anything that decides the targets changes.
        on_stage: takes what is done, in words.
        ranks: the processes that solve the trial together; each loads everything, from the same files.

    Raises:
        ConfigError: the data does not fit the sweep file.
        WeightsError: the weights of the model or of a metric are missing or do not fit.
    """
    torch.set_num_threads(config.run.cpus_per_trial // ranks.size or 1)
    device = _device_of(config, ranks)
    on_stage("reading images")
    split = load_split(config.data, config.seed, pixel_format(config.model), cache)
    on_stage("loading the model")
    model = load_original(config, device)
    return assemble_material(config, split, model, device, cache, targets_key, on_stage, ranks)


def _device_of(config: SweepConfig, ranks: Ranks) -> torch.device:
    if config.run.gpus_per_trial == 0:
        return torch.device("cpu")
    return torch.device("cuda") if ranks.size == 1 else torch.device("cuda", ranks.rank)


def assemble_material(
    config: SweepConfig,
    split: SplitData,
    model: ImageToImage,
    device: torch.device,
    cache: Path,
    targets_key: str,
    on_stage: Callable[[str], None] = lambda _: None,
    ranks: Ranks = ALONE,
) -> Material:
    """Return what trials start from, given images and the original model.

    Args:
        config: the sweep.
        split: its images.
        model: the original, on its device.
        device: where the model is.
        cache: folder of the run's memory-mapped files on this machine.
        targets_key: changes whenever anything that decides the targets changes.
        on_stage: takes what is done, in words.
        ranks: the processes that solve the trial together; the first alone measures the published metrics.
    """

    def compute() -> Targets:
        count = sum(len(images) for _, _, images in split.items())
        on_stage(f"computing targets: the original's outputs on {count:,} images, once a run")
        return source.compute(cache)

    scoring = open_scoring(config, cache, targets_key, device) if ranks.is_first else None
    inputs = open_inputs(model, split, config.seed, device, cache, targets_key)
    sampler = open_noise(config, split, cache, targets_key)
    source = _TargetSource(config, model, split, inputs, build_objectives(config.objective), sampler)
    targets = open_targets(cache / f"targets-{targets_key}", compute).to(device)
    answers = source.original_answers(targets)
    return Material(
        model=model,
        split=split,
        inputs=inputs,
        targets=targets,
        forget_target=source.forget_target(targets, answers),
        retain_target=ModelTarget(source.objectives, answers),
        classifier=load_classifier(device) if config.data.dataset == "digits" else None,
        scoring=scoring,
        device=device,
        space=config.objective.space,
        shared=config.objective.shared_parameters == "trained",
        seed=config.seed,
        ranks=ranks,
        evaluated=choose_evaluated(config, split),
    )


def load_original(config: SweepConfig, device: torch.device | None = None) -> ImageToImage:
    """Load the model of a sweep as it was before anything was forgotten.

    Raises:
        ConfigError: the task does not fit the model.
        WeightsError: the model's weights are missing or do not fit.
    """
    return load_model(config.model, config.task, device, sampling=config.evaluate.sampling, seed=config.seed)


@dataclass(frozen=True, slots=True, eq=False)
class _TargetSource:
    """What the targets of a sweep are made from.

    ``model`` is the original. ``sampler`` draws noise images; None leaves that to the model.
    """

    config: SweepConfig
    model: ImageToImage
    split: SplitData
    inputs: Mapping[tuple[str, str], Rows]
    objectives: Objectives
    sampler: PixelNoise | None

    @property
    def is_stored(self) -> bool:
        """Whether the outputs of fixed models on images are stored instead of computed in every step."""
        return self.config.objective.retain_target == "cached"

    @property
    def name(self) -> str:
        """What forget images are pulled to."""
        return self.config.objective.forget_target

    def compute(self, cache: Path) -> Targets:
        """Return what is stored once a run; arrays too large for memory go through files in ``cache``."""
        if self.name in OWN_TARGETS:
            return self._compute_own(cache)
        if self.name == "mean":
            return compute_mean_targets(
                self._features(self.model),
                self.inputs,
                self.objectives,
                batch=self.model.evaluation_batch,
                spill=cache,
                keep_retain=self.is_stored,
            )
        if self.config.objective.noise_target == "paired":
            return self._compute_paired()
        return compute_targets(
            self._features(self.model),
            self.inputs,
            self._draw_bank(),
            self.objectives,
            batch=self.model.evaluation_batch,
            spill=cache,
            keep_retain=self.is_stored,
        )

    def original_answers(self, targets: Targets) -> Answers:
        """Return the original's features of images: stored, or computed by a copy of the model."""
        if self.is_stored:
            return StoredAnswers(targets.stored("retain"))
        return self._computed(copy.deepcopy(self.model))

    def forget_target(self, targets: Targets, original: Answers) -> ForgetTarget:
        """Return what forget images should become."""
        if self.name == "reference" and not self.is_stored:
            return ModelTarget(self.objectives, self._computed(self._load_reference()))
        if self.name in OWN_TARGETS:
            return ModelTarget(self.objectives, StoredAnswers(targets.stored(self.name)))
        if isinstance(original, ComputedAnswers) and self.config.objective.noise_target == "paired":
            return PairedNoise(self.objectives, original, self.sampler)
        return SharedNoise(self.objectives, targets.noise)

    def _compute_own(self, cache: Path) -> Targets:
        # Targets made from images are stored in any case: to make them anew takes more than a forward pass.
        is_kept = self.is_stored or self.name != "reference"
        return compute_own_targets(
            self._features(self.model),
            self._own_targets(),
            self.inputs,
            self.objectives,
            name=self.name if is_kept else None,
            batch=self.model.evaluation_batch,
            spill=cache,
            keep_retain=self.is_stored,
        )

    def _own_targets(self) -> Mapping[str, Rows]:
        """Return, by split, the target of every forget image."""
        match self.name:
            case "background":
                return background_targets(self.model, self.split, self.config.seed)
            case "nearest_retain":
                return nearest_retain_targets(
                    self.model, self.config.objective.space, self.split, self.inputs
                )
        return reference_targets(self._features(self._load_reference()), self.inputs)

    def _compute_paired(self) -> Targets:
        pairs = {
            split: (self._noise(split, Stream.NOISE), self._noise(split, Stream.SECOND_NOISE))
            for split in ("train", "heldout")
        }
        return compute_paired_targets(
            self._features(self.model), self.inputs, pairs, self.objectives, batch=self.model.evaluation_batch
        )

    def _noise(self, split: str, stream: Stream) -> Rows:
        inputs = self.inputs["forget", split]
        return noise_inputs(self.model, inputs, split, self.config.seed, stream, self.sampler)

    def _draw_bank(self) -> Tensor:
        """Return the inputs of pure noise whose outputs all forget images share, on the model's device."""
        count = self.config.objective.noise_images
        generator, device = seeded_generator(self.config.seed, Stream.NOISE_BANK), self._device
        if self.sampler is None:
            return self.model.sample_noise(count, generator).to(device)
        generators = [generator] * count
        return self.model.prepare(self.sampler(generators).to(device), generators)

    def _load_reference(self) -> ImageToImage:
        return load_reference(self.config, self._device)

    def _features(self, model: ImageToImage) -> Features:
        return feature_function(model, self.config.objective.space)

    def _computed(self, model: ImageToImage) -> ComputedAnswers:
        return ComputedAnswers(model, self._features(model))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
