"""The errors that a caller may want to catch, each with the exit code that the command line ends with.

ParetoUnlearnError
|-- ConfigError      3  sweep file or data not valid
|-- RunLockedError   5  another driver holds the run
|-- StoreError       6  a committed file is missing or damaged
|-- RangeError       7  no valid range of epsilon
|-- RankLostError    9  a process of a trial died; inside a sweep, which runs the trial again
|-- WeightsError     8  weights missing or not matching
`-- MachineError     9  disk, memory or device gave out; the same command goes on
"""

import errno
import os
import resource

LEAST_ADDRESS_SPACE = 512 * 2**20
"""Bytes that Python, NumPy and Arrow need; torch needs several times as much and says so itself."""


class ParetoUnlearnError(Exception):
    """Root of the errors a caller may want to catch; the command line ends with ``exit_code``."""

    exit_code = 1


class ConfigError(ParetoUnlearnError):
    """A sweep file, an override or the data it names is not valid."""

    exit_code = 3


class RunLockedError(ParetoUnlearnError):
    """Another driver holds the run directory."""

    exit_code = 5


class StoreError(ParetoUnlearnError):
    """A committed file is missing, damaged or of a newer schema."""

    exit_code = 6


class RangeError(ParetoUnlearnError):
    """Phase I left no valid range for epsilon."""

    exit_code = 7


class WeightsError(ParetoUnlearnError):
    """Model or metric weights are missing or do not match."""

    exit_code = 8


class RankLostError(ParetoUnlearnError):
    """A process of several that solve a trial together died; the trial runs again from its last state."""

    exit_code = 9


class MachineError(ParetoUnlearnError):
    """Disk, memory or a device gave out; nothing is wrong with the sweep, and the same command goes on."""

    exit_code = 9


_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EROFS: "make the disk writable, or name another place",
    errno.EACCES: "make it accessible, or name another place",
    errno.EPERM: "make it accessible, or name another place",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENOMEM: "free some memory, or raise its limit (ulimit -v)",
    errno.EIO: "have a look at the disk",
    errno.ESTALE: "see that the network file system is mounted",
    errno.ETIMEDOUT: "see that the storage answers",
}
_WORDS_OF_MEMORY = ("DefaultCPUAllocator", "CUDA out of memory")
_WORDS_OF_MACHINES = (*_WORDS_OF_MEMORY, "CUDA error", "cuDNN error", "NCCL")
"""In errors of torch, which raises plain RuntimeErrors for them."""


def is_fault_of_machine(error: BaseException) -> bool:
    """Return whether a trial failed for what surrounds it, so that it may end well the next time.

    So are files that are missing, damaged or not those of the sweep: who puts them back wants the trial run.
    """
    if isinstance(error, ParetoUnlearnError | OSError | MemoryError):
        return True
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"OutOfMemoryError", "AcceleratorError"}:
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS_OF_MACHINES)


def explain_machine(error: Exception) -> MachineError | None:
    """Return what gave out, where, and what to do about it; None for an error that may be a bug of ours."""
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM if _lacks_memory(error) else None
    remedy = _REMEDIES.get(number or 0)
    if number is None or remedy is None:
        return None
    place = getattr(error, "filename", None)
    words = error.strerror if isinstance(error, OSError) else os.strerror(number)
    start = "" if place is None else f"{_short(str(place))}: "
    return MachineError(f"{start}{words}: {remedy}, then start the same command again")


def _lacks_memory(error: BaseException) -> bool:
    """Return whether memory gave out, also in the words of torch and of the loader of libraries."""
    if isinstance(error, ImportError):
        causes = " ".join(str(one) for one in (error, error.__cause__, error.__context__))
        return "failed to map segment" in causes or "cannot allocate memory" in causes.lower()
    if isinstance(error, RuntimeError):
        return type(error).__name__ == "OutOfMemoryError" or any(
            words in str(error) for words in _WORDS_OF_MEMORY
        )
    return isinstance(error, MemoryError)


def require_address_space() -> None:
    """Refuse a limit on memory (``ulimit -v``) with which NumPy does not even load, but hangs or crashes.

    Raises:
        MachineError: the limit is below ``LEAST_ADDRESS_SPACE``.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise MachineError(
            f"expected at least {LEAST_ADDRESS_SPACE >> 20} MB of address space, found a limit of "
            f"{limit >> 20} MB: raise it (ulimit -v), then start the same command again"
        )


def _short(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:90]}...{path[-90:]}"
