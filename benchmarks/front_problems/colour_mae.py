"""A small masked autoencoder of 32-pixel colour pictures: the package's MAE at a size of its own.

Visible and removed patches count in the loss of its training, since f1 and f2 compare all patches.
"""

from torch import Tensor

from pareto_unlearn.catalogue.families import FamilyRow, Recipe
from pareto_unlearn.models import Setting
from pareto_unlearn.models.base import plain_family
from pareto_unlearn.models.holes import build_hole
from pareto_unlearn.models.mae import Mae, MaeShape, initialise, patchify
from pareto_unlearn.records import PixelFormat

SIDE, PATCH = 32, 8
SHAPE = MaeShape(
    side=SIDE,
    patch=PATCH,
    width=64,
    blocks=2,
    heads=4,
    decoder_width=48,
    decoder_blocks=1,
    decoder_heads=4,
)


class ColourMae(Mae):
    """The network of ``mae``, trained under the task's own hole."""

    family = "colour_mae"

    def training_loss(self, inputs: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Return the squared error of the removed plus that of the visible patches."""
        truth = patchify(inputs if wanted is None else wanted, self.shape.patch)
        errors = (self(inputs) - truth).square().mean(dim=2)
        removed = self.fixed_masking(1).removed[0]
        return errors[:, removed].mean() + errors[:, ~removed].mean()

    def hole_loss(self, inputs: Tensor) -> Tensor:
        """Return the squared error of the removed patches."""
        errors = (self(inputs) - patchify(inputs, self.shape.patch)).square().mean(dim=2)
        return errors[:, self.fixed_masking(1).removed[0]].mean()


def build(setting: Setting) -> ColourMae:
    """Return the network."""
    return ColourMae(SHAPE, build_hole(setting.task, SIDE, PATCH, setting.seed))


ROW = FamilyRow(
    name="colour_mae",
    variants=("small",),
    file="a .safetensors file of `pareto-unlearn train`",
    recipe=Recipe(peak_learning_rate=0.0015, steps=5000, batch=48),
    smoke_variant="small",
)
FAMILY = plain_family(
    ROW,
    build,
    PixelFormat(side=SIDE, channels=3, fit="squash", resample="bicubic"),
    initialise=initialise,
)
