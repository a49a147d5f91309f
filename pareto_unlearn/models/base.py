"""The base of a new model family: defaults for most of ``ImageToImage``, and a plain ``Family``.

A subclass with an encoder and a decoder writes three methods: encode an image whose hole is blank, decode,
and name the modules of the encoder. A network without these halves writes one: answer such an image.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.catalogue.families import FamilyRow
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.baselines import PAPER
from pareto_unlearn.models.checkpoint_files import (
    Wrapper,
    load_strictly,
    read_checkpoint,
    write_checkpoint,
)
from pareto_unlearn.models.file_kinds import SAFETENSORS
from pareto_unlearn.models.initialisation import fill_weights
from pareto_unlearn.models.protocol import Family, ImageToImage, Setting, describe_model
from pareto_unlearn.records import PixelFormat

__all__ = ["ImageModel", "package_module", "plain_family"]


class ImageModel(nn.Module):
    """A model that answers images with images of the same size; nothing is drawn, and all have one hole.

    Inputs are whole images, normalised by ``pixel_mean`` and ``pixel_std``, to [-1, 1] unless a subclass says
    otherwise; outputs are images on the same scale. The network sees them with the hole set to 0. A subclass
    writes ``encode_visible``, ``decode`` and ``encoder_modules``, or ``answer`` alone where it has no halves.
    """

    family: str
    channels: int = 3
    pixel_mean: float = 0.5
    pixel_std: float = 0.5
    evaluation_batch: int = 32
    is_redrawn: bool = False
    stores_inputs: bool = True
    generates_whole: bool = False
    hole: Tensor

    def __init__(self, hole: Bool[Tensor, "h w"]) -> None:
        """Keep the hole: True where a pixel is removed. It is no part of the weights."""
        super().__init__()
        self.register_buffer("hole", hole, persistent=False)

    def encode_visible(self, images: Float[Tensor, "b c h w"]) -> Tensor:
        """Return the encoder's output for normalised images whose hole is blank, the images first."""
        raise NotImplementedError(f"{type(self).__name__}: expected encode_visible and decode, or answer")

    def decode(self, features: Tensor) -> Float[Tensor, "b c h w"]:
        """Return normalised images from the encoder's output."""
        raise NotImplementedError(f"{type(self).__name__}: expected encode_visible and decode, or answer")

    def encoder_modules(self) -> Sequence[nn.Module]:
        """Return the modules that change the encoder's output and are no part of the decoder."""
        raise NotImplementedError(f"{type(self).__name__}: expected encoder_modules, for space encoder")

    def answer(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return normalised images from normalised images whose hole is blank."""
        return self.decode(self.encode_visible(images))

    def describe(self) -> Mapping[str, Any]:
        """Return the sizes that rebuild the network."""
        return {"side": len(self.hole)}

    def describe_features(self, space: str) -> str:
        """Say what f1 and f2 compare."""
        side = len(self.hole)
        if space == "encoder":
            return "encoder outputs, with the hole blank"
        return (
            f"whole pictures that the model answers, {self.channels} x {side} x {side} normalised values each"
        )

    def prepare(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return normalised images; nothing is drawn."""
        del generators
        return (images - self.pixel_mean) / self.pixel_std

    def redraw(self, inputs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the inputs: they hold no draws."""
        del generators
        return inputs

    def noise_like(
        self, inputs: Tensor, generators: Sequence[torch.Generator], pixels: Tensor | None = None
    ) -> Tensor:
        """Raise ValueError: all images share one noise target here."""
        del inputs, generators, pixels
        raise ValueError(f"expected a model whose inputs are drawn anew, found {self.family}")

    def sample_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` inputs from N(0, I)."""
        return torch.randn(count, self.channels, *self.hole.shape, generator=generator)

    def encode(self, inputs: Tensor) -> Tensor:
        """Return the encoder's output for inputs, whose hole it does not see."""
        return self.encode_visible(self.hide(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the model's answer to inputs, whose hole it does not see."""
        return self.answer(self.hide(inputs))

    def hide(self, inputs: Tensor) -> Tensor:
        """Return inputs with the hole set to 0."""
        return inputs.masked_fill(self.hole, 0.0)

    def training_loss(self, inputs: Tensor, wanted: Tensor | None = None) -> Float[Tensor, ""]:
        """Return the mean squared error of the answer."""
        return functional.mse_loss(self(inputs), inputs if wanted is None else wanted)

    def hole_loss(self, inputs: Tensor) -> Float[Tensor, ""]:
        """Return the training loss; a family whose training also compares what is visible overrides it."""
        return self.training_loss(inputs)

    def perfect_output(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Return the images that are wanted as answers: the inputs, hole and all."""
        del outputs
        return inputs

    def to_images(self, outputs: Tensor) -> Tensor:
        """Turn normalised images into [0, 1] pixels; values outside are clipped."""
        return (outputs * self.pixel_std + self.pixel_mean).clamp(0.0, 1.0)

    def generate(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the model's answer, or unless ``generates_whole`` the images with the answer in the hole."""
        with torch.no_grad():
            answers = self.to_images(self(self.prepare(images, generators)))
        return answers if self.generates_whole else torch.where(self.hole, answers, images)

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the hole."""
        return self.hole

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters a trial may change; encoder and decoder share none."""
        del shared
        if space != "encoder":
            return list(self.parameters())
        return [parameter for module in self.encoder_modules() for parameter in module.parameters()]


def package_module(package: str, name: str) -> ModuleType:
    """Run one module of an installed package, without the imports of the package's own ``__init__``.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    for path in [Path(folder) / f"{name}.py" for folder in folders]:
        found = importlib.util.spec_from_file_location(f"{package}.{name}", path)
        if found is not None and found.loader is not None and path.is_file():
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return module
    raise ConfigError(
        f"model.family: expected the installed package {package} with a module {name}, found none"
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """Reads and writes files of a state dict; ``network`` returns the part of a model that they hold."""

    build: Callable[[Setting], Any]
    network: Callable[[Any], nn.Module]
    expected: str

    def load(self, setting: Setting, path: Path) -> tuple[Any, Wrapper]:
        tensors, wrapper = read_checkpoint(path)
        model = self.build(setting)
        load_strictly(self.network(model), tensors, path, self.expected)
        return model, wrapper

    def write(self, path: Path, model: Any, wrapper: Wrapper) -> None:
        # The optimiser, epoch and arguments of a training are not those of the weights that are written.
        write_checkpoint(path, self.network(model).state_dict(), replace(wrapper, before={}, after={}))


def plain_family(
    row: FamilyRow,
    build: Callable[[Setting], Any],
    pixels: PixelFormat | Callable[[str], PixelFormat],
    *,
    network: Callable[[Any], nn.Module] = lambda model: model,
    initialise: Callable[[Any, torch.Generator], None] = fill_weights,
    suffix: str = SAFETENSORS,
) -> Family:
    """Return a family whose checkpoints are state dicts, read without running anything in them.

    Args:
        row: the facts about the family; its baselines must be among those that all families share.
        build: makes the model of a setting, with undefined weights.
        pixels: the format of its images, for all variants, or a function of the variant.
        network: the part of a model whose state dict the files hold.
        initialise: fills the weights for a training from scratch.
        suffix: how the files' names end; ``.safetensors``, or another for files of ``torch.save``.
    """
    files = _Files(build, network, row.file)
    return Family(
        pixels=pixels if callable(pixels) else lambda _: pixels,
        build=build,
        initialise=initialise,
        load=files.load,
        write=files.write,
        own_form=lambda model: _own_form(model, suffix),
        baselines={name: PAPER[name] for name in row.baselines},
        suffix=suffix,
        row=row,
    )


def _own_form(model: ImageToImage, suffix: str) -> Wrapper:
    return Wrapper(metadata=describe_model(model)) if suffix == SAFETENSORS else Wrapper()
