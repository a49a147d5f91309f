"""The rows of a whole table of a run, from packs and from the small files beside them."""

from collections.abc import Set as AbstractSet
from itertools import chain

import pyarrow as pa

from pareto_unlearn.errors import StoreError
from pareto_unlearn.store import packs, parts
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import chunk_of, is_part, part_added_to

_TRIES = 5
"""At compaction a listed file may be gone before it is read: its rows are in a pack by then."""


def read_table(
    storage: Storage, table: str, wanted: AbstractSet[str], label: str
) -> tuple[list[pa.Table], int]:
    """Return the rows of the attempts that are wanted, and of how many of them the table has lost the file.

    Args:
        storage: where the run lies.
        table: its name.
        wanted: parts.
        label: the name of the run in messages.

    Raises:
        StoreError: a file is damaged or of a newer schema.
    """
    for _ in range(_TRIES):
        try:
            return _read_once(storage, table, wanted, label)
        except FileNotFoundError:
            continue
    raise StoreError(f"{label}: files of {table}/ vanish while they are read; try again")


def _read_once(
    storage: Storage, table: str, wanted: AbstractSet[str], label: str
) -> tuple[list[pa.Table], int]:
    files = storage.file_names(table)
    packed = {
        name: packs.read_pack(storage, table, name, label)
        for name in packs.pack_of_each_chunk(files).values()
    }
    held = set(chain.from_iterable(map(packs.parts_of, packed.values())))
    added = [file for file in files if part_added_to(file) in wanted]
    rest = wanted - held
    # A listing may lag behind what a name opens.
    late = [part for part in rest - set(files) if storage.exists(f"{table}/{part}")]
    loose = sorted([*(rest & set(files)), *late])
    tables = [
        content if packs.parts_of(content) <= wanted else packs.rows_of(content, wanted)
        for content in packed.values()
    ]
    tables += [parts.read_part(storage, table, file, label) for file in (*loose, *added)]
    return tables, len(rest) - len(loose)


def drop_pictures(storage: Storage, name: str, image_set: str, label: str) -> int:
    """Write a file of ``samples`` again without those of a set of images; return how many these were.

    Raises:
        StoreError: the file is damaged.
    """
    if is_part(name):
        return parts.drop_pictures(storage, name, image_set, label)
    return 0 if chunk_of(name) is None else packs.drop_pictures(storage, name, image_set, label)
