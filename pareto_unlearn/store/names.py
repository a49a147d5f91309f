"""The names of files and directories of a run; names that could lead out of the run are refused."""

import re

from pareto_unlearn.records import TrialRecord
from pareto_unlearn.store.filesystem import is_plain_name

INFO_FILE = "run.json"

_TRIAL_ID = re.compile(r"[0-9a-f]{8,64}")
_PART_NAME = re.compile(r"part-([0-9a-f]{8,64})-([1-9][0-9]{0,8})\.parquet")
_PACK_NAME = re.compile(r"pack-([0-9a-f]{16})-[0-9a-f]{32}\.parquet")
_START = re.compile(r"[0-9a-f]{16}")
_DRIVER_NAME = re.compile(r"driver-[0-9a-f]{32}\.json")
_ADDED_NAME = re.compile(r"(part-[0-9a-f]{8,64}-[1-9][0-9]{0,8})\.[a-z0-9_-]+\.[a-z0-9_]+\.parquet")


def is_trial_id(name: str) -> bool:
    """Return whether a name is a trial id: 8 to 64 lower-case hexadecimal digits."""
    return _TRIAL_ID.fullmatch(name) is not None


def checked_trial_id(trial_id: str) -> str:
    """Return a trial id unchanged.

    Raises:
        ValueError: it is no trial id.
    """
    if not is_trial_id(trial_id):
        raise ValueError(f"{trial_id!r} is no trial id: expected 8 to 64 lower-case hexadecimal digits")
    return trial_id


def checked_file_name(name: str) -> str:
    """Return the name of a file unchanged.

    Raises:
        ValueError: it is not a plain name.
    """
    if not is_plain_name(name):
        raise ValueError(f"{name!r} cannot name a file of a run: use letters, digits, '.', '_' and '-'")
    return name


def part_name(trial_id: str, attempt: int) -> str:
    """Return the file that holds an attempt's rows of a table.

    Raises:
        ValueError: the trial id or the attempt is not valid.
    """
    if attempt < 1:
        raise ValueError(f"an attempt counts from 1, found {attempt} for trial {trial_id}")
    return f"part-{checked_trial_id(trial_id)}-{attempt}.parquet"


def attempt_of(part: str) -> tuple[str, int]:
    """Return the trial id and the attempt of a part."""
    trial_id, _, attempt = part.removeprefix("part-").removesuffix(".parquet").partition("-")
    return trial_id, int(attempt)


def added_name(part: str, protocol: str, metric: str) -> str:
    """Return the name of the file of a metric that is measured after a part was committed."""
    return f"{part.removesuffix('.parquet')}.{protocol}.{metric}.parquet"


def is_part(name: str) -> bool:
    """Return whether a file name is that of an attempt's committed rows."""
    return _PART_NAME.fullmatch(name) is not None


def pack_name(chunk: str, sha256: str) -> str:
    """Return the file that holds a table's rows of many attempts, by their chunk and the hash of the file."""
    return f"pack-{chunk[:16]}-{sha256[:32]}.parquet"


def chunk_of(name: str) -> str | None:
    """Return the chunk that a pack holds, None for any other file."""
    match = _PACK_NAME.fullmatch(name)
    return None if match is None else match[1]


def part_added_to(name: str) -> str | None:
    """Return the part to which a file of an added metric belongs, None for any other file."""
    match = _ADDED_NAME.fullmatch(name)
    return None if match is None else f"{match[1]}.parquet"


def driver_file(run_id: str) -> str:
    """Return the file that announces the driver of one start.

    Raises:
        ValueError: the id is not 32 lower-case hexadecimal digits.
    """
    name = f"driver-{run_id}.json"
    if not is_driver_file(name):
        raise ValueError(f"{run_id!r} is no id of a driver: expected 32 lower-case hexadecimal digits")
    return name


def is_driver_file(name: str) -> bool:
    """Return whether a file announces a driver."""
    return _DRIVER_NAME.fullmatch(name) is not None


def writer_lock(trial_id: str) -> str:
    """Return the file that a writer of a trial's results locks."""
    return f"checkpoints/{checked_trial_id(trial_id)}/.lock"


def start_file(trial_id: str) -> str:
    """Return the file that names the start of a trial that may write."""
    return f"checkpoints/{checked_trial_id(trial_id)}/.start"


def checkpoint_directory(trial_id: str, attempt: int, start: str = "") -> str:
    """Return the directory of the model that a start of an attempt leaves.

    Raises:
        ValueError: the trial id or the start is not valid.
    """
    if start and not _START.fullmatch(start):
        raise ValueError(f"{start!r} is no start: expected 16 lower-case hexadecimal digits")
    return f"checkpoints/{checked_trial_id(trial_id)}/{attempt}{'-' if start else ''}{start}"


def checkpoint_of(record: TrialRecord) -> str:
    """Return the directory of a committed model, as its row names it if that can be one of its own."""
    plain = checkpoint_directory(record.trial_id, record.attempt)
    name = record.checkpoint or ""
    return name if name.startswith(f"{plain}-") and _START.fullmatch(name[len(plain) + 1 :]) else plain
