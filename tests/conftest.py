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


@pytest.fixture
def small_config(tmp_path: Path) -> Callable[..., SweepConfig]:
    """Build a small sweep that runs in this process and stores under the test's own folder."""

    def build(*overrides: str) -> SweepConfig:
        return load_config(
            QUICKSTART, [*SMALL, "run.executor=local", f"run.storage={tmp_path / 'runs'}", *overrides]
        )

    return build
