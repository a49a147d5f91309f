"""What lies under the name of a checkpoint, by its first bytes, so that a message can say what to do."""

import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pareto_unlearn.errors import WeightsError

SAFETENSORS = ".safetensors"
_SCALAR = np.float64(0.0).__reduce__()[0]
_PATHS = (pathlib.PosixPath, pathlib.PurePosixPath)
HARMLESS: tuple[Any, ...] = (
    *((kind, f"{module}.{kind.__name__}") for module in ("pathlib", "pathlib._local") for kind in _PATHS),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
)
"""Classes that published launchers leave beside the weights. None of them opens, runs or imports anything."""


def require_checkpoint(path: Path) -> None:
    """Refuse what is no file of weights at all, and one whose name says another kind than it is.

    Raises:
        WeightsError: what was found there, and what to do.
    """
    if path.is_dir():
        raise WeightsError(f"{path}: expected a checkpoint, found a folder; name the file in it")
    if not path.is_file():
        raise WeightsError(f"{path}: expected a checkpoint, found no such file")
    with path.open("rb") as file:
        start = file.read(512)
    for is_kind, advice in _KINDS:
        if is_kind(start):
            raise WeightsError(f"{path}: expected a checkpoint, found {advice}")
    if _is_safetensors(start) and path.suffix != SAFETENSORS:
        raise WeightsError(
            f"{path}: found a safetensors file under another ending; name it {path.stem}{SAFETENSORS}"
        )
    if path.suffix == SAFETENSORS and start[:2] == b"PK":
        raise WeightsError(f"{path}: found a file of torch.save under {SAFETENSORS}; name it {path.stem}.pth")


def _is_html(start: bytes) -> bool:
    text = start.lstrip().lower()
    return text.startswith((b"<!doctype html", b"<html", b"<?xml"))


def _is_safetensors(start: bytes) -> bool:
    """A little-endian length of eight bytes, then JSON."""
    return len(start) > 9 and start[8:10] in (b'{"', b"{}") and start[6:8] == b"\0\0"


_KINDS: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (lambda start: not start, "an empty file; download it again"),
    (
        lambda start: start.startswith(b"version https://git-lfs"),
        "a pointer of Git LFS in place of the file; `git lfs pull` fetches it",
    ),
    (_is_html, "a web page: the download was one; take the link of the file itself"),
    (lambda start: start.startswith(b"\x89HDF"), "an HDF5 file, as Keras writes; convert it to safetensors"),
    (lambda start: start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")), "a compressed file; unpack it"),
    (lambda start: start[257:262] == b"ustar", "a tar archive; unpack it and name the file in it"),
)
