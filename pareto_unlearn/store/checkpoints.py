"""Directories of files with a manifest: checkpoints of committed trials, of paths, and resume generations.

A manifest lists every file with its size and SHA-256 and is written last; a directory counts only if
everything in it verifies, because weight files carry no checksum of their own and load with flipped bits.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from pareto_unlearn.errors import StoreError
from pareto_unlearn.records import SCHEMA_VERSION, TrialRecord
from pareto_unlearn.store.filesystem import Storage, is_plain_name
from pareto_unlearn.store.names import checkpoint_of, start_file
from pareto_unlearn.store.schemas import check_schema_version
from pareto_unlearn.stored_fields import read_fields

MANIFEST = "MANIFEST.json"
GENERATIONS_KEPT = 2

_GENERATION = re.compile(r"\.resume-(\d{1,12})(?:-[0-9a-f]{16})?")
_NEWEST = ".newest-resume.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Hash and size of one file, in a manifest."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of ``MANIFEST.json``; ``attempt`` is None for a resume generation."""

    schema: int
    trial_id: str
    attempt: int | None
    steps: int
    files: Mapping[str, FileEntry]


def write_directory(
    storage: Storage,
    directory: str,
    files: Mapping[str, bytes],
    *,
    trial_id: str,
    attempt: int | None,
    steps: int,
) -> Manifest:
    """Write files and, last, their manifest; an older directory is replaced.

    Raises:
        ValueError: a file name is not a plain name.
    """
    for name in files:
        if not is_plain_name(name) or name == MANIFEST:
            raise ValueError(f"{name!r} cannot name a checkpoint file: use letters, digits, '.', '_' and '-'")
    entries = {name: FileEntry(sha256=sha256_of(data), bytes=len(data)) for name, data in files.items()}
    manifest = Manifest(schema=SCHEMA_VERSION, trial_id=trial_id, attempt=attempt, steps=steps, files=entries)
    text = json.dumps(asdict(manifest), indent=2)
    storage.put_directory(directory, {**files, MANIFEST: text.encode()})
    return manifest


