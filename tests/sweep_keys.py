"""Every key that a sweep file may have, and what it means."""

from typing import Any

from pareto_unlearn.config.fields import SECTIONS, sections_in


def field_descriptions() -> dict[str, str]:
    """Return what every key means, by dotted key; keys of ``epsilon`` have one entry per schedule."""
    return {
        _key(path, name): info.description or _first_line(info.annotation)
        for path, section in SECTIONS.items()
        for name, info in section.model_fields.items()
    }


def _key(path: tuple[str, ...], name: str) -> str:
    """Write ``epsilon.points (grid)`` for a key that one schedule knows, the dotted key for all others."""
    if path[:1] == ("epsilon",):
        return f"epsilon.{name} ({path[1]})"
    return ".".join((*path, name))


def _first_line(annotation: Any) -> str:
    sections = sections_in(annotation)
    return (sections[0].__doc__ or "").splitlines()[0] if sections else ""
