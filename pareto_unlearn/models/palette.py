"""Palette (Saharia et al., arXiv:2111.05826): a diffusion model that fills holes, as published for Places2.

What a batch holds is described in ``palette_inputs``: beside the images, everything that was drawn for them.
So the objectives of a checkpoint are exact numbers on a fixed set of inputs, and training draws afresh with
``redraw``.

The encoder is the contracting half of the U-Net: its input stages and its middle.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pareto_unlearn.device_copies import upload
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.palette_inputs import (
    Draws,
    build_unet_images,
    pack,
    replace_hole_by_noise,
    unpack,
)
from pareto_unlearn.models.palette_masks import draw_hybrid_hole, rasterise_hole
from pareto_unlearn.models.palette_sampling import (
    Sampling,
    fill_hole,
    noise_from_generators,
)
from pareto_unlearn.models.palette_schedule import (
    SCHEDULE_NAMES,
    LinearSchedule,
    NoiseSchedule,
    build_schedule,
    interpolate_level,
    respace_schedule,
)
from pareto_unlearn.models.palette_unet import Unet, UnetShape

Source = torch.Generator | Sequence[torch.Generator]
"""Where draws come from: one generator for all images, one after another, or one for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaletteShape:
    """Sizes of the network, and the schedule it was trained with, which its checkpoint holds too."""

    unet: UnetShape = field(default_factory=UnetShape)
    schedule: LinearSchedule = field(default_factory=LinearSchedule)


PLACES2 = PaletteShape()
"""``16_Network.pth``, inpainting on Places2."""

TINY = PaletteShape(
    unet=UnetShape(side=16, width=32, multipliers=(1, 1), blocks=1, attention_rates=(2,), head_width=16)
)
"""For tests; unlike the published network it has attention outside its middle."""


