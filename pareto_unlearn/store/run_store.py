"""The run directory: the results that a sweep has committed, and the only source of truth about them.

Each of ``trials``, ``curves``, ``metrics`` and ``samples`` has one file per committed trial. The file in
``trials`` is written last and commits the result. A metric measured afterwards gets a file of its own in
``metrics``. Knows no torch, no Ray and no pandas.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self

import pyarrow as pa

from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.foreign_text import without_secrets
from pareto_unlearn.records import (
    EMBEDDING_FILE,
    MODEL_FILE,
    BankEntry,
    EmbeddedPicture,
    MetricRow,
    RunInfo,
    TrialRecord,
    TrialResult,
)
from pareto_unlearn.store import banks, checkpoints, commits, packs, parts
from pareto_unlearn.store.cache import cache_directory
from pareto_unlearn.store.filesystem import (
    LocalStorage,
    Storage,
    is_plain_name,
    join_path,
    open_storage,
)
from pareto_unlearn.store.known_rows import KnownRows
from pareto_unlearn.store.lock import Hold, Holder, find_holder, hold_run
from pareto_unlearn.store.names import (
    INFO_FILE,
    checked_file_name,
    checked_trial_id,
    checkpoint_of,
    chunk_of,
    is_trial_id,
    part_name,
    writer_lock,
)
from pareto_unlearn.store.packed_files import PackedFiles
from pareto_unlearn.store.rows_of_table import drop_pictures, read_table
from pareto_unlearn.store.run_info import decode_info, encode_info
from pareto_unlearn.store.schemas import SCHEMAS, empty_table
from pareto_unlearn.store.writers import Writers
from pareto_unlearn.stored_fields import read_fields

LEFT_FOR_SECONDS = 3600.0
"""After which a temporary file belongs to nobody any more."""

_logger = logging.getLogger(__name__)


class RunStore:
    """One run directory, open for reading and writing from any number of processes and threads.

    Contract: a result is visible wholly or not at all. The first result of a (trial, attempt) stays, and a
    second writer gets it back. Of several attempts the highest counts. A crash at any point is repaired by
    committing again. On object stores two writers of the same attempt at the same moment are not told apart.
    An instance can be pickled and used on another machine that reaches the same path.

    - ``rows``: the committed rows as this process knows them, and what the other tables lack of them.
    - ``writers``: who may write: the driver that holds the run, and the newest start of each trial.
    - ``packs``: the small files of committed attempts, and the packs that they are put into.
    """

    def __init__(self, path: str, storage: Storage) -> None:
        self.path = path
        self._storage = storage
        self._label = without_secrets(path)
        self.rows = KnownRows(storage, self._label)
        self.writers = Writers(storage)
        self.packs = PackedFiles(storage, self._label)
        self._banks: dict[tuple[str, int], tuple[BankEntry, ...]] = {}

    def __repr__(self) -> str:
        return f"RunStore({self._label!r})"

    @classmethod
    def create(cls, storage: str | os.PathLike[str], name: str) -> Self:
        """Return the store at ``storage``/``name``, made if it is missing and tested to be writable.

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
            store._storage.make_private()
            try:
                store._storage.put(probe, b"")
            finally:
                store._storage.remove(probe)
        except OSError as error:
            raise ConfigError(
                f"cannot write to {store._label} ({error}); set run.storage to a directory or bucket "
                "that exists, that you may write to and that has space left"
            ) from error
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Return the store of the run directory at ``path``.

        Raises:
            ConfigError: there is no run at this path.
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

    def lock(self) -> AbstractContextManager[Hold]:
        """Return a context manager that makes this process the run's only driver.

        Raises:
            RunLockedError: on entering, if another driver holds the run.
        """
        return hold_run(self._storage, self._label)

    def holder(self) -> Holder | None:
        """Return the driver that holds the run, None where there is none; see ``lock.find_holder``."""
        return find_holder(self._storage)

    def kept_steps(self) -> dict[str, int]:
        """Return the newest step to resume from, by trial id, of all trials that are not committed."""
        ended = {trial_id for trial_id, row in self.records().items() if row.state not in commits.RESUMABLE}
        found = {
            trial_id: checkpoints.generation_steps(self._storage, trial_id)
            for trial_id in self._storage.directory_names("checkpoints")
            if is_trial_id(trial_id) and trial_id not in ended
        }
        return {trial_id: steps[0] for trial_id, steps in found.items() if steps}

    def remove_leftovers(self) -> int:
        """Remove what writers that were killed an hour ago or more have left; return the bytes freed.

        The lock must be held. Workers of a driver that died live on for some seconds.
        """
        return self._storage.remove_leftovers(LEFT_FOR_SECONDS)

    def write_text(self, name: str, text: str) -> None:
        """Write or replace one text file of the run, such as ``sweep.yaml``."""
        self._storage.put(checked_file_name(name), text.encode())

    def read_text(self, name: str) -> str:
        """Return one text file of the run.

        Raises:
            StoreError: it is missing or not UTF-8.
        """
        try:
            return self._storage.read(checked_file_name(name)).decode()
        except (FileNotFoundError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._label}/{name} is missing or not a text file: {error}") from error

    def write_info(self, info: RunInfo) -> None:
        """Write or replace ``run.json``.

        Raises:
            ValueError: a number is not finite.
        """
        self._storage.put(INFO_FILE, encode_info(info))

    def read_info(self) -> RunInfo | None:
        """Return the content of ``run.json``, None if it was not written yet.

        Raises:
            StoreError: it is damaged or of a newer schema version.
        """
        if not self._storage.exists(INFO_FILE):
            return None
        return decode_info(self.read_text(INFO_FILE), f"{self._label}/{INFO_FILE}")

    def commit(self, result: TrialResult, start: str = "") -> TrialRecord:
        """Store the whole result of a trial and return its row as stored.

        Order: checkpoint, curves, metrics, samples, and last the row in ``trials``, which commits. Files that
        a crash left of the same attempt are replaced. If the attempt is committed already, its row is
        returned and nothing is written.

        Args:
            result: of the trial.
            start: what names the files of this start of the trial; see ``Writers.claim``.

        Raises:
            ValueError: the trial id, the attempt, the start, a file name or a row is not valid.
            OSError: the disk failed; commit again.
        """
        return commits.commit(self._storage, self.rows, result, start, self._label)

    def add_metric(self, record: TrialRecord, rows: Sequence[MetricRow]) -> bool:
        """Add a metric that was measured after the sweep; return False if the trial has it already.

        Committed files stay as they are: the rows go into a new file, and a second measurement of the same
        metric under the same protocol is ignored.

        Args:
            record: the committed trial.
            rows: of one metric and protocol, of all sets and splits.

        Raises:
            ValueError: there are no rows, or they are of several metrics.
        """
        return parts.add_metric(self._storage, record, rows)

    def add_metrics(self, record: TrialRecord, protocol: str, group: str, rows: Sequence[MetricRow]) -> bool:
        """Add metrics that were measured together after the sweep; return False if the trial has the group.

        Args:
            record: the committed trial.
            protocol: of all rows.
            group: a name for what was measured together: letters, digits and dashes.
            rows: of all sets and splits.

        Raises:
            ValueError: there are no rows, or they are of several protocols.
        """
        return parts.add_metrics(self._storage, record, protocol, group, rows)

    def records(self) -> dict[str, TrialRecord]:
        """Return the committed row of every trial by trial id, the highest attempt of each.

        Rows that this process has learned of count too, whether or not the listing shows them by now. Only
        files that appeared since the last call are read.

        Raises:
            StoreError: a file is damaged or of a newer schema.
        """
        return self.rows.newest()

    def find(self, trial_id: str, attempt: int) -> TrialRecord | None:
        """Return the row of one attempt, None if it is not committed.

        Its file is opened by name, so the answer is right where listings lag.

        Raises:
            StoreError: the file is damaged or of a newer schema.
        """
        return self.rows.find(part_name(trial_id, attempt))

    def row_of(self, trial_id: str) -> TrialRecord:
        """Return the committed row of a trial: the highest attempt learned of, or else listed.

        Raises:
            StoreError: the trial is not committed.
        """
        return self.rows.row_of(trial_id)

    def file_names(self, table: str) -> list[str]:
        """Return the names of all files of a table, also of those that no reader takes."""
        return self._storage.file_names(table)

    def read_file(self, table: str, name: str) -> pa.Table:
        """Return the rows of one file of a table.

        Raises:
            StoreError: the file is damaged or of a newer schema.
        """
        read = parts.read_part if chunk_of(name) is None else packs.read_pack
        return read(self._storage, table, name, self._label)

    def table(self, name: str) -> pa.Table:
        """Return a table restricted to the committed attempt of every trial.

        A column that only some files have is null for the rows of the others; see ``store.schemas``.

        Args:
            name: trials, curves, metrics or samples.

        Raises:
            ValueError: there is no such table.
            StoreError: a file is damaged or of a newer schema.
        """
        if name not in SCHEMAS:
            raise ValueError(f"no table {name!r}: the tables are {', '.join(SCHEMAS)}")
        wanted = {part_name(record.trial_id, record.attempt) for record in self.records().values()}
        tables, missing = read_table(self._storage, name, wanted, self._label)
        if missing:
            _logger.warning("%s: %d of %d trials have no file in %s", self._label, missing, len(wanted), name)
        return pa.concat_tables([empty_table(name), *tables], promote_options="permissive")

    def drop_pictures(self, image_set: str) -> int:
        """Remove the pictures of a set of images, those of earlier attempts too; return how many there were.

        The lock must be held.

        Raises:
            StoreError: a file is damaged.
        """
        return sum(
            drop_pictures(self._storage, name, image_set, self._label)
            for name in self._storage.file_names("samples")
        )

    def read_checkpoint(self, record: TrialRecord) -> dict[str, bytes]:
        """Return the files of a trial's checkpoint by name, verified against manifest and record.

        Raises:
            StoreError: the trial left none, or a file is missing or damaged.
        """
        if record.checkpoint is None:
            raise StoreError(f"{self._label}: trial {record.trial_id} ({record.state}) left no checkpoint")
        directory = checkpoint_of(record)
        _, files = checkpoints.read_directory(self._storage, directory, self._label)
        found = checkpoints.sha256_of(files.get(MODEL_FILE, b""))
        if found != record.checkpoint_sha256:
            raise StoreError(
                f"{self._label}: {directory}/{MODEL_FILE} is not the file that was committed: expected "
                f"SHA-256 {record.checkpoint_sha256}, found {found}; restore it from a copy"
            )
        return files

    def read_embedding(self, record: TrialRecord) -> tuple[EmbeddedPicture, ...]:
        """Return the pictures of a committed trial placed in the plane; empty without ``evaluate.tsne``.

        Raises:
            StoreError: the file is damaged.
        """
        directory = checkpoint_of(record)
        # A report can be made without checkpoints, which may lie elsewhere by then.
        if record.checkpoint is None or not self._storage.exists(f"{directory}/{checkpoints.MANIFEST}"):
            return ()
        content = checkpoints.read_file(self._storage, directory, EMBEDDING_FILE, self._label)
        try:
            return tuple(read_fields(EmbeddedPicture, entry) for entry in json.loads(content or b"[]"))
        except (TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{self._label}: {directory}/{EMBEDDING_FILE} is damaged: {error}") from error

    def save_bank_state(
        self, trial_id: str, attempt: int, step: int, state: bytes, *, by_content: bool = False
    ) -> None:
        """Store one checkpoint of a path that is still running.

        With ``by_content`` the hash of the weights is in its name: two starts of a path never write
        different weights to one name.
        """
        banks.save_state(self._storage, trial_id, attempt, step, state, by_content=by_content)

    def read_bank(self, trial_id: str) -> tuple[BankEntry, ...]:
        """Return the checkpoints of a committed path, by rising f1; empty for any other trial.

        Raises:
            StoreError: the trial is not committed, or its list is damaged.
        """
        record = self.row_of(trial_id)
        key = (trial_id, record.attempt)
        if key not in self._banks:
            self._banks[key] = banks.read_listing(self._storage, record, self._label)
        return self._banks[key]

    def read_bank_state(self, trial_id: str, entry: BankEntry, attempt: int | None = None) -> bytes:
        """Return one checkpoint of a path, verified against its entry.

        Args:
            trial_id: of the path.
            entry: of the path's list of checkpoints.
            attempt: of a path that still runs; None for a committed one.

        Raises:
            StoreError: the checkpoint is missing or damaged.
        """
        attempt = self.row_of(trial_id).attempt if attempt is None else attempt
        return banks.read_bank_state(self._storage, trial_id, attempt, entry, self._label)

    def save_resume(self, trial_id: str, step: int, files: Mapping[str, bytes], start: str = "") -> None:
        """Store a state from which a trial can continue; the newest two states are kept."""
        if step < 0:
            raise ValueError(f"a step counts from 0, found {step}")
        with self._storage.exclusive(writer_lock(trial_id)):
            checkpoints.save_generation(self._storage, trial_id, step, files, start)

    def load_resume(self, trial_id: str) -> tuple[int, dict[str, bytes]] | None:
        """Return step and files of the newest resume state that verifies, None if there is none."""
        return checkpoints.load_generation(self._storage, checked_trial_id(trial_id), self._label)

    def cache_dir(self) -> Path:
        """Return a directory on this machine for memory-mapped caches of this run.

        Raises:
            ConfigError: the directory for a run in an object store belongs to another user.
        """
        return cache_directory(self._storage, self.path)

    @classmethod
    def _at(cls, path: str) -> Self:
        try:
            return cls(*open_storage(path))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"cannot reach {without_secrets(path)} ({error}); expected a directory or a URI such as "
                "s3://bucket/runs"
            ) from error
