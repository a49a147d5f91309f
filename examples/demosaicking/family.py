"""The Bayer demosaicking network of PyPI's demosaicnet 0.0.14 (MIT; Gharbi et al. 2016)."""

import sys
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor

from pareto_unlearn.catalogue.families import FamilyRow
from pareto_unlearn.models import Setting
from pareto_unlearn.models.base import ImageModel, package_module, plain_family
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.records import PixelFormat

SIDE = 32
COLOURS = torch.tensor([[[0, 1], [0, 0]], [[1, 0], [0, 1]], [[0, 0], [1, 0]]])
"""Which colours a pixel of each 2 x 2 block has: green, red / blue, green."""


class Demosaicking(ImageModel):
    """The network as a camera uses it: one colour per pixel goes in, none in the hole; all three come out."""

    family = "demosaicking"
    pixel_mean, pixel_std = 0.0, 1.0
    generates_whole = True

    def __init__(self, hole: Tensor) -> None:
        super().__init__(hole)
        # The module asks pkg_resources, which setuptools no longer has, for paths that are not used here.
        stand_in = SimpleNamespace(resource_filename=lambda *parts: "/".join(parts))
        with patch.dict(sys.modules, {"pkg_resources": stand_in}):
            self.network = package_module("demosaicnet", "modules").BayerDemosaick(pretrained=False, pad=True)
        tiles = len(hole) // 2
        self.register_buffer("colours", COLOURS.repeat(1, tiles, tiles).float(), persistent=False)

    def answer(self, images: Tensor) -> Tensor:
        """Return the colours of all pixels."""
        return self.network(images * self.colours)


def build(setting: Setting) -> Demosaicking:
    """Return the network; a hole in patches is counted in blocks of 4 x 4 pixels."""
    return Demosaicking(build_hole(setting.task, SIDE, 4, setting.seed))


ROW = FamilyRow(
    name="demosaicking",
    variants=("bayer",),
    file="bayer.pth of demosaicnet 0.0.14, or `builtin`",
    builtin="demosaicnet:data/bayer.pth",
    spaces=("output",),
    baselines=("retain_label", "noisy_label"),
    generates_whole=True,
)
PIXELS = PixelFormat(side=SIDE, channels=3, fit="squash")
FAMILY = plain_family(ROW, build, PIXELS, network=lambda model: model.network, suffix=".pth")
