"""Problems with the values of a sweep file: the place of each, and a text that says what to do."""

import re
from collections.abc import Callable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pareto_unlearn.config.epsilon_section import SCHEDULES
from pareto_unlearn.config.fields import SECTIONS
from pareto_unlearn.config.value_types import Section
from pareto_unlearn.config.wording import KeyPath, did_you_mean, dotted, found, listed, one_of
from pareto_unlearn.config.yaml_source import Document, FileProblem, looks_like_number


def problems_of(error: ValidationError, document: Document) -> list[FileProblem]:
    """Return one problem for every error of the schema, except in values that could not be read."""
    return [
        _problem(details, document)
        for details in error.errors(include_url=False)
        if not document.is_refused(_path(details, document))
    ]


def _problem(details: ErrorDetails, document: Document) -> FileProblem:
    path = _path(details, document)
    return FileProblem(document.place_of(path), path, _TEXTS.get(details["type"], _other)(details))


def _path(details: ErrorDetails, document: Document) -> KeyPath:
    """Return the keys as they are in the file, without the schedule that pydantic inserts."""
    location = details["loc"]
    if len(location) > 1 and location[0] == "epsilon" and location[1] in SCHEDULES:
        location = ("epsilon", *location[2:])
    if details["type"] == "union_tag_invalid" and ("epsilon", "schedule") in document.places:
        return (*location, "schedule")
    is_unwritten_method = location[-1:] == ("method",) and location not in document.places
    if is_unwritten_method and details["type"] != "missing":
        return location[:-1]  # the file gives the baseline by its name alone, without a key `method`
    return location


def _other(details: ErrorDetails) -> str:
    return f"{details['msg']}, found {found(details['input'])}"


def _refused(details: ErrorDetails) -> str:
    return str(details["ctx"]["text"])


def _missing(details: ErrorDetails) -> str:
    *section, key = details["loc"]
    if isinstance(key, int):
        return f"expected another item here, found a list of {key}"
    info = _section(section).model_fields[key]
    meaning = info.description or (info.annotation.__doc__ if info.annotation else None)
    return f"required key is missing: {meaning}"


def _unknown(details: ErrorDetails) -> str:
    *location, key = details["loc"]
    known = list(_section(location).model_fields)
    text = f"unknown key{_advice(str(key), known, location)} Known keys: {listed(known)}"
    return f"{text}. Is a space missing after the colon?" if ":" in str(key) else text


def _section(location: list[int | str]) -> type[Section]:
    return SECTIONS[tuple(part for part in location if isinstance(part, str))]


def _advice(key: str, known: list[str], location: list[int | str]) -> str:
    """Return which key may have been meant: of another schedule, of another section, or of a similar name."""
    if location[:1] == ["epsilon"]:
        owners = [f"`schedule: {name}`" for name, section in SCHEDULES.items() if key in section.model_fields]
        if owners:
            return f" of schedule {location[1]}; it belongs to {' and '.join(owners)}."
    elsewhere = [
        dotted((*path[:1], key) if path[:1] == ("epsilon",) else (*path, key)) for path in _owners(key)
    ]
    plural = did_you_mean(key, [name for name in known if name == f"{key}s"])
    if elsewhere and not plural:
        return f"; did you mean {' or '.join(f'`{name}`' for name in dict.fromkeys(elsewhere))}?"
    return plural or did_you_mean(key, known) or "."


def _owners(key: str) -> list[tuple[str, ...]]:
    return [path for path, section in SECTIONS.items() if key in section.model_fields]


def _choice(details: ErrorDetails) -> str:
    return one_of(re.findall(r"'([^']*)'", details["ctx"]["expected"]), details["input"])


def _schedule(details: ErrorDetails) -> str:
    given = details["input"]
    return one_of(list(SCHEDULES), given.get("schedule") if isinstance(given, Mapping) else given)


def _kind(expected: str) -> Callable[[ErrorDetails], str]:
    def text(details: ErrorDetails) -> str:
        return f"expected {expected}, found {found(details['input'])}{_remedy(expected, details['input'])}"

    return text


def _remedy(expected: str, value: object) -> str:
    if expected in {"an integer", "a number"}:
        return _number_remedy(expected, value)
    if expected == "true or false" and isinstance(value, str):
        return "; only true and false are booleans"
    if expected == "text" and value is not None and not isinstance(value, list | dict):
        return "; put it in quotes"
    if expected.startswith("a mapping") and value is None:
        return "; indent its keys below it, or remove the line"
    if expected.startswith("a mapping") and isinstance(value, str) and ":" in value:
        return "; is a space missing after the colon?"
    return ""


def _number_remedy(expected: str, value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return f": write {int(value)}"
    if not isinstance(value, str):
        return ""
    plain = value.replace("_", "").replace(",", "")
    if re.fullmatch(r"[-+]?0[0-9]+", value):
        return f"; `{value}` has a leading zero: write {int(value)}"
    if looks_like_number(value):
        return "; remove the quotes"
    return f": write {plain}" if expected == "an integer" and plain.isascii() and plain.isdigit() else ""


def _bound(words: str, key: str) -> Callable[[ErrorDetails], str]:
    def text(details: ErrorDetails) -> str:
        return f"expected {words} {details['ctx'][key]:.12g}, found {found(details['input'])}"

    return text


def _too_long(details: ErrorDetails) -> str:
    return f"expected {details['ctx']['max_length']} items, found {details['ctx']['actual_length']}"


_SECTION_EXPECTED = _kind("a mapping of keys")
_TEXTS: dict[str, Callable[[ErrorDetails], str]] = {
    "refused": _refused,
    "missing": _missing,
    "extra_forbidden": _unknown,
    "literal_error": _choice,
    "union_tag_invalid": _schedule,
    "int_type": _kind("an integer"),
    "float_type": _kind("a number"),
    "finite_number": _kind("a finite number"),
    "string_type": _kind("text"),
    "bool_type": _kind("true or false"),
    "tuple_type": _kind("a list"),
    "model_type": _SECTION_EXPECTED,
    "model_attributes_type": _SECTION_EXPECTED,
    "greater_than": _bound("a number above", "gt"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than": _bound("a number below", "lt"),
    "less_than_equal": _bound("at most", "le"),
    "too_long": _too_long,
}
