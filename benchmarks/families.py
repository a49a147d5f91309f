"""What a training step and a generated image cost with every model family at its published width.

    uv run python benchmarks/families.py
    uv run python benchmarks/families.py --device cuda --family palette

Weights and images are random, which does not change a cost. Every row is measured by family_rows.py in a
process of its own. A step is the solver's step in a Phase II trial: forward and backward of a forget and of a
retain batch, multiplier, Adam. On a CPU one thread is used and the clock is the time of the process; on a GPU
it is the wall clock around synchronised steps.

Writes the rows to benchmarks/results/families_<device>.json, where rows of other cases stay, and a section of
docs/benchmarks.md from the rows of all devices.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from family_rows import Case
from machine import machine_facts
from page_section import replace_section

ROOT = Path(__file__).parent.parent
COMMAND = "uv run python benchmarks/families.py"
FULL = (("mae", "vit_base"), ("mae", "vit_large"), ("mage", "vit_base"), ("palette", "places2"))
TINY = (("mae", "tiny"), ("mage", "tiny"), ("palette", "tiny"))
SPACES = ("encoder", "output")
SAMPLINGS = (("ancestral", 2000), ("ddim", 50))
"""Palette's ways to sample, each with the steps of a whole picture: its full schedule, or DDIM's usual 50."""
TIMED_ROUNDS = {"cpu": 2, "cuda": 50}
"""Number of sampling steps that are timed; the time of a whole picture is extrapolated from them."""
BATCH = {"cpu": 1, "cuda": 16}
NOT_IN_KEY = ("warm_up", "repeats")

Row = dict[str, Any]


def main() -> None:
    """Measure all cases and write results and section."""
    options = _parse()
    path = options.results / f"families_{options.device}.json"
    facts = _facts(options.device)
    for case in cases(options):
        row = asdict(case) | facts | run(case)
        print(_line(row), file=sys.stderr)
        keep(path, row)
    text = render(options.results)
    replace_section(options.page, "families", f"## Model families at full width\n\n{text}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--batch", type=int, help="images of each set in a step; 1 on a CPU, 16 on a GPU")
    parser.add_argument(
        "--family",
        choices=("mae", "mage", "palette"),
        action="append",
        help="measure it only; may be repeated",
    )
    parser.add_argument("--work", choices=("step", "generation"), help="measure only this kind of work")
    parser.add_argument(
        "--quick", action="store_true", help="on a CPU: time the first step only, not three steps after it"
    )
    parser.add_argument("--tiny", action="store_true", help="use the tiny variants, to try this script out")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    return parser.parse_args()


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the cases to measure."""
    quick = options.quick and options.device == "cpu"
    for family, variant in TINY if options.tiny else FULL:
        if options.family and family not in options.family:
            continue
        plain = Case(
            family=family,
            variant=variant,
            work="step",
            device=options.device,
            batch=options.batch or BATCH[options.device],
            warm_up=0 if quick else 1,
            repeats=1 if quick else 3,
        )
        if options.work != "generation":
            yield from step_cases(plain)
        if options.work != "step":
            yield from generation_cases(replace(plain, work="generation"))


def step_cases(plain: Case) -> Iterator[Case]:
    """Yield a step in both spaces, on a GPU with every option as well."""
    for space in SPACES:
        case = replace(plain, space=space)
        yield case
        if case.device == "cpu":
            continue
        narrow = replace(case, precision="bfloat16")
        yield narrow
        yield replace(narrow, compile=True)
        if case.family == "palette":
            yield replace(case, channels_last=True)
            yield replace(narrow, channels_last=True)
            yield replace(narrow, channels_last=True, recompute=True)
            yield replace(narrow, channels_last=True, compile=True)


def generation_cases(plain: Case) -> Iterator[Case]:
    """Yield the generations of a family; palette's run a few steps of each sampling."""
    ways = [plain]
    if plain.family == "palette":
        rounds = TIMED_ROUNDS[plain.device]
        ways = [
            replace(plain, method=method, rounds=rounds, whole_rounds=whole) for method, whole in SAMPLINGS
        ]
    for way in ways:
        yield way
        if plain.device == "cuda" and plain.family != "mae":
            yield replace(way, channels_last=True)


def run(case: Case) -> Row:
    """Return what a case costs, measured in a process of its own; if that failed, its last line as error."""
    script = Path(__file__).with_name("family_rows.py")
    done = subprocess.run(
        [sys.executable, script, json.dumps(asdict(case))], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        measured: Row = json.loads(done.stdout.splitlines()[-1])
        return measured
    words = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return {"error": words.split(". ")[0]}


def keep(path: Path, row: Row) -> None:
    """Write a row into the file, in place of an earlier row of the same case."""
    rows: list[Row] = json.loads(path.read_text()) if path.is_file() else []
    others = [other for other in rows if _key(other) != _key(row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*others, row], indent=1) + "\n")


def _key(row: Row) -> Row:
    names = Case.__dataclass_fields__.keys()
    return {name: row[name] for name in names if name not in NOT_IN_KEY}


def _facts(device: str) -> dict[str, str | int]:
    facts = machine_facts()
    return facts | {"gpu": torch.cuda.get_device_name()} if device == "cuda" else facts


