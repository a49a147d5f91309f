"""The five problems of the fronts benchmark: what starts where, which losses a step sees, how a model is measured.

Losses are scale-free: e = (f1 - floor) / (f1(original) - floor) and FVU = f2 / variance of the original's outputs on the
retain images. Every problem starts at (e, FVU) = (1, 0), the original. Knows no method and no score.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.config import DataSection, load_config
from pareto_unlearn.data import (
    BatchOrder,
    ImageSet,
    SplitData,
    load_digits,
    load_split,
    mark_heldout,
    seeded_generator,
)
from pareto_unlearn.models import DigitsMae
from pareto_unlearn.models.digits_mae import PIXEL_MEAN, PIXEL_STD
from pareto_unlearn.objectives import Objectives, Targets, compute_features, compute_targets, feature_function
from pareto_unlearn.trial.material import Material, load_material

SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
BATCH, NOISE_IMAGES = 16, 2048
FORGET_STREAM, RETAIN_STREAM, DRAW_STREAM, LABEL_STREAM = 1, 2, 3, 4
AUTOENCODER_STEPS, AUTOENCODER_BATCH = 2500, 64
DIMENSION, CONDITION, NOISE_SHARE, NOISE_STEPS = 20, 30.0, 0.2, 8192

StepLoss = Callable[[int], Tensor]
Losses = tuple[StepLoss, StepLoss]
"""Constraint (forget) and objective (retain) of the mini-batch at a step."""


class FrontProblem(Protocol):
    """What a method may know of a problem.

    ``original`` is the flat start, ``rate`` the base learning rate of Adam and ``plain_rate`` that of plain steps.
    ``kinds`` names the losses that have a meaning here, "scaled" always among them.
    """

    name: str
    parameters: list[nn.Parameter]
    original: Tensor
    rate: float
    plain_rate: float
    splits: tuple[str, ...]
    kinds: frozenset[str]

    def losses(self, kind: str, seed: int) -> Losses:
        """Return the losses of a kind; their mini-batches are a function of seed and step alone."""
        ...

    def measure(self, values: Tensor, split: str) -> tuple[float, float]:
        """Return exact (e, FVU) of flat values over a whole split; it overwrites the parameters."""
        ...


def load_values(parameters: list[nn.Parameter], values: Tensor) -> None:
    """Copy a flat vector into parameters, in place: buffers that a solver tied them to stay tied."""
    parts = values.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.data.copy_(part.view_as(parameter))


def read_values(parameters: list[nn.Parameter]) -> Tensor:
    """Return a copy of parameters as one flat vector."""
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


# --- Images -----------------------------------------------------------------------------------------------------------


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

    ``label_loss(outputs, wanted)`` is the loss the original was trained with, for any wanted images.
    """

    name: str
    parameters: list[nn.Parameter]
    original: Tensor
    model: Restorer
    features: Callable[[Tensor], Tensor]
    inputs: dict[tuple[str, str], Tensor]
    objectives: Objectives
    targets: Targets
    label_loss: Callable[[Tensor, Tensor], Tensor]
    rate: float = 0.003
    plain_rate: float = 0.2
    splits: tuple[str, ...] = ("train", "heldout")
    kinds: frozenset[str] = frozenset(
        ("scaled", "drawn", "max_loss", "retain_label", "noisy_label", "retain_only")
    )

    def losses(self, kind: str, seed: int) -> Losses:
        """Return the losses of a kind."""
        return IMAGE_LOSSES[kind](self, seed)

    def measure(self, values: Tensor, split: str) -> tuple[float, float]:
        """Return exact (e, FVU) over a whole split, in the units of that split."""
        load_values(self.parameters, values)
        targets, scales, is_train = self.targets, self.targets.scales, split == "train"
        forget, retain = (
            compute_features(self.features, self.inputs[name, split]) for name in ("forget", "retain")
        )
        original = targets.retain_train if is_train else targets.retain_heldout
        f1 = float(self.objectives.forget_per_image(forget, targets.noise).double().mean())
        f2 = float(self.objectives.retain_per_image(retain, original).double().mean())
        untouched = scales.f1_original if is_train else scales.f1_original_heldout
        variance = scales.variance_retain if is_train else scales.variance_retain_heldout
        return (f1 - scales.f1_floor) / (untouched - scales.f1_floor), f2 / variance

    def order(self, name: str, seed: int) -> BatchOrder:
        """Return the order of mini-batches of a training set."""
        stream = {"forget": FORGET_STREAM, "retain": RETAIN_STREAM}[name]
        return BatchOrder(len(self.inputs[name, "train"]), BATCH, seed, stream)

    def training_loss(self, name: str, seed: int) -> StepLoss:
        """Return the loss of the original's training on a training set."""
        inputs, order = self.inputs[name, "train"], self.order(name, seed)

        def loss(step: int) -> Tensor:
            rows = inputs[order(step)]
            return self.label_loss(self.model(rows), rows)

        return loss


