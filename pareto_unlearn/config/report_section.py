"""The section of a sweep file that says what the report may show, and how a report reads it."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from pareto_unlearn.config.value_types import Section
from pareto_unlearn.config.yaml_source import read_document
from pareto_unlearn.errors import ConfigError


class ForgetImages(StrEnum):
    """How much of the forget images a report may hold."""

    SHOWN = "shown"
    VEILED = "veiled"
    NONE = "none"


_HARMLESS = ("digits", "generated")
"""Data sets that hold nobody's images."""


class ReportSection(Section):
    """What the report may show; it changes no result."""

    forget_images: Literal["shown", "veiled", "none"] | None = Field(
        default=None,
        description="pictures of forget images in the report. shown: all. veiled: inputs, truths and what "
        "models that still show them make of them become coarse mosaics. none: no picture. null: shown for "
        "digits and generated images, veiled for image files",
    )


def forget_images_of(sweep_file: str) -> ForgetImages:
    """Return how much of the forget images a report may hold, by the text of its run's sweep file.

    The text is not checked as a sweep file is, since a report needs no families of models. Where it says
    nothing of its images they are veiled: they may be anybody's.
    """
    try:
        data = read_document(sweep_file, "sweep.yaml").data
    except ConfigError:
        return ForgetImages.VEILED  # a report of a damaged run is still made
    told = _part(data, "report").get("forget_images")
    if told in list(ForgetImages):
        return ForgetImages(told)
    is_harmless = _part(data, "data").get("dataset") in _HARMLESS
    return ForgetImages.SHOWN if is_harmless else ForgetImages.VEILED


def subject_of(sweep_file: str) -> str:
    """Return model and data of a run in words, by the text of its sweep file; empty if it names neither."""
    try:
        data = read_document(sweep_file, "sweep.yaml").data
    except ConfigError:
        return ""
    family, dataset = _part(data, "model").get("family"), _part(data, "data").get("dataset")
    return f"{family} on {dataset}" if isinstance(family, str) and isinstance(dataset, str) else ""


def _part(data: Any, name: str) -> dict[str, Any]:
    found = data.get(name) if isinstance(data, dict) else None
    return found if isinstance(found, dict) else {}
