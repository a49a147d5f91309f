"""The run directory: what a sweep has committed, and the only truth about it.

One file per committed trial in each of ``trials``, ``curves``, ``metrics`` and ``samples``; the file in
``trials`` is written last and is what commits a result. Knows no torch, no Ray and no pandas.
"""

import dataclasses
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pareto_unlearn.records import (
    EMBEDDING_FILE,
    BankEntry,
    ConfigError,
    EmbeddedPicture,
    RunInfo,
    Scales,
    StoreError,
    TrialRecord,
    TrialResult,
    TrialState,
    ValidRange,
)
from pareto_unlearn.store import checkpoints
from pareto_unlearn.store.filesystem import (
    LocalStorage,
    Storage,
    is_plain_name,
    join_path,
    open_storage,
    without_secrets,
)
from pareto_unlearn.store.lock import hold_run
from pareto_unlearn.store.schemas import (
    SCHEMAS,
    check_schema_version,
    decode_record,
    decode_table,
    empty_table,
    encode_rows,
)

INFO_FILE = "run.json"
RESUMABLE = frozenset({TrialState.INTERRUPTED, TrialState.STALE})
"""Endings after which the next attempt goes on from the resume generations, so a commit keeps them."""

_TRIAL_ID = re.compile(r"[0-9a-f]{8,64}")
_PART_NAME = re.compile(r"part-([0-9a-f]{8,64})-([1-9][0-9]{0,8})\.parquet")
_logger = logging.getLogger(__name__)


