"""The text of ``run.json`` and the facts in it."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import RunInfo, Scales, ValidRange
from pareto_unlearn.store.schemas import check_schema_version
from pareto_unlearn.stored_fields import read_fields, sealed, unsealed


def encode_info(info: RunInfo) -> bytes:
    """Return the content of ``run.json``.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(sealed(dataclasses.asdict(info)), indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode()


def decode_info(text: str, origin: str) -> RunInfo:
    """Return the content of ``run.json``; ``origin`` is its name in messages.

    Raises:
        StoreError: the text is damaged or of a newer schema version.
    """
    try:
        content = json.loads(text)
        check_schema_version(content["schema_version"], origin)
        info = _info_from(unsealed(content))
        encode_info(info)  # which refuses numbers that are not finite
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise StoreError(f"{origin} is damaged ({error!r}); restore it from a copy") from error
    return info


def _info_from(content: dict[str, Any]) -> RunInfo:
    restored = {name: restore(content[name]) for name, restore in _RESTORED.items() if name in content}
    return read_fields(RunInfo, content | restored)


def _scales(stored: dict[str, Any] | None) -> Scales | None:
    return None if stored is None else read_fields(Scales, stored)


def _ranges(stored: list[dict[str, Any]]) -> tuple[ValidRange, ...]:
    return tuple(read_fields(ValidRange, entry) for entry in stored)


def _point(stored: list[Any] | None) -> tuple[float, float] | None:
    return None if stored is None else (float(stored[0]), float(stored[1]))


_RESTORED: Mapping[str, Callable[[Any], object]] = {
    "classes_forget": tuple,
    "classes_retain": tuple,
    "scales": _scales,
    "ranges": _ranges,
    "reference_point": _point,
}
"""Fields of ``RunInfo`` that JSON holds in another form, and what restores them."""
