"""The sections ``model``, ``task`` and ``objective`` of a sweep file, and what goes together in them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pareto_unlearn.catalogue.families import FAMILIES, FamilyRow
from pareto_unlearn.catalogue.family_lookup import family_names, find_family, is_family_file
from pareto_unlearn.config.task_section import TaskSection
from pareto_unlearn.config.value_types import Count, Section, Text, refusal
from pareto_unlearn.config.wording import found, one_of, quoted
from pareto_unlearn.errors import ConfigError

ALLOW_IMPORT = "allow_import"
"""The key of the validation context: may the file of a family be run?"""

BUILTIN = "builtin"
"""The checkpoint that stands for the weights shipped with the family's package."""

RANDOM = "random"
"""The checkpoint that stands for random weights; only smoke runs have them."""


_LARGEST_SMALL = 128
_LEAST_GRID = 4
"""Patches along a side; fewer leave no hole with something around it."""


class ModelSection(Section):
    """The model that has to forget."""

    family: Text = Field(
        description="which adapter loads and runs the model: a family of this package or of an installed "
        "one, or `FILE.py:NAME` with --allow-import, a relative path starting at the working directory",
        json_schema_extra={
            "anyOf": [{"enum": [row.name for row in FAMILIES]}, {"pattern": r".\.py:[A-Za-z_]\w*$"}]
        },
    )
    variant: Text = Field(
        default=None,
        validate_default=True,
        description="size within the family (mae and mage: vit_base, vit_large; mae: vit_huge too, with "
        "patches of 14 pixels; palette: places2; mae small, "
        "which `pareto-unlearn train` trains on pictures of your own in minutes); null: the first",
    )
    side: Annotated[int, Field(ge=16, le=1024)] | None = Field(
        default=None,
        validate_default=True,
        description="mae: side of its images in pixels; others are resized to it. small: 16 to 128, made for "
        "32 to 96. vit_*: whole patches; another side than the checkpoint has interpolates its positions. "
        "null: 64 for small, else as published",
    )
    patch: Annotated[int, Field(ge=2, le=32)] | None = Field(
        default=None,
        validate_default=True,
        description="mae small: side of a patch in pixels, which divides the side; time rises with the "
        "number of patches; null: an eighth of the side",
    )
    checkpoint: Text = Field(
        description="the original weights: a published file or `builtin`; a relative path starts at the "
        "working directory"
    )
    tokenizer: Text | None = Field(
        default=None,
        description="mage: file of the tokeniser (vqgan_jax_strongaug.ckpt) where the checkpoint does not "
        "hold it",
    )
    predicts: Literal["pixels", "normalised_patches"] = Field(
        default="pixels",
        description="mae: what the checkpoint was trained to predict; mae_pretrain_*_full.pth predicts "
        "normalised_patches",
    )
    schedule: Literal["published", "file"] = Field(
        default="published",
        description="palette: noise schedule of the training: published: linear, 2000 steps, 1e-6 to .01; "
        "a file with another is refused; file: the one that the checkpoint holds",
    )
    channels_last: bool = Field(
        default=False,
        description="mage and palette: keep convolution maps channels last, which GPUs compute faster; "
        "changes the last bits",
    )
    recompute: bool = Field(
        default=False,
        description="palette: recompute the inside of blocks in the backward pass; less memory for about a "
        "third more time",
    )

    @property
    def is_random(self) -> bool:
        """Whether the weights are drawn from a seed instead of read from a file."""
        return self.checkpoint == RANDOM

    @property
    def row(self) -> FamilyRow:
        """The facts about the family."""
        return find_family(self.family)

    @field_validator("family", mode="before")
    @classmethod
    def _check_family_known(cls, value: object, info: ValidationInfo) -> object:
        names = family_names()
        if not isinstance(value, str) or not (value in names or is_family_file(value)):
            raise refusal(one_of(names, value))
        try:
            find_family(value, allow_import=bool((info.context or {}).get(ALLOW_IMPORT, False)))
        except ConfigError as error:
            raise refusal(str(error)) from error
        return value

    @field_validator("variant", mode="before")
    @classmethod
    def _fill_variant(cls, value: object, info: ValidationInfo) -> object:
        if value is not None:
            return value
        row = _row_of(info)
        return "none" if row is None else row.variants[0]  # a family that was refused brings no second error

    @field_validator("variant")
    @classmethod
    def _check_variant_of_family(cls, value: str, info: ValidationInfo) -> str:
        row = _row_of(info)
        if row is not None and value not in row.variants:
            raise refusal(
                f"expected {' or '.join(row.variants)} with family {row.name}, found `{quoted(value)}`"
            )
        return value

    @field_validator("side", mode="before")
    @classmethod
    def _fill_side(cls, value: object, info: ValidationInfo) -> object:
        sizes = _sizes_of(info)
        return sizes[0] if value is None and sizes is not None else value

    @field_validator("patch", mode="before")
    @classmethod
    def _fill_patch(cls, value: object, info: ValidationInfo) -> object:
        sizes, side = _sizes_of(info), info.data.get("side")
        if value is not None or sizes is None or side is None:
            return value
        return max(side * sizes[1] // sizes[0], 2)

    @field_validator("side")
    @classmethod
    def _check_side(cls, side: int | None, info: ValidationInfo) -> int | None:
        row, variant = _row_of(info), str(info.data.get("variant"))
        if side is None or row is None:
            return side
        if variant in row.sized and side > _LARGEST_SMALL:
            raise refusal(f"expected 16 to {_LARGEST_SMALL} with variant {variant}, found {side}")
        patch = row.resized.get(variant, (0, 1))[1]
        if variant in row.resized and (side % patch or side // patch < _LEAST_GRID):
            near = max(round(side / patch), _LEAST_GRID) * patch
            raise refusal(
                f"expected whole patches of {patch} pixels, {_LEAST_GRID} at least along a side, found "
                f"{side}; use {near}"
            )
        return side

    @field_validator("side", "patch")
    @classmethod
    def _check_sized(cls, value: int | None, info: ValidationInfo) -> int | None:
        row, variant = _row_of(info), info.data.get("variant")
        if value is None or row is None or variant is None or _sizes_of(info) is not None:
            return value
        if info.field_name == "side" and variant in row.resized:
            return value
        if info.field_name not in row.keys:
            return value  # refused below, for the whole family
        raise refusal(
            f"expected it left out with variant {variant}, whose size is fixed, found {found(value)}: it "
            f"belongs to variant {' and '.join(row.sized)}"
        )

    @field_validator("patch")
    @classmethod
    def _check_patches_tile(cls, patch: int | None, info: ValidationInfo) -> int | None:
        side = info.data.get("side")
        if patch is not None and side is not None and (side % patch or not 3 <= side // patch <= 16):
            fitting = ", ".join(str(n) for n in range(2, 33) if side % n == 0 and 3 <= side // n <= 16)
            raise refusal(
                f"expected a patch that cuts {side} pixels into 3 to 16 whole ones, found {patch}; "
                + (f"use one of {fitting}" if fitting else "take another side, such as 64")
            )
        return patch

    @field_validator("checkpoint")
    @classmethod
    def _check_builtin_exists(cls, value: str, info: ValidationInfo) -> str:
        row = _row_of(info)
        if value == BUILTIN and row is not None and not row.builtin:
            shipped = " and ".join(one.name for one in FAMILIES if one.builtin)
            raise refusal(
                f"expected the path of a published checkpoint of {row.name}, found `{BUILTIN}`: only "
                f"{shipped} ships with the package; --smoke tries a sweep without weights"
            )
        return value

    @field_validator("side", "patch", "tokenizer", "predicts", "schedule", "channels_last", "recompute")
    @classmethod
    def _check_key_of_family(cls, value: object, info: ValidationInfo) -> object:
        name, row = str(info.field_name), _row_of(info)
        if row is not None and name not in row.keys and value != cls.model_fields[name].default:
            owners = " and ".join(one.name for one in FAMILIES if name in one.keys)
            raise refusal(
                f"expected it left out with family {row.name}, found {found(value)}: it belongs to {owners}"
            )
        return value


def _row_of(info: ValidationInfo) -> FamilyRow | None:
    """Return the facts about the family, None if its name was refused."""
    return find_family(info.data["family"]) if "family" in info.data else None


def _sizes_of(info: ValidationInfo) -> tuple[int, int] | None:
    """Return the usual side and patch of a variant whose sizes the sweep file gives, None for others."""
    row = _row_of(info)
    return None if row is None else row.sized.get(str(info.data.get("variant")))


class ObjectiveSection(Section):
    """What f1 (forget) and f2 (retain) measure."""

    space: Literal["output", "encoder"] = Field(
        default="output", description="compare whole outputs, or encoder outputs with the decoder frozen"
    )
    distance: Literal["mse", "l2"] = Field(
        default="mse", description="mean squared error per value, or mean L2 norm of the difference per image"
    )
    forget_target: Literal["noise", "reference", "background", "nearest_retain", "mean"] = Field(
        default="noise",
        description="what forget outputs are pulled to: noise: the original's outputs on noise, as in the "
        "papers; reference: what a model that never saw the forget images says of them; background: their "
        "own surroundings, drawn smoothly over the hole; nearest_retain: the original's output for the "
        "retain training image that looks most like what is visible; mean: the mean of its outputs on these "
        "images; all but noise leave the keys of noise below unread",
    )
    reference: Text | None = Field(
        default=None,
        validate_default=True,
        description="forget_target reference: checkpoint of that model, of the original's family and "
        "variant; `pareto-unlearn train SWEEP --leave-out-forget` makes one",
    )
    noise_target: Literal["mean", "draws", "paired"] = Field(
        default=None,
        validate_default=True,
        description="which noise outputs: the mean of the original's outputs on noise, single draws of "
        "them, or its output on the image's own noise (palette: noise in the hole; removal "
        "published: noise under the same masks); null: paired where inputs are drawn anew "
        "every step, else mean for mse, draws for l2",
    )
    noise: Literal["gaussian", "uniform", "batch_statistics", "covariance"] = Field(
        default="gaussian",
        description="noise images: gaussian: N(0, I) in the model's space, as in the papers; uniform in "
        "[0, 1]; batch_statistics: normal with mean and deviation of all training pixels, "
        "clipped, as the published code has it for each batch; covariance: normal with mean "
        "and covariance of the training images; palette has its own",
    )
    noise_rank: Count = Field(
        default=64,
        description="directions of noise covariance that are kept; exact from the number of training images "
        "less one",
    )
    noise_images: int = Field(
        default=2048, ge=16, description="noise images whose outputs make up the target mean or draws"
    )
    retain_target: Literal["cached", "computed"] = Field(
        default="cached",
        description="the original's outputs on retain images, and a reference's on forget images: computed "
        "once and kept in files, or anew in every step by the "
        "original beside the model, where inputs are drawn anew or do not fit on disk; null: as the inputs "
        "are",
    )
    original_precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the original's forward pass in a step where it runs beside the model; what is "
        "measured is float32",
    )
    shared_parameters: Literal["frozen", "trained"] = Field(
        default="frozen",
        description="space encoder: parameters of the encoder that the decoder uses too (mage: word "
        "embeddings; palette: embedding of the noise level); the published training changes "
        "them, and the decoder with them",
    )

    @field_validator("reference")
    @classmethod
    def _check_reference_named(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("forget_target") == "reference" and value is None:
            raise refusal(
                "expected the checkpoint of a model that never saw the forget images, found none; "
                "`pareto-unlearn train SWEEP --leave-out-forget` makes one"
            )
        return value

    @field_validator("noise_target", mode="before")
    @classmethod
    def _fill_noise_target(cls, value: object, info: ValidationInfo) -> object:
        if value is None:
            return "draws" if info.data.get("distance") == "l2" else "mean"
        return value

    @field_validator("noise_target")
    @classmethod
    def _check_mean_allowed(cls, value: str, info: ValidationInfo) -> str:
        if value == "mean" and info.data.get("distance") == "l2":
            raise refusal(
                "expected `draws`, found `mean` with distance l2: replacing draws by their mean is exact "
                "only for squared errors; use draws, or distance mse"
            )
        return value


class SamplingSection(Section):
    """How palette generates pictures from noise; other families have one way."""

    method: Literal["ancestral", "ddim"] = Field(
        default="ancestral", description="the published sampler, or DDIM, which needs far fewer steps"
    )
    steps: Count | None = Field(
        default=None, description="steps, spread evenly over the schedule's; null: all of them"
    )
    schedule: Literal["training", "upstream_test"] = Field(
        default="training",
        description="noise schedule: the one the checkpoint was trained with (2000 steps), or the one that "
        "the public implementation samples with (1000)",
    )


def is_redrawn(model: ModelSection, task: TaskSection) -> bool:
    """Tell whether every step draws its inputs anew, so that the original's outputs on them change too."""
    return model.row.is_redrawn or task.removal == "published"


def fill_objective(value: object, info: ValidationInfo) -> object:
    """Fill in the defaults of the objective that depend on the model and the task."""
    model, task = info.data.get("model"), info.data.get("task")
    if (
        not isinstance(value, Mapping)
        or not isinstance(model, ModelSection)
        or not isinstance(task, TaskSection)
    ):
        return value
    redrawn = is_redrawn(model, task)
    defaults: dict[str, Any] = {"retain_target": "computed" if redrawn else "cached"}
    if redrawn:
        defaults["noise_target"] = "paired"
    return {**value, **{key: own for key, own in defaults.items() if value.get(key) is None}}


def check_objective(value: ObjectiveSection, info: ValidationInfo) -> ObjectiveSection:
    """Refuse targets that do not go with the model and the task."""
    model, task = info.data.get("model"), info.data.get("task")
    if not isinstance(model, ModelSection) or not isinstance(task, TaskSection):
        return value
    if value.forget_target == "reference":
        _check_reference(value, model, info)
    elif value.forget_target != "noise":
        _check_image_target(value, model.row, redrawn=is_redrawn(model, task))
    if is_redrawn(model, task) and (value.noise_target, value.retain_target) != ("paired", "computed"):
        raise refusal(
            "expected noise_target paired and retain_target computed, since inputs are drawn anew every "
            f"step, found {value.noise_target} and {value.retain_target}: outputs of other draws are no "
            "targets; leave both out"
        )
    _check_family(value, model.row)
    if not is_redrawn(model, task) and value.noise_target == "paired":
        raise refusal(
            "expected mean or draws, found paired: inputs of this model and task are the same every step; "
            "set task.removal: published, or leave noise_target out"
        )
    return value


def _check_family(value: ObjectiveSection, row: FamilyRow) -> None:
    if value.noise not in row.noises:
        raise refusal(
            f"expected noise {' or '.join(row.noises)} with family {row.name}, found {value.noise}"
            f"{row.noise_note and f': {row.noise_note}'}; leave noise out"
        )
    if value.space not in row.spaces:
        raise refusal(
            f"expected space {' or '.join(row.spaces)} with family {row.name}, found {value.space}: its "
            "network is not split into an encoder and a decoder"
        )


def _check_image_target(value: ObjectiveSection, row: FamilyRow, *, redrawn: bool) -> None:
    target = value.forget_target
    if redrawn:
        raise refusal(
            f"expected forget_target noise or reference, since inputs are drawn anew every step, found "
            f"{target}: outputs of other draws are no targets; take one of these, or where the family has it "
            "task.removal: hole"
        )
    if target == "background" and not row.paints_pixels:
        raise refusal(
            f"expected forget_target noise, reference, nearest_retain or mean with family {row.name}, found "
            "background: its outputs are no pixels, so no picture says what they should be"
        )
    if target == "background" and value.space == "encoder":
        raise refusal(
            "expected space output with forget_target background, found encoder: a picture says what the "
            "decoder should output, not what the encoder should"
        )


def _check_reference(value: ObjectiveSection, model: ModelSection, info: ValidationInfo) -> None:
    if value.space == "encoder":
        raise refusal(
            "expected space output with forget_target reference, found encoder: what an encoder says means "
            "something to its own decoder alone"
        )
    if value.reference == RANDOM and not info.data.get("smoke", False):
        raise refusal(
            f"expected a checkpoint as reference, found `{RANDOM}`: only a sweep started with --smoke runs "
            "on random weights"
        )
    if value.reference == BUILTIN and not model.row.builtin:
        shipped = " or ".join(one.name for one in FAMILIES if one.builtin)
        raise refusal(
            f"expected a checkpoint of {model.row.name} as reference, found `{BUILTIN}`, which is {shipped}"
        )


def fill_task(value: object, info: ValidationInfo) -> object:
    """Fill in the family's usual hole if the file names none."""
    model = info.data.get("model")
    if not isinstance(value, Mapping) or not isinstance(model, ModelSection):
        return value
    is_open = all(value.get(key) is None for key in ("size", "patches", "masks"))
    if (
        model.row.patches is None
        or model.variant in model.row.sized
        or not is_open
        or value.get("kind") not in (None, "center")
    ):
        return value
    return {**value, "patches": model.row.patches}


def check_task(value: TaskSection, info: ValidationInfo) -> TaskSection:
    """Refuse a removal that the family does not have."""
    model = info.data.get("model")
    if isinstance(model, ModelSection) and value.removal not in model.row.removals:
        raise refusal(
            f"expected removal `{'` or `'.join(model.row.removals)}` with family {model.row.name}, which "
            f"knows no other, found `{value.removal}`"
        )
    return value