def _scaled_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return e and FVU of the mini-batches, with the mean of the noise bank as target."""
    scales, noise = problem.targets.scales, problem.targets.noise
    inputs, order = problem.inputs["forget", "train"], problem.order("forget", seed)

    def forget(step: int) -> Tensor:
        rows = problem.features(inputs[order(step)])
        return (problem.objectives.forget_per_image(rows, noise).mean() - scales.f1_floor) / scales.f1_range

    return forget, _retain_loss(problem, seed, scales.variance_retain)


def _drawn_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return raw f1 and f2 with one noise draw an image as target (Eq. 10, arXiv:2402.00351)."""
    rows_of_noise = problem.targets.noise.rows
    inputs, order = problem.inputs["forget", "train"], problem.order("forget", seed)
    draws = BatchOrder(len(rows_of_noise), BATCH, seed, DRAW_STREAM)

    def forget(step: int) -> Tensor:
        return functional.mse_loss(problem.features(inputs[order(step)]), rows_of_noise[draws(step)])

    return forget, _retain_loss(problem, seed, 1.0)


def _retain_loss(problem: ImageProblem, seed: int, unit: float) -> StepLoss:
    inputs, order = problem.inputs["retain", "train"], problem.order("retain", seed)
    original = problem.targets.retain_train

    def retain(step: int) -> Tensor:
        rows = order(step)
        return problem.objectives.retain_loss(problem.features(inputs[rows]), original[rows]) / unit

    return retain


def _max_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return the training loss on forget images, negated, and on retain images (C.28, arXiv:2402.00351)."""
    forget = problem.training_loss("forget", seed)
    return lambda step: -forget(step), problem.training_loss("retain", seed)


def _retain_label_losses(problem: ImageProblem, seed: int) -> Losses:
    """Return the training loss on forget images with retain images as wanted output (C.6.2, arXiv:2402.00351).

    As its prose has it; formula C.31 repeats the noise target of ``noisy_label``.
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
    """Return f1 as ever, for a rule that leaves it out, and the training loss on retain images."""
    return _scaled_losses(problem, seed)[0], problem.training_loss("retain", seed)


IMAGE_LOSSES: dict[str, Callable[[ImageProblem, int], Losses]] = {
    "scaled": _scaled_losses,
    "drawn": _drawn_losses,
    "max_loss": _max_losses,
    "retain_label": _retain_label_losses,
    "noisy_label": _noisy_label_losses,
    "retain_only": _retain_only_losses,
}


def _mae_problem(name: str, material: Material, space: str) -> ImageProblem:
    model, parameters = material.model, material.trainable(space)
    return ImageProblem(
        name=name,
        parameters=parameters,
        original=read_values(parameters),
        model=model,
        features=feature_function(model, space),
        inputs=material.inputs,
        objectives=material.objectives,
        targets=material.targets,
        label_loss=_mae_label_loss(model),
    )


