"""The small files of a run, and the packs that they are put into: for drivers and for repair."""

from dataclasses import dataclass

from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store import packs
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import is_part


@dataclass(frozen=True, slots=True)
class PackedFiles:
    """The packs of a run directory, which errors call ``label``."""

    storage: Storage
    label: str

    def count_loose(self) -> int:
        """Return how many attempts have small files of their own; see ``compact``."""
        return sum(is_part(name) for name in self.storage.file_names("trials"))

    def compact(self) -> int:
        """Put the small files of committed attempts into packs; return how many attempts.

        The lock must be held. Damaged attempts are left as they are.

        Raises:
            StoreError: a pack is damaged.
            OSError: the disk failed; what was not packed stays readable as it was.
        """
        return packs.compact(self.storage, self.label)

    def rows(self, name: str) -> dict[str, TrialRecord]:
        """Return the rows in a pack of ``trials`` by part.

        Raises:
            StoreError: it is damaged or of a newer schema.
        """
        return packs.read_records(self.storage, name, self.label)

    def mended(self, table: str, name: str) -> bytes | None:
        """Return the content that a damaged pack had, None where its own bytes do not tell it."""
        return packs.mended(self.storage, table, name)

    def put(self, table: str, name: str, data: bytes) -> None:
        """Write the content of a pack over what is damaged."""
        self.storage.put(f"{table}/{name}", data)

    def lost_trials(self, chunk: str) -> list[str]:
        """Return the ids of the trials that damaged packs cost; see ``packs.lost_trials``."""
        return packs.lost_trials(self.storage, chunk)

    def restore_loose(self, chunk: str) -> None:
        """Write the attempts of a chunk whose rows are whole in every table back as small files."""
        packs.restore_parts(self.storage, chunk)
