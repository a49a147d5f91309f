"""Whole sweeps of the published models at full width, from the shipped sheets, with random weights and
images.

    uv run python benchmarks/full_sweep.py
    uv run python benchmarks/full_sweep.py --family palette --work FOLDER

Every family's sheet runs to its end on the CPU with a handful of images, steps and epsilons, so that what a
sheet asks for is tried at its real size: checkpoints, targets, bank, mixtures, pictures, report. Each sweep
is a process of its own; its peak of memory is that of the process.

Writes the rows to benchmarks/results/full_sweeps.json, where those of other models stay, and a section of
docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import machine_facts
from page_section import replace_section
from PIL import Image

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.models import initialise_model, pixel_format, write_model
from pareto_unlearn.store import open_run

ROOT = Path(__file__).parent.parent
COMMAND = "uv run python benchmarks/full_sweep.py"
SHEETS = {"mae": "imagenet_mae", "mage": "imagenet_vqgan", "palette": "places_diffusion"}
MODELS = (("mae", "vit_base"), ("mage", "vit_base"), ("palette", "places2"), ("mae", "vit_large"))
HANDFUL = (
    "solver.steps=2", "solver.batch=2", "solver.path={steps: 4, scan: [], learning_rate: 0.00005}",
    "solver.bank.checkpoints=3", "solver.precision=float32", "objective.noise_images=16",
    "objective.original_precision=float32", "epsilon.points=2",
    "baselines=[{method: composite, weights: [0.25]}]", "evaluate.audit=off", "evaluate.images=null",
    "evaluate.pictures=2", "evaluate.max_samples=1", "evaluate.sampling={method: ddim, steps: 2}",
    "run.executor=local", "run.gpus_per_trial=0",
    "run.cpus_per_trial=1",
)  # fmt: skip
"""What makes a sheet small enough for a CPU; its model, task and objective stay."""
PICTURES = 10
"""Files of the one class to forget, and of the one to keep, of which a fifth is held out."""
FEW = ("data.train_per_class=2", "data.heldout_per_class=2")

Row = dict[str, Any]


def main() -> None:
    """Run the sweeps and write results and section."""
    options = _parse()
    for family, variant in MODELS:
        if options.family in (None, family) and options.variant in (None, variant):
            row = run_small(family, "tiny" if options.tiny else variant, options.work)
            keep(options.results, row)
            print(json.dumps(row), file=sys.stderr)
    replace_section(
        options.page, "full-sweeps", f"## Whole sweeps at full width\n\n{render(options.results)}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", choices=SHEETS)
    parser.add_argument("--variant", help="only this size")
    parser.add_argument("--tiny", action="store_true", help="use the tiny variants, to try this script out")
    parser.add_argument(
        "--work", type=Path, help="where weights, images and runs go; default: a folder that is removed"
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "full_sweeps.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    return parser.parse_args()


def run_small(family: str, variant: str, work: Path | None) -> Row:
    """Return what the sweep of a sheet took with a handful of everything."""
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="full-sweep-", dir=work) as folder:
        overrides = [
            *sheet_overrides(family, variant, Path(folder), classes=1, each=PICTURES),
            *FEW,
            *HANDFUL,
        ]
        started = time.monotonic()
        with subprocess.Popen(_command(family, overrides), cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 4):
            raise SystemExit(f"{family} {variant}: expected exit code 0 or 4, found {process.returncode}")
        run = open_run(f"{folder}/runs/{load_sheet(family, overrides).name}")
        files = [path for path in Path(folder, "runs").rglob("*") if path.is_file()]
        return {
            "family": family,
            "variant": variant,
            "exit_code": process.returncode,
            "seconds": time.monotonic() - started,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
            "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "disk_bytes": sum(path.stat().st_size for path in files),
            "trials": len(run.records),
            "failed": sum(record.f1 is None for record in run.records),
            "steps": sum(record.steps for record in run.records),
            **machine_facts(),
        }


def sheet_overrides(family: str, variant: str, folder: Path, *, classes: int, each: int) -> list[str]:
    """Write random weights and pictures into a folder; return what makes the family's sheet use them.

    Args:
        family: of the sheet.
        variant: its size.
        folder: an existing folder, where the run goes too.
        classes: to forget, and as many to keep.
        each: pictures of a class, a fifth of them held out.
    """
    root = folder / "pictures"
    data = {
        "dataset": "folder",
        "root": str(root),
        "forget_classes": classes,
        "retain_classes": classes,
        "train_per_class": each - each // 5,
        "heldout_per_class": each // 5,
    }
    overrides = [
        f"model.variant={variant}",
        f"model.checkpoint={folder / 'weights'}{_suffix(family)}",
        f"data={json.dumps(data)}",
        f"run.storage={folder / 'runs'}",
    ]
    config = load_sheet(family, overrides)
    write_pictures(root, 2 * classes, each, pixel_format(config.model).side)
    weights = Path(config.model.checkpoint)
    if not weights.exists():
        model = initialise_model(config.task, seeded_generator(1), config.model)
        write_model(weights, config.model, model)
    return overrides


def _suffix(family: str) -> str:
    return ".pth" if family in SHEETS else ".safetensors"


def load_sheet(family: str, overrides: Sequence[str]) -> SweepConfig:
    """Return the sheet of a family with overrides."""
    return load_config(ROOT / "sweeps" / f"{SHEETS[family]}.yaml", list(overrides))


def run_sheet(family: str, overrides: Sequence[str], limit: float | None = None) -> int | None:
    """Run the sheet of a family in a process of its own and return its exit code; None if it took too long.

    It is then asked to end as Ctrl-C asks, and may be continued.
    """
    command = _command(family, overrides)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
            return None


def _command(family: str, overrides: Sequence[str]) -> list[str]:
    command = [sys.executable, "-m", "pareto_unlearn", "sweep", f"sweeps/{SHEETS[family]}.yaml"]
    return command + [part for text in overrides for part in ("-o", text)]


def write_pictures(root: Path, classes: int, each: int, side: int) -> None:
    """Write smooth random pictures, a folder for each class; what is there already stays."""
    for class_id in range(classes):
        folder = root / f"class_{class_id:03d}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            path = folder / f"{number:04d}.jpg"
            if not path.exists():
                generator = np.random.default_rng([class_id, number])
                coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)


def keep(path: Path, row: Row) -> None:
    """Write a row into the file, in place of an earlier row of the same model."""
    rows: list[Row] = json.loads(path.read_text()) if path.is_file() else []
    others = [one for one in rows if (one["family"], one["variant"]) != (row["family"], row["variant"])]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*others, row], indent=1) + "\n")


def render(path: Path) -> str:
    """Return the whole text of the section but for its heading."""
    rows: list[Row] = json.loads(path.read_text())
    return "\n".join(_lines(rows))


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    last = rows[-1]
    yield (
        f"`{COMMAND}`: the shipped sheets from start to report, random weights in files of the published "
        f"form, random pictures: a class to forget and one to keep, 2 + 2 held-out pictures each; "
        "batches of 2 + 2, a path of 4 steps, 2 for other trials, 3 checkpoints, 2 epsilons, one baseline, "
        f"2 pictures a set. {last['cpu']}, one thread, float32, torch {last['torch']}, Python "
        f"{last['python']}, {last['date']}; the machine was shared with other work. The peak is that of "
        "the sweep's process, which runs the trials too. The numbers of such models mean nothing: with "
        "random weights, epsilons may end infeasible (exit code 4)."
    )
    yield ""
    yield "| model | trials | without f1 | steps | exit code | minutes | CPU minutes | peak GiB | disk GiB |"
    yield "|---" * 9 + "|"
    for row in rows:
        yield (
            f"| {row['family']} {row['variant']} | {row['trials']} | {row['failed']} | {row['steps']} | "
            f"{row['exit_code']} | {row['seconds'] / 60:.1f} | {row['cpu_seconds'] / 60:.1f} | "
            f"{row['peak_bytes'] / 2**30:.2f} | {row['disk_bytes'] / 2**30:.2f} |"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
