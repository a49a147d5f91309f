"""A small masked autoencoder for the embedded digits, in the layout of He et al. (arXiv:2111.06377).

The encoder sees only the patches outside the hole; the decoder fills the removed places with a learned mask
token and predicts every patch. The hole is the same in every image, so all shapes are static.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.models.holes import removed_patches

PIXEL_MEAN, PIXEL_STD = 0.305, 0.32
"""Mean and standard deviation of the digits' pixels, rounded; part of the adapter's definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitsMaeShape:
    """Sizes of the network. ``side`` and ``patch`` in pixels."""

    side: int = 16
    patch: int = 4
    width: int = 48
    heads: int = 4
    encoder_blocks: int = 2
    decoder_blocks: int = 1


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return tokens after attention and the two-layer perceptron."""
        batch, count, width = tokens.shape
        qkv = self.qkv(self.norm_attention(tokens)).view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.project(mixed.transpose(1, 2).reshape(batch, count, width))
        expanded = functional.gelu(self.expand(self.norm_mlp(tokens)))
        return tokens + self.contract(expanded)  # type: ignore[no-any-return]


class DigitsMae(nn.Module):
    """The embedded original model; see ``ImageToImage`` for what each method promises."""

    family: str = "digits_mae"
    evaluation_batch: int = 256
    is_redrawn: bool = False
    stores_inputs: bool = True
    hole: Tensor
    hole_ids: Tensor
    visible_ids: Tensor

    def __init__(self, shape: DigitsMaeShape, hole: Bool[Tensor, "h w"]) -> None:
        """Build the network; ``hole`` is True where a pixel is removed.

        Raises:
            ConfigError: the hole is not of whole patches.
        """
        super().__init__()
        self.shape = shape
        width, values = shape.width, shape.patch * shape.patch
        hole = removed_patches(hole, shape.patch).flatten()
        self.register_buffer("hole", hole, persistent=False)
        self.register_buffer("hole_ids", hole.nonzero().flatten(), persistent=False)
        self.register_buffer("visible_ids", (~hole).nonzero().flatten(), persistent=False)
        self.patch_embed = nn.Linear(values, width)
        self.encoder_position = nn.Parameter(torch.zeros(hole.numel(), width))
        self.encoder = nn.Sequential(*(Block(width, shape.heads) for _ in range(shape.encoder_blocks)))
        self.encoder_norm = nn.LayerNorm(width)
        self.decoder_embed = nn.Linear(width, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder_position = nn.Parameter(torch.zeros(hole.numel(), width))
        self.decoder = nn.Sequential(*(Block(width, shape.heads) for _ in range(shape.decoder_blocks)))
        self.decoder_norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, values)

    def describe(self) -> dict[str, int]:
        """Return the sizes that rebuild this network."""
        return asdict(self.shape)

    def describe_features(self, space: str) -> str:
        """Return in a few words what f1 and f2 compare."""
        patches, shape = self.hole.numel(), self.shape
        if space == "encoder":
            return (
                f"encoder outputs of the {len(self.visible_ids)} visible patches, {shape.width} values each"
            )
        return f"predictions of all {patches} patches, {shape.patch**2} normalised pixels each"

    def prepare(
        self, images: Float[Tensor, "b 1 h w"], generators: Sequence[torch.Generator] = ()
    ) -> Float[Tensor, "b n p"]:
        """Turn [0, 1] pixels into normalised patches; nothing is drawn."""
        del generators
        return _patchify((images - PIXEL_MEAN) / PIXEL_STD, self.shape.patch)

    def redraw(
        self, inputs: Float[Tensor, "b n p"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b n p"]:
        """Return the inputs: they hold no draws."""
        del generators
        return inputs

    def noise_like(
        self,
        inputs: Float[Tensor, "b n p"],
        generators: Sequence[torch.Generator],
        pixels: Tensor | None = None,
    ) -> Float[Tensor, "b n p"]:
        """Raise: in this family all images share one noise target."""
        del inputs, generators, pixels
        raise ValueError(f"expected a model whose inputs are drawn anew, found {self.family}")

    def sample_noise(self, count: int, generator: torch.Generator) -> Float[Tensor, "b n p"]:
        """Draw ``count`` inputs from N(0, I) in the normalised space."""
        side = self.shape.side
        noise = torch.randn(count, 1, side, side, generator=generator)
        return _patchify(noise, self.shape.patch)

    def encode(self, inputs: Float[Tensor, "b n p"]) -> Float[Tensor, "b v d"]:
        """Return encoder outputs of the visible patches."""
        visible = inputs[:, self.visible_ids]
        tokens = self.patch_embed(visible) + self.encoder_position[self.visible_ids]
        return self.encoder_norm(self.encoder(tokens))  # type: ignore[no-any-return]

    def decode(self, features: Float[Tensor, "b v d"]) -> Float[Tensor, "b n p"]:
        """Return predicted patches of the whole image."""
        tokens = self.mask_token.expand(len(features), self.hole.numel(), -1).clone()
        # Under autocast the layer's outputs are narrower than the mask token.
        tokens[:, self.visible_ids] = self.decoder_embed(features).to(tokens.dtype)
        hidden = self.decoder_norm(self.decoder(tokens + self.decoder_position))
        return self.predict(hidden)  # type: ignore[no-any-return]

    def forward(self, inputs: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
        """Return the model's full output: predicted normalised patches."""
        return self.decode(self.encode(inputs))

    def training_loss(
        self, inputs: Float[Tensor, "b n p"], wanted: Float[Tensor, "b n p"] | None = None
    ) -> Float[Tensor, ""]:
        """Return the loss of the original's training: squared error of removed plus of visible patches."""
        errors = (self(inputs) - (inputs if wanted is None else wanted)).square()
        removed, visible = errors[:, self.hole_ids].mean(), errors[:, self.visible_ids].mean()
        return removed + visible  # type: ignore[no-any-return]

    def hole_loss(self, inputs: Float[Tensor, "b n p"]) -> Float[Tensor, ""]:
        """Return the squared error of the removed patches, a term of the training loss."""
        return (self(inputs) - inputs)[:, self.hole_ids].square().mean()  # type: ignore[no-any-return]

    def perfect_output(
        self, inputs: Float[Tensor, "b n p"], outputs: Float[Tensor, "b n p"]
    ) -> Float[Tensor, "b n p"]:
        """Return the patches of the whole image, all of which training compares."""
        del outputs
        return inputs

    def to_images(self, outputs: Float[Tensor, "b n p"]) -> Float[Tensor, "b 1 h w"]:
        """Turn predicted patches into [0, 1] pixels; values outside are clipped."""
        pixels = _unpatchify(outputs, self.shape.patch, self.shape.side)
        return (pixels * PIXEL_STD + PIXEL_MEAN).clamp(0.0, 1.0)

    def generate(
        self, images: Float[Tensor, "b 1 h w"], generators: Sequence[torch.Generator]
    ) -> Float[Tensor, "b 1 h w"]:
        """Return the predictions of the whole image as pixels: visible patches are the decoder's too."""
        del generators
        with torch.no_grad():
            return self.to_images(self(self.prepare(images)))

    def removed_pixels(self) -> Bool[Tensor, "h w"]:
        """Return the mask of the task: True where a pixel is removed and to be generated."""
        side, patch = self.shape.side, self.shape.patch
        grid = self.hole.view(side // patch, side // patch)
        return grid.repeat_interleave(patch, 0).repeat_interleave(patch, 1)

    def trainable(self, space: str, *, shared: bool = False) -> list[nn.Parameter]:
        """Return the parameters a trial may change; encoder and decoder share none."""
        del shared
        return self.encoder_parameters() if space == "encoder" else list(self.parameters())

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that change the encoder's output."""
        modules = (self.patch_embed, self.encoder, self.encoder_norm)
        return [self.encoder_position, *(p for module in modules for p in module.parameters())]


def initialise(model: DigitsMae, generator: torch.Generator) -> None:
    """Draw all weights: matrices by Glorot's rule, positions and mask token N(0, 0.02), the rest 0 or 1."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and not name.endswith("position"):
            nn.init.xavier_uniform_(parameter, generator=generator)
        elif name.endswith(("position", "mask_token")):
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif "norm" in name and name.endswith("weight"):
            nn.init.ones_(parameter)
        else:
            nn.init.zeros_(parameter)


def _patchify(images: Float[Tensor, "b 1 h w"], patch: int) -> Float[Tensor, "b n p"]:
    batch, _, height, width = images.shape
    grid = images.view(batch, height // patch, patch, width // patch, patch)
    return grid.transpose(2, 3).reshape(batch, -1, patch * patch)


def _unpatchify(patches: Float[Tensor, "b n p"], patch: int, side: int) -> Float[Tensor, "b 1 h w"]:
    grid = patches.reshape(len(patches), side // patch, side // patch, patch, patch)
    return grid.transpose(2, 3).reshape(len(patches), 1, side, side)
