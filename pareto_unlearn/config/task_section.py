"""The section ``task`` of a sweep file: which part of an image is removed and has to be generated."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from pareto_unlearn.config.mask_text import check_mask_text, read_mask_text
from pareto_unlearn.config.value_types import Count, Section, refusal
from pareto_unlearn.config.wording import found


class TaskSection(Section):
    """Which part of an image is removed and has to be generated."""

    masks: Annotated[str | None, BeforeValidator(read_mask_text), AfterValidator(check_mask_text)] = Field(
        default=None,
        description="a mask of one's own, removed from every image: a square PNG of two values, the brighter "
        "one removed, of the model's side or a multiple; families that see patches (mae, mage, digits_mae) "
        "remove every patch that it touches; the resolved sweep holds its pixels",
    )
    kind: Literal["center", "outpaint", "up", "down", "left", "right", "random", "mask"] = Field(
        default=None,
        validate_default=True,
        description="which part of the image is removed: a central square, a border on all sides, a strip "
        "at the named side, patches drawn once from `seed`, or what `masks` says; null: mask with masks, "
        "else center",
    )
    patches: Count | None = Field(
        default=None,
        description="side of the central square in patches of the model, such as 4 or 8, in place of size",
    )
    size: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        validate_default=True,
        description="side of the square / side of the image; outpaint: both borders together; a strip: its "
        "depth; random: share of the patches; null: 0.5, or as patches say, which are 8 with "
        "mae",
    )
    removal: Literal["hole", "published"] = Field(
        default="hole",
        description="what f1 and f2 are measured on: images with the hole above removed, or with what the "
        "published training removes, drawn anew every step (mae: 75 % of the patches; mage: "
        "random tokens; palette: boxes and strokes); pictures and metrics always have the hole",
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _fill_kind(cls, value: object, info: ValidationInfo) -> object:
        if value is None:
            return "center" if info.data.get("masks") is None else "mask"
        return value

    @field_validator("kind")
    @classmethod
    def _check_kind_beside_masks(cls, value: str, info: ValidationInfo) -> str:
        if "masks" in info.data and (value == "mask") != (info.data["masks"] is not None):
            raise refusal(
                f"expected kind mask together with `masks`, found kind {value} "
                + (
                    "beside `masks`; leave it out"
                    if value != "mask"
                    else "without; name the file of the mask"
                )
            )
        return value

    @field_validator("patches", "size")
    @classmethod
    def _check_no_size_beside_masks(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("masks") is not None:
            raise refusal(
                f"expected it left out beside `masks`, found {found(value)}: the mask has its own size"
            )
        return value

    @field_validator("patches")
    @classmethod
    def _check_patches_of_square(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and info.data.get("kind", "center") != "center":
            raise refusal(
                f"expected `size` with kind {info.data['kind']}, found patches: {value}; patches are for "
                "center"
            )
        return value

    @field_validator("size", mode="before")
    @classmethod
    def _fill_size(cls, value: object, info: ValidationInfo) -> object:
        is_open = info.data.get("patches") is None and info.data.get("masks") is None
        return 0.5 if value is None and is_open else value

    @field_validator("size")
    @classmethod
    def _check_size_or_patches(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("patches") is not None:
            raise refusal(
                f"expected either size or patches, found size {found(value)} beside patches "
                f"{info.data['patches']}"
            )
        return value