def read_directory(storage: Storage, directory: str, label: str) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest of a directory and its files, each verified.

    Args:
        storage: where the run lies.
        directory: the directory inside the run.
        label: the name of the run in messages.

    Raises:
        StoreError: the manifest is missing, unreadable or newer, or a file is missing or damaged.
    """
    origin = f"{label}: {directory}"
    manifest = _read_manifest(storage, directory, origin)
    return manifest, {
        name: _read_verified(storage, directory, name, manifest, origin) for name in manifest.files
    }


def read_file(storage: Storage, directory: str, name: str, label: str) -> bytes | None:
    """Return one verified file of a directory, None if its manifest has no such file."""
    origin = f"{label}: {directory}"
    manifest = _read_manifest(storage, directory, origin)
    return _read_verified(storage, directory, name, manifest, origin) if name in manifest.files else None


def _read_verified(storage: Storage, directory: str, name: str, manifest: Manifest, origin: str) -> bytes:
    try:
        data = storage.read(f"{directory}/{name}")
    except FileNotFoundError as error:
        raise StoreError(f"{origin}/{name} is missing although the manifest lists it") from error
    expected, found = manifest.files[name], sha256_of(data)
    if found != expected.sha256 or len(data) != expected.bytes:
        raise StoreError(
            f"{origin}/{name} is damaged: expected {expected.bytes} bytes with SHA-256 {expected.sha256}, "
            f"found {len(data)} bytes with {found}; restore it from a copy"
        )
    return data


def save_generation(
    storage: Storage, trial_id: str, step: int, files: Mapping[str, bytes], start: str = ""
) -> None:
    """Write one resume generation and keep the newest two up to this step.

    Generations of later steps are removed: the trial went on from before them, so they were damaged or
    abandoned. ``start`` is in the name, so that no other start of the trial writes the same files. The names
    of those that are kept are written to a file of a fixed name, which no listing can hide.
    """
    name = f".resume-{step}{'-' if start else ''}{start}"
    directory = f"checkpoints/{trial_id}/{name}"
    write_directory(storage, directory, files, trial_id=trial_id, attempt=None, steps=step)
    names = _generations(storage, trial_id)
    others = [known for known in names if known != name and _step_of(known) <= step]
    kept = [name, *others][:GENERATIONS_KEPT]
    storage.put(f"checkpoints/{trial_id}/{_NEWEST}", json.dumps(kept).encode())
    for known in names:
        if known not in kept:
            storage.remove_directory(f"checkpoints/{trial_id}/{known}")


def load_generation(storage: Storage, trial_id: str, label: str) -> tuple[int, dict[str, bytes]] | None:
    """Return step and files of the newest generation that verifies; damaged generations are logged."""
    for name in _generations(storage, trial_id):
        try:
            manifest, files = read_directory(storage, f"checkpoints/{trial_id}/{name}", label)
        except StoreError as error:
            _logger.warning(
                "trial %s: resume state of step %d is not used: %s", trial_id, _step_of(name), error
            )
            continue
        return manifest.steps, files
    return None


def remove_generations(storage: Storage, trial_id: str) -> None:
    """Remove every resume generation of a trial, and what names its start."""
    for name in _generations(storage, trial_id):
        storage.remove_directory(f"checkpoints/{trial_id}/{name}")
    storage.remove(f"checkpoints/{trial_id}/{_NEWEST}")
    storage.remove(start_file(trial_id))


def remove_other_starts(storage: Storage, record: TrialRecord) -> None:
    """Remove the models that other starts of a committed attempt have left."""
    own = checkpoint_of(record).rpartition("/")[2]
    for name in storage.directory_names(f"checkpoints/{record.trial_id}"):
        if name.startswith(f"{record.attempt}-") and name != own:
            storage.remove_directory(f"checkpoints/{record.trial_id}/{name}")


def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _read_manifest(storage: Storage, directory: str, origin: str) -> Manifest:
    try:
        content = json.loads(storage.read(f"{directory}/{MANIFEST}"))
        check_schema_version(content["schema"], f"{origin}/{MANIFEST}")
        entries = {str(name): read_fields(FileEntry, entry) for name, entry in content["files"].items()}
        manifest = read_fields(Manifest, content | {"files": entries})
    except FileNotFoundError as error:
        raise StoreError(f"{origin}/{MANIFEST} is missing, so the directory is not complete") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"{origin}/{MANIFEST} is damaged ({error!r}); restore it from a copy") from error
    for name in entries:
        if not is_plain_name(name):
            raise StoreError(f"{origin}/{MANIFEST} names {name!r}, which is no plain file name")
    return manifest


def generation_steps(storage: Storage, trial_id: str) -> list[int]:
    """Return the steps of a trial's resume generations, the newest first."""
    return [_step_of(name) for name in _generations(storage, trial_id)]


def _generations(storage: Storage, trial_id: str) -> list[str]:
    """Return the names of a trial's resume generations, those that are listed or named, the newest first."""
    listed = storage.directory_names(f"checkpoints/{trial_id}")
    names = dict.fromkeys(
        [*_named_generations(storage, trial_id), *listed]
    )  # of one step, the named is newer
    return sorted((name for name in names if _GENERATION.fullmatch(name)), key=lambda name: -_step_of(name))


def _named_generations(storage: Storage, trial_id: str) -> list[str]:
    """Return the generations that were newest when one was written last; empty where nothing tells it."""
    try:
        names = json.loads(storage.read(f"checkpoints/{trial_id}/{_NEWEST}"))
    except (FileNotFoundError, ValueError):
        return []
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _step_of(name: str) -> int:
    match = _GENERATION.fullmatch(name)
    return -1 if match is None else int(match[1])
