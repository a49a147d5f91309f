"""Targets and other arrays of a run as plain files: computed by the first trial, memory-mapped by all."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pareto_unlearn.objectives.targets import Targets
from pareto_unlearn.records import Scales
from pareto_unlearn.whole_files import open_cached


def open_targets(folder: Path, compute: Callable[[], Targets]) -> Targets:
    """Return the targets stored in ``folder``; computed and written first if missing or damaged.

    Several trials may call this at once: the first computes, the others wait for it.
    """
    open_cached(folder, lambda staging: _write(staging, compute()))
    scales = Scales(**json.loads((folder / "scales.json").read_text()))
    return Targets(scales, {path.stem: _open_array(path) for path in sorted(folder.glob("*.npy"))})


def open_rows(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """Return the array stored as ``path``, memory-mapped; computed and written first if not whole."""
    open_cached(path, lambda staging: _write_array(staging, compute()))
    return _open_array(path)


def _write(folder: Path, targets: Targets) -> None:
    folder.mkdir()
    for name, array in targets.arrays.items():
        _write_array(folder / f"{name}.npy", array)
    (folder / "scales.json").write_text(json.dumps(asdict(targets.scales)))


def _write_array(path: Path, rows: Tensor) -> None:
    with path.open("wb") as file:  # given a name, numpy would add its own suffix
        np.save(file, rows.cpu().numpy(), allow_pickle=False)


def _open_array(path: Path) -> Tensor:
    # Copy-on-write mapping: torch wants writable memory, and pages are shared as long as nobody writes.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
