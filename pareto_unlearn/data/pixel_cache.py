"""Decoded pixels on disk: decoded once per machine, memory-mapped by every process that reads them."""

import errno
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pareto_unlearn.file_lock import exclusive

Shape = tuple[int, int, int, int]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_logger = logging.getLogger(__name__)


class CacheRoom:
    """Room in a cache folder with a limit, given out first come, first served; without a folder none."""

    def __init__(self, folder: Path | None, limit_bytes: int) -> None:
        self._folder, self._left = folder, limit_bytes

    def claim(self, wanted_bytes: int) -> Path | None:
        """Return the folder if ``wanted_bytes`` still fit into the limit, else None."""
        if self._folder is None or wanted_bytes > self._left:
            return None
        self._left -= wanted_bytes
        return self._folder


def open_pixels(
    path: Path, shape: Shape, decode: Callable[[], Iterable[UInt8[np.ndarray, "b c h w"]]]
) -> UInt8[np.ndarray, "n c h w"] | None:
    """Return the array stored in ``path``; where the file is missing, decode and store it first.

    Several processes may call this at once: one decodes, the others wait for it. The file appears by a single
    rename, so a killed process leaves no file that looks complete.

    Returns:
        The read-only mapped array, or None where the disk has no room for it.
    """
    with exclusive(path):
        if not path.is_file() and not _publish(path, shape, decode):
            return None
    mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _publish(path: Path, shape: Shape, decode: Callable[[], Iterable[UInt8[np.ndarray, "b c h w"]]]) -> bool:
    needed, free = math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        _logger.warning(
            "%s has %d bytes free, %d are needed: images are decoded on demand", path.parent, free, needed
        )
        return False
    # A fixed name is safe under the lock, and the file of a killed process is overwritten, not kept.
    staging = path.with_name(path.name + ".part")
    try:
        # Written, not mapped: on a full disk a write raises an error, while a mapped page kills the process.
        with staging.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in decode():
                file.write(batch.tobytes())
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        _logger.warning("%s is full (%d bytes needed): images are decoded on demand", path.parent, needed)
        return False
    finally:
        staging.unlink(missing_ok=True)
    return True
