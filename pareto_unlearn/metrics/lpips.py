"""LPIPS 0.1 over AlexNet (Zhang et al., arXiv:1801.03924): how different the pictures of a pair look.

The arithmetic is that of the authors' package. The package itself is not used: it contains the linear
weights, but downloads AlexNet.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from pareto_unlearn.catalogue.metrics import METRICS
from pareto_unlearn.metrics.opening import load_state, read_state
from pareto_unlearn.metrics.weights import FoundWeights

LPIPS_LEAST_SIDE = METRICS["lpips"].least_side
"""Below it AlexNet's second pooling has no pixel left."""
_TAPS = (1, 4, 7, 9, 11)
"""The rectified layers that are compared, by their index in AlexNet's features."""
_CHANNELS = (64, 192, 384, 256, 256)
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and standard deviation for pixels of -1 to 1, rounded as by the authors."""
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
            ValueError: the pictures are too small for AlexNet.
        """
        if min(real.shape[2:]) < LPIPS_LEAST_SIDE:
            raise ValueError(
                f"lpips needs pictures of at least {LPIPS_LEAST_SIDE} pixels a side, found "
                f"{tuple(real.shape[2:])}"
            )
        seen = zip(self.linear, self._look(real), self._look(fake), strict=True)
        parts = [linear((first - second).square()).mean(dim=(2, 3)) for linear, first, second in seen]
        return torch.stack(parts).sum(dim=0)

    def _look(self, images: UInt8[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c _ _"]]:
        """Return the layers that are compared, their channels normalised to length 1 at every pixel."""
        shift, scale = (torch.tensor(row, device=images.device).view(3, 1, 1) for row in (_SHIFT, _SCALE))
        values, seen = (images / 127.5 - 1.0 - shift) / scale, []
        for place, layer in enumerate(self.layers):
            values = layer(values)
            if place in _TAPS:
                seen.append(values / (values.square().sum(dim=1, keepdim=True).sqrt() + _LEAST_NORM))
        return seen


def open_lpips(backbone: FoundWeights, linear: FoundWeights) -> Lpips:
    """Return LPIPS with the published weights of AlexNet and the linear weights of the authors.

    Raises:
        WeightsError: a file does not hold the tensors it should.
    """
    # On device meta no random weights are drawn: every tensor comes from a file.
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
