"""A lock on a file of the machine's cache: one process makes the file, the others wait for it."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pareto_unlearn.errors import StoreError


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` inside a ``with`` block; wait while another process holds it.

    ``path`` may be a file or a folder and need not exist. The lock is a file beside it, named
    ``<path>.lock``; missing folders are made, and the lock file is left in place.

    Raises:
        StoreError: a link stands where the lock file should be.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_lock(lock)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # released by the kernel even when the process is killed
        yield
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """Return the descriptor of a lock file, which is made if it is missing; its content is left as it is.

    Raises:
        StoreError: a link stands there. In a directory of a stranger it may lead to any file of the user's.
        OSError: the file can be neither opened nor made.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StoreError(f"{path}: expected a lock file, found a link; remove it") from error
        raise