def render(results: Path) -> str:
    """Return the whole text of the section but for its heading, from the files of all devices."""
    devices = [json.loads(path.read_text()) for path in sorted(results.glob("families_*.json"))]
    parts = [
        f"`{COMMAND}`: the published sizes with random weights and random images, a central hole of 8 x 8 "
        "patches. A step is that of a Phase II trial: forward and backward of a forget and of a retain "
        "batch, multiplier, Adam. The original's outputs are looked up for mae and mage and computed "
        "beside the model for palette, whose inputs are drawn anew. Every row has a process of its own."
    ]
    parts += [_device_part(sorted(rows, key=_place)) for rows in devices]
    parts.append(
        "- Encoder, output: what f1 and f2 compare; in space encoder the decoder is frozen.\n"
        "- Seconds: of a step, or of the generation of a batch: mae in one pass, mage in 20 rounds, of "
        "which this hole takes the last ones. "
        "The median where several are timed; a first step (`--quick`) also pays for what is set up once.\n"
        "- Palette's generation is the time of a few steps. A whole picture is extrapolated: seconds a "
        "step times its steps."
    )
    return "\n\n".join(parts)


def _place(row: Row) -> int:
    """Return the position of a row's model in the tables; rows of one model keep their measured order."""
    return (*FULL, *TINY).index((row["family"], row["variant"]))


def _device_part(rows: list[Row]) -> str:
    """Return machine and tables of one kind of device."""
    first, on_gpu = rows[-1], rows[-1]["device"] == "cuda"
    where = first["gpu"] if on_gpu else f"{first['cpu']}, one thread, time of the process"
    memory = (
        "allocated on the GPU" if on_gpu else "of the whole process, 0.6 to 0.8 GiB of libraries included"
    )
    noisy = (
        ""
        if on_gpu
        else " The machine was shared with other work, so that times may be off by a fifth or more."
    )
    head = (
        f"{where}, torch {first['torch']}, Python {first['python']}, {first['date']}.{noisy} Memory is "
        f"the peak {memory}."
    )
    steps = _table(_STEP_COLUMNS, (row for row in rows if row["work"] == "step"), _step_cells)
    pictures = _table(_PICTURE_COLUMNS, (row for row in rows if row["work"] == "generation"), _picture_cells)
    return "\n\n".join([head, steps, pictures])


_STEP_COLUMNS = (
    "model",
    "space",
    "way",
    "images",
    "s a step",
    "timed",
    "images/s",
    "peak GiB",
    "trained parameters",
    "finite",
)
_PICTURE_COLUMNS = ("model", "generation", "way", "images", "s", "timed", "peak GiB", "s a picture", "finite")


def _timed(row: Row) -> str:
    return f"{row['repeats']} after {row['warm_up']}" if row["warm_up"] else "the first"


def _table(columns: tuple[str, ...], rows: Iterable[Row], cells: Any) -> str:
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)])


def _step_cells(row: Row) -> list[str]:
    start = [_model(row), row["space"], _way(row), f"{row['batch']}+{row['batch']}"]
    if "error" in row:
        return [*start, f"failed: {row['error']}", *["-"] * (len(_STEP_COLUMNS) - 5)]
    return [
        *start,
        _seconds(row["seconds"]),
        _timed(row),
        f"{row['images_per_second']:.3g}",
        _gibibytes(row),
        f"{row['trained_parameters'] / 1e6:.1f} million",
        _yes(row),
    ]


def _picture_cells(row: Row) -> list[str]:
    kind = f"{row['rounds']} steps, {row['method']}" if row["rounds"] else "whole"
    start = [_model(row), kind, _way(row), str(row["batch"])]
    if "error" in row:
        return [*start, f"failed: {row['error']}", *["-"] * (len(_PICTURE_COLUMNS) - 5)]
    each = row["seconds"] / row["batch"]
    if row["rounds"]:
        step = each / row["rounds"]
        picture = (
            f"{_seconds(step)} a step; {row['whole_rounds']} steps: "
            f"{_duration(step * row['whole_rounds'])}, extrapolated"
        )
    else:
        picture = _seconds(each)
    return [*start, _seconds(row["seconds"]), _timed(row), _gibibytes(row), picture, _yes(row)]


def _model(row: Row) -> str:
    return f"{row['family']} {row['variant']}"


def _way(row: Row) -> str:
    names = [name.replace("_", " ") for name in ("channels_last", "recompute", "compile") if row[name]]
    return ", ".join([row["precision"], *names])


def _gibibytes(row: Row) -> str:
    return f"{row['peak_bytes'] / 2**30:.2f}"


def _yes(row: Row) -> str:
    return "yes" if row["finite"] else "**no**"


def _seconds(value: float) -> str:
    return f"{value:.3g}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.3g} min" if seconds >= 120 else f"{seconds:.3g} s"


def _line(row: Row) -> str:
    found = row.get("error") or f"{_seconds(row['seconds'])} s, {_gibibytes(row)} GiB"
    return f"{_model(row)}, {row['work']}, {row['space']}, {_way(row)}, {row['method']}: {found}"


if __name__ == "__main__":
    main()
