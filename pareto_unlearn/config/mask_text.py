"""A mask as one line of text, so that the resolved sweep holds it and no worker needs its file."""

import base64
import binascii
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pareto_unlearn.config.value_types import is_one_line, refusal
from pareto_unlearn.config.wording import found, quoted

if TYPE_CHECKING:
    from PIL import Image

_LARGEST_SIDE = 4096
_FORMATS = ("BMP", "GIF", "PNG", "PPM", "TIFF", "WEBP")
_TEXT = re.compile(r"bits:(\d{1,4}):([A-Za-z0-9+/=]+)")


def read_mask_text(value: object) -> object:
    """Return the text of the mask in a file; a text of this form, and what is no text, as it is.

    Two values are a mask: the brighter one is removed. A palette, gray or colour makes no difference.
    """
    if not isinstance(value, str) or value.startswith("bits:"):
        return value
    if not is_one_line(value):
        raise refusal(f"expected the path of an image, found {found(value)}")
    mask = _binary(_open_square(Path(value).expanduser(), value), value)
    packed = base64.b64encode(zlib.compress(mask.tobytes(), 9)).decode()
    return f"bits:{mask.width}:{packed}"


def open_mask_text(text: str) -> "Image.Image":
    """Return the mask of a text, in mode "1"; white is removed.

    Raises:
        ValueError: it is no such text.
    """
    from PIL import Image

    if (parts := _TEXT.fullmatch(text)) is None or not 0 < int(parts[1]) <= _LARGEST_SIDE:
        raise ValueError(f"expected bits:SIDE:BASE64, found {quoted(text)}")
    side = int(parts[1])
    size = (side + 7) // 8 * side
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(parts[2], validate=True), size + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"expected packed bits, found {error}") from error
    if len(unpacked) != size:
        raise ValueError(f"expected {size} bytes of a mask of {side} pixels, found {len(unpacked)}")
    return Image.frombytes("1", (side, side), unpacked)


def check_mask_text(text: str | None) -> str | None:
    """Refuse a text that is no mask."""
    if text is not None:
        try:
            open_mask_text(text)
        except ValueError as error:
            raise refusal(f"{error}; give the path of an image") from error
    return text


def _open_square(path: Path, value: str) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    if path.is_dir():
        raise refusal(
            f"expected one image, the mask of all pictures, found the folder {quoted(value)}: a mask for "
            "each picture is not supported; name one file"
        )
    try:
        with Image.open(path, formats=_FORMATS) as opened:
            width, height = opened.size
            image = opened.copy() if width == height <= _LARGEST_SIDE else None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        trouble = getattr(error, "strerror", None) or "no image of these kinds, or a damaged one"
        raise refusal(
            f"expected a mask as {', '.join(_FORMATS)} (JPEG blurs its edges), found {trouble} at "
            f"{quoted(value)}"
        ) from error
    if image is None:
        raise refusal(
            f"expected a square mask of at most {_LARGEST_SIDE} pixels, found {width} x {height} in "
            f"{quoted(value)}"
        )
    return image


def _binary(image: "Image.Image", value: str) -> "Image.Image":
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise refusal(f"expected a mask without transparency, found some in {quoted(value)}; save it opaque")
    gray = image.convert("RGB").convert("L")
    values = [number for number, count in enumerate(gray.histogram()) if count]
    if len(values) != 2:
        raise refusal(
            f"expected a mask of two values, of which the brighter is removed, found {len(values)} in "
            f"{quoted(value)}; save it without smooth edges, as PNG"
        )
    return gray.point([255 if number == values[1] else 0 for number in range(256)], "1")
