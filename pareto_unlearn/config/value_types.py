"""Kinds of values in a sweep file, and the checks that several sections share.

A check raises ``refusal``; ``problems`` adds the place and the key.
"""

import re
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from pareto_unlearn.config.wording import found
from pareto_unlearn.foreign_text import plain

_Item = TypeVar("_Item")


class Section(BaseModel):
    """Base of all sections: frozen, without unknown keys, conversion between kinds, NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def refusal(text: str) -> PydanticCustomError:
    """Return the error of one of our own checks; the text is passed as a value, so its braces stay braces."""
    return PydanticCustomError("refused", "{text}", {"text": text})


def each_once(values: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """Return the values; refuse two equal values."""
    for index, value in enumerate(values):
        if value in values[:index]:
            raise refusal(f"expected every item once, found {found(value)} twice; remove one")
    return values


def some_each_once(values: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """Return the values; refuse an empty list, and two equal values."""
    if not values:
        raise refusal("expected at least one item, found an empty list")
    return each_once(values)


def is_one_line(text: str) -> bool:
    """Return whether text is one line that steers no terminal.

    Python's ``isprintable`` will not do: it refuses the spaces that macOS puts into names of screenshots.
    """
    return bool(text) and plain(text) == text and not {"\n", "\t"} & set(text)


def _check_single_line(text: str) -> str:
    if not is_one_line(text):
        raise refusal(f"expected one line of printable text, found {found(text)}")
    return text


def _check_no_credentials(text: str) -> str:
    # They would be readable: the resolved sweep is stored beside the results and shown in reports.
    if re.match(r"[A-Za-z0-9+.-]+://[^/?#]*@", text):
        raise refusal("expected a location without user name and password; pass them through the environment")
    return text


def _check_run_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) is None:
        raise refusal(
            "expected 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or digit, "
            f"found {found(name)}; the name becomes a directory"
        )
    return name


def _read_class_name(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refusal(f"expected a class name or number, found {found(value)}; put the name in quotes")
    return _check_single_line(str(value))


def _read_classes(value: object) -> tuple[str, ...] | int:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise refusal(f"expected a list of classes or a count of at least 1, found {found(value)}")
        return value
    if not isinstance(value, list | tuple):
        raise refusal(f"expected a list of classes such as [0, 1] or a count of them, found {found(value)}")
    if not value:
        raise refusal("expected at least one class, found an empty list")
    return each_once(tuple(_read_class_name(item) for item in value))


Text = Annotated[str, AfterValidator(_check_single_line)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
_NameList = Annotated[list[str | int], Field(min_length=1)]
Classes = Annotated[
    tuple[str, ...] | int, BeforeValidator(_read_classes, json_schema_input_type=Count | _NameList)
]
Decay = Annotated[float, Field(ge=0, lt=1)]
Location = Annotated[Text, AfterValidator(_check_no_credentials)]
RunName = Annotated[str, AfterValidator(_check_run_name)]
