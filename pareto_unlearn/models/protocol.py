"""What the rest of the package needs from a generative model and from its family.

An adapter owns pixel scaling and the task ``T`` (what is removed from an image): everything outside it sees
images in [0, 1], opaque model inputs with the images first, and features.
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
    "DrawsFromImages",
    "Family",
    "Generators",
    "ImageToImage",
    "Published",
    "Setting",
    "Term",
    "describe_model",
]

DESCRIPTION = "pareto_unlearn"
"""The only metadata key of our weights files: safetensors writes several keys in random order."""

Generators = Sequence[torch.Generator]
"""One generator for every image of a batch, so that an image's draws do not depend on its neighbours."""

Published = Any
"""The form of a published file: how it holds its tensors. Only its family looks inside."""


@runtime_checkable
class ImageToImage(Protocol):
    """A generative model with its task. Tensors are float32, but families may take integer codes as inputs.

    Inputs hold every random draw about an image, so f1 and f2 of a model are exact numbers on a fixed set of
    inputs. If ``is_redrawn``, a training step replaces the draws.
    """

    family: str
    """The name of its family's row."""

    evaluation_batch: int
    """Images to run at once where no gradients are needed."""

    is_redrawn: bool
    """Whether inputs hold random draws; then the original's outputs change from step to step."""

    stores_inputs: bool
    """Whether inputs are made once and kept: they are small, and making them is work."""

    def describe(self) -> Mapping[str, Any]:
        """Return the sizes that rebuild the network, as JSON-like values."""
        ...

    def describe_features(self, space: str) -> str:
        """Return in a few words what f1 and f2 compare: which tensors of an image, and their shape."""
        ...

    def prepare(self, images: Float[Tensor, "b c h w"], generators: Generators) -> Tensor:
        """Return model inputs for [0, 1] pixels; a family that draws nothing ignores the generators."""
        ...

    def redraw(self, inputs: Tensor, generators: Generators) -> Tensor:
        """Return inputs of the same images with new draws if ``is_redrawn``, else the same inputs."""
        ...

    def noise_like(self, inputs: Tensor, generators: Generators, pixels: Tensor | None = None) -> Tensor:
        """Return noise inputs, one per input; the original's outputs on them are the noise targets.

        Only called if ``is_redrawn``. ``pixels`` are noise images to use instead of the family's own noise;
        the generators are not used then.
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
        """Return the loss the original was trained with.

        The target is the image of each input, or that of the input in ``wanted`` at the same place. What was
        removed from the inputs in ``wanted`` does not count.
        """
        ...

    def hole_loss(self, inputs: Tensor) -> Float[Tensor, ""]:
        """Return the part of the training loss that judges what was removed: what can be remembered."""
        ...

    def perfect_output(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the full output of a model that knows what was removed from the inputs.

        Where training compares nothing, it is that of ``outputs``, which a model gave for these inputs. Only
        called if the family's row says ``paints_pixels`` and not ``is_redrawn``.
        """
        ...

    def generate(self, images: Float[Tensor, "b c h w"], generators: Generators) -> Float[Tensor, "b c h w"]:
        """Return [0, 1] images with the hole generated, without gradients.

        Outside the hole they are as the family shows them: the input's pixels, or generated too. The pixels
        in the hole have no influence. The same generators give the same pictures, in any batch.
        """
        ...

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the hole: True where a pixel is removed and to be generated."""
        ...

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters that a trial may change.

        In space ``encoder`` these are the encoder's, else all that training changes. ``shared`` adds the
        encoder's parameters that the decoder uses too.
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


@runtime_checkable
class DrawsFromImages(Protocol):
    """A redrawn family that needs no older inputs to draw new ones: a step then draws once, not twice."""

    def draw_inputs(self, images: Float[Tensor, "b c h w"], generators: Generators) -> Tensor:
        """Return, to the bit, what ``redraw`` makes of any inputs of these images with these generators."""
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
    """The arguments of a published baseline's losses at one step."""

    original: ImageToImage
    forget: Tensor
    retain: Tensor
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class Term:
    """One of the two losses of a baseline, a mean over its own images.

    ``make_targets`` runs without gradients: it draws noise, runs the original model, and returns tensors.
    ``loss`` takes the model and these tensors.
    """

    make_targets: Callable[[Batch], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineLosses:
    """A published baseline: minimise retain + weight * forget over the trainable parameters of a space."""

    forget: Term
    retain: Term
    space: str = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How the models of a family are made, read and written. Its functions get only models that it built.

    ``pixels`` says what images a variant reads. ``build`` makes a network of undefined weights, and
    ``initialise`` fills them. ``load`` reads a checkpoint and returns the model and the form of the file;
    ``write`` writes weights in a form; ``own_form`` is the form of the published file, and ``suffix`` is how
    its name ends. ``baselines`` are the published baselines by method name. ``row`` holds the facts about a
    family that is a single file; other families have theirs in ``catalogue.families`` or in their package.
    ``hub`` writes the weights and settings from which a library of others loads a model by its folder.
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
    hub: Callable[[Path, Any], None] | None = None


def describe_model(model: ImageToImage) -> dict[str, str]:
    """Return the metadata of a weights file of ours: the family and its sizes."""
    description = {"family": model.family, "shape": model.describe()}
    return {DESCRIPTION: json.dumps(description, sort_keys=True)}
