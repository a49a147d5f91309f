"""The masked autoencoder of He et al. (arXiv:2111.06377) in the layout of its published checkpoints.

The encoder sees the kept patches alone; the decoder puts a learned token in every removed place and predicts
all patches. The task removes one fixed hole; the published training removes random patches of every image.
Written from the paper and from recorded outputs of the published network; keys, shapes and values are
compared in the tests.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial

import torch
from jaxtyping import Bool, Float
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pareto_unlearn.device_copies import upload
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.holes import removed_patches
from pareto_unlearn.models.mae_patches import (
    NORM_EPSILON,
    Masking,
    mask_by_noise,
    normalise_patches,
    patch_statistics,
    patchify,
    position_embedding,
    unpatchify,
)

__all__ = [
    "SMALL",
    "TINY",
    "VIT_BASE",
    "VIT_HUGE",
    "VIT_LARGE",
    "Mae",
    "MaeShape",
    "Masking",
    "Predicts",
    "SmallMae",
    "initialise",
    "mask_by_noise",
    "normalise_patches",
    "patchify",
    "position_embedding",
    "unpatchify",
]

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, in [0, 1]; part of the published weights."""

FIRST_IN_FILE = ("cls_token", "pos_embed", "mask_token", "decoder_pos_embed")
"""The published order begins so. Positions are constants here, which torch lists after the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaeShape:
    """Sizes of the network. ``side`` and ``patch`` in pixels."""

    side: int = 224
    patch: int = 16
    width: int = 768
    blocks: int = 12
    heads: int = 12
    decoder_width: int = 512
    decoder_blocks: int = 8
    decoder_heads: int = 16

    @property
    def patches(self) -> int:
        """The number of patches of an image."""
        return (self.side // self.patch) ** 2


VIT_BASE = MaeShape()
VIT_LARGE = MaeShape(width=1024, blocks=24, heads=16)
VIT_HUGE = MaeShape(patch=14, width=1280, blocks=32, heads=16)
SMALL = MaeShape(
    side=64, patch=8, width=192, blocks=4, heads=6, decoder_width=128, decoder_blocks=2, decoder_heads=4
)
"""For pictures of one's own of 32 to 96 pixels: 2.3 million parameters, whatever side and patch are."""
TINY = MaeShape(
    side=32, patch=4, width=64, blocks=2, heads=4, decoder_width=32, decoder_blocks=1, decoder_heads=4
)
"""For tests."""


class Predicts(StrEnum):
    """What a checkpoint was trained to predict, which its file does not hold.

    ``PIXELS``: ``mae_visualize_*``. ``NORMALISED_PATCHES``: ``mae_pretrain_*_full``, each patch relative to
    its own mean and variance, so that a picture needs those of the true image.
    """

    PIXELS = "pixels"
    NORMALISED_PATCHES = "normalised_patches"


PUBLISHED_RATIO = 0.75
"""Share of the patches that the published training removes."""


