"""MAGE (Li et al., arXiv:2211.09117): a transformer that completes the codes of an image.

An image becomes codes of a frozen VQGAN. The encoder sees the codes with the mask token where T removed some,
after a constant class token; the decoder puts the encoded class token in every masked place and predicts a
code for each. Names and shapes are those of the published ``mage-vitb-1600.pth``, weights that nothing uses
included.

Inputs are whole numbers, Int "b 2 n": row 0 what the encoder sees, row 1 the codes of the whole image, which
only ``training_loss`` looks at. They are computed once, so T is the same at every step and for every model.
Where masks are drawn anew, Int "b 3 n": row 2 marks with 1 what the encoder never gets to see.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.device_copies import upload
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.models.holes import removed_patches
from pareto_unlearn.models.mage_generation import draw_rounds, inpaint, join_draws
from pareto_unlearn.models.mage_layers import BLOCK_EPS, Embeddings, PatchEmbed, WordHead
from pareto_unlearn.models.mage_masks import (
    DROPPED_RATIO,
    TokenMasks,
    dilate,
    draw_mask_rate,
    masks_from_noise,
)
from pareto_unlearn.models.mage_vqgan import Vqgan, VqganShape

SPARE_WORDS, CLASS_WORD = 1000, 76
"""Words that follow the codes: 1000 spare words (number 76 is the class token), then the mask token."""

MLP_RATIO = 4

LABEL_SMOOTHING = 0.1
"""Share of the wanted probability that the training loss spreads over all codes."""

RING = 1
"""Tokens masked around the hole, because their codes have seen its pixels."""

HOLE_COLOUR = (0.485, 0.456, 0.406)
"""What fills the hole before an image is turned into codes: the mean colour of ImageNet."""

PIXEL_MEAN, PIXEL_STD = 0.449, 0.277
"""Mean and standard deviation of all values of ImageNet's training images, rounded."""

