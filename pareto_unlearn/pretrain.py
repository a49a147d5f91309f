"""Trains the embedded original model and the classifier of the builtin metrics, from a seed to the bit.

The same seed on the same kind of CPU with the same torch gives the same file, so anyone can check
that the shipped weights are what this recipe makes. One thread is used: more would change the order of sums.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.config import TaskSection
from pareto_unlearn.data import BatchOrder, ImageSet, load_digits, mark_heldout, seeded_generator
from pareto_unlearn.metrics import DigitClassifier
from pareto_unlearn.models import initialise_model, save_model

Report = Callable[[int, float], None]
MAE_STEPS, CLASSIFIER_STEPS, BATCH = 3000, 1500, 64
BATCH_STREAM = 20


def train_digits_mae(*, seed: int = 0, steps: int = MAE_STEPS, report: Report | None = None) -> bytes:
    """Train the embedded masked autoencoder on the training split of all ten digits.

    Returns:
        A safetensors file for ``model.checkpoint``.
    """
    with _one_thread():
        images, _ = _training_digits()
        model = initialise_model(TaskSection(), seeded_generator(seed, 10))
        inputs = model.prepare(images)
        order = BatchOrder(len(inputs), BATCH, seed, BATCH_STREAM)
        _train(model, lambda step: model.training_loss(inputs[order(step)]), steps, 0.002, report)
    return save_model(model)


def train_classifier(*, seed: int = 0, steps: int = CLASSIFIER_STEPS, report: Report | None = None) -> bytes:
    """Train the digit classifier on the training split of all ten digits.

    Returns:
        A safetensors file with its state.
    """
    with _one_thread():
        images, labels = _training_digits()
        model = _initialised_classifier(seeded_generator(seed, 11))
        order = BatchOrder(len(images), BATCH, seed, BATCH_STREAM)

        def loss_at(step: int) -> Tensor:
            batch = order(step)
            return functional.cross_entropy(model(images[batch]), labels[batch])

        _train(model, loss_at, steps, 0.003, report)
    return save_safetensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


TRAINERS: dict[str, Callable[..., bytes]] = {
    "digits_mae": train_digits_mae,
    "digits_classifier": train_classifier,
}


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _training_digits() -> tuple[Float[Tensor, "n 1 16 16"], Int[Tensor, " n"]]:
    whole: ImageSet = load_digits()
    train = ~mark_heldout(whole)
    return whole.images[train], whole.class_ids[train]


def _initialised_classifier(generator: torch.Generator) -> DigitClassifier:
    model = DigitClassifier()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    return model


def _train(
    model: nn.Module, loss_at: Callable[[int], Tensor], steps: int, peak: float, report: Report | None
) -> None:
    """AdamW with a short warm-up and half a cosine to zero."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.05, betas=(0.9, 0.99))
    for step in range(steps):
        warm_up, decay = min(1.0, (step + 1) / 100), 0.5 * (1.0 + math.cos(math.pi * step / steps))
        optimiser.param_groups[0]["lr"] = peak * warm_up * decay
        loss = loss_at(step)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if report is not None and (step % 100 == 0 or step == steps - 1):
            report(step, loss.item())
