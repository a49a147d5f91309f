"""Shared fixtures: one finished small sweep for the whole test run, and the number of workers."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_sweep import run, small_sweep

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.file_lock import exclusive

# Set before torch is imported; workers and subprocesses of the tests inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
# Lines to copy are the same however the tests were started.
os.environ.pop("UV_RUN_RECURSION_DEPTH", None)

# Container images often forbid Python to keep compiled modules. Then every process that a test or Ray starts
# compiles all it imports anew, which takes two thirds of its start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

SLOWEST_FIRST = (
    "test_ray_quickstart",
    "test_ray_killed_drivers",
    "test_ray_signals",
    "test_families_precision",
    "test_smoke",
    "test_conformance",
    "test_families_trial",
    "test_sweep",
    "test_checks",
    "test_class_weights",
    "test_benchmarks",
    "test_quality",
    "test_solver",
    "test_schedule",
)
"""What takes longest starts first, so that no worker is left with it in the end."""

WORKER_BYTES = 2 * 2**30
"""Memory for a worker (about 1.1 GB) and for what it starts."""


def count_workers() -> int:
    """Return one worker for every core, as far as the memory of the machine suffices."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(os.cpu_count() or 1, memory // WORKER_BYTES)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Workers for folders of tests; a file alone runs in this process, where a debugger can stop it."""
    is_whole = all(Path(argument).is_dir() for argument in config.args)
    workers = count_workers()
    return workers if is_whole and workers > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the slowest files forward."""
    ranks = {name: rank for rank, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture(scope="session")
def small_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a finished small sweep, solved by the worker that needs it first; only to be copied."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of the whole run; a worker's own folder lies in it
    storage, unfinished = folder / "small", folder / "small-unfinished"
    with exclusive(storage):
        if not storage.exists():
            assert run(small_sweep(unfinished)) == 0
            unfinished.rename(storage)
    return storage


@pytest.fixture(scope="session")
def copy_small_sweep(small_storage: Path) -> Callable[..., SweepConfig]:
    """Return a function that copies the finished small sweep into a folder.

    It returns the sweep's config. What its overrides add is left to run.
    """

    def copy(storage: Path, *overrides: str) -> SweepConfig:
        shutil.copytree(small_storage, storage, dirs_exist_ok=True)
        return small_sweep(storage, *overrides)

    return copy


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., SweepConfig]:
    """Build a small sweep that runs in this process and stores under the test's own folder."""
    return lambda *overrides: small_sweep(tmp_path / "runs", *overrides)