TOKENIZER_BATCH = 8
"""Images turned into codes at once: the maps of one published-size image take 34 MB each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MageShape:
    """Sizes of the network. ``side`` in pixels; the grid of codes follows from the tokeniser."""

    side: int = 256
    width: int = 768
    blocks: int = 12
    heads: int = 12
    decoder_width: int = 768
    decoder_blocks: int = 8
    decoder_heads: int = 16
    tokenizer: VqganShape = field(default_factory=VqganShape)

    @property
    def tokens(self) -> int:
        """Return the number of codes of one image."""
        return (self.side // self.tokenizer.patch) ** 2

    @property
    def class_word(self) -> int:
        """Return the word in the place of the class token: 1100 for a codebook of 1024."""
        return self.tokenizer.codes + CLASS_WORD

    @property
    def mask_word(self) -> int:
        """Return the word that stands for a removed code: 2024 for a codebook of 1024."""
        return self.tokenizer.codes + SPARE_WORDS


VIT_BASE = MageShape()
VIT_LARGE = MageShape(width=1024, blocks=24, heads=16, decoder_width=1024)
TINY = MageShape(
    side=64,
    width=32,
    blocks=2,
    heads=4,
    decoder_width=32,
    decoder_blocks=1,
    decoder_heads=2,
    tokenizer=VqganShape(channels=32, multipliers=(2, 1, 1), blocks=1, width=16, codes=64),
)


class Mage(nn.Module):
    """MAGE with its tokeniser; see ``ImageToImage`` for what each method promises."""

    family: str = "mage"
    evaluation_batch: int = 16
    stores_inputs: bool = True
    hole: Tensor
    masked: Tensor

    def __init__(self, shape: MageShape, hole: Bool[Tensor, "h w"], *, is_redrawn: bool = False) -> None:
        """Build the network; weights come from a checkpoint.

        Args:
            shape: The sizes.
            hole: The pixels that T removes, whole tokens of them.
            is_redrawn: Objectives see images as the published training does, with random tokens masked.

        Raises:
            ConfigError: the hole does not fit the image or its grid of tokens.
        """
        super().__init__()
        self.shape, self.is_redrawn = shape, is_redrawn
        if hole.shape != (shape.side, shape.side):
            raise ConfigError(
                f"task: expected a hole in {shape.side} x {shape.side} pixels, found {tuple(hole.shape)}"
            )
        removed = removed_patches(hole, shape.tokenizer.patch)
        self.register_buffer("hole", hole, persistent=False)
        self.register_buffer("masked", dilate(removed, RING).flatten(), persistent=False)
        positions, words, patch = shape.tokens + 1, shape.mask_word + 1, shape.tokenizer.patch
        self.cls_token = _unused(1, 1, shape.width)
        self.pos_embed = _unused(1, positions, shape.width)
        self.mask_token = _unused(1, 1, shape.decoder_width)
        self.decoder_pos_embed = _unused(1, positions, shape.decoder_width)
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, positions, shape.decoder_width))
        self.vqgan = Vqgan(shape.tokenizer)
        self.token_emb = Embeddings(words, positions, shape.width)
        self.patch_embed = PatchEmbed(patch, shape.width).requires_grad_(False)
        self.blocks = _blocks(shape.width, shape.heads, shape.blocks)
        self.norm = nn.LayerNorm(shape.width, eps=BLOCK_EPS)
        self.decoder_embed = nn.Linear(shape.width, shape.decoder_width)
        self.decoder_blocks = _blocks(shape.decoder_width, shape.decoder_heads, shape.decoder_blocks)
        self.decoder_norm = nn.LayerNorm(shape.decoder_width, eps=BLOCK_EPS)
        self.decoder_pred = nn.Linear(shape.decoder_width, 3 * patch**2).requires_grad_(False)
        self.mlm_layer = WordHead(shape.decoder_width, shape.width, words)

    @property
    def mask_word(self) -> int:
        """Return the word that stands for a removed code."""
        return self.shape.mask_word

    def describe(self) -> dict[str, Any]:
        """Return the sizes that rebuild this network."""
        return asdict(self.shape)

    def tokenize(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Return the codes of images in [0, 1], in small batches: the tokeniser's maps are large."""
        return torch.cat([self.vqgan.tokenize(part) for part in torch.split(images, TOKENIZER_BATCH)])

    def describe_features(self, space: str) -> str:
        """Return in a few words what f1 and f2 compare."""
        shape = self.shape
        if space == "output":
            return f"logits of the {shape.tokenizer.codes} codes at all {shape.tokens} places"
        which = f"randomly kept {self.kept_tokens}" if self.is_redrawn else f"all {shape.tokens}"
        return (
            f"encoder outputs of the class token and {which} codes after the last norm, "
            f"{shape.width} values each"
        )

    @property
    def kept_tokens(self) -> int:
        """The number of codes that the encoder sees where masks are drawn."""
        return self.shape.tokens - math.ceil(self.shape.tokens * DROPPED_RATIO)

    def prepare(
        self, images: Float[Tensor, "b 3 h w"], generators: Sequence[torch.Generator] = ()
    ) -> Int[Tensor, "b r n"]:
        """Turn [0, 1] pixels into what T leaves of their codes, and the codes of the whole images.

        The hole is painted over before the image is turned into codes, since every code has seen its
        surroundings; then the codes of the hole and of a ring around it become the mask token. Where masks
        are drawn, they are drawn on the codes of the whole image, as published, with a masked share of its
        own for every image.
        """
        if self.is_redrawn:
            codes = self.tokenize(images)
            each = [self._draw_masks([one], draw_mask_rate(one)) for one in generators]
            return self._masked(
                codes, torch.cat([masked for masked, _ in each]), torch.cat([dropped for _, dropped in each])
            )
        return torch.stack([self.see(images), self.tokenize(images)], dim=1)

    def see(self, images: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Return the codes of images with the hole painted over, the mask token in the hole and around it."""
        return self.tokenize(self.without_hole(images)).masked_fill(self.masked, self.shape.mask_word)

    def redraw(
        self, inputs: Int[Tensor, "b r n"], generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "b r n"]:
        """Return the same images with other masks: as published, with one masked share for the batch."""
        if not self.is_redrawn:
            return inputs
        return self._masked(inputs[:, 1], *self._draw_masks(generators, draw_mask_rate(generators[0])))

    def noise_like(
        self,
        inputs: Int[Tensor, "b 3 n"],
        generators: Sequence[torch.Generator],
        pixels: Float[Tensor, "b 3 h w"] | None = None,
    ) -> Int[Tensor, "b 3 n"]:
        """Return inputs that hold codes of noise images, drawn or given, under the masks of ``inputs``."""
        side = self.shape.side
        if pixels is None:
            pixels = _noise_pixels(
                torch.stack([torch.randn(3, side, side, generator=one) for one in generators])
            )
        codes = self.tokenize(upload(pixels, self.hole.device))
        return self._masked(codes, inputs[:, 0] == self.shape.mask_word, inputs[:, 2])

    def _draw_masks(
        self, generators: Sequence[torch.Generator], rate: float
    ) -> tuple[Bool[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Draw which codes are masked and which of these the encoder never sees."""
        tokens = self.shape.tokens
        noise = torch.stack([torch.rand(tokens, generator=one) for one in generators])
        masks = masks_from_noise(noise, math.ceil(tokens * DROPPED_RATIO), math.ceil(tokens * rate))
        dropped = torch.ones_like(masks.masked).scatter(1, masks.kept_ids, False)
        return masks.masked, dropped

    def _masked(self, codes: Tensor, masked: Tensor, dropped: Tensor) -> Int[Tensor, "b 3 n"]:
        seen = codes.masked_fill(upload(masked, codes.device), self.shape.mask_word)
        return torch.stack([seen, codes, upload(dropped, codes.device).to(codes)], dim=1)

    def without_hole(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the images with the mean colour of ImageNet in the hole."""
        return torch.where(self.hole, images.new_tensor(HOLE_COLOUR)[:, None, None], images)

    def sample_noise(self, count: int, generator: torch.Generator) -> Int[Tensor, "b r n"]:
        """Draw ``count`` inputs made of images of Gaussian noise, clipped to [0, 1].

        The published code takes mean and standard deviation of the batch at hand; here they are constants, so
        that the noise does not depend on the batch.
        """
        side, device = self.shape.side, generator.device
        noise = torch.randn(count, 3, side, side, generator=generator, device=device)
        return self.prepare(_noise_pixels(noise).to(self.hole.device), [generator] * count)

    def encode(self, inputs: Int[Tensor, "b *rows n"]) -> Float[Tensor, "b n1 d"]:
        """Return encoder outputs of the class token and the codes it sees.

        Where masks are not drawn, row 0 of the inputs is enough.
        """
        if inputs.shape[1:-1] == (3,):
            return self.encode_masked(inputs[:, 1], self._masks_of(inputs))
        return self._encode(self._embed(_seen(inputs)))

    def encode_masked(self, codes: Int[Tensor, "b n"], masks: TokenMasks) -> Float[Tensor, "b k1 d"]:
        """Return encoder outputs of the class token and the codes that are kept, under masks as in training.

        Args:
            codes: Of whole images.
            masks: Which codes are masked, and which of them the encoder never sees.
        """
        embedded = self._embed(codes.masked_fill(masks.masked, self.shape.mask_word))
        return self._encode(embedded.gather(1, _places(masks, embedded.shape[2])))

    def decode(self, features: Float[Tensor, "b k1 d"], masks: TokenMasks) -> Float[Tensor, "b n1 c"]:
        """Return what the decoder makes of encoder outputs; ``predict`` turns it into logits.

        Every masked place, dropped or not, gets the encoded class token: the published network leaves its own
        mask token unused.
        """
        embedded = self.decoder_embed(features)
        padding = embedded[:, :1]
        whole = padding.expand(-1, masks.masked.shape[1] + 1, -1)
        whole = whole.scatter(1, _places(masks, embedded.shape[2]), embedded)
        masked = functional.pad(masks.masked, (1, 0))
        hidden = torch.where(masked[..., None], padding, whole) + self.decoder_pos_embed_learned
        for block in self.decoder_blocks:
            hidden = block(hidden)
        return self.decoder_norm(hidden)  # type: ignore[no-any-return]

    def predict(self, hidden: Float[Tensor, "b n c"], words: int) -> Float[Tensor, "b n v"]:
        """Return logits of the first ``words`` words; the codes of the codebook come first."""
        table = self.token_emb.word_embeddings.weight[:words]
        return self.mlm_layer(hidden, table)  # type: ignore[no-any-return]

    def forward(self, inputs: Int[Tensor, "b *rows n"]) -> Float[Tensor, "b n v"]:
        """Return the model's full output: logits of the codebook's codes, at every place of the image."""
        masks = self._masks_of(inputs)
        return self.predict(self.decode(self.encode(inputs), masks)[:, 1:], self.shape.tokenizer.codes)

    def all_logits(self, inputs: Int[Tensor, "b *rows n"]) -> Float[Tensor, "b n1 v"]:
        """Return logits of all words, spare ones and the mask's included, in the class token's place too."""
        hidden = self.decode(self.encode(inputs), self._masks_of(inputs))
        return self.predict(hidden, self.shape.mask_word + 1)

    def _masks_of(self, inputs: Int[Tensor, "b *rows n"]) -> TokenMasks:
        seen = _seen(inputs)
        masked = seen == self.shape.mask_word
        if inputs.shape[1:-1] == (3,):
            # As many are kept of every image; their places come first, in order. No shape depends on values.
            kept = inputs[:, 2].argsort(dim=1, stable=True)[:, : self.kept_tokens]
            return TokenMasks(kept, masked)
        return TokenMasks(torch.arange(seen.shape[1], device=seen.device).expand_as(seen), masked)

    def training_loss(
        self, inputs: Int[Tensor, "b r n"], wanted: Int[Tensor, "b _ n"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the loss of the original's training at the removed codes: cross entropy, labels smoothed."""
        return self.code_loss(inputs, (inputs if wanted is None else wanted)[:, 1])

    def hole_loss(self, inputs: Int[Tensor, "b r n"]) -> Float[Tensor, ""]:
        """Return the training loss, which compares removed codes alone."""
        return self.training_loss(inputs)

    def code_loss(self, inputs: Int[Tensor, "b r n"], truth: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Return the loss of the original's training against given codes of whole images."""
        masked = _seen(inputs) == self.shape.mask_word
        losses = functional.cross_entropy(
            self(inputs).transpose(1, 2), truth, label_smoothing=LABEL_SMOOTHING, reduction="none"
        )
        return (losses * masked).sum() / masked.sum()

    def perfect_output(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Raise ValueError: a code that is certain has no finite logits."""
        del inputs, outputs
        raise ValueError(f"expected a family whose outputs are pixels, found {self.family}: they are logits")

    def generate(
        self, images: Float[Tensor, "b 3 h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b 3 h w"]:
        """Return the images with the hole generated in rounds and a soft border around it, as published."""
        draws = join_draws([draw_rounds(1, self.shape.tokens, one) for one in generators])
        with torch.no_grad():
            return inpaint(self, images, draws)

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the task, without the ring: True where a pixel is removed and generated."""
        return self.hole

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters a trial may change.

        ``shared`` adds the word embeddings, which the decoder uses too.
        """
        if space == "encoder":
            return self.encoder_parameters(tied_words=shared)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def encoder_parameters(self, *, tied_words: bool = False) -> list[nn.Parameter]:
        """Return the parameters that change the encoder's output, but for the word embeddings.

        Args:
            tied_words: Add the word embeddings, as the published training does. The decoder's logits are
                products with them, so a decoder that should stay fixed changes too.
        """
        embeddings = (self.token_emb.position_embeddings, self.token_emb.LayerNorm)
        words = (self.token_emb.word_embeddings,) if tied_words else ()
        return [p for module in (*words, *embeddings, self.blocks, self.norm) for p in module.parameters()]

    def _embed(self, seen: Int[Tensor, "b n"]) -> Float[Tensor, "b n1 d"]:
        words = functional.pad(seen, (1, 0), value=self.shape.class_word)
        return self.token_emb(words)  # type: ignore[no-any-return]

    def _encode(self, embedded: Float[Tensor, "b k d"]) -> Float[Tensor, "b k d"]:
        for block in self.blocks:
            embedded = block(embedded)
        return self.norm(embedded)  # type: ignore[no-any-return]


def _noise_pixels(noise: Tensor) -> Tensor:
    return (noise * PIXEL_STD + PIXEL_MEAN).clamp(0.0, 1.0)


def _unused(*sizes: int) -> nn.Parameter:
    """Make a weight that is part of the published state dict and of nothing else."""
    return nn.Parameter(torch.zeros(sizes), requires_grad=False)


def _blocks(width: int, heads: int, count: int) -> nn.ModuleList:
    norm = partial(nn.LayerNorm, eps=BLOCK_EPS)
    return nn.ModuleList(
        Block(width, heads, mlp_ratio=MLP_RATIO, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
        for _ in range(count)
    )


def _seen(inputs: Int[Tensor, "b *rows n"]) -> Int[Tensor, "b n"]:
    return inputs if inputs.ndim == 2 else inputs[:, 0]


def _places(masks: TokenMasks, width: int) -> Int[Tensor, "b k1 d"]:
    """Return the positions of the class token and the kept codes, repeated for gather and scatter."""
    return functional.pad(masks.kept_ids + 1, (1, 0))[..., None].expand(-1, -1, width)
