"""The U-Net of Palette (Saharia et al., arXiv:2111.05826), with the names of its published checkpoint.

It predicts the noise in an image from a conditioning image, the noisy image and the noise level. It knows
nothing of holes, schedules or files. There is no dropout: published training leaves it on in the original
model too, so that the targets are noisy, and it draws from the global generator.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pareto_unlearn.errors import ConfigError

GROUPS = 32
"""Groups of every normalisation; all channel counts are multiples of it."""

LONGEST_PERIOD = 10_000.0
"""Of the sines that embed the noise level; the level itself enters unscaled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetShape:
    """Sizes of the network. ``side`` in pixels, ``width`` in channels of the first level.

    ``attention_rates`` are the downsampling rates whose blocks get attention. The published value, 16, is
    never reached with four levels (rates 1, 2, 4, 8), so the published network has attention in its middle
    only.
    """

    side: int = 256
    width: int = 64
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    blocks: int = 2
    attention_rates: tuple[int, ...] = (16,)
    head_width: int = 32

    def __post_init__(self) -> None:
        rate = 2 ** (len(self.multipliers) - 1)
        if self.side % rate:
            raise ConfigError(f"side of the U-Net: expected a multiple of {rate} pixels, found {self.side}")
        if self.width % GROUPS:
            raise ConfigError(f"width of the U-Net: expected a multiple of {GROUPS}, found {self.width}")


class Resample(StrEnum):
    """What a residual block does to the size of its maps."""

    KEEP = "keep"
    HALVE = "halve"
    DOUBLE = "double"


