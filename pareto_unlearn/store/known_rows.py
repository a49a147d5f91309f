"""The committed rows of a run as one process knows them, each file read once, and what other tables lack."""

from collections.abc import Collection

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store import packs, parts
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import chunk_of, is_part, part_name
from pareto_unlearn.store.schemas import SCHEMAS

_TRIES = 5
"""At compaction a listed file may be gone before it is read: its rows are in a pack by then."""


class KnownRows:
    """Rows by the name of the file that each was committed in, whether or not a pack holds it by now."""

    def __init__(self, storage: Storage, label: str) -> None:
        self._storage, self._label = storage, label
        self._rows: dict[str, TrialRecord] = {}
        self._learned: dict[str, TrialRecord] = {}
        self._packed: dict[str, dict[str, TrialRecord]] = {}

    def all(self) -> dict[str, TrialRecord]:
        """Return all rows that a listing shows; only files that appeared since the last call are read.

        Raises:
            StoreError: a file is damaged or of a newer schema.
        """
        for _ in range(_TRIES):
            try:
                return self._listed()
            except FileNotFoundError:
                continue
        raise StoreError(f"{self._label}: files of trials/ vanish while they are read; try again")

    def newest(self) -> dict[str, TrialRecord]:
        """Return the row of every trial by trial id, the highest attempt of each, listed or learned of.

        Raises:
            StoreError: a file is damaged or of a newer schema.
        """
        newest: dict[str, TrialRecord] = {}
        known = [*self.all().values(), *self._learned.values()]
        for record in sorted(known, key=lambda record: record.attempt):
            newest[record.trial_id] = record
        return newest

    def row_of(self, trial_id: str) -> TrialRecord:
        """Return the row of a trial: the highest attempt learned of, or else listed.

        Raises:
            StoreError: the trial is not committed.
        """
        record = self._learned.get(trial_id) or self.newest().get(trial_id)
        if record is None:
            raise StoreError(f"{self._label}: trial {trial_id} is not committed")
        return record

    def learn(self, record: TrialRecord) -> None:
        """Count a row that a worker told of, which a listing may show much later."""
        self._learned[record.trial_id] = record

    def count_unlisted(self) -> int:
        """Return how many of the rows that this process has learned of no listing shows yet."""
        known = {part_name(record.trial_id, record.attempt) for record in self._learned.values()}
        return len(known - self.held_by(self._storage.file_names("trials")))

    def lost_parts(self) -> dict[str, int]:
        """Return of how many committed trials a table has lost the file, by table; empty if all are whole.

        The folder ``checkpoints`` counts as one; of a trial, all that was in it.
        """
        rows = self.newest().values()
        wanted = {part_name(record.trial_id, record.attempt) for record in rows}
        lost = {name: len(wanted - self.held_by(self._storage.file_names(name))) for name in SCHEMAS}
        models = {record.trial_id for record in rows if record.checkpoint is not None}
        lost["checkpoints"] = len(models - set(self._storage.directory_names("checkpoints")))
        return {name: count for name, count in lost.items() if count}

    def lost_rows(self) -> int:
        """Return how many trials have files but no row; of a running sweep, also those that end now."""
        known = {record.trial_id for record in self.newest().values()}
        tables = [name for name in SCHEMAS if name != "trials"]
        parts_there = (name for table in tables for name in self._storage.file_names(table))
        return len({name.split("-")[1] for name in parts_there if is_part(name)} - known)

    def held_by(self, names: Collection[str]) -> set[str]:
        """Return the parts whose rows of a table lie in the files with these names."""
        held = set(names)
        chunks = set(packs.pack_of_each_chunk(names))
        for name, rows in self._packed.items():
            if chunk_of(name) in chunks:
                held |= rows.keys()
        return held

    def find(self, part: str) -> TrialRecord | None:
        """Return one row, None if it is not committed; nothing is listed.

        Raises:
            StoreError: its file is damaged or of a newer schema.
        """
        try:
            return self._rows.get(part) or parts.read_record(self._storage, part, self._label)
        except FileNotFoundError:
            return self._find_packed(part)

    def row_in(self, part: str) -> TrialRecord:
        """Return the row in one file of ``trials``.

        Raises:
            StoreError: the file is missing, damaged, of a newer schema or of another trial.
        """
        if (record := self.find(part)) is None:
            raise StoreError(f"{self._label}: trials/{part} is missing")
        return record

    def _find_packed(self, part: str) -> TrialRecord | None:
        for name, held in packs.read_index(self._storage).items():
            if part in held:
                try:
                    return self._pack(name).get(part)
                except FileNotFoundError:  # it was damaged, and moved away
                    return None
        return None

    def _listed(self) -> dict[str, TrialRecord]:
        names = self._storage.file_names("trials")
        packed: dict[str, TrialRecord] = {}
        for name in packs.pack_of_each_chunk(names).values():
            packed |= self._pack(name)
        loose = packs.loose_parts(names, packed)
        # A new dictionary rather than changes in place: several threads may call this at the same time.
        rows = {
            part: self._rows.get(part) or parts.read_record(self._storage, part, self._label)
            for part in loose
        }
        self._rows = packed | rows
        return self._rows

    def _pack(self, name: str) -> dict[str, TrialRecord]:
        if name not in self._packed:
            read = packs.read_records(self._storage, name, self._label)
            self._packed = {**self._packed, name: read}
        return self._packed[name]
