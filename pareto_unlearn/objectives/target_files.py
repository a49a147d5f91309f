"""Targets and other arrays of a run as plain files, computed by the first trial and memory-mapped by all."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pareto_unlearn.file_lock import exclusive
from pareto_unlearn.objectives.losses import NoiseTarget
from pareto_unlearn.objectives.targets import Targets
from pareto_unlearn.records import Scales

ARRAYS = (
    "retain_train",
    "retain_heldout",
    "forget_f1_train",
    "forget_f1_heldout",
    "reference_train",
    "reference_heldout",
)


def open_targets(folder: Path, compute: Callable[[], Targets]) -> Targets:
    """Return the targets stored in ``folder``, computing and publishing them first where they are missing.

    Several trials may call this at once: one computes, the others wait for it. The folder appears in one rename, so a
    killed computation leaves nothing that looks complete.
    """
    with exclusive(folder):
        if not folder.is_dir():
            _publish(folder, compute())
    scales = Scales(**json.loads((folder / "scales.json").read_text()))
    rows, mean = (_open_array(folder / f"{name}.npy") for name in ("noise", "noise_mean"))
    noise = None if rows is None or mean is None else NoiseTarget(rows, mean, scales.f1_floor)
    arrays: dict[str, Any] = {name: _open_array(folder / f"{name}.npy") for name in ARRAYS}
    return Targets(noise=noise, scales=scales, **arrays)


def open_rows(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """Return an array stored as ``path``, memory-mapped, computing and publishing it first where it is missing."""
    with exclusive(path):
        if not path.is_file():
            _publish_rows(path, compute())
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def _publish(folder: Path, targets: Targets) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        arrays = {name: getattr(targets, name) for name in ARRAYS}
        if targets.noise is not None:
            arrays |= {"noise": targets.noise.rows, "noise_mean": targets.noise.mean}
        for name, array in arrays.items():
            if array is not None:
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


def _open_array(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    # Copy-on-write mapping: torch wants writable memory, and pages are shared as long as nobody writes.
    return torch.from_numpy(np.load(path, mmap_mode="c"))
