"""The ``data`` section: the images to forget, the images to keep, and a proxy to train on for the latter."""

from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from pareto_unlearn.config.image_list import read_image_names
from pareto_unlearn.config.value_types import Classes, Count, Section, Text, refusal
from pareto_unlearn.config.wording import found, quoted

_Value = TypeVar("_Value")

_FILE_DATASETS = ("folder", "imagenet", "places365")
_OTHER_DATASETS = ("digits", "generated")
_HALF = 0.5
_NOTHING_RETAINED = (
    "expected at least one, found {}: f2 is measured on retain images; where none of their classes can be "
    "used for training, `proxy_retain: true` takes other classes instead"
)


class ProxySection(Section):
    """Training images of classes that are neither forgotten nor retained, in place of the retain set's."""

    classes: Count | None = Field(
        default=None, description="how many of the other classes to draw; null: all of them"
    )
    per_class: Count | None = Field(
        default=None,
        description="training images of each class; null: as many in all as there are forget images, or "
        "all that the classes have",
    )


def _read_proxy(value: object) -> object:
    """Return a section without limits for ``true``, and None for ``false``."""
    if isinstance(value, bool):
        return {} if value else None
    return value


_Proxy = Annotated[
    ProxySection | None, BeforeValidator(_read_proxy, json_schema_input_type=ProxySection | bool | None)
]


