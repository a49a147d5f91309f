"""The directory for memory-mapped caches of a run, which must lie on this machine."""

import os
import tempfile
from pathlib import Path

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.store.checkpoints import sha256_of
from pareto_unlearn.store.filesystem import LocalStorage, Storage


def cache_directory(storage: Storage, path: str) -> Path:
    """Return the cache of the run at ``path``, in its directory or, for an object store, in a private one.

    Raises:
        ConfigError: the private directory belongs to another user.
        StoreError: a link stands where the run's cache should be.
    """
    if isinstance(storage, LocalStorage):
        directory = storage.inside("cache")
        directory.mkdir(parents=True, exist_ok=True)
        return directory
    user = Path(tempfile.gettempdir()) / f"pareto-unlearn-{os.getuid()}"
    user.mkdir(mode=0o700, exist_ok=True)
    # The name can be guessed, and caches hold images to forget.
    if user.is_symlink() or user.stat().st_uid != os.getuid():
        raise ConfigError(f"{user} belongs to another user; set TMPDIR to a directory of your own")
    directory = user / sha256_of(path.encode())[:16]
    directory.mkdir(exist_ok=True)
    return directory
