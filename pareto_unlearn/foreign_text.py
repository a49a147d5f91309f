"""Text on its way out: what others wrote may not steer a terminal or a spreadsheet, nor tell who ran a sweep.

Class names, labels, paths and error texts come from files of strangers. What leaves this program goes through
one of these functions; HTML, Markdown and LaTeX have escapes of their own in the report.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

_STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters but newline and tab, what turns the direction of writing, and halves of characters."""
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@?#'\"]*@")
_SECRET = re.compile(
    r"(?i)\b([\w-]*(?:(?:access|secret|account|api)[-_]?key(?:_id)?|secret|password|token)|sig)=[^&\s'\"]+"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_PATH = re.compile(r"(?<![\w~.:/<>-])/[\w.@+~-]{2,}/(?:[\w.@+~-]+/)*([\w.@+~-]+)")
"""Classes of Places are no paths, though they look like some: ``/a/airfield``."""


def plain(text: str) -> str:
    r"""Return text that steers no terminal: ESC becomes ``\x1b``, a turn of direction ``\u202e``."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def without_secrets(text: str) -> str:
    """Return text with the credentials of every URI masked: ``user:password@`` and ``secret_key=...``."""
    return _SECRET.sub(r"\1=***", _CREDENTIALS.sub("***@", text))


def write_csv(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as RFC 4180 text; a cell that a spreadsheet would take for a formula gets an apostrophe."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow([_no_formula(cell) for cell in row])
    return buffer.getvalue()


def guarded_csv(text: str) -> str:
    """Return CSV text as ``write_csv`` writes it: older releases put no apostrophe before formulas."""
    try:
        return write_csv(csv.reader(io.StringIO(text, newline="")))
    except csv.Error:
        return text


def _no_formula(cell: str) -> str:
    guard = "'" if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else ""
    return f"{guard}{plain(cell)}"  # a bare carriage return would end the row


def near_paths(text: str, root: str = "") -> str:
    """Return text whose paths start at ``root``, the directory of the run, or at the home folder, as ``~``.

    Both still lead to the file on this machine, and neither tells whose machine it is.
    """
    home = str(Path.home())
    for start, short in ((root.rstrip("/"), "."), (home, "~")):
        if len(start) > 1 and start.startswith("/"):
            # With a slash also where nothing follows: a bare ``~`` is YAML's null.
            text = re.sub(rf"(?<![\w.~-]){re.escape(start)}(?:/|(?![\w.-]))", f"{short}/", text)
    return text


def no_paths(text: str, root: str = "") -> str:
    """Return text as ``near_paths`` does, and of other absolute paths only the name that they end with."""
    return _PATH.sub(r".../\1", near_paths(text, root))
