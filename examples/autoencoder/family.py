"""A convolutional autoencoder as a family: a plain encoder and decoder, trained by `pareto-unlearn train`."""

from torch import Tensor, nn

from pareto_unlearn.catalogue.families import FamilyRow, Recipe
from pareto_unlearn.models import Setting
from pareto_unlearn.models.base import ImageModel, plain_family
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.records import PixelFormat

SIDE = 32
WIDTHS = {"small": 32, "tiny": 8}


class Autoencoder(ImageModel):
    """Three halvings of the side, a bottleneck of 4 x 4, and the same way back."""

    family = "autoencoder"

    def __init__(self, width: int, hole: Tensor) -> None:
        super().__init__(hole)
        self.encoder = nn.Sequential(
            *(nn.Conv2d(3, width, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(width, 2 * width, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(2 * width, 4 * width, 4, 2, 1), nn.SiLU()),
            nn.Conv2d(4 * width, 4 * width, 3, 1, 1),
        )
        self.decoder = nn.Sequential(
            *(nn.Conv2d(4 * width, 4 * width, 3, 1, 1), nn.SiLU()),
            *(nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1), nn.SiLU()),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.SiLU()),
            nn.ConvTranspose2d(width, 3, 4, 2, 1),
        )

    def encode_visible(self, images: Tensor) -> Tensor:
        """Return the bottleneck."""
        return self.encoder(images)

    def decode(self, features: Tensor) -> Tensor:
        """Return pictures from a bottleneck."""
        return self.decoder(features)

    def encoder_modules(self) -> list[nn.Module]:
        """Return the encoder."""
        return [self.encoder]


def build(setting: Setting) -> Autoencoder:
    """Return the network of a variant; the unit of a hole in patches is one value of the bottleneck."""
    return Autoencoder(WIDTHS[setting.model.variant], build_hole(setting.task, SIDE, 8, setting.seed))


ROW = FamilyRow(
    name="autoencoder",
    variants=tuple(WIDTHS),
    file="a .safetensors file of `pareto-unlearn train`",
    recipe=Recipe(peak_learning_rate=0.003, steps=600),
    smoke_variant="tiny",
)
FAMILY = plain_family(ROW, build, PixelFormat(side=SIDE, channels=3))
