"""The CycleGAN generator of PyPI's vintagify 0.1.2 (MIT), which makes photographs look old."""

from torch import Tensor, nn

from pareto_unlearn.catalogue.families import FamilyRow
from pareto_unlearn.models import Setting
from pareto_unlearn.models.base import ImageModel, package_module, plain_family
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.records import PixelFormat

SIDES = {"side_32": 32, "side_64": 64}
FIRST_UPSAMPLING = 19
"""Of the generator's layers: the encoder ends before it, after two halvings and the residual blocks."""


class Generator(ImageModel):
    """The generator with a hole in what it sees; its pictures are generated whole."""

    family = "cyclegan"
    evaluation_batch = 8
    generates_whole = True

    def __init__(self, hole: Tensor) -> None:
        super().__init__(hole)
        self.network = package_module("vintagify", "generator").ResnetGenerator()

    def encode_visible(self, images: Tensor) -> Tensor:
        """Return the feature maps after the residual blocks."""
        return self.network.model[:FIRST_UPSAMPLING](images)

    def decode(self, features: Tensor) -> Tensor:
        """Return pictures from feature maps."""
        return self.network.model[FIRST_UPSAMPLING:](features)

    def encoder_modules(self) -> list[nn.Module]:
        """Return the layers before the first upsampling."""
        return [self.network.model[:FIRST_UPSAMPLING]]


def build(setting: Setting) -> Generator:
    """Return the generator for images of the variant's side; any multiple of 4 would do."""
    return Generator(build_hole(setting.task, SIDES[setting.model.variant], 4, setting.seed))


ROW = FamilyRow(
    name="cyclegan",
    variants=tuple(SIDES),
    file="G_A2B_epoch33.pth of vintagify 0.1.2, or `builtin`",
    builtin="vintagify:resources/G_A2B_epoch33.pth",
    generates_whole=True,
)
FAMILY = plain_family(
    ROW,
    build,
    lambda variant: PixelFormat(side=SIDES[variant], channels=3, fit="squash"),
    network=lambda model: model.network,
    suffix=".pth",
)
