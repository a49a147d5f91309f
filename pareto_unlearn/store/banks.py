"""The bank of a path: a directory per checkpoint, and the list of checkpoints in the path's committed files.

``label`` is the name of the run in messages.
"""

import json
import re

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import BANK_FILE, BankEntry, TrialRecord
from pareto_unlearn.store import checkpoints
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import checked_trial_id, checkpoint_of
from pareto_unlearn.stored_fields import read_fields

STATE_FILE = "state.safetensors"

_BANK = re.compile(r"bank-([1-9]\d{0,8})-(\d{1,12})(?:-([0-9a-f]{16}))?")


def save_state(
    storage: Storage, trial_id: str, attempt: int, step: int, state: bytes, *, by_content: bool
) -> None:
    """Store one checkpoint of a path that is still running."""
    sha256 = checkpoints.sha256_of(state) if by_content else ""
    checkpoints.write_directory(
        storage,
        _directory(checked_trial_id(trial_id), attempt, step, sha256),
        {STATE_FILE: state},
        trial_id=trial_id,
        attempt=attempt,
        steps=step,
    )


def read_listing(storage: Storage, record: TrialRecord, label: str) -> tuple[BankEntry, ...]:
    """Return the committed list of a path's checkpoints, by rising f1; empty for any other trial.

    Raises:
        StoreError: the list is damaged.
    """
    if record.checkpoint is None:
        return ()
    directory = checkpoint_of(record)
    listed = checkpoints.read_file(storage, directory, BANK_FILE, label)
    try:
        return tuple(read_fields(BankEntry, entry) for entry in json.loads(listed or b"[]"))
    except (TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"{label}: {directory}/{BANK_FILE} is damaged ({error!r}); restore it from a copy"
        ) from error


def read_bank_state(storage: Storage, trial_id: str, attempt: int, entry: BankEntry, label: str) -> bytes:
    """Return one checkpoint, verified against the list.

    Raises:
        StoreError: the checkpoint is missing or damaged.
    """
    directory = _directory(checked_trial_id(trial_id), attempt, entry.step, entry.sha256)
    if not storage.exists(f"{directory}/{checkpoints.MANIFEST}"):  # of an older release
        directory = _directory(trial_id, attempt, entry.step)
    _, files = checkpoints.read_directory(storage, directory, label)
    state = files.get(STATE_FILE, b"")
    if checkpoints.sha256_of(state) != entry.sha256:
        raise StoreError(
            f"{label}: {directory}/{STATE_FILE} is not the file the path was committed with: expected "
            f"SHA-256 {entry.sha256}, found {checkpoints.sha256_of(state)}; restore it from a copy"
        )
    return state


def remove_unlisted(storage: Storage, record: TrialRecord, label: str) -> None:
    """Remove the checkpoints of a committed path that are not in its list.

    Raises:
        StoreError: the list is damaged.
    """
    trial_id, attempt = record.trial_id, record.attempt
    listed = read_listing(storage, record, label)
    kept = {_directory(trial_id, attempt, entry.step, entry.sha256) for entry in listed}
    kept |= {_directory(trial_id, attempt, entry.step) for entry in listed}
    for directory in _directories(storage, trial_id, attempt):
        if directory not in kept:
            storage.remove_directory(directory)


def _directory(trial_id: str, attempt: int, step: int, sha256: str = "") -> str:
    return f"checkpoints/{trial_id}/bank-{attempt}-{step}{'-' if sha256 else ''}{sha256[:16]}"


def _directories(storage: Storage, trial_id: str, attempt: int) -> list[str]:
    """Return all stored checkpoints of a path."""
    names = storage.directory_names(f"checkpoints/{trial_id}")
    found = (match for name in names if (match := _BANK.fullmatch(name)))
    return [f"checkpoints/{trial_id}/{match[0]}" for match in found if int(match[1]) == attempt]
