"""LPIPS, version 0.1 over AlexNet (Zhang et al., arXiv:1801.03924): how different two pictures look, pair by pair.

The arithmetic is that of the authors' package, which is not needed: it brings the linear weights, but downloads AlexNet.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pareto_unlearn.metrics.opening import load_state, read_state
from pareto_unlearn.metrics.weights import FoundWeights

LPIPS_LEAST_SIDE = 31
"""Below it AlexNet's second pooling has no pixel left."""
_TAPS = (1, 4, 7, 9, 11)
"""The rectified layers that are compared, by their place among AlexNet's features."""
_CHANNELS = (64, 192, 384, 256, 256)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation for pixels of -1 to 1, rounded as the authors do."""
_LEAST_NORM = 1e-10


class Lpips(nn.Module):
    """Distances of pairs of RGB pictures of one size, at least 31 pixels a side; nothing is resized."""

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import alexnet

        self.layers = alexnet(weights=None).features[: _TAPS[-1] + 1]
        self.linear = nn.ModuleList(nn.Conv2d(channels, 1, 1, bias=False) for channels in _CHANNELS)

    def forward(self, real: UInt8[Tensor, "n 3 h w"], fake: UInt8[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1"]:
        """Return the distance of every pair, 0 for identical pictures.

        Raises:
            ValueError: the pictures are smaller than AlexNet can see.
        """
        if min(real.shape[2:]) < LPIPS_LEAST_SIDE:
            raise ValueError(
                f"lpips needs pictures of at least {LPIPS_LEAST_SIDE} pixels a side, found {tuple(real.shape[2:])}"
            )
        seen = zip(self.linear, self._look(real), self._look(fake), strict=True)
        parts = [linear((first - second).square()).mean(dim=(2, 3)) for linear, first, second in seen]
        return torch.stack(parts).sum(dim=0)

    def _look(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c _ _"]]:
        """Return the compared layers, their channels of length 1 at every place."""
        shift, scale = (torch.tensor(row, device=images.device).view(3, 1, 1) for row in (_SHIFT, _SCALE))
        values, seen = (images / 127.5 - 1.0 - shift) / scale, []
        for place, layer in enumerate(self.layers):
            values = layer(values)
            if place in _TAPS:
                seen.append(values / (values.square().sum(dim=1, keepdim=True).sqrt() + _LEAST_NORM))
        return seen


def open_lpips(backbone: FoundWeights, linear: FoundWeights) -> Lpips:
    """Return the distance with the weights of AlexNet and of the authors.

    Raises:
        WeightsError: a file does not hold its part.
    """
    # On device meta nothing is drawn: every tensor comes from a file.
    with torch.device("meta"):
        network = Lpips()
    prefix = "features."
    features = {
        name.removeprefix(prefix): value
        for name, value in read_state(backbone).items()
        if name.startswith(prefix)
    }
    load_state(network.layers, features, backbone, assign=True)
    weights = {
        name.removeprefix("lin").replace(".model.1", ""): value for name, value in read_state(linear).items()
    }
    load_state(network.linear, weights, linear, assign=True)
    return network
