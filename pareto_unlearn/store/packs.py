"""Packs: many small files of a run in one, because ten thousand take half a minute to open.

A pack holds the rows of up to ``MOST_ATTEMPTS`` committed attempts. Those of the four tables hold the same
attempts and share a chunk id, so that whether a table has a trial's rows is known from names. The end of a
name is the hash of the content, so that one flipped bit is found. Packs never change; ``packs.json`` tells a
worker, who must not list the run, which attempts they hold. ``label`` is the name of the run in messages.

Small files are removed only after all packs of their attempts and ``packs.json`` are flushed. A crash before
leaves both, and readers take the pack.
"""

import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store import footers
from pareto_unlearn.store.checkpoints import sha256_of
from pareto_unlearn.store.filesystem import Storage
from pareto_unlearn.store.names import attempt_of, chunk_of, is_part, pack_name, part_name
from pareto_unlearn.store.schemas import SCHEMAS, check_schema, decode_records, decode_table, empty_table
from pareto_unlearn.stored_fields import sealed, unsealed

PACKS_FILE = "packs.json"
MOST_ATTEMPTS = 1000
MOST_BYTES = 64_000_000
"""Of the small files that go into one pack of a table: a pack is read as a whole."""
ATTEMPTS_OF_GROUP = 100
"""A damaged byte costs the rows of one row group, or nothing where it lies in one of the two footers."""
_GROUPS_KEY = b"pareto_unlearn.groups"
_ROW_LAST = sorted(SCHEMAS, key="trials".__eq__)


class Loose(NamedTuple):
    """The small files of one attempt: the name that they share, and their content by table."""

    part: str
    content: Mapping[str, bytes]


def pack_of_each_chunk(names: Iterable[str]) -> dict[str, str]:
    """Return the name of one pack by chunk id; of two of a chunk, which a crash may leave, the first."""
    found: dict[str, str] = {}
    for name in sorted(names):
        if (chunk := chunk_of(name)) is not None:
            found.setdefault(chunk, name)
    return found


def read_pack(storage: Storage, table: str, name: str, label: str) -> pa.Table:
    """Return the rows of a pack.

    Raises:
        StoreError: it is damaged, or of a newer schema.
        FileNotFoundError: it is not there.
    """
    return decode_table(_read_whole(storage, table, name, label), table, f"{label}: {table}/{name}")


def read_records(storage: Storage, name: str, label: str) -> dict[str, TrialRecord]:
    """Return the rows of a pack of ``trials`` by the name of the file that each was committed in.

    Raises:
        StoreError: it is damaged, or of a newer schema.
        FileNotFoundError: it is not there.
    """
    rows = decode_records(_read_whole(storage, "trials", name, label), f"{label}: trials/{name}")
    return {part_name(row.trial_id, row.attempt): row for row in rows}


def parts_of(content: pa.Table) -> frozenset[str]:
    """Return the parts of the attempts that a pack holds, with those that have no row in this table."""
    return frozenset(part for group in _groups_of(content.schema) for part in group)


def rows_of(content: pa.Table, wanted: Collection[str]) -> pa.Table:
    """Return the rows of those attempts alone whose part is wanted."""
    attempt = content["attempt"].cast(pa.string())
    pieces: list[Any] = [pa.scalar("part"), content["trial_id"], attempt, pa.scalar("-")]
    stems = pc.binary_join_element_wise(*pieces)
    return content.filter(pc.is_in(stems, value_set=pa.array([_stem(part) for part in wanted], pa.string())))


def read_index(storage: Storage) -> dict[str, frozenset[str]]:
    """Return the parts that each pack of ``trials`` holds, by its name; empty where nothing tells it.

    A damaged index is none: the packs themselves are listed by whoever reads the whole run.
    """
    try:
        stored = unsealed(json.loads(storage.read(PACKS_FILE)))
        return {name: frozenset(parts) for name, parts in stored["packs"].items()}
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def write_index(storage: Storage, index: Mapping[str, Collection[str]]) -> None:
    """Write which parts each pack of ``trials`` holds."""
    content = {"packs": {name: sorted(parts) for name, parts in sorted(index.items())}}
    storage.put(PACKS_FILE, json.dumps(sealed(content)).encode())


def compact(storage: Storage, label: str) -> int:
    """Put all small files of committed attempts into packs; return how many attempts.

    The lock of the run must be held.

    Raises:
        StoreError: a pack is damaged.
    """
    names = storage.file_names("trials")
    index = {name: frozenset(read_records(storage, name, label)) for name in _packs_among(names)}
    packed = frozenset().union(*index.values())
    for name, held in index.items():
        if twice := held & set(names):  # an earlier compaction did not end
            for table, pack in _packs_of(storage, chunk_of(name) or "").items():
                read_pack(storage, table, pack, label)
            remove_parts(storage, twice)
    write_index(storage, index)
    return pack_parts(storage, loose_parts(names, packed), label)


