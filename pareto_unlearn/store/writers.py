"""Who may write into a run: the driver that announced itself, and the newest start of each trial.

The lock keeps drivers apart; these files tell workers, which hold no lock, that another has come.
"""

from dataclasses import dataclass

from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import driver_file, is_driver_file, start_file


@dataclass(frozen=True, slots=True)
class Writers:
    """The announcements in a run directory."""

    storage: Storage

    def announce_driver(self, run_id: str) -> None:
        """Tell workers that the driver of this start holds the run; older announcements are removed.

        The name of the file is new, so no machine can have an old copy of it in a cache.
        """
        self.withdraw_driver()
        self.storage.put(driver_file(run_id), b"{}")

    def withdraw_driver(self) -> None:
        """Remove what announces a driver."""
        for name in self.storage.file_names(""):
            if is_driver_file(name):
                self.storage.remove(name)

    def has_driver(self, run_id: str) -> bool:
        """Return whether the driver of a start still holds the run, as this machine sees it."""
        return self.storage.exists(driver_file(run_id))

    def claim(self, trial_id: str, start: str) -> None:
        """Make a start of a trial the one that may write; those before it must not any more.

        Every start has names of its own for what it writes, so that files of two are never mixed, however
        late the first learns of the second.
        """
        self.storage.put(start_file(trial_id), start.encode())

    def holds(self, trial_id: str, start: str) -> bool:
        """Return whether a start of a trial may still write."""
        try:
            return self.storage.read(start_file(trial_id)) == start.encode()
        except FileNotFoundError:
            return False
