"""What is known of each family of models without loading torch: one row per family.

The rows of this package stand here. ``family_lookup`` finds those of other packages and of single files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pareto_unlearn.errors import ConfigError

ORIGINAL_STEPS = 3000
"""Of the training of the embedded digits model."""

SMALL_STEPS = 2000
"""Of the training of the small masked autoencoder: minutes on two cores."""

NOISES = ("gaussian", "uniform", "batch_statistics", "covariance")
"""The kinds of noise that ``objective.noise`` knows."""

SHARED_BASELINES = ("retain_label", "noisy_label", "random_encoder")
"""The published baselines that have one formula for all families; the last needs an encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a family is trained from scratch.

    ``steps`` is None where no number of them stands for the published training; ``published`` names it then.
    ``removal`` is what training removes (``task.removal``); None: what the family's published training does.
    """

    peak_learning_rate: float
    steps: int | None = None
    batch: int = 64
    published: str = ""
    removal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """What is known of a family without loading it. The defaults fit a plain encoder and decoder.

    Args:
        name: what ``model.family`` says, and what messages call it.
        variants: its sizes; the first is the default.
        file: which file ``model.checkpoint`` names and who publishes it, for messages.
        adapter: the module that defines its ``Family`` as ``FAMILY``, or ``module:NAME``. The row of a family
            that is a single file leaves it out.
        builtin: the file that ``checkpoint: builtin`` means, as ``package:path/in/it``; empty: there is none.
        tokenizer: which file ``model.tokenizer`` names and who publishes it; ``tokenizer_prefix`` is what the
            model puts before the names in it.
        keys: the keys of the section ``model`` that only some families have.
        spaces: where f1 and f2 can be compared.
        removals: what f1 and f2 can be measured on (``task.removal``); the last is that of its training.
        patches: side of the usual central square in patches; None: half the side of the image.
        is_redrawn: inputs hold draws whatever is removed, so every step draws them anew.
        paints_pixels: its outputs are pixels, so that an image says what a perfect model would output.
        noises: the kinds of noise it takes; ``noise_note`` says why where some are missing.
        baselines: the published baselines it has, by the method of their trials.
        controls: the models to judge others by that are made of it unasked, since that takes a minute.
        recipe: how it is trained from scratch; None: it cannot be, and ``why_untrained`` says why.
        own_recipes: the recipe of a variant that is trained in another way.
        sized: the variants whose images and patches the sweep file gives a size (``model.side``,
            ``model.patch``), with the usual ones.
        resized: the variants that also take images of another side (``model.side``), by interpolating their
            positions, with the side and the patch they were trained with.
        smoke_variant: the size that ``--smoke`` takes, with random weights and generated images; None: it
            takes the sweep's own size, weights and images, where these are small.
        smoke_learning_rate: random weights are far from any optimum: small steps would move nothing.
        exports_as_stored: the files of weights that a run stores are files of the family.
        transformers_class: the class of Hugging Face's transformers that loads its models; empty: none.
        generates_whole: pictures are generated whole, what lies around the hole included.
        reads_digits: its images are those of the embedded digits, which the embedded feature network knows.
        source_sha256: of the file that defines it, where it is a single file; set by whoever reads the file.
    """

    name: str
    variants: Sequence[str]
    file: str
    adapter: str = ""
    builtin: str = ""
    tokenizer: str = ""
    tokenizer_prefix: str = ""
    keys: Sequence[str] = ()
    spaces: Sequence[str] = ("output", "encoder")
    removals: Sequence[str] = ("hole",)
    patches: int | None = None
    is_redrawn: bool = False
    paints_pixels: bool = True
    noises: Sequence[str] = NOISES
    noise_note: str = ""
    baselines: Sequence[str] = SHARED_BASELINES
    controls: Sequence[str] = ()
    recipe: Recipe | None = None
    why_untrained: str = (
        "its row has no recipe; add recipe=Recipe(peak_learning_rate=..., steps=...) to the row"
    )
    own_recipes: Mapping[str, Recipe] = field(default_factory=dict)
    sized: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    resized: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    smoke_variant: str | None = None
    smoke_learning_rate: float = 0.003
    exports_as_stored: bool = False
    transformers_class: str = ""
    generates_whole: bool = False
    reads_digits: bool = False
    source_sha256: str | None = None

    def recipe_of(self, variant: str) -> Recipe | None:
        """Return how a variant is trained from scratch, None if it cannot be."""
        return self.own_recipes.get(variant, self.recipe)


def require_recipe(row: FamilyRow, variant: str) -> Recipe:
    """Return how a variant of a family is trained from scratch.

    Raises:
        ConfigError: it cannot be.
    """
    recipe = row.recipe_of(variant)
    if recipe is None:
        trained = " or ".join(one.name for one in FAMILIES if one.recipe is not None)
        raise ConfigError(
            f"model.family: expected {trained}, which can be trained from scratch, found {row.name}: "
            f"{row.why_untrained}"
        )
    return recipe


def require_steps(row: FamilyRow, variant: str, steps: int | None) -> int:
    """Return the steps of a training from scratch: those asked for, or the recipe's.

    Raises:
        ConfigError: the variant cannot be trained, or there is no usual number of steps.
    """
    recipe = require_recipe(row, variant)
    wanted = recipe.steps if steps is None else steps
    if wanted is not None:
        return wanted
    published = (
        recipe.published and f": its published training, {recipe.published}, is no default for other images"
    )
    usual = [f"model.variant: {name}" for name, one in row.own_recipes.items() if one.steps is not None]
    raise ConfigError(
        f"--steps: expected a number of steps with family {row.name}, found none{published}"
        + (f"; {' or '.join(usual)} has a usual number" if usual else "")
    )


EMBEDDED_RECIPE = Recipe(peak_learning_rate=0.002, steps=ORIGINAL_STEPS)

EMBEDDED = FamilyRow(
    name="digits_mae",
    adapter="pareto_unlearn.models.digits_mae_family",
    variants=("small",),
    file="a .safetensors file written by this package, or `builtin`",
    builtin="pareto_unlearn:assets/digits_mae.safetensors",
    controls=("retrained",),
    recipe=EMBEDDED_RECIPE,
    exports_as_stored=True,
    generates_whole=True,
    reads_digits=True,
)
"""The family whose weights and images ship with the package."""

FAMILIES: Sequence[FamilyRow] = (
    EMBEDDED,
    FamilyRow(
        name="mae",
        adapter="pareto_unlearn.models.mae_family",
        variants=("vit_base", "vit_large", "vit_huge", "small", "tiny"),
        file="mae_visualize_vit_base.pth, mae_visualize_vit_large.pth, mae_visualize_vit_large_ganloss.pth "
        "or mae_visualize_vit_huge.pth of facebookresearch/mae",
        keys=("predicts", "side", "patch"),
        removals=("hole", "published"),
        transformers_class="ViTMAEForPreTraining",
        patches=8,  # half of the 14 x 14 patches cannot be centred
        recipe=Recipe(peak_learning_rate=0.001, published="1600 epochs of ImageNet"),
        own_recipes={"small": Recipe(peak_learning_rate=0.001, steps=SMALL_STEPS, batch=32, removal="hole")},
        sized={"small": (64, 8)},
        resized={"vit_base": (224, 16), "vit_large": (224, 16), "vit_huge": (224, 14), "tiny": (56, 4)},
        smoke_variant="tiny",
    ),
    FamilyRow(
        name="mage",
        adapter="pareto_unlearn.models.mage_family",
        variants=("vit_base", "vit_large", "tiny"),
        file="mage-vitb-1600.pth of LTH14/mage",
        tokenizer="vqgan_jax_strongaug.ckpt of LTH14/mage",
        tokenizer_prefix="vqgan.",
        keys=("tokenizer", "channels_last"),
        removals=("hole", "published"),
        paints_pixels=False,
        baselines=(
            *SHARED_BASELINES,
            "retain_label_fork",
            "retain_label_fork_bug",
            "noisy_label_fork",
            "random_encoder_fork",
            "random_encoder_fork_bug",
        ),
        why_untrained="it generates the codes of a tokeniser that is trained on its own, which this package "
        "does not do",
        smoke_variant="tiny",
    ),
    FamilyRow(
        name="palette",
        adapter="pareto_unlearn.models.palette_family",
        variants=("places2", "tiny"),
        file="16_Network.pth (inpainting, Places2) of Janspiry/Palette-Image-to-Image-Diffusion-Models",
        keys=("schedule", "channels_last", "recompute"),
        removals=("hole", "published"),
        is_redrawn=True,
        paints_pixels=False,
        noises=("gaussian",),
        noise_note="its noise target is the noise of the diffusion itself",
        baselines=(*SHARED_BASELINES, "retain_label_fork", "random_encoder_fork"),
        why_untrained="its published training averages the weights over hundreds of thousands of steps, "
        "for which this loop is not made",
        smoke_variant="tiny",
        smoke_learning_rate=0.0003,
    ),
)
"""The families of this package. ``tiny`` has the published layers at widths for trying out."""
