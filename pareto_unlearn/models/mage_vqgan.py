"""The tokeniser of MAGE: a convolutional VQGAN that turns images into codes of a codebook, and back.

Names and shapes are those of the published ``vqgan_jax_strongaug.ckpt``. Pixels are in [0, 1] on both sides,
without any normalisation. It is frozen always: unlearning never touches it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

GROUPS, GROUP_NORM_EPS = 32, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class VqganShape:
    """Sizes of the tokeniser. Each level but the last halves the side; ``width`` is that of a code."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    width: int = 256
    codes: int = 1024

    @property
    def patch(self) -> int:
        """Return the side in pixels of the square that one code stands for."""
        return int(2 ** (len(self.multipliers) - 1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut.

    Where the number of channels changes, the published network applies the 1x1 shortcut to the branch, not to
    the block's input, and drops the input. The weights were trained so; it has to stay.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm2 = _norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.changes_channels = inputs != outputs

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Return the maps after the block."""
        branch = self.conv1(functional.silu(self.norm1(maps)))
        branch = self.conv2(functional.silu(self.norm2(branch)))
        shortcut = self.nin_shortcut(branch) if self.changes_channels else maps
        return branch + shortcut  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Doubles the side: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Return maps of twice the side."""
        larger = functional.interpolate(maps, scale_factor=2.0, mode="nearest")
        return self.conv(larger)  # type: ignore[no-any-return]


class Level(nn.Module):
    """The residual blocks of one resolution; the first changes the number of channels."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, upsample: bool = False) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.block = nn.ModuleList(ResidualBlock(widths[i], widths[i + 1]) for i in range(blocks))
        if upsample:
            self.upsample = Upsample(outputs)
        self.upsamples = upsample

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Tensor:
        """Return the maps after all blocks, doubled in side where the level says so."""
        for block in self.block:
            maps = block(maps)
        return self.upsample(maps) if self.upsamples else maps


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, without attention, as in the published network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels)
        self.block_2 = ResidualBlock(channels, channels)

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the maps after both blocks."""
        return self.block_2(self.block_1(maps))  # type: ignore[no-any-return]


class ConvEncoder(nn.Module):
    """From pixels to the vectors that are looked up in the codebook."""

    def __init__(self, shape: VqganShape) -> None:
        super().__init__()
        widths = [shape.channels * multiplier for multiplier in (1, *shape.multipliers)]
        self.conv_in = nn.Conv2d(3, shape.channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], shape.blocks) for i in range(len(shape.multipliers))
        )
        self.mid = Middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], shape.width, 1)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d g k"]:
        """Return one vector per code."""
        maps = self.conv_in(images)
        for index, level in enumerate(self.down):
            maps = level(maps if index == 0 else functional.avg_pool2d(maps, 2))
        return self.conv_out(functional.silu(self.norm_out(self.mid(maps))))  # type: ignore[no-any-return]


class ConvDecoder(nn.Module):
    """From codebook vectors to pixels. ``up`` is numbered from the highest resolution, and runs backwards."""

    def __init__(self, shape: VqganShape) -> None:
        super().__init__()
        widths = [shape.channels * multiplier for multiplier in shape.multipliers]
        inputs = [*widths[1:], widths[-1]]
        self.conv_in = nn.Conv2d(shape.width, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList(
            Level(inputs[i], widths[i], shape.blocks, upsample=i > 0) for i in range(len(widths))
        )
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, vectors: Float[Tensor, "b d g k"]) -> Float[Tensor, "b 3 h w"]:
        """Return pixels; values may leave [0, 1]."""
        maps = self.mid(self.conv_in(vectors))
        for level in reversed(self.up):
            maps = level(maps)
        return self.conv_out(functional.silu(self.norm_out(maps)))  # type: ignore[no-any-return]


class Codebook(nn.Module):
    """The vectors the codes stand for."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, width)

    def nearest(self, vectors: Float[Tensor, "b d g k"]) -> Int[Tensor, "b n"]:
        """Return the code nearest to each vector, row by row."""
        table = self.embedding.weight
        # |v - e|^2 without |v|^2, which is the same for all codes of a vector.
        distances = table.square().sum(dim=1) - 2 * vectors.flatten(2).transpose(1, 2) @ table.T
        return distances.argmin(dim=2)

    def look_up(self, codes: Int[Tensor, "b n"], height: int) -> Float[Tensor, "b d g k"]:
        """Return the vectors of codes as maps of ``height`` rows."""
        return self.embedding(codes).transpose(1, 2).unflatten(2, (height, -1))  # type: ignore[no-any-return]


class Vqgan(nn.Module):
    """The tokeniser; its state dict is that of the published file.

    ``channels_last`` decides how maps lie in memory.
    """

    def __init__(self, shape: VqganShape) -> None:
        super().__init__()
        self.encoder = ConvEncoder(shape)
        self.decoder = ConvDecoder(shape)
        self.quantize = Codebook(shape.codes, shape.width)
        self.channels_last = False
        self.requires_grad_(False)

    @torch.no_grad()
    def tokenize(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Return the codes of images in [0, 1], row by row.

        Always in the precision of the weights: under autocast a code could differ from the one cached
        elsewhere.
        """
        with torch.autocast(images.device.type, enabled=False):
            return self.quantize.nearest(self.encoder(self._laid_out(images)))

    @torch.no_grad()
    def draw(self, codes: Int[Tensor, "b n"]) -> Float[Tensor, "b 3 h w"]:
        """Return the pixels of a square of codes; values may leave [0, 1]."""
        vectors = self.quantize.look_up(codes, round(codes.shape[1] ** 0.5))
        return self.decoder(self._laid_out(vectors))  # type: ignore[no-any-return]

    def _laid_out(self, maps: Tensor) -> Tensor:
        return maps.contiguous(memory_format=torch.channels_last) if self.channels_last else maps


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=GROUP_NORM_EPS)
