"""Generative models that forget one set of images and keep another, with the losses that methods use."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from front_problems.problem import Losses, StepLoss, load_values
from pareto_unlearn.data import BatchOrder, StratifiedOrder, seeded_generator
from pareto_unlearn.objectives import Objectives, Targets, compute_features, compute_targets, feature_function
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.solver import Level
from pareto_unlearn.trial.class_weights import ClassWeights, class_constraint

BATCH, NOISE_IMAGES = 16, 2048
LABEL_STREAM = 4


class Restorer(Protocol):
    """The part of a generative model that the image problems use."""

    def prepare(self, images: Tensor) -> Tensor:
        """Turn [0, 1] pixels into model inputs."""
        ...

    def sample_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw inputs that are pure noise."""
        ...

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output."""
        ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the full output, in the shape of the inputs."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ImageProblem:
    """A generative model that forgets one set of images and keeps another; see ``FrontProblem``.

    ``class_ids`` are the classes of the forget images of training. ``label_loss(outputs, wanted)`` is the
    loss the original was trained with, for any wanted images; None for problems without the kinds that need
    it.
    """

    name: str
    parameters: list[nn.Parameter]
    original: Tensor
    model: Restorer
    features: Callable[[Tensor], Tensor]
    inputs: dict[tuple[str, str], Tensor]
    objectives: Objectives
    targets: Targets
    class_ids: Tensor
    label_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    rate: float = 0.003
    plain_rate: float = 0.2
    splits: tuple[str, ...] = ("train", "heldout")
    kinds: frozenset[str] = frozenset(
        ("scaled", "drawn", "max_loss", "retain_label", "noisy_label", "retain_only")
    )

    def losses(self, kind: str, seed: int) -> Losses:
        """Return the losses of a kind."""
        return IMAGE_LOSSES[kind](self, seed)

    def bounded(self, seed: int, level: Level) -> StepLoss:
        """Return what epsilon bounds by default: every class, by one weighted mean."""
        scales, noise, inputs = self.targets.scales, self.targets.noise, self.inputs["forget", "train"]
        membership = functional.one_hot(self.class_ids).float()
        order = StratifiedOrder(self.class_ids, BATCH, seed, Stream.FORGET_BATCHES)

        def gap(rows: Tensor, _: int = 0) -> Tensor:
            return self.objectives.forget_per_image(self.features(inputs[rows]), noise) - scales.f1_floor

        load_values(self.parameters, self.original)
        with torch.no_grad():
            untouched = gap(torch.arange(len(inputs))) @ membership / membership.sum(dim=0)
        weights = ClassWeights(membership.shape[1], membership.device, BATCH)
        return class_constraint(gap, membership, untouched, order, weights, level)

    def measure(self, values: Tensor, split: str) -> tuple[float, float]:
        """Return exact (e, FVU) over a whole split, in the units of that split."""
        load_values(self.parameters, values)
        targets, scales, is_train = self.targets, self.targets.scales, split == "train"
        forget, retain = (
            compute_features(self.features, self.inputs[name, split]) for name in ("forget", "retain")
        )
        original = targets.stored("retain")["train" if is_train else "heldout"]
        f1 = float(self.objectives.forget_per_image(forget, targets.noise).double().mean())
        f2 = float(self.objectives.paired_per_image(retain, original).double().mean())
        untouched = scales.f1_original if is_train else scales.f1_original_heldout
        variance = scales.variance_retain if is_train else scales.variance_retain_heldout
        return (f1 - scales.f1_floor) / (untouched - scales.f1_floor), f2 / variance

    @property
    def cost_of_measuring(self) -> float:
        """Pairs that one measurement of the training sets costs: a pass without gradient is a third."""
        images = sum(len(self.inputs[name, "train"]) for name in ("forget", "retain"))
        return images / (2 * BATCH) / 3

    def order(self, name: str, seed: int) -> BatchOrder:
        """Return the order of mini-batches of a training set."""
        stream = {"forget": Stream.FORGET_BATCHES, "retain": Stream.RETAIN_BATCHES}[name]
        return BatchOrder(len(self.inputs[name, "train"]), BATCH, seed, stream)

    def training_loss(self, name: str, seed: int) -> StepLoss:
        """Return the loss of the original's training on a training set."""
        inputs, order, label_loss = self.inputs[name, "train"], self.order(name, seed), self.label_loss
        if label_loss is None:
            raise ValueError(f"{self.name} has no loss of its training")

        def loss(step: int) -> Tensor:
            rows = inputs[order(step)]
            return label_loss(self.model(rows), rows)

        return loss


