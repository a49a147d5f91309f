"""Decoded pixels on disk: decoded once per machine, memory-mapped by every process that reads them.

A file's name is a hash of all that decides its pixels, so runs may share a folder.
"""

import errno
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.whole_files import open_cached

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


def open_shared(folder: str) -> Path:
    """Return a folder where runs share pixels; one that is made is for its user alone.

    Raises:
        ConfigError: it belongs to another user, who could put other pixels there, or cannot be made.
    """
    path = Path(folder).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data.cache_folder: {path}: expected a folder, found: {error.strerror}") from error
    if path.stat().st_uid != os.getuid():
        raise ConfigError(f"data.cache_folder: {path} belongs to another user; name a folder of your own")
    return path


def open_pixels(
    path: Path, shape: Shape, decode: Callable[[], Iterable[UInt8[np.ndarray, "b c h w"]]]
) -> UInt8[np.ndarray, "n c h w"] | None:
    """Return the array stored in ``path``; where the file is missing or damaged, decode and store it first.

    Several processes may call this at once: one decodes, the others wait for it.

    Returns:
        The read-only mapped array, or None where the disk has no room for it.
    """
    try:
        open_cached(path, lambda staging: _write(staging, shape, decode))
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        _logger.warning("%s: %s; images are decoded on demand", path.parent, error.strerror)
        return None
    mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _write(path: Path, shape: Shape, decode: Callable[[], Iterable[UInt8[np.ndarray, "b c h w"]]]) -> None:
    needed, free = math.prod(shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, {needed} are needed", str(path))
    # Written, not mapped: on a full disk a write raises an error, while a mapped page kills the process.
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for batch in decode():
            file.write(batch.tobytes())
