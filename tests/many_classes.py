"""Generated images of many classes of unequal sizes, and a small model that has learned them."""

import hashlib

import torch
from small_sweep import QUICKSTART
from torch.nn import functional

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.data import DIGITS_SIDE, BatchOrder, ImageSet, seeded_generator
from pareto_unlearn.models import DigitsMae, save_model
from pareto_unlearn.models.digits_mae import DigitsMaeShape, initialise
from pareto_unlearn.models.holes import center

FORGET, RETAIN, SMALL_SIDE = 100, 10, 8
NAMES = tuple(f"c{index:03d}" for index in range(FORGET + RETAIN))


def count_images(class_id: int) -> int:
    """1 to 20 images in a forget class, five classes of each size; 12 in a retain class."""
    return 1 + class_id % 20 if class_id < FORGET else 12


def generate_images() -> ImageSet:
    """Return noisy copies of one smooth picture a class, enlarged from 8 to 16 pixels a side."""
    counts = torch.tensor([count_images(index) for index in range(len(NAMES))])
    class_ids = torch.repeat_interleave(torch.arange(len(NAMES)), counts)
    generator = seeded_generator(7)
    coarse = torch.rand(len(NAMES), 1, 4, 4, generator=generator)
    centres = functional.interpolate(coarse, size=(SMALL_SIDE, SMALL_SIDE))
    noise = torch.randn(len(class_ids), 1, SMALL_SIDE, SMALL_SIDE, generator=generator)
    small = (centres[class_ids] + 0.1 * noise).clamp(0.0, 1.0)
    images = functional.interpolate(small, size=(DIGITS_SIDE, DIGITS_SIDE), mode="bilinear")
    return ImageSet(
        images=images,
        class_ids=class_ids,
        class_names=NAMES,
        image_ids=tuple(f"image-{index:04d}" for index in range(len(images))),
        sha256=tuple(hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images),
    )


def train_model(images: ImageSet, steps: int = 500) -> bytes:
    """Return the weights of a model of 8,000 parameters that reconstructs the images."""
    model = DigitsMae(DigitsMaeShape(width=16, heads=2, encoder_blocks=1), center(16, 0.5))
    initialise(model, seeded_generator(8))
    inputs, order = model.prepare(images.images), BatchOrder(len(images), 64, 0, 9)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.004)
    for step in range(steps):
        optimiser.zero_grad()
        model.training_loss(inputs[order(step)]).backward()
        optimiser.step()
    return save_model(model)


def many_classes_config(checkpoint: str, storage: str, *overrides: str, forget: int = FORGET) -> SweepConfig:
    """Return a sweep over the generated images, which the test puts in place of the digits."""
    return load_config(
        QUICKSTART,
        [
            "name=many",
            f"model.checkpoint={checkpoint}",
            f"data.forget_classes=[{', '.join(NAMES[:forget])}]",
            f"data.retain_classes=[{', '.join(NAMES[FORGET:])}]",
            "objective.noise_images=64",
            "baselines=[]",
            "controls=[]",
            "evaluate.metrics=[mse]",
            "run.executor=local",
            f"run.storage={storage}",
            *overrides,
        ],
    )
