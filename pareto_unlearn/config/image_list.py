"""Reads the names of single images from a text file or a CSV."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from pareto_unlearn.config.value_types import is_one_line, refusal
from pareto_unlearn.config.wording import found, quoted

NAME_COLUMNS = ("image_id", "path", "image", "file", "filename", "name")
"""The heads of a column of names in a CSV, in any case; ``image_id`` is that of a run's manifest.csv."""

_COMMENT = "#"


def read_image_names(value: object) -> object:
    """Return the names in a file as a sorted tuple; other values but lists of names as they are.

    The names stand in the resolved sweep, so a run holds them and no worker needs the file.
    """
    if isinstance(value, str):
        named = list(_read_file(Path(value).expanduser(), value))
        place = f"in {quoted(value)}"
    elif isinstance(value, list | tuple):
        named = [(number, one) for number, one in enumerate(value, start=1)]
        place = "in the list"
    else:
        return value
    if not named:
        raise refusal(f"expected at least one image, found none {place}; write one path a line")
    return tuple(sorted(_each_once(named, place)))


def _each_once(named: Iterable[tuple[int, object]], place: str) -> Iterator[str]:
    first: dict[str, int] = {}
    for number, name in named:
        if not isinstance(name, str) or not is_one_line(name):
            raise refusal(f"expected paths of images as text, found {found(name)} {place}, entry {number}")
        # As a shell or a file manager writes them.
        plain = name.removeprefix("./")
        if plain in first:
            raise refusal(
                f"expected every image once, found `{quoted(plain)}` twice {place}, entries {first[plain]} "
                f"and {number}; remove one"
            )
        first[plain] = number
        yield plain


def _read_file(path: Path, shown: str) -> Iterator[tuple[int, str]]:
    """Yield (line, name) for every image in a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        trouble = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise refusal(
            f"expected a text file or CSV with the paths of images relative to data.root, one a line, found "
            f"{trouble} at {quoted(shown)}"
        ) from error
    if path.suffix.lower() == ".csv":
        yield from _read_csv(text, shown)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(_COMMENT):
            yield number, line.strip()


def _read_csv(text: str, shown: str) -> Iterator[tuple[int, str]]:
    rows = csv.reader(text.splitlines())
    head = [cell.strip().lower() for cell in next(rows, [])]
    column = next((head.index(name) for name in NAME_COLUMNS if name in head), None)
    if column is None:
        raise refusal(
            f"expected a first line that names a column {' or '.join(NAME_COLUMNS)} in {quoted(shown)}, "
            f"found `{quoted(', '.join(head))}`; a list without such a line is a .txt file"
        )
    for row in rows:
        if row:
            yield rows.line_num, row[column].strip() if column < len(row) else ""
