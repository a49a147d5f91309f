"""Reads an image file as the pixels that a model family takes.

The rules, the same for every data set of files:
- The content decides the format, not the name. It is one of ``FORMATS``; of several frames the first is read.
- Pillow converts colours to RGB, CMYK too, without colour profiles, as for the published models.
- Transparent images are composited on white. 16-bit grays are scaled to 8 bits, not clipped; 16-bit colours
  lose their low byte.
- The EXIF orientation is not applied: the published models saw pixels in the order in which they are stored.
- An image for which there is no rule (32-bit values, Lab), that is damaged, or that has more than
  ``MAX_PIXELS`` raises an error that names the file.
"""

import hashlib
import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError, features

from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import PixelFormat

MAX_PIXELS = 64_000_000
READS_AVIF = features.check("avif")
"""Pillow before 11.3, and builds without libavif, do not; the first do not even know the name."""
FORMATS = (*(("AVIF",) if READS_AVIF else ()), "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_MODES = {1: "L", 3: "RGB"}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_PLAIN_MODES = frozenset({"1", "L", "P", "RGB", "CMYK", "YCbCr"})
# The errors that Pillow raises on damaged files of these formats.
_UNREADABLE = (
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    SyntaxError,
    ValueError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def read_image(path: Path, pixels: PixelFormat) -> UInt8[np.ndarray, "c h w"]:
    """Return the pixels of a file in the format a model family reads.

    Raises:
        ConfigError: names a file that cannot be read, or has not the size that the fit ``exact`` requires.
    """
    with _naming(path), Image.open(path, formats=FORMATS) as image:
        _check_size(image, pixels)
        fitted = _fit(_convert(image, pixels.channels), pixels)
    array = np.asarray(fitted)
    return array[None] if pixels.channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


class Size(NamedTuple):
    """What the header of an image file says of it."""

    width: int
    height: int
    channels: int


def read_size(path: Path) -> Size:
    """Return the size of an image from its file's header; its pixels are not read.

    Raises:
        ConfigError: names a file that is no image.
    """
    with _naming(path), Image.open(path, formats=FORMATS) as image:
        gray = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
        return Size(*image.size, channels=1 if gray else 3)


def check_image(path: Path, pixels: PixelFormat) -> str:
    """Return the SHA-256 hex digest of a file's bytes, after a check that ``read_image`` can read it.

    Raises:
        ConfigError: ``read_image`` would fail.
    """
    with _naming(path):
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, pixels)
            # A JPEG is decoded at an eighth of its size: this reads all its bytes in a fraction of the time.
            image.draft(image.mode, (image.width // 8, image.height // 8))
            _convert(image, pixels.channels)
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the SHA-256 hex digest of a file's bytes; the file need not be an image.

    Raises:
        ConfigError: the file cannot be read.
    """
    with _naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn every error that a damaged file raises into a ``ConfigError`` that names the file."""
    try:
        yield
    except _UNREADABLE as error:
        trouble = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if isinstance(error, UnidentifiedImageError):
            trouble = _unknown_kind(path)
        raise ConfigError(
            f"{path}: expected an image that the model can read ({', '.join(FORMATS)}), found: {trouble}; "
            "replace or remove the file"
        ) from error


def _unknown_kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:12] in (b"ftypavif", b"ftypavis") and not READS_AVIF:
        return "AVIF, which this build of Pillow does not read: install pillow>=11.3, or convert the file"
    return "none of these kinds, or a damaged header"


def _check_size(image: Image.Image, pixels: PixelFormat) -> None:
    """Refuse an image by the size in its header, before its pixels take memory."""
    if pixels.fit == "exact" and image.size != (pixels.side, pixels.side):
        raise ValueError(
            f"{_size(image.size)} pixels, but the model reads {_size((pixels.side,) * 2)} as they are"
        )
    resized = _resized_size(image.size, pixels)
    if max(image.width * image.height, resized[0] * resized[1]) > MAX_PIXELS:
        raise ValueError(f"{_size(image.size)} pixels, more than {MAX_PIXELS:,} or too narrow to be cropped")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """Return the image in 8-bit RGB, or in gray by the weights of ITU-R 601; see the rules of the module."""
    if image.mode.startswith("I"):
        image = _scale_16_bits(image)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, colours)
    elif image.mode not in _PLAIN_MODES:
        raise ValueError(
            f"pixels of kind {image.mode}, for which there is no rule; convert them to 8-bit RGB"
        )
    return image.convert("RGB").convert(_MODES[channels])


def _scale_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("gray values beyond 16 bits, for which there is no rule; convert them to 8 bits")
    # 65535 / 257 = 255: white stays white.
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _fit(image: Image.Image, pixels: PixelFormat) -> Image.Image:
    """Return the image in side x side pixels; rounds as torchvision's Resize and CenterCrop do."""
    resized = _resized_size(image.size, pixels)
    if resized != image.size:
        image = image.resize(resized, _FILTERS[pixels.resample])
    left, top = (round((length - pixels.side) / 2.0) for length in resized)
    return image.crop((left, top, left + pixels.side, top + pixels.side))


def _resized_size(size: tuple[int, int], pixels: PixelFormat) -> tuple[int, int]:
    """Return (width, height) after the resize and before the crop."""
    if pixels.fit != "crop":
        return (pixels.side, pixels.side)
    width, height = size
    short = min(size)
    return int(pixels.side * width / short), int(pixels.side * height / short)
