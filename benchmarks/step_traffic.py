"""What a step of every family sends to the device, what it waits for, and how often it reads its weights.

    uv run python benchmarks/step_traffic.py
    uv run python benchmarks/step_traffic.py --before FOLDER

FOLDER is a checkout of an earlier release, whose package is measured by the same code. Counted on a CPU, at
the published widths: operations are watched, and what a GPU would hold is known (tests/device_traffic.py).
Pictures come as bytes, as files are read. Seconds are those of the process, one thread. Every row has a
process of its own.

Writes benchmarks/results/step_traffic.json and a section of docs/benchmarks.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from family_rows import Case, build_config, build_model, random_split
from machine import machine_facts
from page_section import replace_section
from step_ways import our_solver
from torch import Tensor

from pareto_unlearn.data import ImageSet, SplitData
from pareto_unlearn.solver import EpsilonSolver
from pareto_unlearn.trial import Material
from pareto_unlearn.trial.loading import assemble_material
from pareto_unlearn.trial.problem import Problem

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
from device_traffic import DeviceTraffic  # noqa: E402 - a folder of scripts, no package

COMMAND = "uv run python benchmarks/step_traffic.py"
VARIANTS = {"mae": "vit_base", "mage": "vit_base", "palette": "places2"}
BATCH = 2
Row = dict[str, Any]


class ByteImages:
    """Pictures that are bytes, as those of files are."""

    def __init__(self, images: Tensor) -> None:
        self._bytes = (images * 255.0).round().to(torch.uint8)

    @property
    def shape(self) -> torch.Size:
        """Number of images, channels, height, width."""
        return self._bytes.shape

    def __len__(self) -> int:
        return len(self._bytes)

    def __getitem__(self, rows: Tensor | list[int] | slice) -> Tensor:
        return self._bytes[rows].to(torch.float32) / 255.0

    def take_bytes(self, rows: Tensor | list[int] | slice) -> Tensor:
        """Return some images as bytes."""
        return self._bytes[rows]


def main() -> None:
    """Measure all families, of this and of an earlier release, and write results and section."""
    options = _parse()
    if options.family is not None:
        torch.set_num_threads(1)
        print(json.dumps(measure(options.family, options.variant or VARIANTS[options.family])))
        return
    packages = {"now": ROOT} | ({"before": options.before.resolve()} if options.before else {})
    for when, package in packages.items():
        for family, variant in VARIANTS.items():
            row = _run(family, "tiny" if options.tiny else variant, package)
            keep(options.results, row | {"when": when} | machine_facts())
    replace_section(
        options.page, "step-traffic", f"## What a step sends and waits for\n\n{render(options.results)}"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="a checkout of an earlier release")
    parser.add_argument("--tiny", action="store_true", help="tiny variants, to try this script out")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "step_traffic.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    parser.add_argument("--family", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(family: str, variant: str, package: Path) -> Row:
    """Return what a family's step does in the package of a checkout."""
    command = [sys.executable, __file__, "--family", family, "--variant", variant]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(package)}
    )
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def keep(path: Path, row: Row) -> None:
    """Write a row into the file, in place of an earlier row of the same model and release."""
    rows: list[Row] = json.loads(path.read_text()) if path.is_file() else []
    key = ("when", "family", "variant")
    others = [one for one in rows if any(one[name] != row[name] for name in key)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*others, row], indent=1) + "\n")


