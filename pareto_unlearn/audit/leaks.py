"""What a model's pictures and errors give away: who was a member, what was forgotten, what an image holds."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pareto_unlearn.audit.statistics import Figure, area_under_curve, share_figure

LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


def membership(members: Float[np.ndarray, " m"], others: Float[np.ndarray, " n"]) -> Figure:
    """Return the AUC of the guess that an image with a smaller error was trained on; .5 gives nothing away.

    Both sides of .5 do: where the forget images have larger errors than images that nobody trained on, they
    can be told by that.
    """
    return area_under_curve(-members, -others)


def roughness(pictures: Float[Tensor, "n c h w"], hole: Bool[Tensor, "h w"]) -> Float[np.ndarray, " n"]:
    """Return how rough each picture is in the hole: the mean square of its Laplacian.

    Noise is rougher than any image and the mean of noise smoother, so a detector needs no more than this.
    """
    channels = pictures.shape[1]
    kernel = pictures.new_tensor(LAPLACE).expand(channels, 1, 3, 3)
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    edges = functional.conv2d(padded, kernel, groups=channels)
    return edges[:, :, hole].double().square().mean(dim=(1, 2)).cpu().numpy()


def retrieval(
    pictures: Float[Tensor, "n c h w"], truth: Float[Tensor, "n c h w"], hole: Bool[Tensor, "h w"]
) -> Figure:
    """Return the share of pictures whose hole is nearer to its own truth than to that of any other image."""
    found, wanted = (images[:, :, hole].flatten(1).double() for images in (pictures, truth))
    nearest = torch.cdist(found, wanted).argmin(dim=1)
    return share_figure(int((nearest == torch.arange(len(found), device=nearest.device)).sum()), len(found))
