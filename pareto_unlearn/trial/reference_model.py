"""The model that never saw the forget images, where f1 is the distance from what it says of them."""

import copy
import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from pareto_unlearn.config import ModelSection, SweepConfig
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models import (
    CHECKPOINT,
    REFERENCE,
    ImageToImage,
    load_model,
    pixel_format,
    weights_sha256,
)
from pareto_unlearn.random_streams import Stream


def reference_section(config: SweepConfig) -> ModelSection | None:
    """Return the model section of the reference model: the original's with another file; None without one."""
    return _section_of(config) if config.objective.forget_target == "reference" else None


def weights_digest(config: SweepConfig) -> str:
    """Return the SHA-256 of the weights that decide a sweep's results: the original's and a reference's.

    Raises:
        WeightsError: a file is missing.
    """
    original, section = weights_sha256(config.model), reference_section(config)
    if section is None:
        return original
    return hashlib.sha256(f"{original} {weights_sha256(section, REFERENCE)}".encode()).hexdigest()


def load_reference(config: SweepConfig, device: torch.device | None = None) -> ImageToImage:
    """Load the reference model of a sweep whose forget target is one.

    Raises:
        WeightsError: its file is missing, or does not fit the family.
    """
    section = _section_of(config)
    reference = _load(config, section, device, REFERENCE)
    if section.is_random:
        # Of a smoke run: a tokeniser is never another one.
        original = _load(config, config.model, device, CHECKPOINT)
        trained = _trained_names(original)
        shared = {name: value for name, value in original.state_dict().items() if name not in trained}
        reference.load_state_dict({**reference.state_dict(), **shared})
    for parameter in reference.parameters():
        parameter.requires_grad_(False)
    return reference


def check_reference(config: SweepConfig, original: ImageToImage) -> None:
    """Refuse a reference whose answers cannot be targets of the original, or are the original's own.

    Raises:
        ConfigError: it holds the original's weights.
        WeightsError: its file is missing or does not fit, or it differs from the original in weights that no
            training changes.
    """
    if config.objective.forget_target != "reference":
        return
    reference = load_reference(config)
    differing = _differing(original, reference)
    if not differing:
        raise ConfigError(
            f"{REFERENCE}: expected a model that never saw the forget images, found the original's own "
            f"weights in {config.objective.reference}; `pareto-unlearn train SWEEP --leave-out-forget` makes "
            "one"
        )
    trained = _trained_names(original)
    others = {name: values for name, values in differing.items() if name not in trained}
    if others and not _answers_alike(config, original, others):
        raise WeightsError(
            f"{REFERENCE}: expected the original's tokeniser, and whatever else no training here changes, "
            f"found other values in {config.objective.reference}, such as those of {next(iter(others))}: its "
            "answers mean something else"
        )


def _section_of(config: SweepConfig) -> ModelSection:
    return config.model.model_copy(update={"checkpoint": config.objective.reference})


def _load(config: SweepConfig, section: ModelSection, device: torch.device | None, key: str) -> ImageToImage:
    sampling = config.evaluate.sampling
    return load_model(section, config.task, device, sampling=sampling, seed=config.seed, key=key)


def _trained_names(model: ImageToImage) -> set[str]:
    """Return the names of the parameters that training on whole outputs changes."""
    trained = {id(parameter) for parameter in model.trainable("output", shared=True)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in trained}


def _differing(one: ImageToImage, other: ImageToImage) -> dict[str, Tensor]:
    """Return the values of the other model where they are not the same."""
    values: dict[str, Tensor] = other.state_dict()
    return {
        name: values[name]
        for name, tensor in one.state_dict().items()
        if not torch.equal(tensor, values[name])
    }


def _answers_alike(config: SweepConfig, original: ImageToImage, changes: Mapping[str, Tensor]) -> bool:
    """Try whether some values matter: the published files hold weights that nothing uses (mage)."""
    changed, pixels = copy.deepcopy(original), pixel_format(config.model)
    changed.load_state_dict({**original.state_dict(), **changes})
    pictures = torch.rand(
        1, pixels.channels, pixels.side, pixels.side, generator=seeded_generator(Stream.PROBE)
    )
    return torch.equal(*(_answer(model, pictures) for model in (original, changed)))


@torch.no_grad()
def _answer(model: ImageToImage, pictures: Tensor) -> Tensor:
    return model(model.prepare(pictures, [seeded_generator(Stream.PROBE)]))
