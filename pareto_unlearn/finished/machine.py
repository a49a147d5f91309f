"""What a sweep needs of the machine besides weights: a device, memory, and places that can be written to."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch

from pareto_unlearn.finished.doctor import Finding

__all__ = ["examine_machine"]

LEAST_FREE_BYTES = 2 * 10**9
"""What the embedded example takes with room to spare; `sweep --dry-run` knows what a sweep takes."""
LONGEST_TEMPORARY = 40
"""Ray puts sockets below the temporary folder, whose whole path may have 107 characters."""


def examine_machine(storage: str) -> list[Finding]:
    """Return a finding for versions, devices, memory and folders; nothing is left on the disk.

    Args:
        storage: the folder that runs are written to; an address of an object store is not tried.
    """
    return [_of("versions", True, _versions()), _of("devices", True, _devices()), *_places(storage)]


def _of(name: str, is_right: bool, detail: str) -> Finding:
    return Finding(
        name=name, is_right=is_right, is_needed=False, is_there=True, detail=detail, kind="machine"
    )


def _versions() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("pareto-unlearn", "torch", "ray"))
    return f"Python {platform.python_version()}, {packages}"


def _devices() -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    host = f"{os.cpu_count()} CPU cores, {memory / 1e9:.0f} GB of memory"
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = ", ".join(f"{one.name} with {one.total_memory / 1e9:.0f} GB" for one in found)
    return f"{host}; {gpus or 'no GPU: gpus_per_trial has to be 0'}"


def _places(storage: str) -> Iterator[Finding]:
    if "://" not in storage:
        yield _place("run.storage", Path(storage).expanduser())
    temporary = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(str(temporary)) > LONGEST_TEMPORARY:
        told = f"{temporary}: too long for Ray's sockets; name a short folder in RAY_TMPDIR"
        yield _of("temporary folder", False, told)
    else:
        yield _place("temporary folder", temporary)


def _place(name: str, folder: Path) -> Finding:
    """Return whether a folder, or the nearest one above it that is there, can be written to."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
        free = shutil.disk_usage(there).free
    except OSError as error:
        return _of(name, False, f"{folder}: cannot be written to ({error.strerror}); name another one")
    enough = free >= LEAST_FREE_BYTES
    return _of(name, enough, f"{folder}: {free / 1e9:.1f} GB free{'' if enough else ', which is little'}")