class RunStore:
    """One run directory, open for reading and writing from any number of processes and threads.

    Contract: a result is visible wholly or not at all; the first result of a (trial, attempt) stays, whoever
    comes second gets it back; of several attempts the highest counts; a crash at any point is healed by
    committing again. On object stores two writers of the same attempt at the same moment are not told apart.
    An instance can be pickled and used on another machine that reaches the same path.
    """

    def __init__(self, path: str, storage: Storage) -> None:
        self.path = path
        self._storage = storage
        self._label = without_secrets(path)
        self._records: dict[str, TrialRecord] = {}
        self._banks: dict[tuple[str, int], tuple[BankEntry, ...]] = {}

    def __repr__(self) -> str:
        return f"RunStore({self._label!r})"

    @classmethod
    def create(cls, storage: str | os.PathLike[str], name: str) -> Self:
        """Make the run directory ``storage``/``name`` (it may exist) and make sure it can be written.

        Args:
            storage: a directory, absolute or relative, or a URI such as ``s3://bucket/runs``.
            name: one plain name.

        Raises:
            ConfigError: the name is not a plain name, or nothing can be written there.
        """
        if not is_plain_name(name) or len(name) > 64:
            raise ConfigError(
                f"{name!r} cannot name a run: use 1 to 64 letters, digits, '.', '_' or '-', "
                "and start with a letter or a digit"
            )
        store = cls._at(join_path(os.fspath(storage), name))
        probe = "write-probe"
        try:
            store._storage.put(probe, b"")
            store._storage.remove(probe)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {store._label} ({error}); set run.storage to a directory or bucket that exists, "
                "that you may write to and that has space left"
            ) from error
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the run directory at ``path``.

        Raises:
            ConfigError: there is no run.
        """
        store = cls._at(os.fspath(path))
        try:
            found = store._storage.exists(INFO_FILE)
        except OSError as error:
            raise ConfigError(f"cannot read {store._label} ({error})") from error
        if not found:
            raise ConfigError(
                f"{store._label} holds no run: expected {INFO_FILE} in it; "
                "give the directory of one run, such as runs/<name>"
            )
        return store

    @property
    def is_local(self) -> bool:
        """Whether the run lies on a file system of this machine."""
        return isinstance(self._storage, LocalStorage)

    def lock(self) -> AbstractContextManager[None]:
        """Return a context manager that makes this process the run's only driver.

        Raises:
            RunLockedError: on entering, if another driver holds the run.
        """
        return hold_run(self._storage, self._label)

    def write_text(self, name: str, text: str) -> None:
        """Write or replace one text file of the run, such as ``sweep.yaml``."""
        self._storage.put(_checked_file_name(name), text.encode())

    def read_text(self, name: str) -> str:
        """Return one text file of the run.

        Raises:
            StoreError: it is missing or not UTF-8.
        """
        try:
            return self._storage.read(_checked_file_name(name)).decode()
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._label}/{name} is missing or not a text file: {error}") from error

    def write_info(self, info: RunInfo) -> None:
        """Write or replace ``run.json``.

        Raises:
            ValueError: a number is not finite.
        """
        text = json.dumps(dataclasses.asdict(info), indent=2, ensure_ascii=False, allow_nan=False)
        self._storage.put(INFO_FILE, text.encode())

    def read_info(self) -> RunInfo | None:
        """Return the content of ``run.json``, None if it was not written yet.

        Raises:
            StoreError: it is damaged or of a newer schema.
        """
        if not self._storage.exists(INFO_FILE):
            return None
        origin = f"{self._label}/{INFO_FILE}"
        try:
            content = json.loads(self.read_text(INFO_FILE))
            check_schema_version(content["schema_version"], origin)
            return _info_from(content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"{origin} is damaged ({error!r}); restore it from a copy") from error

    def commit(self, result: TrialResult) -> TrialRecord:
        """Store all that a trial leaves behind and return its row as stored.

        Order: checkpoint, curves, metrics, samples, and last the row in ``trials``, which commits.
        What a crash left of the same attempt is replaced. A row that is there already wins: it is
        returned and nothing is touched.

        Raises:
            ValueError: the trial id, the attempt, a file name or a row is not valid.
            OSError: the disk failed; committing again heals what is there.
        """
        trial_id, attempt = result.record.trial_id, result.record.attempt
        part = _part_name(trial_id, attempt)
        with self._storage.exclusive(_writer_lock(trial_id)):
            if self._storage.exists(f"trials/{part}"):
                return self._tidied(self._read_record(part))
            encoded = {
                "curves": encode_rows("curves", trial_id, attempt, result.curves),
                "metrics": encode_rows("metrics", trial_id, attempt, result.metrics),
                "samples": encode_rows("samples", trial_id, attempt, result.samples),
            }
            record = self._commit_files(result)
            row = encode_rows("trials", trial_id, attempt, [record])
            for table, data in encoded.items():
                self._storage.put(f"{table}/{part}", data)
            if not self._storage.put_new(f"trials/{part}", row):
                return self._read_record(part)
            return self._tidied(record)

    def records(self) -> dict[str, TrialRecord]:
        """Return the committed row of every trial by trial id, the highest attempt of each.

        Only files that appeared since the last call are read, so that a driver may ask often.

        Raises:
            StoreError: a file is damaged or of a newer schema.
        """
        names = [name for name in self._storage.file_names("trials") if _PART_NAME.fullmatch(name)]
        # A new dictionary rather than changes in place: threads may ask at the same time.
        self._records = {name: self._records.get(name) or self._read_record(name) for name in names}
        newest: dict[str, TrialRecord] = {}
        for record in sorted(self._records.values(), key=lambda record: record.attempt):
            newest[record.trial_id] = record
        return newest

    def table(self, name: str) -> pa.Table:
        """Return a table restricted to the committed attempt of every trial.

        Columns are united by name: a column that only some files have is null for the others.

        Args:
            name: trials, curves, metrics or samples.

        Raises:
            ValueError: there is no such table.
            StoreError: a file is damaged or of a newer schema.
        """
        if name not in SCHEMAS:
            raise ValueError(f"no table {name!r}: the tables are {', '.join(SCHEMAS)}")
        wanted = {_part_name(record.trial_id, record.attempt) for record in self.records().values()}
        present = [part for part in self._storage.file_names(name) if part in wanted]
        if len(present) < len(wanted):
            _logger.warning(
                "%s: %d of %d trials have no file in %s",
                self._label,
                len(wanted) - len(present),
                len(wanted),
                name,
            )
        parts = [self._read_part(name, part) for part in present]
        return pa.concat_tables([empty_table(name), *parts], promote_options="permissive")

    def read_checkpoint(self, record: TrialRecord) -> dict[str, bytes]:
        """Return the files of a trial's checkpoint by name, verified against manifest and record.

        Raises:
            StoreError: the trial left none, or a file is missing or damaged.
        """
        if record.checkpoint is None:
            raise StoreError(f"{self._label}: trial {record.trial_id} ({record.state}) left no checkpoint")
        directory = _checkpoint_name(record.trial_id, record.attempt)
        _, files = checkpoints.read_directory(self._storage, directory, self._label)
        found = checkpoints.sha256_of(files.get(checkpoints.MODEL_FILE, b""))
        if found != record.checkpoint_sha256:
            raise StoreError(
                f"{self._label}: {directory}/{checkpoints.MODEL_FILE} is not the file that was committed: expected "
                f"SHA-256 {record.checkpoint_sha256}, found {found}; restore it from a copy"
            )
        return files

    def read_embedding(self, record: TrialRecord) -> tuple[EmbeddedPicture, ...]:
        """Return the pictures of a committed trial placed in the plane; none where the sweep did not ask for it.

        Raises:
            StoreError: the file is damaged.
        """
        directory = _checkpoint_name(record.trial_id, record.attempt)
        # A report can be made without checkpoints, which may lie elsewhere by then.
        if record.checkpoint is None or not self._storage.exists(f"{directory}/{checkpoints.MANIFEST}"):
            return ()
        content = checkpoints.read_file(self._storage, directory, EMBEDDING_FILE, self._label)
        try:
            return tuple(EmbeddedPicture(**one) for one in json.loads(content or b"[]"))
        except (TypeError, ValueError) as error:
            raise StoreError(f"{self._label}: {directory}/{EMBEDDING_FILE} is damaged: {error}") from error

    def save_bank_state(self, trial_id: str, attempt: int, step: int, state: bytes) -> None:
        """Store one checkpoint of a path while the path goes on."""
        checkpoints.write_directory(
            self._storage,
            checkpoints.bank_directory(_checked_trial_id(trial_id), attempt, step),
            {checkpoints.STATE_FILE: state},
            trial_id=trial_id,
            attempt=attempt,
            steps=step,
        )

    def read_bank(self, trial_id: str) -> tuple[BankEntry, ...]:
        """Return the checkpoints a committed path left behind, by rising f1; none where the trial was no path.

        Raises:
            StoreError: the trial is not committed, or its list is damaged.
        """
        record = self.records().get(trial_id)
        if record is None:
            raise StoreError(f"{self._label}: trial {trial_id} is not committed")
        key = (trial_id, record.attempt)
        if key not in self._banks:
            self._banks[key] = self._read_listing(record)
        return self._banks[key]

    def read_bank_state(self, trial_id: str, entry: BankEntry) -> bytes:
        """Return one checkpoint of a committed path, verified against the list the path was committed with.

        Raises:
            StoreError: it is missing or damaged.
        """
        attempt = self.records()[trial_id].attempt
        directory = checkpoints.bank_directory(_checked_trial_id(trial_id), attempt, entry.step)
        _, files = checkpoints.read_directory(self._storage, directory, self._label)
        state = files.get(checkpoints.STATE_FILE, b"")
        if checkpoints.sha256_of(state) != entry.sha256:
            raise StoreError(
                f"{self._label}: {directory}/{checkpoints.STATE_FILE} is not the file the path was committed with: expected "
                f"SHA-256 {entry.sha256}, found {checkpoints.sha256_of(state)}; restore it from a copy"
            )
        return state

    def save_resume(self, trial_id: str, step: int, files: Mapping[str, bytes]) -> None:
        """Store the state a trial can go on from at a step; the newest two states are kept."""
        if step < 0:
            raise ValueError(f"a step counts from 0, found {step}")
        with self._storage.exclusive(_writer_lock(trial_id)):
            checkpoints.save_generation(self._storage, trial_id, step, files)

    def load_resume(self, trial_id: str) -> tuple[int, dict[str, bytes]] | None:
        """Return step and files of the newest resume state that verifies, None if there is none."""
        return checkpoints.load_generation(self._storage, _checked_trial_id(trial_id), self._label)

    def remove_leftovers(self) -> list[str]:
        """Remove half-written files of dead writers and return their names; only under ``lock``."""
        return self._storage.remove_leftovers()

    def cache_dir(self) -> Path:
        """Return a directory on this machine for memory-mapped caches of this run.

        Raises:
            ConfigError: the directory for a run in an object store belongs to another user.
        """
        if isinstance(self._storage, LocalStorage):
            directory = self._storage.root / "cache"
            directory.mkdir(parents=True, exist_ok=True)
            return directory
        user = Path(tempfile.gettempdir()) / f"pareto-unlearn-{os.getuid()}"
        user.mkdir(mode=0o700, exist_ok=True)
        # The name can be guessed, and caches hold images to forget.
        if user.is_symlink() or user.stat().st_uid != os.getuid():
            raise ConfigError(f"{user} belongs to another user; set TMPDIR to a directory of your own")
        directory = user / checkpoints.sha256_of(self.path.encode())[:16]
        directory.mkdir(exist_ok=True)
        return directory

    @classmethod
    def _at(cls, path: str) -> Self:
        try:
            return cls(*open_storage(path))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot reach {without_secrets(path)} ({error}); expected a directory or a URI such as "
                "s3://bucket/runs"
            ) from error

    def _commit_files(self, result: TrialResult) -> TrialRecord:
        record = result.record
        directory = _checkpoint_name(record.trial_id, record.attempt)
        if not result.files:
            self._storage.remove_directory(directory)
            return dataclasses.replace(record, checkpoint=None, checkpoint_sha256=None)
        manifest = checkpoints.write_directory(
            self._storage,
            directory,
            result.files,
            trial_id=record.trial_id,
            attempt=record.attempt,
            steps=record.steps,
        )
        model = manifest.files.get(checkpoints.MODEL_FILE)
        return dataclasses.replace(
            record,
            checkpoint=None if model is None else directory,
            checkpoint_sha256=None if model is None else model.sha256,
        )

    def _read_listing(self, record: TrialRecord) -> tuple[BankEntry, ...]:
        if record.checkpoint is None:
            return ()
        directory = _checkpoint_name(record.trial_id, record.attempt)
        listed = checkpoints.read_file(self._storage, directory, checkpoints.BANK_FILE, self._label)
        return tuple(BankEntry(**entry) for entry in json.loads(listed or b"[]"))

    def _tidied(self, record: TrialRecord) -> TrialRecord:
        """Remove resume states, and the checkpoints of a path that its list left out; return the record."""
        trial_id, attempt = record.trial_id, record.attempt
        if record.state in RESUMABLE:
            return record
        try:
            checkpoints.remove_generations(self._storage, trial_id)
            kept = {entry.step for entry in self._read_listing(record)}
            for step in checkpoints.bank_steps(self._storage, trial_id, attempt):
                if step not in kept:
                    self._storage.remove_directory(checkpoints.bank_directory(trial_id, attempt, step))
        except (OSError, StoreError) as error:
            # The result is committed; a leftover costs space only.
            _logger.warning("trial %s: what it no longer needs could not be removed: %s", trial_id, error)
        return record

    def _read_record(self, part: str) -> TrialRecord:
        origin = f"{self._label}: trials/{part}"
        record = decode_record(self._storage.read(f"trials/{part}"), origin)
        if part != _part_name(record.trial_id, record.attempt):
            raise StoreError(f"{origin} holds trial {record.trial_id} attempt {record.attempt}; move it away")
        return record

    def _read_part(self, table: str, part: str) -> pa.Table:
        return decode_table(self._storage.read(f"{table}/{part}"), table, f"{self._label}: {table}/{part}")


def _checked_trial_id(trial_id: str) -> str:
    if not _TRIAL_ID.fullmatch(trial_id):
        raise ValueError(f"{trial_id!r} is no trial id: expected 8 to 64 lower-case hexadecimal digits")
    return trial_id


def _checked_file_name(name: str) -> str:
    if not is_plain_name(name):
        raise ValueError(f"{name!r} cannot name a file of a run: use letters, digits, '.', '_' and '-'")
    return name


def _part_name(trial_id: str, attempt: int) -> str:
    if attempt < 1:
        raise ValueError(f"an attempt counts from 1, found {attempt} for trial {trial_id}")
    return f"part-{_checked_trial_id(trial_id)}-{attempt}.parquet"


def _writer_lock(trial_id: str) -> str:
    return f"checkpoints/{_checked_trial_id(trial_id)}/.lock"


def _checkpoint_name(trial_id: str, attempt: int) -> str:
    return f"checkpoints/{_checked_trial_id(trial_id)}/{attempt}"


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
