"""What the rest of the package needs of a generative model, and of a family of them.

An adapter owns pixel scaling and the task ``T`` (what is removed from an image): everything outside it sees images
in [0, 1], opaque model inputs with the images first, and features.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pareto_unlearn.catalogue.families import FamilyRow
from pareto_unlearn.config import ModelSection, SamplingSection, TaskSection
from pareto_unlearn.records import PixelFormat

__all__ = [
    "DESCRIPTION",
    "BaselineLosses",
    "Batch",
    "Family",
    "Generators",
    "ImageToImage",
    "Published",
    "Setting",
    "Term",
    "describe_model",
]

DESCRIPTION = "pareto_unlearn"
"""The one metadata key of a weights file of ours: with several, the library writes them in a random order."""

Generators = Sequence[torch.Generator]
"""One generator for every image of a batch, so that an image's draws do not depend on its neighbours."""

Published = Any
"""How a published file holds its tensors; only the family that read it looks inside."""


@runtime_checkable
class ImageToImage(Protocol):
    """A generative model with its task. All is float32 but for the inputs of families that work on codes.

    Inputs hold all that chance decides about an image, so that f1 and f2 of a model are exact numbers on a fixed set of
    inputs. Where ``is_redrawn``, a training step draws it anew.
    """

    family: str
    """The name of its family's row."""

    evaluation_batch: int
    """Images to run at once where no gradients are needed."""

    is_redrawn: bool
    """Whether inputs hold draws; then the original's outputs on them cannot be kept from step to step."""

    stores_inputs: bool
    """Whether inputs are small beside the work to make them, so that they are made once and kept."""

    def describe(self) -> Mapping[str, Any]:
        """Return the sizes that rebuild the network, as JSON-like values."""
        ...

    def describe_features(self, space: str) -> str:
        """Say in a few words what f1 and f2 compare: which tensors of one image, and their shape."""
        ...

    def prepare(self, images: Float[Tensor, "b c h w"], generators: Generators) -> Tensor:
        """Turn [0, 1] pixels into model inputs; a family that draws nothing ignores the generators."""
        ...

    def redraw(self, inputs: Tensor, generators: Generators) -> Tensor:
        """Return inputs of the same images with other draws, where ``is_redrawn``; else the same inputs."""
        ...

    def noise_like(self, inputs: Tensor, generators: Generators, pixels: Tensor | None = None) -> Tensor:
        """Return the inputs whose output by the original is the noise target of these, where ``is_redrawn``.

        ``pixels`` are noise images to take in place of the family's own; the generators are not used then.
        """
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

    def training_loss(self, inputs: Tensor, wanted: Tensor | None = None) -> Float[Tensor, ""]:
        """Return the loss the original was trained with, against the inputs themselves or the images of ``wanted``.

        ``wanted`` are inputs too, as many; of them only the images count, not what was removed from them.
        """
        ...

    def generate(self, images: Float[Tensor, "b c h w"], generators: Generators) -> Float[Tensor, "b c h w"]:
        """Return [0, 1] images with the hole generated and the rest as the family shows it, without gradients.

        Nothing of what lies in the hole is looked at. The same generators give the same pictures, in any batch.
        """
        ...

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the hole: True where a pixel is removed and to be generated."""
        ...

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters a trial may change: the encoder's in space ``encoder``, else all that are trained.

        ``shared`` adds those of the encoder that the decoder uses too.
        """
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return all parameters with their names in ``state_dict``."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the weights by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Copy weights in."""
        ...

    def to(self, device: torch.device) -> "ImageToImage":
        """Move everything to a device."""
        ...

    def eval(self) -> "ImageToImage":
        """Switch dropout off."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a family builds a model from: sections of the sweep file, and the seed of a random hole."""

    model: ModelSection
    task: TaskSection
    sampling: SamplingSection = field(default_factory=SamplingSection)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the losses of a published baseline are made of at one step: inputs of both sets, the original, and chance."""

    original: ImageToImage
    forget: Tensor
    retain: Tensor
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class Term:
    """One of the two losses of a baseline, a mean over its own images.

    ``given`` draws and asks the original, without gradients; ``loss`` takes the model and the tensors that ``given`` returned.
    """

    given: Callable[[Batch], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineLosses:
    """What a published baseline minimises, retain + weight * forget, over the parameters of a space (``trainable``)."""

    forget: Term
    retain: Term
    space: str = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of one family are made, read and written; ``model`` is always one that it built itself.

    ``pixels`` says what images a variant reads. ``build`` makes a network of undefined weights, ``initialise`` fills
    them. ``load`` reads a checkpoint and says how the file holds it; ``write`` writes weights in such a form;
    ``own_form`` is the form of the file that people know, and ``suffix`` the end of its name. ``baselines`` are the
    published ones by the name of their trials' method. ``row`` is what is known of a family that is a single
    file; all others have theirs in ``catalogue.families`` or in their own package.
    """

    pixels: Callable[[str], PixelFormat]
    build: Callable[[Setting], Any]
    initialise: Callable[[Any, torch.Generator], None]
    load: Callable[[Setting, Path], tuple[Any, Published]]
    write: Callable[[Path, Any, Published], None]
    own_form: Callable[[Any], Published]
    baselines: Mapping[str, BaselineLosses]
    suffix: str = ".pth"
    row: FamilyRow | None = None


def describe_model(model: ImageToImage) -> dict[str, str]:
    """Return the metadata of a weights file of ours: the family and its sizes."""
    description = {"family": model.family, "shape": model.describe()}
    return {DESCRIPTION: json.dumps(description, sort_keys=True)}
