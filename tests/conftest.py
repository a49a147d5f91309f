"""Shared fixtures: a small sweep on the embedded digits that takes seconds."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from small_sweep import QUICKSTART, SMALL

from pareto_unlearn.config import SweepConfig, load_config

# Set before torch is imported; workers and subprocesses of the tests inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

SLOWEST_FIRST = ("test_cli_ray", "test_sweep", "test_smoke", "test_checks")
"""What takes longest starts first, so that no worker is left with it in the end."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for folders of tests; a file alone runs in this process, where a debugger can stop it."""
    is_whole = all(Path(argument).is_dir() for argument in config.args)
    return 2 if is_whole and (os.cpu_count() or 1) > 1 else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring the slowest files forward."""
    ranks = {name: rank for rank, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., SweepConfig]:
    """Build a small sweep that runs in this process and stores under the test's own folder."""

    def build(*overrides: str) -> SweepConfig:
        return load_config(
            QUICKSTART, [*SMALL, "run.executor=local", f"run.storage={tmp_path / 'runs'}", *overrides]
        )

    return build