class Palette(nn.Module):
    """The model and its hole; see ``ImageToImage`` for what each method promises.

    ``to_images`` takes the images of ``fill`` instead of the model's output, which is predicted noise.
    """

    family: str = "palette"
    evaluation_batch: int = 8
    is_redrawn: bool = True
    stores_inputs: bool = False
    gammas: Tensor
    hole: Tensor

    def __init__(
        self,
        shape: PaletteShape,
        hole: Bool[Tensor, "h w"],
        *,
        recompute: bool = False,
        hybrid: bool = False,
        sampling: Sampling | None = None,
        schedule: LinearSchedule | None = None,
    ) -> None:
        """Build the network.

        Args:
            shape: Its sizes.
            hole: True where a pixel is removed, unless ``hybrid``.
            recompute: Train with little memory: recompute the inside of each block in the backward pass.
            hybrid: Inputs have drawn holes, as in the published training, instead of the model's own.
            sampling: How ``generate`` samples; None is as published.
            schedule: What it samples with; None is the schedule of the training.

        Raises:
            ConfigError: the hole is empty or has another size than the images, or there are fewer steps to
                sample.
        """
        super().__init__()
        self.shape, self.hybrid = shape, hybrid
        self.sampling, self._schedule = sampling or Sampling(), schedule
        self.register_buffer("hole", _checked_hole(hole, shape.unet.side), persistent=False)
        buffers = build_schedule(shape.schedule)
        for name in SCHEDULE_NAMES:
            self.register_buffer(name, getattr(buffers, name))
        if self.sampling.steps is not None:
            respace_schedule(self._sampling_schedule(), self.sampling.steps)
        self.denoise_fn = Unet(shape.unet)
        self.denoise_fn.recompute = recompute

    def describe(self) -> dict[str, Any]:
        """Return the sizes that rebuild this network."""
        return asdict(self.shape)

    def training_schedule(self) -> NoiseSchedule:
        """Return the schedule of the checkpoint, which is that of the original's training."""
        return NoiseSchedule(**{name: getattr(self, name) for name in SCHEDULE_NAMES})

    def describe_features(self, space: str) -> str:
        """Return in a few words what f1 and f2 compare."""
        side = self.shape.unet.side
        if space == "output":
            return f"predicted noise, 3 x {side} x {side} values, inside and outside the hole"
        stages = len(self.denoise_fn.input_blocks)
        return (
            f"feature maps of the {stages} input stages and the middle; the mean over each map, "
            "summed over the maps"
        )

    def prepare(self, images: Float[Tensor, "b 3 h w"], source: Source) -> Float[Tensor, "b 12 h w"]:
        """Return the inputs of [0, 1] pixels, with everything drawn that chance decides."""
        return self._pack(2 * images - 1, source, self.hybrid)

    def draw_inputs(self, images: Float[Tensor, "b 3 h w"], source: Source) -> Float[Tensor, "b 12 h w"]:
        """Return what ``redraw`` makes of any inputs of these images."""
        return self.prepare(images, source)

    def redraw(self, inputs: Float[Tensor, "b 12 h w"], source: Source) -> Float[Tensor, "b 12 h w"]:
        """Return the same images with other draws; training does this at every step."""
        return self._pack(unpack(inputs).clean, source, self.hybrid)

    def noise_like(
        self,
        inputs: Float[Tensor, "b 12 h w"],
        generators: Sequence[torch.Generator],
        pixels: Tensor | None = None,
    ) -> Float[Tensor, "b 12 h w"]:
        """Return the inputs with their own noise in the hole in place of the image; nothing is drawn."""
        del generators, pixels
        return replace_hole_by_noise(inputs)

    def sample_noise(self, count: int, generator: torch.Generator) -> Float[Tensor, "b 12 h w"]:
        """Draw ``count`` inputs whose images are N(0, I) in the normalised space."""
        side = self.shape.unet.side
        images = torch.randn(count, 3, side, side, generator=generator, device=generator.device)
        return self._pack(images.to(self.hole.device), generator, self.hybrid)

    def feature_maps(self, inputs: Float[Tensor, "b 12 h w"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the maps of the encoder: after every input stage (12 as published) and after the middle."""
        parts = unpack(inputs)
        return self.denoise_fn.encode(build_unet_images(parts), parts.gamma)

    def encode(self, inputs: Float[Tensor, "b 12 h w"]) -> Float[Tensor, "b d"]:
        """Return all feature maps of an image in one row, scaled as ``flatten_maps`` says.

        As published, this is 22 million values (89 MB) per image: too many to store for a whole data set.
        """
        return flatten_maps(self.feature_maps(inputs))

    def forward(self, inputs: Float[Tensor, "b 12 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the predicted noise, also outside the hole, where it is never used to make images."""
        parts = unpack(inputs)
        return self.denoise_fn(build_unet_images(parts), parts.gamma)  # type: ignore[no-any-return]

    def training_loss(
        self, inputs: Float[Tensor, "b 12 h w"], wanted: Float[Tensor, "b 12 h w"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the squared error of the noise in the hole, averaged over the pixels of the whole image.

        With ``wanted``, it is their images that the noise is mixed with; the conditioning image stays that of
        the inputs.
        """
        parts = unpack(inputs)
        clean = None if wanted is None else unpack(wanted).clean
        outputs = self.denoise_fn(build_unet_images(parts, clean), parts.gamma)
        return (parts.hole * (parts.noise - outputs)).square().mean()  # type: ignore[no-any-return]

    def hole_loss(self, inputs: Float[Tensor, "b 12 h w"]) -> Float[Tensor, ""]:
        """Return the training loss, which compares the hole alone."""
        return self.training_loss(inputs)

    def perfect_output(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Raise ValueError: the network predicts the noise in its inputs, whatever the image."""
        del inputs, outputs
        raise ValueError(f"expected a family whose outputs are pixels, found {self.family}: they are noise")

    def fill(
        self,
        inputs: Float[Tensor, "b 12 h w"],
        schedule: NoiseSchedule,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the images in [-1, 1] with generated holes, by sampling.

        Args:
            inputs: Of them, the clean image, the noise of the conditioning image, and the hole are used.
            schedule: ``training_schedule()``, or another one.
            sampling: The method, and its number of steps.
            generators: One for every image.
        """
        if len(generators) != len(inputs):
            raise ValueError(f"expected {len(inputs)} generators, one per image, found {len(generators)}")
        noise = noise_from_generators(generators, self.shape.unet.side, inputs.device)
        return fill_hole(self.denoise_fn, unpack(inputs), schedule, sampling, noise)

    def generate(
        self, images: Float[Tensor, "b 3 h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the images with the hole filled by sampling and the rest exactly kept."""
        inputs = self._pack(2 * images - 1, generators, hybrid=False)
        filled = self.fill(inputs, self._sampling_schedule(), self.sampling, generators)
        # Visible pixels do not survive the way to [-1, 1] and back to the bit.
        return torch.where(self.hole, self.to_images(filled), images)

    def _sampling_schedule(self) -> NoiseSchedule:
        return self.training_schedule() if self._schedule is None else build_schedule(self._schedule)

    def to_images(self, outputs: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Turn images in [-1, 1] into [0, 1] pixels; values outside are clipped."""
        return ((outputs + 1) / 2).clamp(0.0, 1.0)

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the task: True where a pixel is removed and to be generated."""
        return self.hole

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters a trial may change.

        ``shared`` adds the noise level's embedding, which the decoder uses too.
        """
        if space == "encoder":
            return self.encoder_parameters(with_noise_level=shared)
        return list(self.parameters())

    def encoder_parameters(self, *, with_noise_level: bool = False) -> list[nn.Parameter]:
        """Return the parameters of the input stages and the middle.

        Args:
            with_noise_level: Add the embedding of the noise level. Published unlearning trains it, but the
                decoder uses it too, so that the decoder's behaviour shifts.
        """
        modules: list[nn.Module] = [self.denoise_fn.input_blocks, self.denoise_fn.middle_block]
        if with_noise_level:
            modules.append(self.denoise_fn.cond_embed)
        return [parameter for module in modules for parameter in module.parameters()]

    def _pack(self, clean: Tensor, source: Source, hybrid: bool) -> Tensor:
        side = self.shape.unet.side
        if clean.shape[2:] != (side, side):
            height, width = clean.shape[2:]
            raise ValueError(f"expected images of {side} by {side} pixels, found {height} by {width}")
        generators = [source] * len(clean) if isinstance(source, torch.Generator) else source
        return pack(clean, self._draw_each(generators, hybrid, clean.device))

    def _draw_each(self, generators: Sequence[torch.Generator], hybrid: bool, device: torch.device) -> Draws:
        """Draw for every image in turn; what the model knows itself stays on its device."""
        images = [self._draw_one(generator, hybrid) for generator in generators]
        noise, step, share = (
            upload(torch.stack(parts), device) for parts in zip(*(drawn for drawn, _ in images), strict=True)
        )
        gamma = interpolate_level(self.gammas, step, share)
        if hybrid:
            holes = upload(torch.stack([hole for _, hole in images if hole is not None]), device)[:, None]
        else:
            holes = self.hole.expand(len(images), 1, -1, -1)
        return Draws(noise[:, 0], noise[:, 1], gamma, holes)

    def _draw_one(
        self, generator: torch.Generator, hybrid: bool
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor | None]:
        """Draw two noise images, a step of the schedule, the share of the way to it, and a hybrid hole."""
        side, device = self.shape.unet.side, generator.device
        noise = torch.randn(2, 3, side, side, generator=generator, device=device)
        step = torch.randint(1, len(self.gammas), (), generator=generator, device=device)
        share = torch.rand(1, generator=generator, device=device)
        hole = rasterise_hole(draw_hybrid_hole(side, generator), side) if hybrid else None
        return (noise, step, share), hole


def flatten_maps(maps: Sequence[Float[Tensor, "b _ _ _"]]) -> Float[Tensor, "b d"]:
    """Return feature maps in one row per image, so scaled that squared errors become the published loss.

    That loss is the sum over the maps of each map's mean squared error. The mean squared error of two rows is
    just this when the ``n`` values of a map are multiplied by ``sqrt(d / n)``, with ``d`` the length of the
    row. float32.
    """
    sizes = [each[0].numel() for each in maps]
    scales = [math.sqrt(sum(sizes) / size) for size in sizes]
    rows = [each.float().flatten(1) * scale for each, scale in zip(maps, scales, strict=True)]
    return torch.cat(rows, dim=1)


def _checked_hole(hole: Tensor, side: int) -> Tensor:
    if tuple(hole.shape) != (side, side):
        raise ConfigError(f"task: expected a hole mask of {side} by {side} pixels, found {tuple(hole.shape)}")
    if not hole.is_meta and not hole.any():
        raise ConfigError("task: expected a hole of at least one pixel, found an empty one")
    return hole
