"""The committed rows of a run as one process knows them: each file of ``trials`` is read once."""

from collections.abc import Collection

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store import packs, parts
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import chunk_of

_TRIES = 5
"""At compaction a listed file may be gone before it is read: its rows are in a pack by then."""


class KnownRows:
    """Rows by the name of the file that each was committed in, whether or not a pack holds it by now."""

    def __init__(self, storage: Storage, label: str) -> None:
        self._storage, self._label = storage, label
        self._rows: dict[str, TrialRecord] = {}
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
