"""The commit of a trial's result: all of its files, and last the row that makes them count."""

import dataclasses
import logging

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import MODEL_FILE, TrialRecord, TrialResult, TrialState
from pareto_unlearn.store import banks, checkpoints
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.known_rows import KnownRows
from pareto_unlearn.store.names import checkpoint_directory, part_name, writer_lock
from pareto_unlearn.store.schemas import encode_rows

RESUMABLE = frozenset({TrialState.INTERRUPTED, TrialState.STALE})
"""Endings after which the next attempt continues from the resume generations, so a commit keeps them."""

_logger = logging.getLogger(__name__)


def commit(storage: Storage, rows: KnownRows, result: TrialResult, start: str, label: str) -> TrialRecord:
    """Store the whole result of a trial and return its row as stored; see ``RunStore.commit``.

    Args:
        storage: of the run.
        rows: of the run, by which an attempt is found that is committed already.
        result: of the trial.
        start: what names the files of this start of the trial.
        label: what errors call the run.
    """
    trial_id, attempt = result.record.trial_id, result.record.attempt
    part = part_name(trial_id, attempt)
    with storage.exclusive(writer_lock(trial_id)):
        if (committed := rows.find(part)) is not None:
            return _tidied(storage, committed, label)
        encoded = {
            "curves": encode_rows("curves", trial_id, attempt, result.curves),
            "metrics": encode_rows("metrics", trial_id, attempt, result.metrics),
            "samples": encode_rows("samples", trial_id, attempt, result.samples),
        }
        record = _commit_files(storage, result, start)
        row = encode_rows("trials", trial_id, attempt, [record])
        is_mine = all(_put_part(storage, part, table, data) for table, data in encoded.items())
        if is_mine and storage.put_new(f"trials/{part}", row):
            return _tidied(storage, record, label)
        if start and record.checkpoint is not None:
            storage.remove_directory(record.checkpoint)
        return rows.row_in(part)


def _put_part(storage: Storage, part: str, table: str, data: bytes) -> bool:
    """Return True after writing a file of an attempt, False if the attempt was committed meanwhile."""
    if storage.put_new(f"{table}/{part}", data):
        return True
    if storage.exists(f"trials/{part}"):
        return False
    storage.put(f"{table}/{part}", data)  # a crash left the other
    return True


def _commit_files(storage: Storage, result: TrialResult, start: str) -> TrialRecord:
    record = result.record
    directory = checkpoint_directory(record.trial_id, record.attempt, start)
    if not result.files:
        storage.remove_directory(directory)
        return dataclasses.replace(record, checkpoint=None, checkpoint_sha256=None)
    manifest = checkpoints.write_directory(
        storage,
        directory,
        result.files,
        trial_id=record.trial_id,
        attempt=record.attempt,
        steps=record.steps,
    )
    model = manifest.files.get(MODEL_FILE)
    return dataclasses.replace(
        record,
        checkpoint=None if model is None else directory,
        checkpoint_sha256=None if model is None else model.sha256,
    )


def _tidied(storage: Storage, record: TrialRecord, label: str) -> TrialRecord:
    """Return the record, after removing resume states and the checkpoints that a path does not list."""
    if record.state in RESUMABLE:
        return record
    try:
        checkpoints.remove_generations(storage, record.trial_id)
        checkpoints.remove_other_starts(storage, record)
        banks.remove_unlisted(storage, record, label)
    except (OSError, StoreError) as error:
        # The result is committed; a leftover costs space only.
        _logger.warning("trial %s: what it no longer needs could not be removed: %s", record.trial_id, error)
    return record