class ResidualBlock(nn.Module):
    """Two convolutions with the noise level in between: it scales and shifts the second normalisation."""

    def __init__(self, channels: int, out_channels: int, level_width: int, resample: Resample) -> None:
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(level_width, 2 * out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out_channels),
            nn.SiLU(),
            nn.Identity(),  # the place of the dropout, which numbers the convolution
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(
        self, maps: Float[Tensor, "b c h w"], level: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b d h2 w2"]:
        """Return maps of the new width and size."""
        norm, activation, convolution = self.in_layers
        hidden = convolution(_resample(activation(norm(maps)), self.resample))
        scale, shift = self.emb_layers(level)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        hidden = norm(hidden) * (1 + scale) + shift
        for layer in rest:
            hidden = layer(hidden)
        return self.skip_connection(_resample(maps, self.resample)) + hidden  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Self-attention over all pixels of the maps, added to them."""

    def __init__(self, channels: int, head_width: int) -> None:
        super().__init__()
        self.heads = channels // head_width
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the maps after attention."""
        pixels = maps.flatten(2)
        batch, channels, count = pixels.shape
        heads = self.qkv(self.norm(pixels)).view(batch, self.heads, 3, channels // self.heads, count)
        query, key, value = heads.transpose(-1, -2).unbind(2)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        mixed = mixed.transpose(-1, -2).reshape(batch, channels, count)
        return (pixels + self.proj_out(mixed)).view_as(maps)  # type: ignore[no-any-return]


class Unet(nn.Module):
    """The network. With ``recompute`` set, the backward pass computes the inside of each block again.

    With ``channels_last`` set, maps lie so in memory. Weights do not: the solver moves them as one flat
    vector.
    """

    def __init__(self, shape: UnetShape) -> None:
        super().__init__()
        self.shape = shape
        self.recompute = self.channels_last = False
        self._level_width = 4 * shape.width
        widths = [shape.width * multiplier for multiplier in shape.multipliers]
        self.cond_embed = nn.Sequential(
            nn.Linear(shape.width, self._level_width),
            nn.SiLU(),
            nn.Linear(self._level_width, self._level_width),
        )
        self.input_blocks, skipped = self._contracting(widths)
        deepest = widths[-1]
        self.middle_block = nn.ModuleList(
            [
                self._residual(deepest, deepest),
                AttentionBlock(deepest, shape.head_width),
                self._residual(deepest, deepest),
            ]
        )
        self.output_blocks = self._expanding(widths, skipped)
        self.out = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 3, 3, padding=1)
        )

    def encode(
        self, images: Float[Tensor, "b 6 h w"], gamma: Float[Tensor, "b 1"]
    ) -> list[Float[Tensor, "b _ _ _"]]:
        """Return the maps after every input stage and, last, after the middle.

        Args:
            images: Conditioning image and noisy image, both in [-1, 1] where they are clean.
            gamma: Share of the clean image's variance in the noisy one, in (0, 1].
        """
        return self._encode(images, self._embed(gamma))

    def forward(
        self, images: Float[Tensor, "b 6 h w"], gamma: Float[Tensor, "b 1"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the predicted noise, float32."""
        level = self._embed(gamma)
        *skipped, hidden = self._encode(images, level)
        for stage in self.output_blocks:
            hidden = self._run(stage, torch.cat([hidden, skipped.pop()], dim=1), level)
        return self.out(hidden).float()  # type: ignore[no-any-return]

    def _contracting(self, widths: list[int]) -> tuple[nn.ModuleList, list[int]]:
        """Build the input stages; also return the channels each hands over to the output stages."""
        stages = [nn.ModuleList([nn.Conv2d(6, widths[0], 3, padding=1)])]
        channels = [widths[0]]
        for depth, width in enumerate(widths):
            for _ in range(self.shape.blocks):
                stages.append(self._stage(channels[-1], width, depth))
                channels.append(width)
            if depth < len(widths) - 1:
                stages.append(nn.ModuleList([self._residual(width, width, Resample.HALVE)]))
                channels.append(width)
        return nn.ModuleList(stages), channels

    def _expanding(self, widths: list[int], skipped: list[int]) -> nn.ModuleList:
        stages, channels = [], widths[-1]
        for depth, width in reversed(list(enumerate(widths))):
            for index in range(self.shape.blocks + 1):
                stage = self._stage(channels + skipped.pop(), width, depth)
                if depth > 0 and index == self.shape.blocks:
                    stage.append(self._residual(width, width, Resample.DOUBLE))
                stages.append(stage)
                channels = width
        return nn.ModuleList(stages)

    def _stage(self, channels: int, out_channels: int, depth: int) -> nn.ModuleList:
        stage: list[nn.Module] = [self._residual(channels, out_channels)]
        if 2**depth in self.shape.attention_rates:
            stage.append(AttentionBlock(out_channels, self.shape.head_width))
        return nn.ModuleList(stage)

    def _residual(self, channels: int, out_channels: int, resample: Resample = Resample.KEEP) -> nn.Module:
        return ResidualBlock(channels, out_channels, self._level_width, resample)

    def _embed(self, gamma: Tensor) -> Tensor:
        return self.cond_embed(embed_level(gamma, self.shape.width))  # type: ignore[no-any-return]

    def _encode(self, images: Tensor, level: Tensor) -> list[Tensor]:
        maps = []
        hidden = images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
        for stage in (*self.input_blocks, self.middle_block):
            hidden = self._run(stage, hidden, level)
            maps.append(hidden)
        return maps

    def _run(self, stage: nn.Module, maps: Tensor, level: Tensor) -> Tensor:
        for block in stage.children():
            arguments = (maps, level) if isinstance(block, ResidualBlock) else (maps,)
            if self.recompute and torch.is_grad_enabled():
                maps = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                maps = block(*arguments)
        return maps


def embed_level(gamma: Float[Tensor, "b 1"], width: int) -> Float[Tensor, "b {width}"]:
    """Return cosines, then sines, of the noise level at ``width / 2`` frequencies from 1 down to 1e-4."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=gamma.device) / half
    angles = gamma * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _resample(maps: Tensor, resample: Resample) -> Tensor:
    match resample:
        case Resample.HALVE:
            return functional.avg_pool2d(maps, 2)
        case Resample.DOUBLE:
            return functional.interpolate(maps, scale_factor=2.0, mode="nearest")
        case Resample.KEEP:
            return maps
