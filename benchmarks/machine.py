"""Facts about the machine and the libraries on which a benchmark ran."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch


def machine_facts() -> dict[str, str | int]:
    """Return processor, number of cores, versions and today's date."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 0,
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