def _packs_among(names: Iterable[str]) -> list[str]:
    return list(pack_of_each_chunk(names).values())


def _packs_of(storage: Storage, chunk: str) -> dict[str, str]:
    """Return the packs of a chunk by table.

    Raises:
        StoreError: a table has none.
    """
    found = {table: pack_of_each_chunk(storage.file_names(table)).get(chunk) for table in SCHEMAS}
    for table, name in found.items():
        if name is None:
            raise StoreError(
                f"{table}/pack-{chunk}-...parquet is missing, though trials/ has its like: restore it from a "
                "copy, or run `pareto-unlearn store repair`"
            )
    return {table: name for table, name in found.items() if name is not None}


def pack_parts(storage: Storage, committed: Sequence[str], label: str) -> int:
    """Put the small files of committed attempts into packs, and remove them; return how many attempts.

    The lock of the run must be held. An attempt of which a file is missing or damaged stays as it is.

    Args:
        storage: where the run lies.
        committed: the parts in ``trials`` that no pack holds yet.
        label: the name of the run in messages.
    """
    count = 0
    for group in _chunks(storage, committed, label):
        names = {table: _write_pack(storage, table, group) for table in _ROW_LAST}
        parts = [loose.part for loose in group]
        write_index(storage, {**read_index(storage), names["trials"]: parts})
        remove_parts(storage, parts)
        count += len(group)
    return count


def remove_parts(storage: Storage, parts: Iterable[str]) -> None:
    """Remove the small files of attempts that a pack holds; the row goes last."""
    for part in parts:
        for table in _ROW_LAST:
            storage.remove(f"{table}/{part}")


def drop_pictures(storage: Storage, name: str, image_set: str, label: str) -> int:
    """Put a pack of ``samples`` without the pictures of a set of images in place of one with them.

    Returns:
        How many there were.

    Raises:
        StoreError: the pack is damaged.
    """
    content = read_pack(storage, "samples", name, label)
    kept = content.filter(pc.not_equal(content["set"], pa.scalar(image_set)))
    groups = _groups_of(content.schema)
    data = footers.with_copy(_encode("samples", groups, [rows_of(kept, group) for group in groups]))
    if len(kept) < len(content):
        storage.put(f"samples/{pack_name(chunk_of(name) or '', sha256_of(data))}", data)
        storage.remove(f"samples/{name}")
    return len(content) - len(kept)


def mended(storage: Storage, table: str, name: str) -> bytes | None:
    """Return the content that a damaged pack had, to the bit; None where its own bytes do not tell it."""
    try:
        data = storage.read(f"{table}/{name}")
    except FileNotFoundError:
        return None
    return next((found for found in footers.candidates(data) if _name_of(name, found) == name), None)


