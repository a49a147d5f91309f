"""The JSON Schema of sweep files, for editors: keys with their kinds, defaults and meanings.

A schema of one file cannot say what goes with what; that stays with ``load_config``. It accepts every file
that ``load_config`` accepts.
"""

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from pareto_unlearn.config.epsilon_section import SCHEDULES, GridEpsilon
from pareto_unlearn.config.schema import SweepConfig

_FILLED = "null:"
"""Descriptions say so of keys that take null and get their value from other keys."""


class _Generator(GenerateJsonSchema):
    """A default that stands for "as another key says" has no JSON, which is no reason for a warning."""

    ignored_warning_kinds = {*GenerateJsonSchema.ignored_warning_kinds, "non-serializable-default"}  # noqa: RUF012 (pydantic's name)


def make_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a sweep file."""
    schema = _without_titles(SweepConfig.model_json_schema(schema_generator=_Generator))
    for section in (schema, *schema["$defs"].values()):
        properties = section.get("properties", {})
        section["properties"] = {name: _as_read(value) for name, value in properties.items()}
    _ask_for_schedules(schema["$defs"])
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "title": "Sweep file of pareto-unlearn",
        **schema,
        "description": "what `pareto-unlearn sweep FILE` runs",
    }


def _without_titles(value: Any) -> Any:
    """Return a schema without titles, which would only say the keys again."""
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name != "title" or not isinstance(part, str)}
        return {name: _without_titles(part) for name, part in kept.items()}
    return [_without_titles(part) for part in value] if isinstance(value, list) else value


def _ask_for_schedules(sections: dict[str, Any]) -> None:
    """Name every schedule but the one that is meant where the file names none."""
    for section in SCHEDULES.values():
        if section is not GridEpsilon:
            known = sections[section.__name__]
            known["required"] = ["schedule", *known.get("required", [])]


def _as_read(value: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key.

    It takes null too where null stands for what other keys decide. A section's defaults stand at its keys.
    """
    if "$ref" in value:
        return {name: part for name, part in value.items() if name != "default"}
    takes_null = value.get("default", "") is None or _FILLED in value.get("description", "")
    if not takes_null or _is_nullable(value):
        return value
    about = {name: part for name, part in value.items() if name in ("default", "description")}
    kind = {name: part for name, part in value.items() if name not in about}
    return {"anyOf": [kind, {"type": "null"}], **about}


def _is_nullable(value: Mapping[str, Any]) -> bool:
    return {"type": "null"} in value.get("anyOf", [])
