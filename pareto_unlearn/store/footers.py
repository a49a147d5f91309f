"""A second footer in a Parquet file: one damaged byte in the only one makes the whole file unreadable.

The footer stands at the end of a file and says where all else lies. Bytes between the last row group and the
footer belong to nobody, so any reader of Parquet passes over them: there stands a copy of the footer with its
hash and length, and after it ``GAP``, so that a lost block of a disk hits one of the two at most::

    row groups | copy of the footer | its hash, its length, MARK | GAP | footer | its length, PAR1
"""

import hashlib
import struct
from collections.abc import Iterator

MARK = b"pareto-unlearn/2"
"""Ends a copy of a footer; found again wherever a file was cut off."""
GAP = bytes(4096)
_END = b"PAR1"
_LENGTH = struct.Struct("<I")
_HASH_BYTES = 32


def with_copy(data: bytes) -> bytes:
    """Return a Parquet file with a copy of its footer before it."""
    (length,) = _LENGTH.unpack(data[-8:-4])
    start = len(data) - 8 - length
    return _joined(data[:start], data[start:-8])


def by_copy(data: bytes) -> bytes | None:
    """Return a file whose footer is the copy that it holds; None if no copy of it is whole."""
    end = len(data)
    while (place := data.rfind(MARK, 0, end)) >= 0:
        end = place
        sealed = data[max(place - _HASH_BYTES - _LENGTH.size, 0) : place]
        if len(sealed) < _HASH_BYTES + _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(sealed[_HASH_BYTES:])
        start = place - len(sealed) - length
        footer = data[max(start, 0) : place - len(sealed)]
        if start >= 0 and hashlib.sha256(footer).digest() == sealed[:_HASH_BYTES]:
            return _joined(data[:start], footer)
    return None


def candidates(data: bytes) -> Iterator[bytes]:
    """Yield what a damaged file may have been, if nothing but one of its footers is damaged."""
    found = by_copy(data)
    if found is not None:
        yield found
    if len(data) >= 8:
        (length,) = _LENGTH.unpack(data[-8:-4])
        start = len(data) - 8 - length
        body = start - len(GAP) - len(MARK) - _LENGTH.size - _HASH_BYTES - length
        if body >= 0:
            yield _joined(data[:body], data[start:-8])


def _joined(body: bytes, footer: bytes) -> bytes:
    length = _LENGTH.pack(len(footer))
    return b"".join([body, footer, hashlib.sha256(footer).digest(), length, MARK, GAP, footer, length, _END])
