"""Layers of MAGE alone: embeddings of words, the head that predicts words, and a layer that nothing uses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

BLOCK_EPS = 1e-6


class Embeddings(nn.Module):
    """Word plus position, then a layer norm.

    The published code drops a tenth of these values from the model that it trains, and none from the one it
    compares with. There is no dropout here, with ``removal: published`` neither: f1 and f2 would be those of
    a damaged model in every step, f2 would not start at 0, and epsilon would bound another model than the
    one that is measured, audited and exported.
    """

    position_ids: Tensor

    def __init__(self, words: int, positions: int, width: int) -> None:
        super().__init__()
        # Part of the published state dict, used by nothing else.
        self.register_buffer("position_ids", torch.arange(positions)[None])
        self.word_embeddings = nn.Embedding(words, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.LayerNorm = nn.LayerNorm(width, eps=BLOCK_EPS)

    def forward(self, words: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Return one vector per word."""
        placed = self.word_embeddings(words) + self.position_embeddings.weight
        return self.LayerNorm(placed)  # type: ignore[no-any-return]


class WordHead(nn.Module):
    """Predicts words. Its output matrix is the table of word embeddings, through which no gradient goes."""

    def __init__(self, inputs: int, width: int, words: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, 1, words))
        self.fc = nn.Linear(inputs, width)
        self.ln = nn.LayerNorm(width)

    def forward(self, hidden: Float[Tensor, "b n c"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n v"]:
        """Return logits of the first words: as many as ``table`` has rows."""
        hidden = self.ln(functional.gelu(self.fc(hidden)))
        return hidden @ table.detach().T + self.bias[..., : len(table)]


class PatchEmbed(nn.Module):
    """An unused layer of the published network."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