def _mae_label_loss(model: DigitsMae) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the squared error of removed plus that of visible patches, as in ``DigitsMae.training_loss``."""

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        errors = (outputs - wanted).square()
        return errors[:, model.hole_ids].mean() + errors[:, model.visible_ids].mean()

    return loss


def _digits_material(work: Path, space: str) -> Material:
    config = load_config(SWEEP, [f"objective.space={space}", f"objective.noise_images={NOISE_IMAGES}"])
    return load_material(config, work, f"fronts-{space}")


def build_digits_classes(work: Path) -> ImageProblem:
    """Return the embedded masked autoencoder that forgets digits 0 to 4 and keeps 5 to 9."""
    return _mae_problem("digits_classes", _digits_material(work, "output"), "output")


def build_digits_encoder(work: Path) -> ImageProblem:
    """Return the same with encoder outputs compared and the decoder frozen."""
    return _mae_problem("digits_encoder", _digits_material(work, "encoder"), "encoder")


def build_digits_random(work: Path) -> ImageProblem:
    """Return the embedded masked autoencoder that forgets a random half of its images: no class helps to tell them."""
    material = _digits_material(work, "output")
    split, model = split_at_random(load_digits(), seed=0), material.model
    inputs = {(name, part): model.prepare(images.images) for name, part, images in split.items()}
    targets = _targets_of(model, inputs, material.objectives)
    changed = replace(material, split=split, inputs=inputs, targets=targets)
    return _mae_problem("digits_random", changed, "output")


def split_at_random(whole: ImageSet, seed: int) -> SplitData:
    """Divide the training and the held-out images into two random halves each, without looking at classes."""
    heldout, parts = mark_heldout(whole), {}
    for stream, (split, mask) in enumerate((("train", ~heldout), ("heldout", heldout))):
        members = mask.nonzero().flatten()
        order = members[torch.randperm(len(members), generator=seeded_generator(seed, 40, stream))]
        half = len(order) // 2
        parts |= {
            f"forget_{split}": _choose(whole, order[:half]),
            f"retain_{split}": _choose(whole, order[half:]),
        }
    return SplitData(**parts)


def _choose(whole: ImageSet, members: Tensor) -> ImageSet:
    """Return some images in the order of their ids, all of one class."""
    index = members.sort().values
    return ImageSet(
        images=whole.images[index],
        class_ids=torch.zeros(len(index), dtype=torch.int64),
        class_names=("image",),
        image_ids=tuple(whole.image_ids[i] for i in index.tolist()),
        sha256=tuple(whole.sha256[i] for i in index.tolist()),
    )


def _targets_of(model: Restorer, inputs: dict[tuple[str, str], Tensor], objectives: Objectives) -> Targets:
    bank = model.sample_noise(NOISE_IMAGES, seeded_generator(0, 30))
    return compute_targets(feature_function(model, "output"), inputs, bank, objectives)


class ConvAutoencoder(nn.Module):
    """A convolutional autoencoder of 16-pixel digits with a bottleneck of 16 numbers: 18,137 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(12, 24, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(384, 16),
        )
        self.decoder = nn.Sequential(
            nn.Linear(16, 384),
            nn.GELU(),
            nn.Unflatten(1, (24, 4, 4)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(24, 12, 3, padding=1),
            nn.GELU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(12, 1, 3, padding=1),
        )

    def prepare(self, images: Tensor) -> Tensor:
        """Turn [0, 1] pixels into normalised ones."""
        return (images - PIXEL_MEAN) / PIXEL_STD

    def sample_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw inputs from N(0, I) in the normalised space."""
        return torch.randn(count, 1, 16, 16, generator=generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the bottleneck."""
        return self.encoder(inputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the reconstructed image, normalised."""
        return self.decoder(self.encoder(inputs))


def build_conv_autoencoder(work: Path) -> ImageProblem:
    """Return a convolutional autoencoder of whole images that forgets digits 0 to 4; trained here, once a work folder."""
    model, path = ConvAutoencoder(), work / "conv_autoencoder.safetensors"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        _train_autoencoder(model)
        save_file(model.state_dict(), path)
    model.load_state_dict(load_file(path))
    config = load_config(SWEEP)
    split, objectives = load_split(DataSection(**config.data.model_dump()), 0), Objectives("mse", "mean")
    inputs = {(name, part): model.prepare(images.images) for name, part, images in split.items()}
    parameters = list(model.parameters())
    return ImageProblem(
        name="conv_autoencoder",
        parameters=parameters,
        original=read_values(parameters),
        model=model,
        features=feature_function(model, "output"),
        inputs=inputs,
        objectives=objectives,
        targets=_targets_of(model, inputs, objectives),
        label_loss=functional.mse_loss,
    )


def _train_autoencoder(model: ConvAutoencoder) -> None:
    """Fill and train the weights, from a seed: Adam, half a cosine to zero, all ten digits' training images."""
    generator = seeded_generator(0, 50)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    whole = load_digits()
    inputs = model.prepare(whole.images[~mark_heldout(whole)])
    order = BatchOrder(len(inputs), AUTOENCODER_BATCH, 0, 51)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003, betas=(0.9, 0.99))
    for step in range(AUTOENCODER_STEPS):
        decay = 0.5 * (1.0 + math.cos(math.pi * step / AUTOENCODER_STEPS))
        optimiser.param_groups[0]["lr"] = 0.003 * min(1.0, (step + 1) / 100) * decay
        rows = inputs[order(step)]
        loss = functional.mse_loss(model(rows), rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


# --- Closed form ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class EllipsoidProblem:
    """f1 = (x - a)' A (x - a) and f2 = (x - b)' B (x - b), each 1 at the other's centre; see ``FrontProblem``.

    The original is b. A step sees f1 + n . (x - a) and f2 + m . (x - b) with fresh Gaussian n and m: what mini-batches of
    samples with centres of their own would give. Their length is a fifth of that of grad f1 at the original, as batches of 16
    have it on the digits (.16 to .19).
    """

    matrices: tuple[Tensor, Tensor]
    centers: tuple[Tensor, Tensor]
    parameters: list[nn.Parameter]
    original: Tensor
    name: str = "closed_form"
    rate: float = 0.06
    plain_rate: float = 0.4
    splits: tuple[str, ...] = ("train",)
    kinds: frozenset[str] = frozenset(("scaled",))

    def value(self, which: int, x: Tensor) -> Tensor:
        """Return f1 (0) or f2 (1)."""
        way = x - self.centers[which]
        return way @ self.matrices[which] @ way

    def losses(self, kind: str, seed: int) -> Losses:
        """Return noisy f1 and f2; only "scaled" has a meaning."""
        if kind not in self.kinds:
            raise ValueError(f"closed_form has the losses {', '.join(self.kinds)}, found {kind!r}")
        start = 2.0 * self.matrices[0] @ (self.original - self.centers[0])
        scale = NOISE_SHARE * float(start.norm()) / math.sqrt(DIMENSION)
        shape, generator = (NOISE_STEPS, 2, DIMENSION), seeded_generator(seed, 61)
        noise = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        x = self.parameters[0]

        def loss(which: int, step: int) -> Tensor:
            return self.value(which, x) + noise[step % NOISE_STEPS, which] @ (x - self.centers[which])

        return lambda step: loss(0, step), lambda step: loss(1, step)

    def measure(self, values: Tensor, split: str) -> tuple[float, float]:  # noqa: ARG002 - there is one split
        """Return exact (f1, f2): floor 0, f1(original) = 1, f2 at the minimiser of f1 = 1."""
        return float(self.value(0, values)), float(self.value(1, values))

    def optimum(self, epsilon: float) -> Tensor:
        """Return argmin f2 s.t. f1 <= epsilon, by bisection on the logarithm of its multiplier."""
        low, high = -40.0, 40.0
        for _ in range(100):
            middle = (low + high) / 2
            infeasible = float(self.value(0, self._stationary(math.exp(middle)))) > epsilon
            low, high = (middle, high) if infeasible else (low, middle)
        return self._stationary(math.exp(high))

    def front(self, points: int = 200) -> list[tuple[float, float]]:
        """Return the exact front at evenly spaced epsilons in (0, 1)."""
        epsilons = ((index + 0.5) / points for index in range(points))
        return [self.measure(self.optimum(epsilon), "train") for epsilon in epsilons]

    def _stationary(self, multiplier: float) -> Tensor:
        (first, second), (a, b) = self.matrices, self.centers
        return torch.linalg.solve(second + multiplier * first, second @ b + multiplier * first @ a)


def build_closed_form(_work: Path) -> EllipsoidProblem:
    """Return two random ellipsoids in 20 dimensions, condition 30, each in a random frame of its own."""
    generator = seeded_generator(0, 60)
    eigenvalues = torch.logspace(0.0, math.log10(CONDITION), DIMENSION, dtype=torch.float64)
    frames = [
        torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, dtype=torch.float64, generator=generator))[0]
        for _ in range(2)
    ]
    a, b = torch.randn(2, DIMENSION, dtype=torch.float64, generator=generator)
    first, second = (frame @ torch.diag(eigenvalues) @ frame.T for frame in frames)
    scaled = [matrix / ((b - a) @ matrix @ (b - a)) for matrix in (first, second)]
    return EllipsoidProblem(
        matrices=(scaled[0], scaled[1]),
        centers=(a, b),
        parameters=[nn.Parameter(b.clone())],
        original=b.clone(),
    )


PROBLEMS: dict[str, Callable[[Path], FrontProblem]] = {
    "digits_classes": build_digits_classes,
    "digits_random": build_digits_random,
    "digits_encoder": build_digits_encoder,
    "conv_autoencoder": build_conv_autoencoder,
    "closed_form": build_closed_form,
}