def measure(family: str, variant: str) -> Row:
    """Return seconds of a plain step, and the counts of a watched one."""
    case = Case(family=family, variant=variant, work="step", device="cpu", batch=BATCH, space="encoder")
    config = build_config(case)
    model = build_model(config, torch.device("cpu"))
    split = _as_bytes(random_split(config))
    with tempfile.TemporaryDirectory() as cache:
        material = assemble_material(config, split, model, torch.device("cpu"), Path(cache), "traffic")
        solver, problem = our_solver(config, material)

        def step() -> None:
            index = solver.step_count
            solver.step(lambda: problem.constraint(index), lambda: problem.objective(index))

        step()
        started = time.process_time()
        step()
        seconds = time.process_time() - started
        held = tensors_on_device(material, problem, solver)
        size = solver.flat.values.numel()
        with DeviceTraffic(held, size) as traffic:
            step()
    return {
        "family": family,
        "variant": variant,
        "seconds": seconds,
        "batch": BATCH,
        "waits": len(traffic.waits),
        "sent_bytes": sum(traffic.sent),
        "flat_passes": traffic.flat_passes,
        "refused": sorted(set(traffic.refused)),
    }


def _as_bytes(split: SplitData) -> SplitData:
    sets = {}
    for name, part, images in split.items():
        sets[f"{name}_{part}"] = ImageSet(
            images=ByteImages(images.images[:]),
            class_ids=images.class_ids,
            class_names=images.class_names,
            image_ids=images.image_ids,
            sha256=images.sha256,
        )
    return SplitData(**sets)


def tensors_on_device(material: Material, problem: Problem, solver: EpsilonSolver) -> list[Tensor]:
    """Return all tensors that a GPU would hold between two steps."""
    model = material.model
    answers = getattr(material.retain_target.answers, "model", None)
    models = [model] if answers is None else [model, answers]
    bank = getattr(material.forget_target, "bank", None)
    cells = (cell.cell_contents for cell in getattr(problem.constraint, "__closure__", None) or ())
    weights = list(chain.from_iterable(one.parameters() for one in models))
    return [
        *weights,
        *chain.from_iterable(one.buffers() for one in models),
        # Frozen ones that encoder and decoder share get gradients too, which nobody reads.
        *(one.grad for one in weights if one.grad is not None),
        *(rows for rows in material.inputs.values() if isinstance(rows, Tensor)),
        *(() if bank is None else (bank.rows, bank.mean)),
        *(value for value in cells if isinstance(value, Tensor)),
        *(solver.flat.values, solver.flat.gradient, solver._g1, solver._log, solver._one),
        *solver.state_dict().values(),
        *problem.state.values(),
    ]


def render(path: Path) -> str:
    """Return the whole text of the section but for its heading."""
    rows: list[Row] = json.loads(path.read_text())
    last = rows[-1]
    lines = [
        f"`{COMMAND} --before FOLDER`, with `--tiny` too: a step of an epsilon's trial in space encoder, "
        f"{BATCH} + {BATCH} pictures that are bytes; *before* is commit 84132be. Waits: where the host stops "
        "until a GPU is done, beside the reading of the log every 50 steps. Sent: what goes to the device, "
        "by picture, rows of stored targets included. Passes: reads and writes of the vector of trained "
        "weights. Waits and passes do not depend on the width. Seconds are those of the process, one "
        f"thread, of a step that is not watched. {last['cpu']}, torch {last['torch']}, Python "
        f"{last['python']}, {last['date']}; the machine was shared with much other work.",
        "",
        "| model | waits before | now | KiB a picture before | now | passes before | now | s before | now |",
        "|---" * 9 + "|",
    ]
    models = dict.fromkeys((row["family"], row["variant"]) for row in rows)
    found = {(row["when"], row["family"], row["variant"]): row for row in rows}
    for family, variant in models:
        before, now = (found.get((when, family, variant)) for when in ("before", "now"))
        lines.append(f"| {family} {variant} | {_cells(before, now)} |")
    return "\n".join(lines)


def _cells(before: Row | None, now: Row | None) -> str:
    def shown(row: Row | None) -> list[str]:
        if row is None:
            return ["-"] * 4
        sent = row["sent_bytes"] / 1024 / (2 * row["batch"])
        return [str(row["waits"]), f"{sent:,.0f}", str(row["flat_passes"]), f"{row['seconds']:.3g}"]

    return " | ".join(cell for pair in zip(shown(before), shown(now), strict=True) for cell in pair)


if __name__ == "__main__":
    main()
