"""One process at a time: who makes a file of a machine's cache, and who waits for it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file that belongs to ``path``, a file or a folder that need not exist, waiting for whoever has it.

    The lock file lies beside it, in folders that are made for it, and stays there.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by the kernel even when the process is killed
        yield
