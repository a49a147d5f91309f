"""The places a run directory can lie in: files and directories appear there at once or not at all.

``LocalStorage`` (also NFS) writes under a dot-name, flushes to the device and then links or renames;
``ObjectStorage`` (S3 and the like, through pyarrow) relies on objects that appear when their upload ends.
Names are relative POSIX paths inside the run directory. Knows nothing of trials or tables.

Temporary names start with ``.tmp-`` and do not end in the suffix of the file they become, so that neither
a plain glob nor a dataset reader picks one up.
"""

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Protocol

import pyarrow as pa
from pyarrow import fs

from pareto_unlearn.errors import StoreError
from pareto_unlearn.file_lock import open_lock
from pareto_unlearn.store.conditional import Creator, find_creator

TEMPORARY_PREFIX = ".tmp-"
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
NO_FLOCK = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK})


class Storage(Protocol):
    """The operations that a run directory needs; a missing file raises FileNotFoundError."""

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        ...

    def file_names(self, directory: str) -> list[str]:
        """Return the sorted names of the files in a directory, without dot-names; [] if it is absent."""
        ...

    def directory_names(self, directory: str) -> list[str]:
        """Return the sorted names of the directories in a directory, dot-names too; [] if it is absent."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Write a file or replace it; readers see the old content or the new."""
        ...

    def put_new(self, name: str, data: bytes) -> bool:
        """Return True after writing a new file, False without writing if the file exists."""
        ...

    def put_directory(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a directory or replace it; the last file of the mapping appears last."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        ...

    def remove_directory(self, name: str) -> None:
        """Remove a directory with its content if it exists."""
        ...

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Wait until no other writer holds this name, and hold it."""
        ...

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """Remove what killed writers left; return the bytes that this frees."""
        ...

    def make_private(self) -> None:
        """Make the run directory, if it is missing, for this user alone: it holds pixels to forget."""
        ...


class Disk:
    """The calls that change a local disk, in one class so that tests can make any of them fail."""

    def make_directory(self, path: Path) -> None:
        """Make a directory unless it exists."""
        path.mkdir(exist_ok=True)

    def create(self, path: Path, data: bytes) -> None:
        """Write a new file and flush it to the device."""
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            remaining = memoryview(data)
            while remaining:
                remaining = remaining[os.write(descriptor, remaining) :]
            os.fsync(descriptor)
        except OSError as error:
            # write() and fsync() name no file, and "disk full" without a place helps nobody.
            message = f"{error.strerror} (writing {len(data)} bytes)"
            raise OSError(error.errno, message, str(path)) from error
        finally:
            os.close(descriptor)

    def sync_directory(self, path: Path) -> None:
        """Flush the names in a directory to the device."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; FileExistsError if the name is taken."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Rename; a file at the target is replaced, a directory with content is an error."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with its content."""
        shutil.rmtree(path)


class LocalStorage:
    """A run directory on a local or network file system.

    The directory itself may be a link. One inside it is never followed, neither for reading nor for writing:
    in the directory of a stranger it may lead to any file of the user's.
    """

    def __init__(self, root: Path, disk: Disk | None = None) -> None:
        self.root = root
        self._disk = disk or Disk()

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        return self.inside(name).read_bytes()

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.inside(name).is_file()

    def file_names(self, directory: str) -> list[str]:
        """Return the sorted names of the files in a directory, without dot-names; [] if it is absent."""
        entries = self._entries(directory)
        return sorted(entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))

    def directory_names(self, directory: str) -> list[str]:
        """Return the sorted names of the directories in a directory, dot-names too; [] if it is absent."""
        return sorted(entry.name for entry in self._entries(directory) if entry.is_dir())

    def put(self, name: str, data: bytes) -> None:
        """Write a file or replace it; readers see the old content or the new."""
        target = self.inside(name)
        with self._temporary_file(target, data) as temporary:
            self._disk.rename(temporary, target)
        self._disk.sync_directory(target.parent)

    def put_new(self, name: str, data: bytes) -> bool:
        """Return True after writing a new file, False without writing if the file exists.

        Where the file system has no hard links the check and the rename are two steps: two writers
        that do not hold ``exclusive`` could then both succeed.
        """
        target = self.inside(name)
        with self._temporary_file(target, data) as temporary:
            published = self._publish_new(temporary, target)
        self._disk.sync_directory(target.parent)
        return published

    def put_directory(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a directory or replace it; the last file of the mapping appears last."""
        target = self.inside(name)
        self._make_parents(target)
        temporary, replaced = _temporary_path(target), _temporary_path(target)
        try:
            self._disk.make_directory(temporary)
            for file_name, data in files.items():
                self._disk.create(temporary / file_name, data)
            self._disk.sync_directory(temporary)
            if target.exists():
                self._disk.rename(target, replaced)
            self._disk.rename(temporary, target)
            self._disk.sync_directory(target.parent)
        finally:
            for leftover in (temporary, replaced):
                if leftover.exists():
                    with suppress(OSError):
                        self._disk.remove_tree(leftover)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with suppress(FileNotFoundError):
            self._disk.remove(self.inside(name))

    def remove_directory(self, name: str) -> None:
        """Remove a directory with its content if it exists; readers see it disappear at once."""
        target = self.inside(name)
        if not target.exists():
            return
        doomed = _temporary_path(target)
        self._disk.rename(target, doomed)
        self._disk.remove_tree(doomed)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait until no other writer holds this name, and hold it; the kernel frees it at death."""
        path = self.inside(name)
        self._make_parents(path)
        descriptor = open_lock(path)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                # Without flock, put_new still lets only one row through.
                if error.errno not in NO_FLOCK:
                    raise
            yield
        finally:
            os.close(descriptor)

    def remove_leftovers(self, older_than_seconds: float) -> int:
        """Remove temporary files and directories that nobody wrote to for so long; return their bytes."""
        limit, freed = time.time() - older_than_seconds, 0
        for leftover in list(self.root.rglob(f"{TEMPORARY_PREFIX}*")):
            with suppress(OSError):  # another driver may remove the same
                files = [file for file in (leftover, *leftover.rglob("*")) if not file.is_dir()]
                statuses = [entry.lstat() for entry in (leftover, *files)]
                if max(status.st_mtime for status in statuses) > limit:
                    continue
                freed += sum(file.lstat().st_size for file in files)
                is_directory = leftover.is_dir() and not leftover.is_symlink()
                (self._disk.remove_tree if is_directory else self._disk.remove)(leftover)
        return freed

    def make_private(self) -> None:
        """Make the run directory, if it is missing, for this user alone: it holds pixels to forget."""
        self._make_parents(self.root)
        with suppress(FileExistsError):
            self.root.mkdir(mode=0o700)

    def inside(self, name: str) -> Path:
        """Return the path of a name, none of whose parts below the root is a link.

        Raises:
            StoreError: one of them is.
        """
        path = self.root
        for part in PurePosixPath(name).parts:
            path = path / part
            if path.is_symlink():
                raise StoreError(
                    f"{path}: expected a file or folder of the run, found a link. Links inside a run are not "
                    "followed, since they may lead anywhere; put what it leads to in its place, or remove it"
                )
        return path

    def _entries(self, directory: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.inside(directory)) as entries:
                return list(entries)
        except FileNotFoundError:
            return []

    @contextmanager
    def _temporary_file(self, target: Path, data: bytes) -> Iterator[Path]:
        self._make_parents(target)
        temporary = _temporary_path(target)
        try:
            self._disk.create(temporary, data)
            yield temporary
        finally:
            if temporary.exists():
                with suppress(OSError):
                    self._disk.remove(temporary)

    def _publish_new(self, temporary: Path, target: Path) -> bool:
        try:
            self._disk.link(temporary, target)
        except FileExistsError:
            # A network file system may carry out a link and report that the repeated request failed.
            return target.samefile(temporary)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if target.exists():
                return False
            self._disk.rename(temporary, target)
        return True

    def _make_parents(self, path: Path) -> None:
        missing = [parent for parent in path.parents if not parent.is_dir()]
        for directory in reversed(missing):
            self._disk.make_directory(directory)
            self._disk.sync_directory(directory.parent)


class ObjectStorage:
    """A run directory in an object store.

    An object appears when its upload ends, so ``put`` is atomic. ``creator`` lets one of several writers of a
    new object win. Without one ``put_new`` looks first, so that two writers at the same moment may both
    believe that they wrote it. ``exclusive`` holds nothing: what a start of a trial writes has names of its
    own until its row, which ``put_new`` writes, names them.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, creator: Creator | None = None) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self._creator = creator

    def read(self, name: str) -> bytes:
        """Return the content of an object."""
        with self._filesystem.open_input_file(f"{self._root}/{name}") as stream:
            return bytes(stream.read())

    def exists(self, name: str) -> bool:
        """Return whether an object exists."""
        return bool(self._info(name).type == fs.FileType.File)

    def file_names(self, directory: str) -> list[str]:
        """Return the sorted names of the objects in a directory, without dot-names; [] if it is absent."""
        names = [i.base_name for i in self._listing(directory) if i.type == fs.FileType.File]
        return sorted(name for name in names if not name.startswith("."))

    def directory_names(self, directory: str) -> list[str]:
        """Return the sorted names of the directories in a directory, dot-names too; [] if it is absent."""
        return sorted(i.base_name for i in self._listing(directory) if i.type == fs.FileType.Directory)

    def put(self, name: str, data: bytes) -> None:
        """Write an object or replace it; readers see the old content or the new."""
        # One write call: closing the stream after a failed later write would publish a truncated object.
        with self._filesystem.open_output_stream(f"{self._root}/{name}") as stream:
            stream.write(data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Return True after writing a new object, False without writing if the object exists."""
        if self._creator is not None:
            return self._creator.create(f"{self._root}/{name}", data)
        if self.exists(name):
            return False
        self.put(name, data)
        return True

    def put_directory(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write a directory or replace it; the last file of the mapping appears last."""
        if files:
            # The last file says that the others are complete, so it goes before they change.
            self.remove(f"{name}/{list(files)[-1]}")
        self.remove_directory(name)
        for file_name, data in files.items():
            self.put(f"{name}/{file_name}", data)

    def remove(self, name: str) -> None:
        """Remove an object if it exists."""
        with suppress(FileNotFoundError):
            self._filesystem.delete_file(f"{self._root}/{name}")

    def remove_directory(self, name: str) -> None:
        """Remove a directory with its content if it exists."""
        with suppress(FileNotFoundError):
            self._filesystem.delete_dir(f"{self._root}/{name}")

    def exclusive(self, name: str) -> AbstractContextManager[None]:  # noqa: ARG002 (see the class)
        """Hold nothing."""
        return nullcontext()

    def remove_leftovers(self, older_than_seconds: float) -> int:  # noqa: ARG002 (there are none)
        """Remove nothing: an upload that did not end leaves no object."""
        return 0

    def make_private(self) -> None:
        """Make nothing: a bucket has rules of its own."""

    def _info(self, name: str) -> fs.FileInfo:
        info = self._filesystem.get_file_info(f"{self._root}/{name}")
        return info[0] if isinstance(info, list) else info

    def _listing(self, directory: str) -> list[fs.FileInfo]:
        selector = fs.FileSelector(f"{self._root}/{directory}".rstrip("/"), allow_not_found=True)
        listing = self._filesystem.get_file_info(selector)
        return listing if isinstance(listing, list) else [listing]


def open_storage(path: str) -> tuple[str, Storage]:
    """Return the absolute path (or the URI) of a run directory and the storage it lies in.

    Raises:
        ValueError: the URI has a scheme or an option that pyarrow does not know.
        OSError: the object store does not answer.
    """
    if not is_uri(path):
        # Workers run in other working directories, so a relative path must not leave this process.
        root = Path(path).expanduser().absolute()
        return str(root), LocalStorage(root)
    try:
        filesystem, root_name = fs.FileSystem.from_uri(_with_short_uploads(path))
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    if isinstance(filesystem, fs.LocalFileSystem):
        return root_name, LocalStorage(Path(root_name))
    return path, ObjectStorage(filesystem, root_name, find_creator(path))


def _with_short_uploads(uri: str) -> str:
    """Return a URI that lets a small object be written by one request instead of three."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def is_plain_name(name: str) -> bool:
    """Return whether a name is safe as one component of a path on every storage."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) is not None


def is_uri(path: str) -> bool:
    """Return whether a path is a URI (s3://bucket/runs)."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path) is not None


def join_path(storage: str, name: str) -> str:
    """Return ``storage``/``name``; the options of a URI (after ``?``) stay at the end."""
    if not is_uri(storage):
        return str(Path(storage) / name)
    base, mark, options = storage.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def _temporary_path(target: Path) -> Path:
    return target.parent / f"{TEMPORARY_PREFIX}{target.name.lstrip('.')}-{uuid.uuid4().hex}"
