"""DINOv2 ViT-L/14 at 224 pixels, as the metrics of arXiv:2306.04675 use it.

The network is timm's, the tensors are those of the published file, and timm converts them. Only the position
embedding is resized here, from 37 x 37 patches to 16 x 16: timm resizes it with antialiasing, the original
code without.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics.opening import load_state, read_state
from pareto_unlearn.metrics.weights import FoundWeights

DINOV2_NAME = "vit_large_patch14_dinov2"
DINOV2_SIDE = 224
_OFFSET = 0.1
"""The original code adds this to the number of patches before it divides, which moves the sampling points."""


def open_dinov2(weights: FoundWeights) -> nn.Module:
    """Return the network with the weights of a file.

    It maps images of 224 pixels, normalised by ImageNet's statistics, to the class token after the last norm.

    Raises:
        WeightsError: the file does not hold this network.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    # On device meta no random weights are drawn: every tensor comes from the file.
    with torch.device("meta"):
        network = timm.create_model(DINOV2_NAME, pretrained=False, img_size=DINOV2_SIDE, num_classes=0)
    state = read_state(weights)
    if "pos_embed" not in state:
        raise WeightsError(
            f"{weights.path}: expected the tensors of {weights.file.holds}, found no pos_embed"
        )
    side = math.isqrt(network.get_parameter("pos_embed").shape[1] - 1)
    state["pos_embed"] = fit_positions(state["pos_embed"], side)
    converted = checkpoint_filter_fn(state, cast("VisionTransformer", network))
    load_state(network, converted, weights, assign=True)
    return network


def fit_positions(positions: Float[Tensor, "1 n d"], side: int) -> Float[Tensor, "1 m d"]:
    """Return a position embedding resized to side x side patches.

    Bicubic, as ``interpolate_pos_encoding`` of the original code does it.

    Args:
        positions: embedding of the class token, then of the patches of a square, row by row.
        side: number of patches in a row.
    """
    known = math.isqrt(positions.shape[1] - 1)
    patches = positions[:, 1:].reshape(1, known, known, -1).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / known
    fitted = functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], fitted.flatten(2).transpose(1, 2)], dim=1)
