"""Targets and other arrays of a run as plain files: computed by the first trial, memory-mapped by all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pareto_unlearn.file_lock import exclusive
from pareto_unlearn.objectives.targets import Targets
from pareto_unlearn.records import Scales


def open_targets(folder: Path, compute: Callable[[], Targets]) -> Targets:
    """Return the targets stored in ``folder``; if there are none yet, they are computed and written first.

    Several trials may call this at once: the first computes, the others wait for it. The folder appears in
    one rename, so a killed computation leaves nothing that looks complete.
    """
    with exclusive(folder):
        if not folder.is_dir():
            _publish(folder, compute())
    scales = Scales(**json.loads((folder / "scales.json").read_text()))
    return Targets(scales, {path.stem: _open_array(path) for path in sorted(folder.glob("*.npy"))})


def open_rows(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """Return the array stored as ``path``, memory-mapped; computed and written first if missing."""
    with exclusive(path):
        if not path.is_file():
            _publish_rows(path, compute())
    return _open_array(path)


def _publish(folder: Path, targets: Targets) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, array in targets.arrays.items():
            np.save(staging / f"{name}.npy", array.cpu().numpy())
        (staging / "scales.json").write_text(json.dumps(asdict(targets.scales)))
        os.replace(staging, folder)  # noqa: PTH105 - one rename publishes all
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _publish_rows(path: Path, rows: Tensor) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as staging:
        written = Path(staging) / path.name
        np.save(written, rows.cpu().numpy())
        os.replace(written, path)  # noqa: PTH105 - one rename publishes it


def _open_array(path: Path) -> Tensor:
    # Copy-on-write mapping: torch wants writable memory, and pages are shared as long as nobody writes.
    return torch.from_numpy(np.load(path, mmap_mode="c"))
