"""What is wrong with a run directory, and what can be mended of it: by moving it or making it anew.

Nothing that was committed is deleted. What is damaged is moved to ``damaged/`` in the run, and a trial
without its row is solved again by the next ``sweep``. Leftovers of killed writers and damaged caches are
removed: nobody reads the former, and the latter are made again.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.records import Scales, TrialRecord
from pareto_unlearn.store.filesystem import TEMPORARY_PREFIX
from pareto_unlearn.store.names import INFO_FILE, chunk_of, is_part, part_added_to
from pareto_unlearn.store.packs import pack_of_each_chunk
from pareto_unlearn.store.run_store import RunStore
from pareto_unlearn.store.schemas import SCHEMAS
from pareto_unlearn.stored_fields import read_fields
from pareto_unlearn.whole_files import find_damage

DAMAGED = "damaged"
SCALES_FILE = "scales.json"
MANY = 200
"""Trials with small files of their own from which packs are worth it."""
NAMED = 5
"""Lost trials that a message names; JSON has all of them."""
_TWICE = "a compaction did not end: its rows are in a pack"


class Kind(StrEnum):
    """What is wrong, and thereby what mends it."""

    LINK = "link"
    LEFTOVER = "leftover"
    CACHE = "damaged cache"
    TRIAL = "damaged trial"
    PACK = "damaged pack"
    SCALES = "damaged scales"
    INFO = "damaged run.json"
    LOST_MODEL = "lost model"
    LOST_ROW = "files without a row"


MEANINGS: Mapping[Kind, tuple[str, str]] = {
    Kind.LINK: (
        "links in a run are not followed",
        "nothing: put what it leads to in its place, or remove it",
    ),
    Kind.LEFTOVER: ("a writer was killed; nobody reads it", "remove it"),
    Kind.CACHE: ("f1 and f2 are measured from it", "remove it; the next trial makes it again"),
    Kind.TRIAL: (
        "readers of the run end there",
        f"move the trial's files to {DAMAGED}/; the next sweep solves it again",
    ),
    Kind.PACK: (
        "readers of the run end there",
        f"write it as it was, where its bytes still tell that; else move it to {DAMAGED}/: what is whole of "
        "it is kept, and the next sweep solves the trials that are lost",
    ),
    Kind.SCALES: ("the next trial cannot use it", f"move it to {DAMAGED}/; the next trial writes it again"),
    Kind.INFO: ("nothing of the run can be read", "nothing: restore it from a copy"),
    Kind.LOST_MODEL: (
        "the row stays true, but export, audit and the dial have no model",
        "nothing: put it back from a copy; moved away on purpose, it is no fault",
    ),
    Kind.LOST_ROW: (
        "a commit that did not end, or a row that was lost; nobody reads it",
        f"move it to {DAMAGED}/; the next sweep solves the trial",
    ),
}
"""What each kind means, and what repair does."""
BY_HAND = frozenset({Kind.LINK, Kind.INFO, Kind.LOST_MODEL})


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong: its kind, the file in the run, and why; ``part`` names the trial's files.

    ``chunk`` is what the names of the packs share that are damaged, or that hold the trial; ``lost`` are the
    ids of trials that a damaged pack costs.
    """

    kind: Kind
    name: str
    detail: str
    part: str = ""
    chunk: str = ""
    lost: tuple[str, ...] = ()

    @property
    def is_mended(self) -> bool:
        """Whether repair mends it."""
        return self.kind not in BY_HAND

    def to_plain(self) -> dict[str, object]:
        """Return the fault as JSON values."""
        meaning, repair = MEANINGS[self.kind]
        return {
            "kind": str(self.kind),
            "file": self.name,
            "detail": self.detail,
            "meaning": meaning,
            "repair": repair,
            "mended_by_repair": self.is_mended,
            "lost_trials": list(self.lost),
        }


def open_damaged(path: str) -> RunStore:
    """Return the store of a run, also of one whose ``run.json`` is damaged.

    Raises:
        ConfigError: there is no run at this path, or it lies in an object store.
    """
    store = RunStore.open(path)
    if not store.is_local:
        raise ConfigError(
            f"{store}: expected a run on a file system, found one in an object store; copy it here first"
        )
    return store


def check_run(store: RunStore) -> list[Fault]:
    """Return all that is wrong with a run on this machine's file systems; every file of it is read."""
    root = Path(store.path)
    links = [
        Fault(kind=Kind.LINK, name=name, detail="a link")
        for name in _names(root)
        if (root / name).is_symlink()
    ]
    if links:  # no reader would get past them
        return links
    return [
        *_leftovers(root),
        *_damaged_files(store),
        *_faults_of_trials(store),
        *_damaged_cache(root / "cache"),
    ]


def repair_run(store: RunStore) -> tuple[list[Fault], list[Fault]]:
    """Mend a run as far as possible; return what was mended, and what is left to do by hand.

    Raises:
        RunLockedError: a sweep is writing to the run.
    """
    with store.lock():
        found = _repair(store)
        if any(fault.kind is Kind.PACK for fault in found):
            found = list(dict.fromkeys([*found, *_repair(store)]))
    return [fault for fault in found if fault.is_mended], [fault for fault in found if not fault.is_mended]


