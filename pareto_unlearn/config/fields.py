"""The sections of a sweep file by their keys; derived from the schema."""

from typing import Any, get_args

from pareto_unlearn.config.schema import SweepConfig
from pareto_unlearn.config.value_types import Section


def sections_in(annotation: Any) -> list[type[Section]]:
    """Return the section classes in an annotation, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]


def _all_sections(section: type[Section], path: tuple[str, ...]) -> dict[tuple[str, ...], type[Section]]:
    sections: dict[tuple[str, ...], type[Section]] = {path: section}
    for name, info in section.model_fields.items():
        inner = sections_in(info.annotation)
        for part in inner:
            tag = (part.model_fields["schedule"].default,) if len(inner) > 1 else ()
            sections |= _all_sections(part, (*path, name, *tag))
    return sections


SECTIONS: dict[tuple[str, ...], type[Section]] = _all_sections(SweepConfig, ())
"""Every section by its keys; a schedule of epsilon has a further key, as in ``("epsilon", "grid")``."""
