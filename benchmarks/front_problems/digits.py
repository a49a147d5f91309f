"""The embedded masked autoencoder of digits as a problem: which images it forgets, and what is compared."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from front_problems.images import NOISE_IMAGES, ImageProblem, targets_of
from front_problems.problem import read_values
from pareto_unlearn.config import load_config
from pareto_unlearn.data import ImageSet, SplitData, load_digits, mark_heldout, seeded_generator
from pareto_unlearn.models import DigitsMae
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.trial import Material, load_material

SWEEP = Path(__file__).parents[2] / "sweeps" / "quickstart.yaml"


def build_digits_classes(work: Path) -> ImageProblem:
    """Return the embedded masked autoencoder that forgets digits 0 to 4 and keeps 5 to 9."""
    return _mae_problem("digits_classes", _digits_material(work, "output"), "output")


def build_digits_encoder(work: Path) -> ImageProblem:
    """Return the same with encoder outputs compared and the decoder frozen."""
    return _mae_problem("digits_encoder", _digits_material(work, "encoder"), "encoder")


def build_digits_random(work: Path) -> ImageProblem:
    """Return the embedded masked autoencoder that forgets a random half of its images, of any class."""
    material = _digits_material(work, "output")
    split, model = split_at_random(load_digits(), seed=0), material.model
    inputs = {(name, part): model.prepare(images.images) for name, part, images in split.items()}
    targets = targets_of(model, inputs, material.retain_target.objectives)
    changed = replace(material, split=split, inputs=inputs, targets=targets)
    return _mae_problem("digits_random", changed, "output")


def _mae_problem(name: str, material: Material, space: str) -> ImageProblem:
    model, parameters = material.model, material.trainable(space)
    return ImageProblem(
        name=name,
        parameters=parameters,
        original=read_values(parameters),
        model=model,
        features=feature_function(model, space),
        inputs=material.inputs,
        objectives=material.retain_target.objectives,
        targets=material.targets,
        class_ids=material.split.forget_train.class_ids,
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