def _repair(store: RunStore) -> list[Fault]:
    """Mend what can be mended of all that is found; return what was found."""
    root, found = Path(store.path), check_run(store)
    for chunk in sorted({fault.chunk for fault in found if fault.is_mended and fault.chunk}):
        if not _mend_chunk(store, [fault for fault in found if fault.chunk == chunk]):
            _set_chunk_aside(store, chunk)
    for fault in found:
        if fault.kind in (Kind.TRIAL, Kind.LOST_ROW):
            _set_trial_aside(root, fault.part)
        elif fault.kind is Kind.SCALES:
            _set_aside(root, fault.name)
        elif fault.is_mended and fault.kind is not Kind.PACK:
            _remove(root / fault.name)
    return found


def compact_run(store: RunStore) -> int:
    """Put the small files of a run's trials into packs where there are many; return how many trials.

    Raises:
        RunLockedError: a sweep is writing to the run.
        StoreError: a pack is damaged.
    """
    with store.lock():
        return store.packs.compact() if store.packs.count_loose() >= MANY else 0


def _remove(path: Path) -> None:
    """Remove a file or a folder, and the sums of a cache entry."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.sums").unlink(missing_ok=True)


def _names(root: Path) -> list[str]:
    found = (str(path.relative_to(root)) for path in root.rglob("*"))
    return sorted(name for name in found if not name.startswith(f"{DAMAGED}/"))


def _leftovers(root: Path) -> Iterator[Fault]:
    names = [name for name in _names(root) if Path(name).name.startswith(TEMPORARY_PREFIX)]
    for name in names:
        if not any(str(parent) in names for parent in Path(name).parents):
            yield Fault(kind=Kind.LEFTOVER, name=name, detail="a temporary name")


def _damaged_files(store: RunStore) -> Iterator[Fault]:
    try:
        store.read_info()
    except StoreError as error:
        yield Fault(kind=Kind.INFO, name=INFO_FILE, detail=str(error))
    if not (Path(store.path) / SCALES_FILE).exists():
        return
    try:
        read_fields(Scales, json.loads(store.read_text(SCALES_FILE)))
    except (StoreError, ValueError, TypeError, AttributeError) as error:
        yield Fault(kind=Kind.SCALES, name=SCALES_FILE, detail=repr(error))


def _faults_of_trials(store: RunStore) -> Iterator[Fault]:
    files = {table: store.file_names(table) for table in SCHEMAS}
    chunks: dict[str, str] = {}
    known = sorted({chunk for names in files.values() for name in names if (chunk := chunk_of(name))})
    damaged = [fault for chunk in known for fault in _faults_of_chunk(store, chunk, files)]
    if damaged:  # which trials are committed is not known before they are mended
        yield from damaged
        return
    for chunk in known:
        rows = store.packs.rows(pack_of_each_chunk(files["trials"])[chunk])
        chunks |= dict.fromkeys(rows, chunk)
        models = (_fault_of_checkpoint(store, row, part) for part, row in rows.items() if row.checkpoint)
        yield from (replace(fault, chunk=chunk) for fault in models if fault is not None)
    for table, names in files.items():
        twice = (name for name in names if name in chunks)
        yield from (Fault(kind=Kind.LEFTOVER, name=f"{table}/{name}", detail=_TWICE) for name in twice)
    yield from _faults_of_loose(store, files, chunks)


def _faults_of_chunk(store: RunStore, chunk: str, files: Mapping[str, list[str]]) -> list[Fault]:
    """Return what is wrong with the packs of a chunk."""
    damaged = {}
    for table, names in files.items():
        name = pack_of_each_chunk(names).get(chunk)
        if name is None:
            damaged[f"{table}/pack-{chunk}-...parquet"] = "missing"
            continue
        try:
            store.read_file(table, name)
        except StoreError as error:
            damaged[f"{table}/{name}"] = str(error)
    lost = tuple(store.packs.lost_trials(chunk)) if damaged else ()
    return [
        Fault(
            kind=Kind.PACK, name=name, detail=f"{detail}. {_describe_loss(lost)}", chunk=chunk, lost=lost
        )
        for name, detail in damaged.items()
    ]  # fmt: skip


def _describe_loss(lost: Sequence[str]) -> str:
    """Return in words which trials damaged packs cost."""
    if not lost:
        return "No trial is lost with it"
    rest = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    return f"Trials lost with it: {len(lost)} ({', '.join(lost[:NAMED])}{rest})"


def _faults_of_loose(
    store: RunStore, files: Mapping[str, list[str]], chunks: Mapping[str, str]
) -> Iterator[Fault]:
    """Yield what is wrong with small files; ``chunks`` has the chunk of every part that a pack holds."""
    committed = {part for part in filter(is_part, files["trials"]) if part not in chunks}
    own: dict[str, dict[str, list[str]]] = {}
    for table, names in files.items():
        for name in names:
            part = part_added_to(name) or name
            if is_part(part) and (part not in chunks or name != part):
                own.setdefault(part, {}).setdefault(table, []).append(name)
    for part in sorted(committed):
        fault = _fault_of_trial(store, part, own[part])
        if fault is not None:
            yield fault
    for part in sorted(own.keys() - committed):
        if part in chunks:
            yield from _faults_of_added(store, own[part]["metrics"], part, chunks[part])
            continue
        ((table, (name, *_)), *_) = own[part].items()
        yield Fault(kind=Kind.LOST_ROW, name=f"{table}/{name}", detail=f"trials/{part} is missing", part=part)


def _faults_of_added(store: RunStore, names: list[str], part: str, chunk: str) -> Iterator[Fault]:
    """Yield what is wrong with metrics that were added to a trial in a pack."""
    for name in names:
        try:
            store.read_file("metrics", name)
        except StoreError as error:
            detail = str(error)
            yield Fault(kind=Kind.TRIAL, name=f"metrics/{name}", detail=detail, part=part, chunk=chunk)


def _fault_of_trial(store: RunStore, part: str, files: Mapping[str, list[str]]) -> Fault | None:
    """Return the first thing that is wrong with what an attempt left; ``files`` are its own by table."""
    for table in SCHEMAS:
        names = files.get(table, [])
        if part not in names:
            return Fault(kind=Kind.TRIAL, name=f"{table}/{part}", detail="missing", part=part)
        for name in names:
            try:
                store.read_file(table, name)
            except StoreError as error:
                return Fault(kind=Kind.TRIAL, name=f"{table}/{name}", detail=str(error), part=part)
    record = store.rows.row_in(part)
    return None if record.checkpoint is None else _fault_of_checkpoint(store, record, part)


def _fault_of_checkpoint(store: RunStore, record: TrialRecord, part: str) -> Fault | None:
    name = record.checkpoint or ""
    if not (Path(store.path) / name).is_dir():
        return Fault(kind=Kind.LOST_MODEL, name=name, detail=f"the model of {record.label} is not there")
    try:
        store.read_checkpoint(record)
        if store.records()[record.trial_id].attempt == record.attempt:
            for entry in store.read_bank(record.trial_id):
                store.read_bank_state(record.trial_id, entry)
    except StoreError as error:
        return Fault(kind=Kind.TRIAL, name=name, detail=str(error), part=part)
    return None


def _damaged_cache(cache: Path) -> Iterator[Fault]:
    for path in sorted(cache.iterdir()) if cache.is_dir() else ():
        if path.name.endswith((".part", ".sums.part")):
            yield Fault(kind=Kind.LEFTOVER, name=f"cache/{path.name}", detail="a temporary name")
        elif path.is_dir() or path.suffix in (".npy", ".safetensors"):
            damage = find_damage(path)
            if damage is not None:
                yield Fault(kind=Kind.CACHE, name=f"cache/{path.name}", detail=damage)


def _mend_chunk(store: RunStore, faults: Collection[Fault]) -> bool:
    """Write the packs of a chunk as they were, if the bytes of all tell that; return whether they do.

    Copies of what was damaged stay.
    """
    whole = {}
    for fault in faults:
        table, _, name = fault.name.partition("/")
        found = store.packs.mended(table, name) if fault.kind is Kind.PACK else None
        if found is None:
            return False
        whole[table, name] = found
    for (table, name), content in whole.items():
        _copy_aside(Path(store.path), f"{table}/{name}")
        store.packs.put(table, name, content)
    return True


def _set_chunk_aside(store: RunStore, chunk: str) -> None:
    """Move the packs of a chunk away; those of its trials that are whole have small files again."""
    store.packs.restore_loose(chunk)
    root = Path(store.path)
    for table in SCHEMAS:
        for name in store.file_names(table):
            if chunk_of(name) == chunk:
                _set_aside(root, f"{table}/{name}")


def _set_trial_aside(root: Path, part: str) -> None:
    """Move the files of an attempt away; its row goes first, so that it is never read without the others."""
    stem = part.removesuffix(".parquet")
    _, trial_id, attempt = stem.split("-")
    for table in ("trials", *(table for table in SCHEMAS if table != "trials")):
        for path in sorted((root / table).glob(f"{stem}.*")):
            _set_aside(root, f"{table}/{path.name}")
    for path in sorted((root / "checkpoints" / trial_id).glob(f"{attempt}*")):
        if path.name == attempt or path.name.startswith(f"{attempt}-"):
            _set_aside(root, f"checkpoints/{trial_id}/{path.name}")


def _set_aside(root: Path, name: str) -> None:
    if (root / name).exists():
        (root / name).rename(_free_place(root, name))


def _copy_aside(root: Path, name: str) -> None:
    shutil.copyfile(root / name, _free_place(root, name))


def _free_place(root: Path, name: str) -> Path:
    """Return where a damaged file goes; what was moved there before stays."""
    target, number = root / DAMAGED / name, 0
    while target.exists():
        number += 1
        target = (root / DAMAGED / name).with_name(f"{Path(name).name}.{number}")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
