"""One driver per run: ``lock.json`` names the holder.

On file systems the kernel holds the lock (flock) and frees it when the driver dies, however it dies;
the file's content only serves messages. Object stores and some cluster file systems have no flock: there the
file is a lease that the holder renews. A free lease is taken by the one writer whom the storage lets create
the file (see ``store.conditional``). A lease that ran out is written over: two drivers that do so in the same
instant may both believe they hold it until the first renewal. A lease compares clocks of different machines,
which must agree to well within ``LEASE_SECONDS``. A holder that cannot renew it gives the run up before
others may take it.
"""

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pareto_unlearn.errors import ConfigError, RunLockedError
from pareto_unlearn.file_lock import open_lock
from pareto_unlearn.store.filesystem import NO_FLOCK, LocalStorage, Storage
from pareto_unlearn.stored_fields import read_fields

LOCK_FILE = "lock.json"
LEASE_SECONDS = 120.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a run.

    Times are seconds since 1970; ``process_start`` is in clock ticks since ``boot_id``.
    """

    host: str
    pid: int
    boot_id: str
    process_start: int | None
    started: float
    renewed: float
    token: str

    def describe(self) -> str:
        """Return process, host and time for a person who looks for the holder."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.started))
        return f"process {self.pid} on {self.host}, since {since}"

    def is_dead(self) -> bool:
        """Return True if the holder ran on this machine and is gone; False if that is not certain."""
        if self.host != socket.gethostname():
            return False
        if self.boot_id != _boot_id():
            return True
        start = _process_start(self.pid)
        return start != self.process_start if start is not None else not Path(f"/proc/{self.pid}").exists()


@dataclass(slots=True)
class Hold:
    """A run that is held; ``lost`` is set once another driver has taken the lease over."""

    lost: RunLockedError | None = None


@contextmanager
def hold_run(storage: Storage, label: str, lease_seconds: float = LEASE_SECONDS) -> Iterator[Hold]:
    """Hold a run for the length of a ``with`` block.

    Raises:
        RunLockedError: another driver holds it; the message names the driver and what to do.
        ConfigError: the lock file cannot be written.
    """
    descriptor = _take_file(storage.root / LOCK_FILE, label) if isinstance(storage, LocalStorage) else None
    if descriptor is None:
        with _hold_lease(storage, label, lease_seconds) as hold:
            yield hold
        return
    try:
        yield Hold()
    finally:
        # The file stays: without it, a third driver could lock a new file while a second waits on this.
        try:
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


def find_holder(storage: Storage) -> Holder | None:
    """Return the driver that holds a run, by what its lock file says; nothing is locked or written.

    On a file system, a driver that was killed on another machine is still named.
    """
    holder = _read_lease(storage)
    if holder is None or holder.is_dead():
        return None
    is_lease = not isinstance(storage, LocalStorage)
    return None if is_lease and time.time() - holder.renewed > LEASE_SECONDS else holder


def _take_file(path: Path, label: str) -> int | None:
    """Return a locked descriptor, None if the file system has no flock."""
    try:
        descriptor = open_lock(path)
    except OSError as error:
        raise ConfigError(
            f"cannot write {path} ({error.strerror}): make the run directory writable"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _encode(_this_process()))
    except BlockingIOError as error:
        os.close(descriptor)
        raise _locked(label, _decode(path.read_bytes())) from error
    except OSError as error:
        os.close(descriptor)
        if error.errno in NO_FLOCK:
            return None
        raise
    return descriptor


@contextmanager
def _hold_lease(storage: Storage, label: str, lease_seconds: float) -> Iterator[Hold]:
    found = _read_lease(storage)
    if found is not None and not found.is_dead() and time.time() - found.renewed < lease_seconds:
        raise _locked(label, found)
    mine = _this_process()
    if found is None and not storage.put_new(LOCK_FILE, _encode(mine)):
        if (winner := _read_lease(storage)) is not None:
            raise _locked(label, winner)
        found = mine  # what is there is no lease
    if found is not None:
        storage.put(LOCK_FILE, _encode(mine))
    stop, hold = threading.Event(), Hold()
    renewal = threading.Thread(
        target=_renew, args=(storage, mine, stop, lease_seconds, label, hold), name="run lease", daemon=True
    )
    _check_lease(storage, mine, label)
    renewal.start()
    try:
        yield hold
    finally:
        stop.set()
        renewal.join()
        holder = _read_lease(storage)
        if holder is not None and holder.token == mine.token:
            storage.remove(LOCK_FILE)


def _renew(
    storage: Storage, mine: Holder, stop: threading.Event, lease_seconds: float, label: str, hold: Hold
) -> None:
    renewed = time.monotonic()
    while not stop.wait(lease_seconds / 4):
        try:
            _check_lease(storage, mine, label)
            storage.put(LOCK_FILE, _encode(replace(mine, renewed=time.time())))
            renewed = time.monotonic()
        except RunLockedError as error:
            _logger.error("the lock was lost, so this driver ends: %s", error)
            hold.lost = error
            return
        except OSError as error:
            _logger.warning("the lock of %s could not be renewed: %s", label, error)
            idle = time.monotonic() - renewed
            if idle >= 3 * lease_seconds / 4:
                hold.lost = RunLockedError(
                    f"{label}: the lock could not be renewed for {idle:.0f} s ({error}), "
                    "so another driver may take the run over. See that the storage can be reached, and start "
                    "the same command again"
                )
                return


def _check_lease(storage: Storage, mine: Holder, label: str) -> None:
    holder = _read_lease(storage)
    if holder is not None and holder.token != mine.token:
        raise _locked(label, holder)


def _read_lease(storage: Storage) -> Holder | None:
    try:
        return _decode(storage.read(LOCK_FILE))
    except FileNotFoundError:
        return None


def _locked(label: str, holder: Holder | None) -> RunLockedError:
    who = "another process" if holder is None else holder.describe()
    return RunLockedError(
        f"{label} is held by {who}. Wait until it ends, or stop it; the lock is freed with it. "
        "To run beside it, choose another `name`"
    )


def _this_process() -> Holder:
    now = time.time()
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=_boot_id(),
        process_start=_process_start(os.getpid()),
        started=now,
        renewed=now,
        token=uuid.uuid4().hex,
    )


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _decode(data: bytes) -> Holder | None:
    try:
        return read_fields(Holder, json.loads(data))
    except (ValueError, TypeError, AttributeError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _process_start(pid: int) -> int | None:
    try:
        # The command name in field 2 may hold spaces and brackets; field 22 is counted from its end.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
