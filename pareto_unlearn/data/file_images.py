"""Image files that are indexed like a tensor of images."""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import PIL
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from pareto_unlearn.data.image_sets import pixels_of
from pareto_unlearn.data.pixel_cache import CacheRoom, open_pixels
from pareto_unlearn.data.reading import check_image, read_image
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

_BATCH_PER_THREAD = 32
_SHOWN_PROBLEMS = 5
_READ_AHEAD = 2
_READING_RULES = 1
"""Part of the cache's key; to be raised when a change of the code makes other pixels of the same file."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file on disk; ``image_id`` is its path relative to the root, with forward slashes."""

    image_id: str
    path: Path
    num_bytes: int
    changed_nanoseconds: int


class FileLocator:
    """Finds image files below a root without opening them.

    With ``follow_links`` a link may lead to a file elsewhere, as in the cache of Hugging Face.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self._root, self._follow_links = root.resolve(), follow_links
        self._parents: dict[Path, bool] = {}

    def locate(self, image_id: str) -> ImageFile:
        """Return the file of an image.

        Raises:
            ConfigError: it is missing, empty, not a regular file, or a link leads out of the root.
        """
        path = self._root / image_id
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                found = path.stat()
                self._check_inside(path, self._is_inside(path.resolve()))
        except OSError as error:
            raise ConfigError(f"{path}: expected an image file, found: {error.strerror}") from error
        # Resolved once for all files of a folder: it asks the file system for every component of the path.
        if path.parent not in self._parents:
            self._parents[path.parent] = self._is_inside(path.parent.resolve())
        self._check_inside(path, self._parents[path.parent])
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: expected an image file, found something that is no regular file")
        if found.st_size == 0:
            raise ConfigError(f"{path}: expected an image file, found an empty one; replace or remove it")
        return ImageFile(image_id, path, found.st_size, found.st_mtime_ns)

    def _is_inside(self, resolved: Path) -> bool:
        return self._follow_links or resolved.is_relative_to(self._root)

    def _check_inside(self, path: Path, inside: bool) -> None:
        if not inside:
            raise ConfigError(
                f"{path}: expected a file below {self._root}, found a link that leads out of it; "
                "let data.root name the folder that really holds the files, or set data.follow_links: true "
                "if you trust whoever made the links"
            )


class FileImages:
    """Images that are read when they are indexed, from their files or from the cache of decoded pixels.

    ``reader`` is the background thread of ``read_ahead``; all image sets of a data set share it.
    """

    def __init__(
        self, files: Sequence[ImageFile], pixels: PixelFormat, room: CacheRoom, reader: Executor
    ) -> None:
        self._files, self._pixels = tuple(files), pixels
        shape = (len(files), pixels.channels, pixels.side, pixels.side)
        self._shape = shape
        self._folder = room.claim(len(files) * pixels.channels * pixels.side**2)
        self._reader = reader
        self._ahead: dict[tuple[int, ...], Future[Tensor]] = {}

    def __len__(self) -> int:
        return len(self._files)

    @property
    def shape(self) -> torch.Size:
        """Number of images, channels, height, width."""
        return torch.Size(self._shape)

    def __getitem__(self, rows: Tensor | list[int] | slice, /) -> Float[Tensor, "n c h w"]:
        """Return some images as float32 in [0, 1]; ``rows`` are positions, or a mask.

        With a cache, the first call decodes all images unless another process has done so; tens of thousands
        of images take minutes.

        Raises:
            ConfigError: a file cannot be read; the error names it.
        """
        return pixels_of(self.take_bytes(rows))

    def take_bytes(self, rows: Tensor | list[int] | slice, /) -> UInt8[Tensor, "n c h w"]:
        """Return some images as they are read and kept, in the same way and with the same errors."""
        places = self._places(rows)
        ahead = self._ahead.pop(places, None)
        return self._read(places, torch.get_num_threads()) if ahead is None else ahead.result()

    def read_ahead(self, rows: Tensor | list[int] | slice, /) -> None:
        """Start to read some images in the background, for the call that will index the same rows.

        Two such batches are kept, for the current step and the next; a third replaces the oldest. An error is
        raised by the call that indexes the rows.
        """
        places = self._places(rows)
        if places in self._ahead:
            return
        while len(self._ahead) >= _READ_AHEAD:
            self._ahead.pop(next(iter(self._ahead))).cancel()
        self._ahead[places] = self._reader.submit(self._read, places, torch.get_num_threads())

    def _places(self, rows: Tensor | list[int] | slice) -> tuple[int, ...]:
        chosen = torch.arange(len(self))[rows.cpu() if isinstance(rows, Tensor) else rows]
        return tuple(chosen.tolist())

    def _read(self, places: tuple[int, ...], threads: int) -> UInt8[Tensor, "n c h w"]:
        if self._cached is not None:
            values = self._cached[list(places)]
        else:
            parts = list(_decode([self._files[place] for place in places], self._pixels, threads))
            # The empty part gives shape and dtype where no rows were asked for.
            values = np.concatenate([np.empty((0, *self._shape[1:]), np.uint8), *parts])
        return torch.from_numpy(values)

    @cached_property
    def _cached(self) -> UInt8[np.ndarray, "n c h w"] | None:
        if self._folder is None or not self._files:
            return None
        # All cores, even if a trial may use only some of them: the other trials are waiting for these pixels.
        decode = partial(_decode, self._files, self._pixels, os.cpu_count() or 1)
        return open_pixels(self._folder / f"pixels-{self._cache_key()}.npy", self._shape, decode)

    def _cache_key(self) -> str:
        """Return a hash of all that decides the pixels: files, pixel format, versions of the reading code."""
        files = [(str(file.path), file.num_bytes, file.changed_nanoseconds) for file in self._files]
        content = [_READING_RULES, PIL.__version__, asdict(self._pixels), files]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class FileDigests:
    """SHA-256 digests of the bytes of image files; the first access computes all of them.

    Every file is decoded too, so that all damaged files are reported together, before a training reads one.
    """

    def __init__(self, files: Sequence[ImageFile], pixels: PixelFormat) -> None:
        self._files, self._pixels = tuple(files), pixels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int, /) -> str:
        return self._digests[position]

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    @cached_property
    def _digests(self) -> tuple[str, ...]:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            outcomes = list(pool.map(self._check, self._files))
        problems = [str(outcome) for outcome in outcomes if isinstance(outcome, ConfigError)]
        if problems:
            shown = problems[:_SHOWN_PROBLEMS]
            if len(problems) > _SHOWN_PROBLEMS:
                shown.append(f"and {len(problems) - _SHOWN_PROBLEMS} more files that cannot be read")
            raise ConfigError("\n".join(shown))
        return tuple(str(outcome) for outcome in outcomes)

    def _check(self, file: ImageFile) -> str | ConfigError:
        try:
            return check_image(file.path, self._pixels)
        except ConfigError as error:
            return error


def _decode(
    files: Sequence[ImageFile], pixels: PixelFormat, threads: int
) -> Iterator[UInt8[np.ndarray, "b c h w"]]:
    """Yield the pixels of the files in their order, in batches that limit the memory in use."""
    size = _BATCH_PER_THREAD * threads
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(files), size):
            batch = files[first : first + size]
            yield np.stack(list(pool.map(lambda file: read_image(file.path, pixels), batch)))
