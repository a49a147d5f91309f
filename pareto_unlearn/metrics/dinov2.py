"""DINOv2 ViT-L/14 at 224 pixels, as the metrics of arXiv:2306.04675 look through it.

The network is timm's, the tensors are those of the published file, and timm converts them. Only the position embedding is
not left to timm, which brings it from 37 x 37 patches to 16 x 16 with antialiasing: the original code does without.
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
"""What the original code adds to the number of patches before it divides; sampling points depend on it."""


def open_dinov2(weights: FoundWeights) -> nn.Module:
    """Return the network, which maps images of 224 pixels with ImageNet's statistics to the class token after the last norm.

    Raises:
        WeightsError: the file does not hold it.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    # On device meta nothing is drawn: every tensor comes from the file.
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
    """Return a position embedding for side x side patches: bicubic, as ``interpolate_pos_encoding`` of the original code.

    Args:
        positions: of the class token, then of the patches of a square, row by row.
        side: patches in a row.
    """
    known = math.isqrt(positions.shape[1] - 1)
    patches = positions[:, 1:].reshape(1, known, known, -1).permute(0, 3, 1, 2)
    scale = (side + _OFFSET) / known
    fitted = functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], fitted.flatten(2).transpose(1, 2)], dim=1)
