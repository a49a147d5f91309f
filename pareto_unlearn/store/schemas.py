"""The Arrow schemas of the four tables, and the way between records and Parquet bytes.

A new column is added in ``records`` and here. Every file carries the schema version in its metadata; a
file of a newer version is refused, a file of an older one reads with nulls in the columns it lacks.
None is stored as null (not measured) and NaN as NaN (measured, not a number).
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import (
    SCHEMA_VERSION,
    CurveRow,
    MetricRow,
    Phase,
    Role,
    SampleRow,
    TrialRecord,
    TrialState,
)

_TABLE_KEY = b"pareto_unlearn.table"
_VERSION_KEY = b"pareto_unlearn.schema_version"


def _required(kind: pa.DataType, names: str) -> "list[pa.Field[Any]]":
    return [pa.field(name, kind, nullable=False) for name in names.split()]


def _optional(kind: pa.DataType, names: str) -> "list[pa.Field[Any]]":
    return [pa.field(name, kind, nullable=True) for name in names.split()]


def _schema(table: str, *fields: "list[pa.Field[Any]]") -> pa.Schema:
    metadata: dict[bytes | str, bytes | str] = {
        _TABLE_KEY: table.encode(),
        _VERSION_KEY: str(SCHEMA_VERSION).encode(),
    }
    return pa.schema([field for group in fields for field in group], metadata=metadata)


_KEY = _required(pa.string(), "trial_id") + _required(pa.int64(), "attempt")

SCHEMAS: Mapping[str, pa.Schema] = {
    "trials": _schema(
        "trials",
        _KEY,
        _required(pa.string(), "phase"),
        _optional(pa.string(), "role"),
        _required(pa.string(), "method"),
        _required(pa.int64(), "seed"),
        _required(pa.string(), "start state reason"),
        _optional(pa.float64(), "epsilon epsilon_fraction range_width weight"),
        _optional(pa.string(), "parents checks"),
        _optional(pa.float64(), "interpolation"),
        _optional(pa.float64(), "f1 f2 f1_heldout f2_heldout e e_heldout"),
        _optional(pa.float64(), "completeness completeness_worst_class completeness_worst_5pct"),
        _optional(pa.float64(), "completeness_heldout completeness_worst_class_heldout"),
        _optional(pa.float64(), "completeness_worst_5pct_heldout"),
        _optional(pa.float64(), "share_above_epsilon share_above_epsilon_high"),
        _optional(pa.float64(), "share_above_epsilon_heldout share_above_epsilon_heldout_high"),
        _optional(
            pa.float64(), "retained_quality retained_quality_heldout violation learning_rate multiplier"
        ),
        _optional(pa.float64(), "residual_multiplier residual_norm_f1 residual_norm_f2 residual_cosine"),
        _optional(pa.float64(), "f1_image_std"),
        _required(pa.int64(), "steps gradient_pairs skipped_steps"),
        _optional(pa.float64(), "seconds images_per_second"),
        _optional(pa.int64(), "peak_memory_bytes num_parameters"),
        _optional(pa.string(), "checkpoint checkpoint_sha256"),
        _required(pa.string(), "code_version"),
    ),
    "curves": _schema(
        "curves",
        _KEY,
        _required(pa.int64(), "step"),
        _required(pa.float64(), "f1 f2 multiplier control gradient_norm_f1 gradient_norm_f2 cosine"),
        _required(pa.float64(), "learning_rate"),
        _optional(pa.float64(), "epsilon images_per_second"),
    ),
    "metrics": _schema(
        "metrics",
        _KEY,
        _required(pa.string(), "set split metric protocol"),
        _required(pa.float64(), "value"),
        _required(pa.int64(), "n"),
        _optional(pa.float64(), "low high"),
        _optional(pa.string(), "class_name"),
    ),
    "samples": _schema(
        "samples",
        _KEY,
        _required(pa.string(), "set image_id class_name kind"),
        _required(pa.binary(), "image"),
        _required(pa.int64(), "width height"),
    ),
}


def encode_rows(
    table: str,
    trial_id: str,
    attempt: int,
    rows: Sequence[TrialRecord] | Sequence[CurveRow] | Sequence[MetricRow] | Sequence[SampleRow],
) -> bytes:
    """Return the Parquet file that holds one trial's rows of a table, with a checksum on every page.

    Raises:
        ValueError: a row holds None in a column that must be measured, or a value of another type.
    """
    schema = SCHEMAS[table]
    columns: dict[str, list[object]] = {"trial_id": [trial_id] * len(rows), "attempt": [attempt] * len(rows)}
    for field in schema:
        if field.name not in columns:
            columns[field.name] = [getattr(row, field.name) for row in rows]
        if not field.nullable and None in columns[field.name]:
            raise ValueError(f"{table}.{field.name} of trial {trial_id} is None but must hold a value")
    try:
        content = pa.Table.from_pydict(columns, schema=schema)
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"a row of {table} of trial {trial_id} does not fit its schema: {error}") from error
    sink = io.BytesIO()
    pq.write_table(content, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def decode_table(data: bytes, table: str, origin: str) -> pa.Table:
    """Return the content of one Parquet file, all columns nullable, page checksums verified.

    Columns unknown to this version are kept; columns an older version lacks are not added here.

    Args:
        data: the whole file.
        table: trials, curves, metrics or samples.
        origin: the file as messages should name it.

    Raises:
        StoreError: the file is damaged, of another table or of a newer schema.
    """
    try:
        content = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(
            # A thread of Arrow's that lets go of the bytes while Python shuts down aborts the process.
            use_threads=False
        )
        content.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(origin, f"not a readable Parquet file: {error}") from error
    _check_version(content.schema, table, origin)
    return pa.table(content.columns, schema=_nullable(content.schema))


def empty_table(table: str) -> pa.Table:
    """Return a table without rows, every column nullable: the start of a union of files."""
    return _nullable(SCHEMAS[table]).empty_table()


def decode_record(data: bytes, origin: str) -> TrialRecord:
    """Return the one record of a file of ``trials``.

    Raises:
        StoreError: the file is damaged, of a newer schema, or holds no valid record.
    """
    rows = decode_table(data, "trials", origin).to_pylist()
    if len(rows) != 1:
        raise _damaged(origin, f"expected 1 row, found {len(rows)}")
    known = {field.name for field in dataclasses.fields(TrialRecord)}
    values = {name: value for name, value in rows[0].items() if name in known}
    try:
        values["phase"], values["state"] = Phase(values["phase"]), TrialState(values["state"])
        values["role"] = None if values["role"] is None else Role(values["role"])
        return TrialRecord(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(origin, f"the row is not a trial: {error!r}") from error


def _check_version(schema: pa.Schema, table: str, origin: str) -> None:
    metadata = schema.metadata or {}
    found, version = metadata.get(_TABLE_KEY, b"").decode("utf-8", "replace"), metadata.get(_VERSION_KEY, b"")
    if found != table or not version.isdigit():
        raise _damaged(
            origin, f"expected table {table} with a schema version, found {found or 'no table name'}"
        )
    check_schema_version(int(version), origin)
    if int(version) < SCHEMA_VERSION:
        return
    # Page checksums do not cover the footer, where one flipped bit renames a column or changes its type.
    types = dict(zip(schema.names, schema.types, strict=True))
    wrong = [field.name for field in SCHEMAS[table] if types.get(field.name) != field.type]
    if wrong:
        raise _damaged(origin, f"columns {', '.join(wrong)} are missing or of another type")


def check_schema_version(version: int, origin: str) -> None:
    """Refuse a file written by a newer release.

    Raises:
        StoreError: the version is newer than the one this release writes.
    """
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{origin}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this release "
            "reads; update pareto-unlearn"
        )


def _damaged(origin: str, what: str) -> StoreError:
    return StoreError(
        f"{origin}: {what}. The file is damaged: restore it from a copy, or move it out of the run directory "
        "and resume the sweep, which solves this trial again"
    )


def _nullable(schema: pa.Schema) -> pa.Schema:
    fields = [field.with_nullable(True) for field in schema]
    return pa.schema(fields).with_metadata(schema.metadata or {})
