"""Seeded damage to bytes, to lines of text, and to values of JSON and YAML."""

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 17, 2**31, 2**63 - 1, -(2**63), 10**30, 0.0, -0.0, 0.5, 1e-300, 1e308,
    float("inf"), float("nan"), "", " ", "0", "1e3", "nan", "x" * 5000, "a\0b", "../../up", "/etc/passwd",
    "/", ".", "~", "s3://user:pw@host/x", "line\nbreak", "\x1b]0;title\x07", "\u202eabc", "\ud800",
    "[/nope]", "[bold]", "=1+1", "\U0001f600", [], {}, [[]], [None], [0], ["a", "a"], {"": 0},
    {"a": {"b": 1}},
)  # fmt: skip
"""What stands where something else was expected."""

NUMBERS = (b"0", b"-1", b"1e999", b"99999999999999999999", b"nan", b"0.1", b"1_0", b"0x10", b"", b"3.")
STRAYS = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\x1b[31m", b"\xe2\x80\xae", b"\t", b"\r", b"'", b'"', b"{", b": ",
    b"- ", b"&a ", b"*a", b"!!python/object:os.system ", b"#", b",", b"%", b"\xf0\x9f\x98\x80",
)  # fmt: skip


def _span(random: Random, data: bytearray, longest: int = 64) -> slice:
    start = random.randrange(len(data))
    return slice(start, start + random.randint(1, longest))


def _flip(random: Random, data: bytearray) -> None:
    for _ in range(random.choice((1, 1, 1, 8))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _overwrite(random: Random, data: bytearray) -> None:
    place = _span(random, data, 16)
    data[place] = random.choice((random.randbytes(8), b"\0" * 8, b"\xff" * 8, b"\x7f\xff\xff\xff"))


def _cut(random: Random, data: bytearray) -> None:
    del data[random.randrange(len(data)) :]


def _remove(random: Random, data: bytearray) -> None:
    del data[_span(random, data)]


def _repeat(random: Random, data: bytearray) -> None:
    place = _span(random, data, 256)
    data[place.start : place.start] = data[place] * random.choice((1, 2, 20))


def _insert(random: Random, data: bytearray) -> None:
    place = random.randrange(len(data))
    data[place:place] = random.choice(STRAYS) if random.random() < 0.7 else random.randbytes(9)


def _zero(random: Random, data: bytearray) -> None:
    place = _span(random, data, 4096)
    data[place] = bytes(len(data[place]))


def _number(random: Random, data: bytearray) -> None:
    """Put another number in the place of one that is written as text."""
    digits = [place for place, byte in enumerate(data) if chr(byte).isdigit()]
    start = end = random.choice(digits or [0])
    while end < len(data) and chr(data[end]) in "0123456789.":
        end += 1
    data[start:end] = random.choice(NUMBERS)


def _lines(random: Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\n")
    first, second = random.randrange(len(lines)), random.randrange(len(lines))
    if random.random() < 0.5:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        lines.insert(first, lines[second])
    data[:] = b"\n".join(lines)


def _empty(random: Random, data: bytearray) -> None:
    data[:] = random.choice((b"", b"\0", bytes(len(data)), random.randbytes(len(data))))


BINARY: tuple[Callable[[Random, bytearray], None], ...] = (
    *(_flip,) * 4, *(_overwrite,) * 4, _cut, _remove, _repeat, _insert, _zero, _empty,
)  # fmt: skip
TEXT = (*BINARY, *(_number,) * 6, *(_lines,) * 4, *(_insert,) * 4)


def damaged(random: Random, content: bytes, *, text: bool = False) -> bytes:
    """Return the bytes of a file with one to three damages; they differ from ``content``."""
    while True:
        data = bytearray(content)
        for _ in range(random.choice((1, 1, 2, 3))):
            if data:
                random.choice(TEXT if text else BINARY)(random, data)
        if bytes(data) != content:
            return bytes(data)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


def changed(random: Random, content: Any) -> Any:
    """Return values with one of them replaced, removed, renamed or added to."""
    content = copy.deepcopy(content)
    path = random.choice(_places(content)[1:])
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    how = random.random()
    if how < 0.75:
        parent[path[-1]] = copy.deepcopy(random.choice(ODD_VALUES))
    elif how < 0.9:
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[random.choice(("x", "", "a.b", "schema_version"))] = parent.pop(path[-1])
    else:
        parent.insert(path[-1], copy.deepcopy(parent[path[-1]]))
    return content


def changed_json(random: Random, content: bytes) -> bytes:
    """Return a JSON text with one value changed."""
    return json.dumps(changed(random, json.loads(content))).encode()
