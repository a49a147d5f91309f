"""Records read back from JSON that another release may have written.

The rule for added fields and columns stands in ``store.schemas``; here it is carried out for JSON.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

Record = TypeVar("Record")


def read_fields(kind: type[Record], stored: Mapping[str, Any]) -> Record:
    """Return a record built from its stored fields.

    A field that is not stored gets its default, because an older release did not know it. A stored field that
    ``kind`` does not have is ignored, because a newer release added it. Releases only add fields, so a text
    that both lacks a field and has an unknown one was not written by any release.

    Args:
        kind: a dataclass.
        stored: field names and values, as parsed from JSON.

    Raises:
        ValueError: a field is missing and another one is unknown, so a name is damaged.
        TypeError: a field without a default is missing.
    """
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    missing, unknown = sorted(known - stored.keys()), sorted(stored.keys() - known)
    if missing and unknown:
        raise ValueError(
            f"{kind.__name__} lacks the fields {', '.join(missing)} "
            f"and has the unknown fields {', '.join(unknown)}"
        )
    return kind(**{name: value for name, value in stored.items() if name in known})
