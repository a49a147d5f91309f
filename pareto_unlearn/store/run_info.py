"""The text of ``run.json`` and the facts in it."""

import dataclasses
import json
from typing import Any

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import RunInfo, Scales, ValidRange
from pareto_unlearn.store.schemas import check_schema_version


def encode_info(info: RunInfo) -> bytes:
    """Return the content of ``run.json``.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(dataclasses.asdict(info), indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode()


def decode_info(text: str, origin: str) -> RunInfo:
    """Return what ``run.json`` says; ``origin`` names it in messages.

    Raises:
        StoreError: it is damaged or of a newer schema.
    """
    try:
        content = json.loads(text)
        check_schema_version(content["schema_version"], origin)
        return _info_from(content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{origin} is damaged ({error!r}); restore it from a copy") from error


def _info_from(content: dict[str, Any]) -> RunInfo:
    scales, reference = content.get("scales"), content.get("reference_point")
    known = {field.name for field in dataclasses.fields(RunInfo)}
    restored = {
        "classes_forget": tuple(content["classes_forget"]),
        "classes_retain": tuple(content["classes_retain"]),
        "scales": None if scales is None else Scales(**scales),
        "ranges": tuple(ValidRange(**entry) for entry in content["ranges"]),
        "reference_point": None if reference is None else (float(reference[0]), float(reference[1])),
    }
    return RunInfo(**{name: value for name, value in {**content, **restored}.items() if name in known})