class Mae(nn.Module):
    """The network with one fixed hole; see ``ImageToImage`` for what the methods promise.

    Inputs are normalised images; where they are drawn anew a fourth plane holds a uniform number for every
    patch, which ``mask_by_noise`` turns into the published training's mask. Positions are constants: they are
    in the state dict, not among the parameters.
    """

    family: str = "mae"
    evaluation_batch: int = 32
    stores_inputs: bool = False
    pos_embed: Tensor
    decoder_pos_embed: Tensor
    visible_ids: Tensor
    restore_ids: Tensor
    hole: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        shape: MaeShape,
        hole: Bool[Tensor, "h w"],
        predicts: Predicts = Predicts.PIXELS,
        *,
        is_redrawn: bool = False,
    ) -> None:
        """Build the network.

        Args:
            shape: Its sizes.
            hole: True where a pixel is removed.
            predicts: What the checkpoint was trained to predict.
            is_redrawn: Objectives see images as the published training does, with random patches removed.

        Raises:
            ConfigError: the hole is not of whole patches, or its size is not the network's.
        """
        super().__init__()
        self.shape, self.predicts, self.is_redrawn = shape, predicts, is_redrawn
        self._register_hole(hole)
        grid, width, decoder_width = shape.side // shape.patch, shape.width, shape.decoder_width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.register_buffer("pos_embed", position_embedding(width, grid))
        self.register_buffer("decoder_pos_embed", position_embedding(decoder_width, grid))
        self.patch_embed = PatchEmbed(shape.side, shape.patch, 3, width)
        self.blocks = _blocks(width, shape.heads, shape.blocks)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.decoder_embed = nn.Linear(width, decoder_width)
        self.decoder_blocks = _blocks(decoder_width, shape.decoder_heads, shape.decoder_blocks)
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=NORM_EPSILON)
        self.decoder_pred = nn.Linear(decoder_width, shape.patch**2 * 3)

    def _register_hole(self, hole: Bool[Tensor, "h w"]) -> None:
        side = self.shape.side
        if hole.shape != (side, side):
            raise ConfigError(f"task: expected a hole in {side} x {side} pixels, found {tuple(hole.shape)}")
        removed = removed_patches(hole, self.shape.patch).flatten()
        visible = (~removed).nonzero().flatten()
        order = torch.cat([visible, removed.nonzero().flatten()])
        # Not part of the weights: the same file serves every hole.
        self.register_buffer("hole", hole, persistent=False)
        self.register_buffer("visible_ids", visible, persistent=False)
        self.register_buffer("restore_ids", order.argsort(), persistent=False)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def describe(self) -> dict[str, int]:
        """Return the sizes that rebuild this network."""
        return asdict(self.shape)

    def describe_features(self, space: str) -> str:
        """Return in a few words what f1 and f2 compare."""
        shape = self.shape
        seen = self.visible_count
        kind = "randomly kept" if self.is_redrawn else "visible"
        if space == "encoder":
            return (
                f"encoder outputs of the class token and {seen} {kind} patches after the last norm, "
                f"{shape.width} values each"
            )
        what = "pixels" if self.predicts is Predicts.PIXELS else "pixels relative to the patch"
        return f"predictions of all {shape.patches} patches, {3 * shape.patch**2} normalised {what} each"

    @property
    def visible_count(self) -> int:
        """The number of patches the encoder sees."""
        return int(self.shape.patches * (1 - PUBLISHED_RATIO)) if self.is_redrawn else len(self.visible_ids)

    def prepare(
        self, images: Float[Tensor, "b 3 h w"], generators: Sequence[torch.Generator] = ()
    ) -> Float[Tensor, "b c h w"]:
        """Return pixels normalised by ImageNet's mean and deviation, with drawn masks if ``is_redrawn``."""
        normalised = (images - self.pixel_mean) / self.pixel_std
        return self._with_masks(normalised, generators) if self.is_redrawn else normalised

    def draw_inputs(
        self, images: Float[Tensor, "b 3 h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b c h w"]:
        """Return what ``redraw`` makes of any inputs of these images."""
        return self.prepare(images, generators)

    def redraw(
        self, inputs: Float[Tensor, "b c h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b c h w"]:
        """Return the same images with other masks."""
        return self._with_masks(inputs[:, :3], generators) if self.is_redrawn else inputs

    def noise_like(
        self,
        inputs: Float[Tensor, "b 4 h w"],
        generators: Sequence[torch.Generator],
        pixels: Float[Tensor, "b 3 h w"] | None = None,
    ) -> Float[Tensor, "b 4 h w"]:
        """Return N(0, I) in the normalised space, or the given noise, under the masks of ``inputs``."""
        side = self.shape.side
        if pixels is None:
            noise = torch.stack([torch.randn(3, side, side, generator=one) for one in generators])
        else:
            noise = (pixels - self.pixel_mean) / self.pixel_std
        return torch.cat([upload(noise, inputs.device), inputs[:, 3:]], dim=1)

    def sample_noise(self, count: int, generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        """Draw ``count`` inputs from N(0, I) in the normalised space."""
        return torch.randn(count, 3, self.shape.side, self.shape.side, generator=generator)

    def fixed_masking(self, count: int) -> Masking:
        """Return the task's hole for ``count`` images."""
        keep, restore = self.visible_ids.expand(count, -1), self.restore_ids.expand(count, -1)
        return Masking(keep, restore, restore >= len(self.visible_ids))

    def masking_of(self, inputs: Float[Tensor, "b c h w"]) -> Masking:
        """Return what is removed from inputs: the hole, or what was drawn for them."""
        if inputs.shape[1] == 3:
            return self.fixed_masking(len(inputs))
        patch = self.shape.patch
        return mask_by_noise(inputs[:, 3, ::patch, ::patch].flatten(1), self.visible_count)

    def encode(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b s d"]:
        """Return encoder outputs of the class token and the patches that are not removed."""
        return self.encode_masked(inputs[:, :3], self.masking_of(inputs))

    def forward(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n p"]:
        """Return the model's full output: predictions of all patches.

        Those outside the hole are never trained nor shown: ``generate`` gives the picture people see.
        """
        return self.predict_masked(inputs[:, :3], self.masking_of(inputs))

    def encode_masked(self, inputs: Float[Tensor, "b 3 h w"], masking: Masking) -> Float[Tensor, "b s d"]:
        """Return encoder outputs of the class token, then of the kept patches as in ``masking.keep``."""
        patches = self.patch_embed(inputs) + self.pos_embed[:, 1:]
        kept = torch.take_along_dim(patches, masking.keep[..., None], dim=1)
        start = (self.cls_token + self.pos_embed[:, :1]).expand(len(inputs), -1, -1)
        return self.norm(self.blocks(torch.cat([start, kept], dim=1)))  # type: ignore[no-any-return]

    def decode_masked(self, features: Float[Tensor, "b s d"], masking: Masking) -> Float[Tensor, "b n p"]:
        """Return predictions of all patches from encoder outputs of the kept ones."""
        tokens = self.decoder_embed(features)
        count, missing = len(features), masking.restore.shape[1] + 1 - tokens.shape[1]
        blanks = self.mask_token.expand(count, missing, -1)
        places = torch.cat([tokens[:, 1:], blanks], dim=1)
        places = torch.take_along_dim(places, masking.restore[..., None], dim=1)
        tokens = torch.cat([tokens[:, :1], places], dim=1) + self.decoder_pos_embed
        hidden = self.decoder_norm(self.decoder_blocks(tokens))
        return self.decoder_pred(hidden)[:, 1:]  # type: ignore[no-any-return]

    def predict_masked(self, inputs: Float[Tensor, "b 3 h w"], masking: Masking) -> Float[Tensor, "b n p"]:
        """Return predictions of all patches from the kept ones."""
        return self.decode_masked(self.encode_masked(inputs, masking), masking)

    def training_loss(
        self, inputs: Float[Tensor, "b c h w"], wanted: Float[Tensor, "b _ h w"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the published loss, under the masks of the inputs."""
        truth = inputs if wanted is None else wanted
        return self.reconstruction_loss(inputs[:, :3], truth[:, :3], self.masking_of(inputs))

    def hole_loss(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Return the training loss, which compares removed patches alone."""
        return self.training_loss(inputs)

    def reconstruction_loss(
        self, inputs: Float[Tensor, "b 3 h w"], wanted: Float[Tensor, "b 3 h w"], masking: Masking
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the removed patches against those of ``wanted``."""
        truth = self._targets(wanted)
        errors = (self.predict_masked(inputs, masking) - truth).square().mean(dim=2)
        return (errors * masking.removed).sum() / masking.removed.sum()

    def perfect_output(
        self, inputs: Float[Tensor, "b 3 h w"], outputs: Float[Tensor, "b n p"]
    ) -> Float[Tensor, "b n p"]:
        """Return the removed patches as training compares them, and the outputs at the visible ones."""
        removed = self.fixed_masking(len(inputs)).removed
        return torch.where(removed[..., None], self._targets(inputs), outputs)

    def to_images(self, outputs: Float[Tensor, "b n p"]) -> Float[Tensor, "b 3 h w"]:
        """Turn predictions of all patches into [0, 1] pixels; values outside are clipped.

        Raises:
            ValueError: the model predicts normalised patches, which are no picture without the true image.
        """
        if self.predicts is Predicts.NORMALISED_PATCHES:
            raise ValueError(
                "expected a model that predicts pixels (mae_visualize_*), found one of normalised patches: "
                "these need the true patches' mean and variance, so call "
                "to_images_with_truth(outputs, inputs)"
            )
        return self._to_unit(unpatchify(outputs, self.shape.patch, self.shape.side))

    def to_images_with_truth(
        self, outputs: Float[Tensor, "b n p"], inputs: Float[Tensor, "b 3 h w"]
    ) -> Float[Tensor, "b 3 h w"]:
        """Turn predicted normalised patches into [0, 1] pixels.

        Each patch takes mean and variance of the true one, so removed content leaks into the picture: its
        brightness and contrast are not the model's.
        """
        mean, deviation = patch_statistics(patchify(inputs, self.shape.patch))
        return self._to_unit(unpatchify(outputs * deviation + mean, self.shape.patch, self.shape.side))

    def generate(
        self, images: Float[Tensor, "b 3 h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the images with the hole replaced by the predictions for it; all other pixels stay the same.

        Nothing is drawn.

        Where patches are predicted relative to their own mean and variance, these are the removed ones' own.
        """
        del generators
        with torch.no_grad():
            inputs = (images - self.pixel_mean) / self.pixel_std
            outputs = self(inputs)
            if self.predicts is Predicts.NORMALISED_PATCHES:
                pictures = self.to_images_with_truth(outputs, inputs)
            else:
                pictures = self.to_images(outputs)
        # Visible pixels do not survive normalising and its inverse to the bit.
        return torch.where(self.hole, pictures, images)

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the task: True where a pixel is removed and to be generated."""
        return self.hole

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters a trial may change; encoder and decoder share none."""
        del shared
        return self.encoder_parameters() if space == "encoder" else list(self.parameters())

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that change the encoder's output; nothing of the decoder depends on them."""
        modules = (self.patch_embed, self.blocks, self.norm)
        return [self.cls_token, *(p for module in modules for p in module.parameters())]

    def published_state(self) -> dict[str, Tensor]:
        """Return the weights by name, in the order of the published files."""
        state = self.state_dict()
        return {name: state[name] for name in FIRST_IN_FILE} | state

    def _with_masks(self, images: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        grid, patch = self.shape.side // self.shape.patch, self.shape.patch
        draws = torch.stack([torch.rand(1, grid, grid, generator=one) for one in generators])
        plane = draws.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return torch.cat([images, upload(plane, images.device)], dim=1)

    def _targets(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n p"]:
        """Return what the model should predict for all patches of images."""
        patches = patchify(images, self.shape.patch)
        return normalise_patches(patches) if self.predicts is Predicts.NORMALISED_PATCHES else patches

    def _to_unit(self, normalised: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        return (normalised * self.pixel_std + self.pixel_mean).clamp(0.0, 1.0)


class SmallMae(Mae):
    """The network for pictures of one's own, whose training compares all patches.

    f1 and f2 compare the predictions of all patches, so none of them should be left to chance. The published
    sizes are trained on removed patches alone.
    """

    def reconstruction_loss(
        self, inputs: Float[Tensor, "b 3 h w"], wanted: Float[Tensor, "b 3 h w"], masking: Masking
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of the removed patches plus that of the kept ones."""
        errors = (self.predict_masked(inputs, masking) - self._targets(wanted)).square().mean(dim=2)
        removed = (errors * masking.removed).sum() / masking.removed.sum()
        return removed + (errors * ~masking.removed).sum() / (~masking.removed).sum()

    def hole_loss(self, inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        """Return the mean squared error of the removed patches alone, as the published sizes have it."""
        return super().reconstruction_loss(inputs[:, :3], inputs[:, :3], self.masking_of(inputs))


def initialise(model: Mae, generator: torch.Generator) -> None:
    """Fill all weights from ``generator`` as for a training from scratch.

    Matrices by Glorot's rule (the patch embedding counts as a matrix); tokens N(0, 0.02); norms 1; biases 0.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("token"):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter.data.flatten(1), generator=generator)
        elif name.endswith("weight"):
            nn.init.ones_(parameter)
        else:
            nn.init.zeros_(parameter)


def _blocks(width: int, heads: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_block(width, heads) for _ in range(count)))


def _block(width: int, heads: int) -> Block:
    norm = partial(nn.LayerNorm, eps=NORM_EPSILON)
    return Block(width, heads, mlp_ratio=4.0, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
