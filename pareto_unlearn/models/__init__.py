"""The generative models that can unlearn, behind one Protocol.

An adapter owns pixel scaling and the task ``T`` (what is removed from an image): everything outside it sees images
in [0, 1], opaque model inputs, and flat outputs. A new family is one module and one line in ``MODELS``.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from pareto_unlearn.config import ModelSection, TaskSection
from pareto_unlearn.models.digits_mae import DigitsMae, DigitsMaeShape, initialise
from pareto_unlearn.records import WeightsError

__all__ = [
    "MODELS",
    "DigitsMae",
    "Family",
    "ImageToImage",
    "checkpoint_path",
    "initialise_model",
    "load_model",
    "save_model",
    "weights_sha256",
]

DESCRIPTION = "pareto_unlearn"
"""The one metadata key of a weights file: with several, the library writes them in a random order."""


@runtime_checkable
class ImageToImage(Protocol):
    """What the rest of the package needs of a generative model. Inputs are batches; all is float32."""

    family: str
    """The key in ``MODELS``."""

    def describe(self) -> dict[str, int]:
        """Return the sizes that rebuild the network."""
        ...

    def prepare(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Turn [0, 1] pixels into model inputs, before anything is removed from them."""
        ...

    def sample_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` inputs that are pure noise, N(0, I) in the model's normalised space."""
        ...

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output for T(inputs), batch first."""
        ...

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the model's full output for T(inputs), batch first."""
        ...

    def training_loss(self, inputs: Tensor) -> Float[Tensor, ""]:
        """Return the loss the original was trained with, against the inputs themselves."""
        ...

    def to_images(self, outputs: Tensor) -> Float[Tensor, "b c h w"]:
        """Turn full outputs into pixels, clipped to [0, 1]."""
        ...

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of T: True where a pixel is removed and to be generated."""
        ...

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that change the encoder's output."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all trainable parameters."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""
        ...


@dataclass(frozen=True, slots=True)
class Family:
    """How one family is found and built."""

    builtin: str
    build: Callable[[dict[str, Any], TaskSection], DigitsMae]


def _build_digits_mae(description: dict[str, Any], task: TaskSection) -> DigitsMae:
    return DigitsMae(DigitsMaeShape(**description["shape"]), task.size)


MODELS: dict[str, Family] = {"digits_mae": Family("digits_mae.safetensors", _build_digits_mae)}


def checkpoint_path(config: ModelSection) -> Path:
    """Return the file that holds the original model's weights.

    Raises:
        WeightsError: it does not exist.
    """
    if config.checkpoint == "builtin":
        return Path(str(files("pareto_unlearn") / "assets" / MODELS[config.family].builtin))
    path = Path(config.checkpoint)
    if not path.is_file():
        raise WeightsError(
            f"model.checkpoint: expected a .safetensors file of family {config.family}, found nothing at {path}; "
            "give its path (relative to the current folder), or `builtin` for the weights shipped with the package"
        )
    return path


def weights_sha256(config: ModelSection) -> str:
    """Return the SHA-256 of the original model's weights file."""
    return hashlib.sha256(checkpoint_path(config).read_bytes()).hexdigest()


def load_model(config: ModelSection, task: TaskSection, device: torch.device | None = None) -> DigitsMae:
    """Load the original model, ready for inference and training.

    Raises:
        WeightsError: the file is missing, damaged, or does not fit the family.
    """
    path = checkpoint_path(config)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(DESCRIPTION, "{}")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file, or damaged: {error}") from error
    model = _build_described(config.family, text, task, path)
    _load_strictly(model, state, path)
    return model.to(device or torch.device("cpu")).eval()


def initialise_model(task: TaskSection, generator: torch.Generator) -> DigitsMae:
    """Return an untrained embedded model of the default size with weights drawn from ``generator``."""
    model = DigitsMae(DigitsMaeShape(), task.size)
    initialise(model, generator)
    return model


def save_model(model: ImageToImage) -> bytes:
    """Return the weights as a safetensors file that ``load_model`` accepts; same weights, same bytes."""
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    description = {"family": model.family, "shape": model.describe()}
    return save_safetensors(state, {DESCRIPTION: json.dumps(description, sort_keys=True)})


def _build_described(family: str, text: str, task: TaskSection, path: Path) -> DigitsMae:
    """Build the network that a weights file describes in its metadata."""
    try:
        description = json.loads(text)
        found = description.get("family", "no family")
        if found == family:
            return MODELS[family].build(description, task)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: the description of the network is damaged: {text[:200]!r}") from error
    raise WeightsError(f"{path}: expected weights of family {family}, found {found}")


def _load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [f"missing {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unexpected {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {found[name]} instead of {wanted[name]}"
        for name in wanted.keys() & found.keys()
        if wanted[name] != found[name]
    ]
    if problems:
        raise WeightsError(f"{path}: the weights do not fit: {'; '.join(sorted(problems)[:3])}")
    model.load_state_dict(state)