def _scaled_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return e and FVU of the mini-batches, with the mean of the noise bank as target."""
    scales, noise = problem.targets.scales, problem.targets.noise
    inputs, order = problem.inputs["forget", "train"], problem.order("forget", seed)

    def forget(step: int) -> Tensor:
        rows = problem.features(inputs[order(step)])
        return scales.f1_unit.of(problem.objectives.forget_per_image(rows, noise).mean())

    return forget, _retain_loss(problem, seed, scales.variance_retain)


def _drawn_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return raw f1 and f2 with one noise draw an image as target (Eq. 10, arXiv:2402.00351)."""
    rows_of_noise = problem.targets.noise.rows
    inputs, order = problem.inputs["forget", "train"], problem.order("forget", seed)
    draws = BatchOrder(len(rows_of_noise), BATCH, seed, Stream.BANK_BATCHES)

    def forget(step: int) -> Tensor:
        return functional.mse_loss(problem.features(inputs[order(step)]), rows_of_noise[draws(step)])

    return forget, _retain_loss(problem, seed, 1.0)


def _retain_loss(problem: ImageProblem, seed: int, unit: float) -> StepLoss:
    inputs, order = problem.inputs["retain", "train"], problem.order("retain", seed)
    original = problem.targets.arrays["retain_train"]

    def retain(step: int) -> Tensor:
        rows = order(step)
        return problem.objectives.retain_loss(problem.features(inputs[rows]), original[rows]) / unit

    return retain


def _max_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return the training loss on forget images, negated, and on retain images (C.28, arXiv:2402.00351)."""
    forget = problem.training_loss("forget", seed)
    return lambda step: -forget(step), problem.training_loss("retain", seed)


def _retain_label_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return the training loss on forget images with retain images as wanted output (C.6.2).

    As in the prose of arXiv:2402.00351; its formula C.31 repeats the noise target of ``noisy_label``.
    """
    inputs, order = problem.inputs["forget", "train"], problem.order("forget", seed)
    others, other_order = problem.inputs["retain", "train"], problem.order("retain", seed)

    def forget(step: int) -> Tensor:
        return problem.label_loss(problem.model(inputs[order(step)]), others[other_order(step)])

    return forget, problem.training_loss("retain", seed)


def _noisy_label_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return the training loss on forget images with N(0, I) as wanted output (C.34, arXiv:2402.00351)."""
    inputs, order = problem.inputs["forget", "train"], problem.order("forget", seed)

    def forget(step: int) -> Tensor:
        noise = problem.model.sample_noise(BATCH, seeded_generator(seed, LABEL_STREAM, step))
        return problem.label_loss(problem.model(inputs[order(step)]), noise)

    return forget, problem.training_loss("retain", seed)


def _retain_only_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return the training loss on retain images, and the usual f1 for a rule that ignores it."""
    return _scaled_losses(problem, seed)[0], problem.training_loss("retain", seed)


IMAGE_LOSSES: dict[str, Callable[[ImageProblem, int], Losses]] = {
    "scaled": _scaled_losses,
    "drawn": _drawn_losses,
    "max_loss": _max_losses,
    "retain_label": _retain_label_losses,
    "noisy_label": _noisy_label_losses,
    "retain_only": _retain_only_losses,
}


def targets_of(model: Restorer, inputs: dict[tuple[str, str], Tensor], objectives: Objectives) -> Targets:
    """Return what full outputs are compared with, for one noise bank."""
    bank = model.sample_noise(NOISE_IMAGES, seeded_generator(0, Stream.NOISE_BANK))
    return compute_targets(feature_function(model, "output"), inputs, bank, objectives)
