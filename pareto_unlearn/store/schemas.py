"""The Arrow schemas of the four tables, and the way between records and Parquet bytes.

The columns of a table are the fields of its record class in ``records``: a field's annotation gives the
column's type, and ``| None`` makes it nullable. None is stored as null (not measured), NaN as NaN (measured,
not a number).

How stored records change from release to release:

- A new column, or a new field of a JSON record, is annotated ``| None`` and is None by default. It is added
  to the dataclass and nowhere else. Files of older releases read as null there.
- A column that this release does not know was added by a newer release. Records leave it out, and
  ``RunStore.table`` keeps it. Both are safe, because the meaning of all other columns stayed the same.
- ``SCHEMA_VERSION`` rises only when a column changes its meaning or type, or is removed. Files of a newer
  version are refused with a message that names both versions. Whoever raises it writes the conversion of
  older files and makes the fixture of the new version with ``tests/fixtures/make_store_fixture.py``.
- Fixtures of older versions, and of older releases of this version, are never written again.

A column that is missing because the file is old must be told from a column whose name was damaged. Arrow
stores the schema twice in the footer of a file: as Parquet columns and as the serialised schema under
``ARROW:schema``. Where the two differ, the file is damaged.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, get_args, get_type_hints

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
_SCHEMA_COPY_KEY = b"ARROW:schema"


_RECORDS: Mapping[str, type] = {
    "trials": TrialRecord,
    "curves": CurveRow,
    "metrics": MetricRow,
    "samples": SampleRow,
}
# bool comes first: it is a subclass of int.
_ARROW_TYPES: Mapping[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
}


def _schema(table: str, record: type) -> pa.Schema:
    """Return the columns of a record class, behind the trial and attempt that every row belongs to."""
    annotations = {"trial_id": str, "attempt": int} | get_type_hints(record)
    metadata: dict[bytes | str, bytes | str] = {
        _TABLE_KEY: table.encode(),
        _VERSION_KEY: str(SCHEMA_VERSION).encode(),
    }
    return pa.schema([_column(name, kind) for name, kind in annotations.items()], metadata=metadata)


def _column(name: str, annotation: Any) -> "pa.Field[Any]":
    kinds = get_args(annotation) or (annotation,)
    (kind,) = [kind for kind in kinds if kind is not NoneType]
    for python, arrow in _ARROW_TYPES.items():
        if issubclass(kind, python):
            return pa.field(name, arrow, nullable=NoneType in kinds)
    expected = ", ".join(known.__name__ for known in _ARROW_TYPES)
    raise TypeError(f"column {name} is {annotation}; expected one of {expected}, alone or with None")


SCHEMAS: Mapping[str, pa.Schema] = {table: _schema(table, record) for table, record in _RECORDS.items()}


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

    Columns unknown to this release are kept; nullable columns that the file lacks are not added here.

    Args:
        data: the whole file.
        table: trials, curves, metrics or samples.
        origin: the name of the file in messages.

    Raises:
        StoreError: the file is damaged, of another table or of a newer schema version.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        # A thread of Arrow's that lets go of the bytes while Python shuts down aborts the process.
        content = file.read(use_threads=False)
        content.validate(full=True)
        check_schema(file, table, origin)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(origin, f"not a readable Parquet file: {error}") from error
    return pa.table(content.columns, schema=_nullable(content.schema))


def check_schema(file: pq.ParquetFile, table: str, origin: str) -> None:
    """Check that a Parquet file is one of a table, and that its columns are as they were written.

    Raises:
        StoreError: its footer is damaged, or it is of another table or of a newer schema version.
        ArrowException, OSError, ValueError: the copy of its schema cannot be read.
    """
    found = file.metadata.metadata or {}
    # Arrow takes the metadata of its schema from the copy, whose version then hides a damaged one.
    schema = file.schema_arrow.with_metadata({key: found[key] for key in found if key != _SCHEMA_COPY_KEY})
    _check_footer(schema, _schema_copy(file.metadata), origin)
    _check_version(schema, table, origin)
    _check_columns(schema, table, origin)


def empty_table(table: str) -> pa.Table:
    """Return a table without rows, every column nullable: the start of a union of files."""
    schema = _nullable(SCHEMAS[table])
    # Not schema.empty_table(): it imports pandas, which takes as long as reading 10,000 trials.
    return pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def decode_record(data: bytes, origin: str) -> TrialRecord:
    """Return the one record of a file of ``trials``, with None in the columns that the file lacks.

    Raises:
        StoreError: the file is damaged, of a newer schema version, or holds no valid record.
    """
    records = decode_records(data, origin)
    if len(records) != 1:
        raise _damaged(origin, f"expected 1 row, found {len(records)}")
    return records[0]


def decode_records(data: bytes, origin: str) -> list[TrialRecord]:
    """Return all records of a file of ``trials``, with None in the columns that the file lacks.

    Raises:
        StoreError: the file is damaged, of a newer schema version, or a row of it is no valid record.
    """
    content = decode_table(data, "trials", origin)
    known = [name for name in SCHEMAS["trials"].names if name in content.column_names]
    columns = [content[name].to_pylist() for name in known]
    try:
        return [_record_of(dict(zip(known, row, strict=True))) for row in zip(*columns, strict=True)]
    except (TypeError, ValueError) as error:
        raise _damaged(origin, f"the row is not a trial: {error!r}") from error


def _record_of(values: dict[str, Any]) -> TrialRecord:
    values["phase"], values["state"] = Phase(values["phase"]), TrialState(values["state"])
    values["role"] = None if values["role"] is None else Role(values["role"])
    return TrialRecord(**values)


def _schema_copy(footer: pq.FileMetaData) -> pa.Schema:
    """Return the schema that Arrow stored in the footer beside the Parquet columns."""
    text = (footer.metadata or {}).get(_SCHEMA_COPY_KEY, b"")
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text, validate=True)))


def _check_footer(schema: pa.Schema, copy: pa.Schema, origin: str) -> None:
    """Refuse a file whose columns, types or version were damaged; page checksums do not cover the footer."""
    if not schema.equals(copy) or (schema.metadata or {}) != (copy.metadata or {}):
        raise _damaged(
            origin, f"its columns differ from the copy of its schema under {_SCHEMA_COPY_KEY.decode()}"
        )


def _check_version(schema: pa.Schema, table: str, origin: str) -> None:
    metadata = schema.metadata or {}
    found, version = metadata.get(_TABLE_KEY, b"").decode("utf-8", "replace"), metadata.get(_VERSION_KEY, b"")
    if found != table or not version.isdigit():
        raise _damaged(
            origin, f"expected table {table} with a schema version, found {found or 'no table name'}"
        )
    check_schema_version(int(version), origin)


def _check_columns(schema: pa.Schema, table: str, origin: str) -> None:
    types = dict(zip(schema.names, schema.types, strict=True))
    absent = {field.name for field in SCHEMAS[table] if field.nullable} - types.keys()
    columns = [field for field in SCHEMAS[table] if field.name not in absent]
    wrong = [field.name for field in columns if types.get(field.name) != field.type]
    if wrong:
        raise _damaged(origin, f"columns {', '.join(wrong)} are missing or of another type")


def check_schema_version(version: int, origin: str) -> None:
    """Refuse a file of a schema version that this release does not know.

    Raises:
        StoreError: the version is newer than the newest one this release reads.
    """
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{origin}: schema version {version} is newer than {SCHEMA_VERSION}, the newest this release "
            "reads; update pareto-unlearn"
        )


def _damaged(origin: str, what: str) -> StoreError:
    return StoreError(
        f"{origin}: {what}. The file is damaged: restore it from a copy, or let `pareto-unlearn store "
        "repair` set it aside and resume the sweep, which solves again what was lost"
    )


def _nullable(schema: pa.Schema) -> pa.Schema:
    fields = [field.with_nullable(True) for field in schema]
    return pa.schema(fields).with_metadata(schema.metadata or {})
