"""Image files that behave like a tensor of images."""

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

from pareto_unlearn.data.pixel_cache import CacheRoom, open_pixels
from pareto_unlearn.data.reading import check_image, read_image
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

_BATCH_PER_THREAD = 32
_SHOWN_PROBLEMS = 5
_READ_AHEAD = 2
_READING_RULES = 1
"""Raised whenever the same file would become other pixels."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file that was found; ``image_id`` is its path relative to the root, with forward slashes."""

    image_id: str
    path: Path
    num_bytes: int
    changed_nanoseconds: int


class FileLocator:
    """Finds image files below a root without opening them."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._parents: dict[Path, bool] = {}

    def locate(self, image_id: str) -> ImageFile:
        """Return the file of an image.

        Raises:
            ConfigError: it is missing, empty, no regular file, or a link leads out of the root.
        """
        path = self._root / image_id
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                found = path.stat()
                self._check_inside(path, self._is_inside(path.resolve()))
        except OSError as error:
            raise ConfigError(f"{path}: expected an image file, found: {error.strerror}") from error
        # One resolution for all files of a folder: it asks the file system once per component.
        if path.parent not in self._parents:
            self._parents[path.parent] = self._is_inside(path.parent.resolve())
        self._check_inside(path, self._parents[path.parent])
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: expected an image file, found something that is no regular file")
        if found.st_size == 0:
            raise ConfigError(f"{path}: expected an image file, found an empty one; replace or remove it")
        return ImageFile(image_id, path, found.st_size, found.st_mtime_ns)

    def _is_inside(self, resolved: Path) -> bool:
        return resolved.is_relative_to(self._root)

    def _check_inside(self, path: Path, inside: bool) -> None:
        if not inside:
            raise ConfigError(
                f"{path}: expected a file below {self._root}, found a link that leads out of it; "
                "let data.root name the folder that really holds the files"
            )


class FileImages:
    """Images that are read when they are asked for, from their files or from the cache of decoded pixels.

    ``reader`` is the background thread of ``read_ahead``; the images of a data set share it.
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

        With a cache, the first call decodes all images, unless another process has: it takes minutes for tens of thousands.

        Raises:
            ConfigError: a file cannot be read; names it.
        """
        places = self._places(rows)
        ahead = self._ahead.pop(places, None)
        return self._read(places, torch.get_num_threads()) if ahead is None else ahead.result()

    def read_ahead(self, rows: Tensor | list[int] | slice, /) -> None:
        """Start to read some images in the background, for the next call that asks for the same.

        The one at hand and the next may wait; a third takes the place of the oldest. What goes wrong is raised by that call.
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

    def _read(self, places: tuple[int, ...], threads: int) -> Float[Tensor, "n c h w"]:
        if self._cached is not None:
            values = self._cached[list(places)]
        else:
            parts = list(_decode([self._files[place] for place in places], self._pixels, threads))
            values = np.concatenate([np.empty((0, *self._shape[1:]), np.uint8), *parts])
        return torch.from_numpy(values).to(torch.float32).div_(255.0)

    @cached_property
    def _cached(self) -> UInt8[np.ndarray, "n c h w"] | None:
        if self._folder is None or not self._files:
            return None
        # All cores, whatever a trial may use: the other trials are waiting for these pixels.
        decode = partial(_decode, self._files, self._pixels, os.cpu_count() or 1)
        return open_pixels(self._folder / f"pixels-{self._cache_key()}.npy", self._shape, decode)

    def _cache_key(self) -> str:
        """Return what decides the pixels: files as they stand, format, and the code that reads them."""
        files = [(str(file.path), file.num_bytes, file.changed_nanoseconds) for file in self._files]
        content = [_READING_RULES, PIL.__version__, asdict(self._pixels), files]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class FileDigests:
    """SHA-256 digests of the bytes of image files, all computed when the first is asked for.

    Every file is then decoded too, so that damaged ones are found together, and before a training meets one.
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
            rest = len(problems) - _SHOWN_PROBLEMS
            more = [f"and {rest} more files that cannot be read"] if rest > 0 else []
            raise ConfigError("\n".join([*problems[:_SHOWN_PROBLEMS], *more]))
        return tuple(str(outcome) for outcome in outcomes)

    def _check(self, file: ImageFile) -> str | ConfigError:
        try:
            return check_image(file.path, self._pixels)
        except ConfigError as error:
            return error


def _decode(
    files: Sequence[ImageFile], pixels: PixelFormat, threads: int
) -> Iterator[UInt8[np.ndarray, "b c h w"]]:
    """Yield the pixels of files in their order, in batches that bound the memory."""
    size = _BATCH_PER_THREAD * threads
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(files), size):
            batch = files[first : first + size]
            yield np.stack(list(pool.map(lambda file: read_image(file.path, pixels), batch)))
