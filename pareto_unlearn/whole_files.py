"""Files that appear whole or not at all, and files of the cache, which are checked before they are used.

What f1 and f2 are measured against lies in the cache, so one flipped bit would be a wrong result. Beside each
file there lies ``<name>.sums`` with the size and the CRC-32 of what it holds. That finds damage, not forgery:
who may write there may write the sums too.
"""

import json
import logging
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pareto_unlearn.errors import ParetoUnlearnError
from pareto_unlearn.file_lock import exclusive

_BLOCK = 1 << 22
_logger = logging.getLogger(__name__)
_checked: set[tuple[object, ...]] = set()
"""What this process has read and found whole: a check reads all bytes, some three gigabytes a second."""


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that it appears at once; where that fails, an older file stays as it was.

    Args:
        path: of the file; its folder must exist.
        write: writes it at another path, whose name is the same.

    Raises:
        OSError: ``write`` failed, or the disk is full.
    """
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".part-") as folder:
        staging = Path(folder) / path.name
        _write_at(staging, write)
        _flush(staging)
        staging.replace(path)
    _flush(path.absolute().parent)


def _write_at(staging: Path, write: Callable[[Path], None]) -> None:
    """Call ``write``; an error of the disk is raised as what it is, whatever a library made of it."""
    try:
        write(staging)
    except Exception as error:
        fault = _os_error_behind(error)
        if fault is None or fault is error:
            raise
        raise fault from error


def _os_error_behind(error: BaseException) -> OSError | None:
    """Return the error of the disk that a library has put into words of its own; what we say stays."""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.errno is not None):
        if isinstance(cause, ParetoUnlearnError):
            return None
        if found := re.search(r"\(os error (\d+)\)", str(cause)):
            return OSError(int(found[1]), os.strerror(int(found[1])))
        cause = cause.__cause__ or cause.__context__
    return cause


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write bytes as ``write_whole`` does."""

    def write(staging: Path) -> None:
        staging.write_bytes(content)

    write_whole(path, write)


def open_cached(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file, or a folder of files, unless a whole one is there; a damaged one is made again.

    Several processes may call this at once: one makes it, the others wait. It appears by a rename after its
    bytes have reached the device, so neither a killed process nor a power cut leaves one that looks whole.

    Args:
        path: of the file or folder.
        make: writes it at another path beside it.

    Raises:
        StoreError: a link stands where the lock file should be.
        OSError: ``make`` failed, or the disk is full.
    """
    with exclusive(path):
        if not _is_whole(path):
            _publish(path, make)


def _is_whole(path: Path) -> bool:
    files = list(_files_of(path))
    state = (str(path), *((str(file), *_stamp(file)) for file in files))
    if files and state in _checked:
        return True
    damage = find_damage(path)
    if damage is not None:
        if _read_sums(path) is not None:
            _logger.warning("%s is damaged (%s): it is made again", path, damage)
        return False
    _checked.add(state)
    return True


def find_damage(path: Path) -> str | None:
    """Return what is wrong with a file or folder of the cache, by its sums; None if it is whole."""
    expected = _read_sums(path)
    if expected is None:
        return "no sums, as in the cache of an older release"
    found = {str(file.relative_to(path.parent)): sum_of(file) for file in _files_of(path)}
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    return ", ".join(wrong) if wrong else None


def _files_of(path: Path) -> Iterator[Path]:
    """Yield the plain files of a cache entry; a link is none, so what it leads to is never read."""
    if path.is_symlink():
        return
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    yield from (file for file in candidates if file.is_file() and not file.is_symlink())


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def sum_of(file: Path) -> list[int]:
    """Return size and CRC-32 of a file."""
    size = checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def _sums_path(path: Path) -> Path:
    return path.with_name(path.name + ".sums")


def _read_sums(path: Path) -> dict[str, list[int]] | None:
    """Return the stored sums; None where there are none, as in the cache of an older release."""
    sums = _sums_path(path)
    if sums.is_symlink():
        return None
    try:
        content = json.loads(sums.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _publish(path: Path, make: Callable[[Path], None]) -> None:
    # Fixed names are safe under the lock, and what a killed process left is overwritten, not kept.
    staging, staged_sums = (path.with_name(f"{path.name}{end}") for end in (".part", ".sums.part"))
    for leftover in (_sums_path(path), path, staging, staged_sums):
        _discard(leftover)
    try:
        _write_at(staging, make)
        files = list(_files_of(staging))
        names = [str(Path(path.name) / file.relative_to(staging)) for file in files]
        staged_sums.write_text(json.dumps(dict(zip(names, map(sum_of, files), strict=True))))
        for written in (*files, staged_sums, *([staging] if staging.is_dir() else [])):
            _flush(written)
        staging.replace(path)
        staged_sums.replace(_sums_path(path))
        _flush(path.parent)
    finally:
        _discard(staging)
        _discard(staged_sums)


def _discard(path: Path) -> None:
    """Remove a file, a link or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # fsync() names no file, and "disk full" without a place helps nobody.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)