def whole_parts(storage: Storage, table: str, name: str) -> dict[str, bytes]:
    """Return what can be read of a damaged pack: small files by part, those of the row groups that are whole.

    It is empty where the pack is gone, or where both of its footers are damaged.
    """
    try:
        data = storage.read(f"{table}/{name}")
        file = pq.ParquetFile(pa.BufferReader(_readable(name, data)), page_checksum_verification=True)
        check_schema(file, table, name)
        groups = _groups_of(file.schema_arrow)
    except (FileNotFoundError, StoreError, pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return {}
    found: dict[str, bytes] = {}
    for place, parts in enumerate(groups):
        try:
            rows = file.read_row_group(place, use_threads=False) if place < file.num_row_groups else None
            if rows is None:
                continue
            rows.validate(full=True)
        except (pa.ArrowException, OSError, ValueError):
            continue
        found |= {part: _encode(table, [[part]], [rows_of(rows, [part])]) for part in parts}
    return found


def _readable(name: str, data: bytes) -> bytes:
    """Return a pack with the footer to be trusted most: its own if it is whole, else the copy with a hash."""
    return data if _name_of(name, data) == name else footers.by_copy(data) or data


def _whole_by_table(storage: Storage, chunk: str) -> dict[str, dict[str, bytes]]:
    names = {table: pack_of_each_chunk(storage.file_names(table)).get(chunk, "") for table in SCHEMAS}
    return {table: whole_parts(storage, table, name) if name else {} for table, name in names.items()}


def lost_trials(storage: Storage, chunk: str) -> list[str]:
    """Return the ids of the trials of a damaged chunk whose newest attempt has lost its rows in a table.

    Those count that any pack of it or ``packs.json`` still names.
    """
    whole = _whole_by_table(storage, chunk)
    indexed = (parts for name, parts in read_index(storage).items() if chunk_of(name) == chunk)
    known = sorted(map(attempt_of, frozenset().union(*whole.values(), *indexed)))
    kept = set.intersection(*map(set, whole.values()))
    newest = dict(known)
    return [trial_id for trial_id, attempt in newest.items() if part_name(trial_id, attempt) not in kept]


def restore_parts(storage: Storage, chunk: str) -> list[str]:
    """Write those attempts of a chunk back as small files whose rows are whole in every table.

    Returns:
        Their parts. The packs stay where they are.
    """
    whole = _whole_by_table(storage, chunk)
    kept = sorted(set.intersection(*map(set, whole.values())))
    for part in kept:
        for table in _ROW_LAST:
            storage.put(f"{table}/{part}", whole[table][part])
    return kept


def _name_of(like: str, data: bytes) -> str:
    """Return the name that a pack of this content has, of the same chunk as another."""
    return pack_name(chunk_of(like) or "", sha256_of(data))


def _read_whole(storage: Storage, table: str, name: str, label: str) -> bytes:
    data = storage.read(f"{table}/{name}")
    if _name_of(name, data) != name:
        raise StoreError(
            f"{label}: {table}/{name} is damaged: its content has the hash {sha256_of(data)}, which is not "
            "that in its name. Restore it from a copy, or run `pareto-unlearn store repair` and resume the "
            "sweep: what is whole of it is kept, and the other trials are solved again"
        )
    return data


def _chunks(storage: Storage, parts: Sequence[str], label: str) -> Iterator[list[Loose]]:
    """Yield the attempts of one pack after the other."""
    group: list[Loose] = []
    size = dict.fromkeys(SCHEMAS, 0)
    for part in sorted(parts):
        loose = _read_loose(storage, part, label)
        if loose is None:
            continue
        group.append(loose)
        size = {table: size[table] + len(data) for table, data in loose.content.items()}
        if len(group) >= MOST_ATTEMPTS or max(size.values()) >= MOST_BYTES:
            yield group
            group, size = [], dict.fromkeys(SCHEMAS, 0)
    if group:
        yield group


def _read_loose(storage: Storage, part: str, label: str) -> Loose | None:
    """Return the files of an attempt, None if one of them is missing or damaged."""
    try:
        content = {table: storage.read(f"{table}/{part}") for table in SCHEMAS}
        for table, data in content.items():
            decode_table(data, table, f"{label}: {table}/{part}")
        (row,) = decode_records(content["trials"], label)
    except (FileNotFoundError, StoreError, ValueError):
        return None
    return Loose(part, content) if part_name(row.trial_id, row.attempt) == part else None


def _write_pack(storage: Storage, table: str, group: Sequence[Loose]) -> str:
    """Write the pack of a table and return its name."""
    chunk = sha256_of("\n".join(loose.part for loose in group).encode())
    groups, tables = [], []
    for start in range(0, len(group), ATTEMPTS_OF_GROUP):
        some = group[start : start + ATTEMPTS_OF_GROUP]
        groups.append([loose.part for loose in some])
        tables.append(_joined(table, [decode_table(loose.content[table], table, "") for loose in some]))
    data = footers.with_copy(_encode(table, groups, tables))
    name = pack_name(chunk, sha256_of(data))
    storage.put(f"{table}/{name}", data)
    return name


def _joined(table: str, tables: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables([empty_table(table), *tables], promote_options="permissive")


def _encode(table: str, groups: Sequence[Sequence[str]], tables: Sequence[pa.Table]) -> bytes:
    """Return a Parquet file with a row group for each table; ``groups`` are the parts in each of them."""
    schema = _joined(table, [content.slice(0, 0) for content in tables]).schema
    lines = "\n".join(",".join(parts) for parts in groups)
    schema = schema.with_metadata({**(empty_table(table).schema.metadata or {}), _GROUPS_KEY: lines})
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
        for content in tables:
            rows = pa.concat_tables([schema.empty_table(), content], promote_options="permissive")
            writer.write_table(rows.cast(schema).combine_chunks(), row_group_size=max(1, len(rows)))
    return sink.getvalue()


def _groups_of(schema: pa.Schema) -> list[list[str]]:
    """Return the parts in each row group of a pack.

    Raises:
        KeyError: nothing tells them.
    """
    return [line.split(",") for line in (schema.metadata or {})[_GROUPS_KEY].decode().split("\n")]


def _stem(part: str) -> str:
    return part.removesuffix(".parquet")


def loose_parts(names: Iterable[str], packed: Collection[str]) -> list[str]:
    """Return the parts among the names of files that no pack holds."""
    return [name for name in names if is_part(name) and name not in packed]
