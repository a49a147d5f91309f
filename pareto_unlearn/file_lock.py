"""A lock on a file of the machine's cache: one process makes the file, the others wait for it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` inside a ``with`` block; wait while another process holds it.

    ``path`` may be a file or a folder and need not exist. The lock is a file beside it, named
    ``<path>.lock``; missing folders are made, and the lock file is left in place.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel even when the process is killed
        yield