class DataSection(Section):
    """The images to forget and the images to keep."""

    dataset: Literal["digits", "generated", "folder", "imagenet", "places365"] = Field(
        description="where the images come from: digits come with the package, generated images are drawn, "
        "all others are files below `root`"
    )
    root: Text | None = Field(
        default=None,
        validate_default=True,
        description="folder of the image files; a relative path starts at the working directory",
    )
    follow_links: bool = Field(
        default=False,
        description="read files to which links lead out of `root`, as in the cache of Hugging Face; set it "
        "only where you trust whoever made the links",
    )
    split: Literal["classes", "random_images"] = Field(
        default="classes",
        description="forget whole classes, or a random share of the images of all classes",
    )
    forget_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        validate_default=True,
        description="share of the images that `split: random_images` forgets; null: half",
    )
    class_list: Text | None = Field(
        default=None, description="file that names the classes to forget and to keep, read by `class_rule`"
    )
    class_rule: Literal["imagenet_r", "places_flist"] | None = Field(
        default=None,
        validate_default=True,
        description="format of class_list. imagenet_r: a JSON object from wnid to number; classes below "
        "100 are forgotten, the others retained. places_flist: one class a line; the first 50 are retained, "
        "the next 50 forgotten",
    )
    forget: Annotated[tuple[str, ...] | None, BeforeValidator(read_image_names)] = Field(
        default=None,
        description="single images to forget, such as one person's photos: a text file with a path relative "
        "to `root` on each line, a CSV with a column image_id or path, or a list of such paths; all other "
        "images are kept",
        json_schema_extra={"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    )
    same_class: Literal["retain", "leave_out"] = Field(
        default="retain",
        description="with `forget`: what becomes of the other images of the named images' classes: kept like "
        "all others, or left out: neither trained on nor measured",
    )
    forget_split: Literal["data_set", "named"] = Field(
        default="data_set",
        description="with `forget`: which named images are held out: those that the data set holds out "
        "anyway, or a fifth of the named ones; then train the original from this sweep file, so that it does "
        "not know them",
    )
    forget_classes: Classes | None = Field(
        default=None,
        validate_default=True,
        description="classes to forget: a list of names or numbers, or how many to draw; null where "
        "`split` or `class_list` decides it",
    )
    retain_classes: Classes | None = Field(
        default=None,
        description="classes to keep: a list of names or numbers, or how many to draw; null: those of "
        "`class_list`, or all classes that are not forgotten",
    )
    train_per_class: Count | None = Field(
        default=None,
        description="training images of each class; null: all of them, or 80 % where the data set has no "
        "split",
    )
    heldout_per_class: Count | None = Field(
        default=None,
        description="held-out images of each class; null: all of them, or 20 % where the data set has no "
        "split",
    )
    retain_per_class: Count | None = Field(
        default=None,
        description="training images of each retain class, where fewer are available; null: train_per_class",
    )
    proxy_retain: _Proxy = Field(
        default=None,
        description="train on other classes in place of the retain classes, which are then only measured: "
        "true, or {classes, per_class}",
    )
    duplicates: Literal["refuse", "drop_heldout", "allow"] = Field(
        default="refuse",
        description="what to do with images that have the same bytes in two sets or splits; drop_heldout "
        "leaves out the held-out ones",
    )
    cache_bytes: int = Field(
        default=16 * 2**30,
        ge=0,
        description="disk space for decoded image files on each machine; sets that do not fit are decoded "
        "at every use",
    )
    cache_folder: Text | None = Field(
        default=None,
        description="folder on each machine for decoded image files, where runs of the same files share "
        "them; it holds images to forget, and nothing here removes it; null: the cache of each run",
    )

    @field_validator("root")
    @classmethod
    def _check_root(cls, root: str | None, info: ValidationInfo) -> str | None:
        dataset = info.data.get("dataset")
        if root is None and dataset in _FILE_DATASETS:
            raise refusal(f"expected the folder that holds the images of dataset {dataset}, found nothing")
        if root is not None and dataset in _OTHER_DATASETS:
            raise refusal(
                f"expected none for dataset {dataset}, which needs no files, found {found(root)}; remove it"
            )
        return root

    @field_validator("forget_share")
    @classmethod
    def _fill_forget_share(cls, share: float | None, info: ValidationInfo) -> float | None:
        if info.data.get("split") == "random_images":
            return _HALF if share is None else share
        if share is not None:
            raise refusal(f"expected none without `split: random_images`, found {found(share)}; remove it")
        return None

    @field_validator("class_list")
    @classmethod
    def _check_class_list(cls, path: str | None, info: ValidationInfo) -> str | None:
        return _only_with_classes(path, info)

    @field_validator("class_rule")
    @classmethod
    def _check_class_rule(cls, rule: str | None, info: ValidationInfo) -> str | None:
        if "class_list" in info.data and (rule is None) != (info.data["class_list"] is None):
            raise refusal(
                f"expected class_list and class_rule together, found {found(rule)} beside class_list "
                f"{found(info.data['class_list'])}"
            )
        return rule

    @field_validator("forget")
    @classmethod
    def _check_forget(cls, names: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        return _not_beside_list(_only_with_classes(names, info), info)

    @field_validator("same_class", "forget_split")
    @classmethod
    def _check_beside_forget(cls, value: str, info: ValidationInfo) -> str:
        name = str(info.field_name)
        if (
            info.data.get("forget") is None
            and "forget" in info.data
            and value != cls.model_fields[name].default
        ):
            raise refusal(f"expected it left out without `forget`, found {found(value)}; remove it")
        return value

    @field_validator("forget_classes")
    @classmethod
    def _check_forget_classes(
        cls, forget: tuple[str, ...] | int | None, info: ValidationInfo
    ) -> tuple[str, ...] | int | None:
        if not {"split", "class_list", "forget"} <= info.data.keys():
            return forget
        if info.data["forget"] is not None:
            return _not_beside_forget(forget, info)
        is_listed, is_random = info.data["class_list"] is not None, info.data["split"] == "random_images"
        if forget is None and not is_listed and not is_random:
            meaning = cls.model_fields["forget_classes"].description
            raise refusal(f"required key is missing: {meaning}")
        return _not_beside_list(_only_with_classes(forget, info), info)

    @field_validator("retain_classes", "retain_per_class", mode="before")
    @classmethod
    def _check_some_retained(cls, value: object) -> object:
        if value in (0, []) and not isinstance(value, bool):
            raise refusal(_NOTHING_RETAINED.format(found(value)))
        return value

    @field_validator("retain_classes")
    @classmethod
    def _check_retain_classes(
        cls, retain: tuple[str, ...] | int | None, info: ValidationInfo
    ) -> tuple[str, ...] | int | None:
        forget = info.data.get("forget_classes")
        if isinstance(forget, tuple) and isinstance(retain, tuple):
            both = [name for name in retain if name in forget]
            if both:
                names = ", ".join(f"`{quoted(name)}`" for name in both)
                raise refusal(f"expected classes that are not in forget_classes, found {names} in both lists")
        return _not_beside_list(_only_with_classes(retain, info), info)

    @field_validator("retain_per_class")
    @classmethod
    def _check_retain_per_class(cls, limit: int | None, info: ValidationInfo) -> int | None:
        return _only_with_classes(limit, info)

    @field_validator("proxy_retain")
    @classmethod
    def _check_proxy(cls, proxy: ProxySection | None, info: ValidationInfo) -> ProxySection | None:
        if proxy is not None and info.data.get("retain_per_class") is not None:
            raise refusal(
                "expected either retain_per_class or proxy_retain, found both: with a proxy no image of the "
                "retain classes is trained on; its own limit is proxy_retain.per_class"
            )
        return _not_beside_forget(_only_with_classes(proxy, info), info)


def _only_with_classes(value: _Value, info: ValidationInfo) -> _Value:
    """Return the value; refuse it with random images, where the sweep does not look at classes."""
    if value is not None and info.data.get("split") == "random_images":
        shown = "a mapping of keys" if isinstance(value, Section) else found(value)
        raise refusal(
            f"expected none with `split: random_images`, which does not look at classes, found {shown}; "
            "remove it"
        )
    return value


def _not_beside_forget(value: _Value, info: ValidationInfo) -> _Value:
    """Return the value; refuse it beside single images to forget, which decide it."""
    if value is not None and info.data.get("forget") is not None:
        shown = "a mapping of keys" if isinstance(value, Section) else found(value)
        raise refusal(
            f"expected none beside `forget`, which names the images to forget, found {shown}; remove either"
        )
    return value


def _not_beside_list(value: _Value, info: ValidationInfo) -> _Value:
    """Return the value; refuse it beside a list of classes, which decides it."""
    if value is not None and info.data.get("class_list") is not None:
        raise refusal(
            f"expected none beside class_list, which names the classes, found {found(value)}; remove either"
        )
    return value
