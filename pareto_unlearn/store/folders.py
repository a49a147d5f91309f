"""The runs that lie in a folder."""

import os
from pathlib import Path

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.foreign_text import without_secrets
from pareto_unlearn.store.filesystem import LocalStorage, join_path, open_storage
from pareto_unlearn.store.names import INFO_FILE
from pareto_unlearn.store.run_store import RunStore


def find_runs(folder: str | os.PathLike[str]) -> list[RunStore] | None:
    """Return the stores of the runs in a folder, by name; None where the folder is a run itself.

    Raises:
        ConfigError: the folder cannot be read, or holds no run.
    """
    path = os.fspath(folder)
    label = without_secrets(path)
    try:
        _, storage = open_storage(path)
        if storage.exists(INFO_FILE):
            return None
        # A link to a run is one: what may not be followed are links inside of it.
        names = (
            sorted(entry.name for entry in os.scandir(storage.root) if entry.is_dir())
            if isinstance(storage, LocalStorage)
            else storage.directory_names("")
        )
        found = [name for name in names if _holds_run(path, name)]
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {label} ({error})") from error
    if not found:
        raise ConfigError(
            f"{label} holds no run: expected {INFO_FILE} in it, or in a folder in it; give the directory of "
            "one run, such as runs/<name>, or a folder of runs"
        )
    return [RunStore.open(join_path(path, name)) for name in found]


def find_run(folder: str | os.PathLike[str], name: str) -> RunStore | None:
    """Return the store of the run of a name in a folder, None where there is none; nothing is written.

    Raises:
        ConfigError: the folder cannot be read.
    """
    path = os.fspath(folder)
    try:
        if not _holds_run(path, name):
            return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {without_secrets(path)} ({error})") from error
    return RunStore.open(join_path(path, name))


def _holds_run(folder: str, name: str) -> bool:
    _, storage = open_storage(join_path(folder, name))
    if isinstance(storage, LocalStorage):
        return (Path(storage.root) / INFO_FILE).is_file()
    return storage.exists(INFO_FILE)
