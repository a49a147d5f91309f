"""The keys of a sweep file, section by section, and their descriptions; derived from the schema."""

from typing import Any, get_args

from pareto_unlearn.config.schema import SweepConfig
from pareto_unlearn.config.value_types import Section


def _sections_in(annotation: Any) -> list[type[Section]]:
    """Return the section classes in an annotation, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections_in(part)]


def _all_sections(section: type[Section], path: tuple[str, ...]) -> dict[tuple[str, ...], type[Section]]:
    sections: dict[tuple[str, ...], type[Section]] = {path: section}
    for name, info in section.model_fields.items():
        inner = _sections_in(info.annotation)
        for part in inner:
            tag = (part.model_fields["schedule"].default,) if len(inner) > 1 else ()
            sections |= _all_sections(part, (*path, name, *tag))
    return sections


SECTIONS: dict[tuple[str, ...], type[Section]] = _all_sections(SweepConfig, ())
"""Every section by its keys; a schedule of epsilon has a further key, as in ``("epsilon", "grid")``."""


def field_descriptions() -> dict[str, str]:
    """Return the description of every key by dotted key; a key of ``epsilon`` has one per schedule."""
    return {
        _key(path, name): info.description or _first_line(info.annotation)
        for path, section in SECTIONS.items()
        for name, info in section.model_fields.items()
    }


def _key(path: tuple[str, ...], name: str) -> str:
    """Return ``epsilon.points (grid)`` for a key of a schedule, and the dotted key for all others."""
    if path[:1] == ("epsilon",):
        return f"epsilon.{name} ({path[1]})"
    return ".".join((*path, name))


def _first_line(annotation: Any) -> str:
    sections = _sections_in(annotation)
    return (sections[0].__doc__ or "").splitlines()[0] if sections else ""
