"""The Parquet files of a run: a file per table and attempt, and a file per metric measured afterwards.

``label`` is the name of the run in messages.
"""

from collections.abc import Sequence

import pyarrow as pa

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import MetricRow, SampleRow, TrialRecord
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import added_name, part_name, writer_lock
from pareto_unlearn.store.schemas import decode_record, decode_table, encode_rows
from pareto_unlearn.stored_fields import read_fields


def read_record(storage: Storage, part: str, label: str) -> TrialRecord:
    """Return the row of a committed trial.

    Raises:
        StoreError: the file is damaged, of a newer schema or of another trial.
    """
    origin = f"{label}: trials/{part}"
    record = decode_record(storage.read(f"trials/{part}"), origin)
    if part != part_name(record.trial_id, record.attempt):
        raise StoreError(f"{origin} holds trial {record.trial_id} attempt {record.attempt}; move it away")
    return record


def read_part(storage: Storage, table: str, part: str, label: str) -> pa.Table:
    """Return the rows of one file of a table.

    Raises:
        StoreError: the file is damaged or of a newer schema.
    """
    return decode_table(storage.read(f"{table}/{part}"), table, f"{label}: {table}/{part}")


def drop_pictures(storage: Storage, part: str, image_set: str, label: str) -> int:
    """Write a file of samples again without those of a set of images; return how many these were.

    Raises:
        StoreError: the file is damaged or of a newer schema.
    """
    rows = read_part(storage, "samples", part, label).to_pylist()
    if not rows:
        return 0
    kept = [read_fields(SampleRow, row) for row in rows if row["set"] != image_set]
    content = encode_rows("samples", rows[0]["trial_id"], rows[0]["attempt"], kept)
    if len(kept) < len(rows):
        storage.put(f"samples/{part}", content)
    return len(rows) - len(kept)


def add_metric(storage: Storage, record: TrialRecord, rows: Sequence[MetricRow]) -> bool:
    """Return True after writing the rows of one metric of a committed trial, False if its file exists.

    Raises:
        ValueError: there are no rows, or they are of several metrics.
    """
    kinds = {(row.protocol, row.metric) for row in rows}
    if len(kinds) != 1:
        raise ValueError(f"expected the rows of one metric and protocol, found those of {sorted(kinds)}")
    ((protocol, metric),) = kinds
    return add_metrics(storage, record, protocol, metric, rows)


def add_metrics(
    storage: Storage, record: TrialRecord, protocol: str, group: str, rows: Sequence[MetricRow]
) -> bool:
    """Return True after writing a group of metrics of a committed trial, False if its file exists.

    Raises:
        ValueError: there are no rows, or they are of several protocols.
    """
    found = {row.protocol for row in rows}
    if found != {protocol}:
        raise ValueError(f"expected rows of protocol {protocol}, found those of {sorted(found)}")
    name = added_name(part_name(record.trial_id, record.attempt), protocol, group)
    content = encode_rows("metrics", record.trial_id, record.attempt, rows)
    with storage.exclusive(writer_lock(record.trial_id)):
        return storage.put_new(f"metrics/{name}", content)
