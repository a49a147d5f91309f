"""All that only a GPU can show, in pieces of at most ten minutes, into one JSON.

    uv run python benchmarks/gpu.py --work FOLDER
    uv run python benchmarks/gpu.py --work FOLDER --piece step_mae --again

Every call does pieces that the JSON lacks until its minutes are used up, each in a process of its own; the
next call goes on. Weights and images are random, at the published widths.

- `correct_*`: f1, f2 and their gradients on the GPU against the CPU, in float32 and in bfloat16 steps; and
  whether three steps, taken twice, end with the same bits.
- `step_*`: a step of ours beside a composite step (one weighted sum, torch's fused Adam) on the same losses:
  seconds, images a second, peak of memory, share of the card's peak, and the time that this peak would take.
- `published_mage`: images a second of the published engine, rebuilt from its description: float32, nothing
  cached, student, teacher and noise turned into codes at every step.
- `decode_mage`: pictures in batches against one by one. `sampling_palette`: a picture of 50 DDIM steps.
- `front_mae`: the shipped sheet with nine epsilons, from start to report, on 20,000 training pictures; a call
  that runs out of time continues it.

Writes benchmarks/results/gpu.json. `--tiny --device cpu` tries every piece out in a minute or two.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from family_rows import Case, build_config, build_model, random_images, random_split
from full_sweep import HANDFUL, load_sheet, run_sheet, sheet_overrides
from machine import machine_facts
from step_ways import our_solver
from torch import Tensor, nn

from pareto_unlearn.catalogue.costs import CARDS, COSTS, FLAT_PASSES, Card
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.data import seeded_generator
from pareto_unlearn.trial import Material, exact_float32
from pareto_unlearn.trial.loading import assemble_material
from pareto_unlearn.trial.problem import Problem

ROOT = Path(__file__).parent.parent
VARIANTS = {"mae": "vit_base", "mage": "vit_base", "palette": "places2"}
BATCH = {"mae": 32, "mage": 32, "palette": 32}
"""Those of the shipped sheets."""
MINUTES = 9.5
DETERMINISM_STEPS = 3
FORWARD_AND_BACKWARD = 3
SAMPLED_ROUNDS, DDIM_STEPS = 5, 50
FRONT = ("epsilon={schedule: grid, points: 9, spacing: geometric}", "baselines=[]", "run.executor=local")
FRONT_CLASSES, FRONT_EACH = 100, 125
"""A fifth of 125 is held out: 200 classes with 100 training pictures each."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a piece runs, at which width, and until when it may go on, in seconds from its start."""

    device: str
    tiny: bool
    work: Path
    limit: float

    def case(self, family: str, precision: str = "float32", batch: int | None = None) -> Case:
        """Return the step of a family in space encoder, as the sheets have it."""
        return Case(
            family=family,
            variant="tiny" if self.tiny else VARIANTS[family],
            work="step",
            device=self.device,
            batch=batch or (2 if self.tiny else BATCH[family]),
            space="encoder",
            precision=precision,
            channels_last=family == "palette",
        )


def main() -> None:
    """Do pieces until the time is used up, or one piece in this process."""
    options = _parse()
    place = Place(device=options.device, tiny=options.tiny, work=options.work, limit=60.0 * options.minutes)
    place.work.mkdir(parents=True, exist_ok=True)
    if options.run is not None:
        print(json.dumps(PIECES[options.run](place)))
        return
    chosen = options.piece or list(PIECES)
    rows = _read(options.results)
    if options.again:
        rows["pieces"] = {name: row for name, row in rows["pieces"].items() if name not in chosen}
    deadline = time.monotonic() + place.limit
    for name in chosen:
        if rows["pieces"].get(name, {}).get("done"):
            continue
        left = deadline - time.monotonic()
        if left < LEAST_SECONDS.get(name, 60.0) and not options.tiny:
            continue
        rows["pieces"][name] = _do(name, options, left, rows["pieces"].get(name, {}))
        rows["machine"] = _facts(options.device)
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(rows, indent=1) + "\n")
    open_pieces = [name for name in PIECES if not rows["pieces"].get(name, {}).get("done")]
    print(f"{options.results}: {len(PIECES) - len(open_pieces)} of {len(PIECES)} pieces", file=sys.stderr)
    if open_pieces:
        print(f"left: {', '.join(open_pieces)}; start the same command again", file=sys.stderr)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    has_gpu = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if has_gpu else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny variants, to try this script out")
    parser.add_argument(
        "--piece", action="append", choices=list(PIECES), help="only this piece; may be repeated"
    )
    parser.add_argument("--again", action="store_true", help="also do pieces that the JSON has")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of this call")
    parser.add_argument("--work", type=Path, required=True, help="folder that stays between calls")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.json")
    parser.add_argument("--run", choices=list(PIECES), help=argparse.SUPPRESS)
    return parser.parse_args()


def _read(path: Path) -> Row:
    rows: Row = json.loads(path.read_text()) if path.is_file() else {"pieces": {}}
    return rows


def _facts(device: str) -> Row:
    facts: Row = dict(machine_facts())
    return facts | {"gpu": torch.cuda.get_device_name()} if device == "cuda" else facts


def _do(name: str, options: argparse.Namespace, left: float, before: Row) -> Row:
    """Return what a piece found in a process of its own; one that failed or ran out of time is not done."""
    command = [
        sys.executable,
        __file__,
        "--run",
        name,
        "--device",
        options.device,
        "--work",
        str(options.work),
    ]
    command += ["--minutes", str(left / 60.0), *(["--tiny"] if options.tiny else [])]
    started = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=left + 30.0)
    except subprocess.TimeoutExpired:
        return before | {"done": False, "error": f"not done after {left:.0f} s"}
    if done.returncode != 0:
        words = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"done": False, "error": words}
    found: Row = json.loads(done.stdout.splitlines()[-1])
    spent = before.get("seconds_of_piece", 0.0) + time.monotonic() - started
    return {"done": True, **found, "seconds_of_piece": spent}


# Correctness


def correctness(family: str, place: Place) -> Row:
    """Return how far a device's losses and gradients are from the CPU's, and whether its steps repeat."""
    case = place.case(family, batch=2)
    expected = _losses_and_gradients(replace(case, device="cpu"))
    narrow = replace(case, precision="bfloat16")
    return {
        "float32": _errors(_losses_and_gradients(case), expected),
        "bfloat16": _errors(_losses_and_gradients(narrow), expected),
        "repeats_to_the_bit": torch.equal(_after_steps(case), _after_steps(case)),
        "repeats_to_the_bit_bfloat16": torch.equal(_after_steps(narrow), _after_steps(narrow)),
    }


@exact_float32()
def _losses_and_gradients(case: Case) -> dict[str, Tensor]:
    config, material, folder = _open(case)
    with folder:
        _, problem = our_solver(config, material)
        found = {}
        for name, function in (("f1", problem.constraint), ("f2", problem.objective)):
            loss = function(0)
            parts = torch.autograd.grad(loss, material.trainable())
            found[name] = loss.detach().cpu().flatten()
            found[f"gradient of {name}"] = torch.cat([part.flatten().cpu() for part in parts])
        return found


def _errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> Row:
    return {
        name: float((found[name] - tensor).norm() / tensor.norm().clamp(min=1e-30))
        for name, tensor in expected.items()
    }


@exact_float32()
def _after_steps(case: Case) -> Tensor:
    """Return the trained weights after some steps."""
    config, material, folder = _open(case)
    with folder:
        solver, problem = our_solver(config, material)
        for index in range(DETERMINISM_STEPS):
            solver.step(lambda at=index: problem.constraint(at), lambda at=index: problem.objective(at))
        return solver.flat.values.detach().cpu().clone()


def _open(case: Case) -> tuple[SweepConfig, Material, "tempfile.TemporaryDirectory[str]"]:
    """Return a sweep and its material; the original moved a little, since at it f2 and its gradient are 0."""
    config = build_config(case)
    folder = tempfile.TemporaryDirectory(prefix="gpu-")
    model = build_model(config, torch.device("cpu")).to(case.device)
    split, device = random_split(config), torch.device(case.device)
    material: Material = assemble_material(config, split, model, device, Path(folder.name), "gpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in material.trainable():
            parameter *= 1.0 + 0.01 * torch.randn(parameter.shape, generator=generator).to(case.device)
    return config, material, folder


# Steps


def steps(family: str, place: Place) -> Row:
    """Return what a step of ours and a composite step cost, in both precisions."""
    return {
        precision: {
            way: _time_way(place, place.case(family, precision), way) for way in ("ours", "composite")
        }
        for precision in ("float32", "bfloat16")
    }


@exact_float32()
def _time_way(place: Place, case: Case, way: str) -> Row:
    _reset_peak(case.device)
    config, material, folder = _open(case)
    with folder:
        solver, problem = our_solver(config, material)

        def own(index: int) -> None:
            solver.step(lambda: problem.constraint(index), lambda: problem.objective(index))

        if way == "composite":
            del solver
        step = own if way == "ours" else _composite(material, problem)
        seconds = _median_seconds(step, place)
    row: Row = {"seconds": seconds, "images_per_second": 2 * case.batch / seconds, "batch": case.batch}
    if case.device == "cuda":
        row["peak_bytes"] = torch.cuda.max_memory_allocated()
    return row | _against_peak(case, seconds)


def _composite(material: Material, problem: Problem) -> Callable[[int], None]:
    """Return the usual step on the sum of the same losses."""
    fused = material.device.type == "cuda"
    optimiser = torch.optim.Adam(material.trainable(), lr=1e-4, fused=fused)

    def step(index: int) -> None:
        optimiser.zero_grad()
        (problem.constraint(index) + problem.objective(index)).backward()
        optimiser.step()

    return step


def _against_peak(case: Case, seconds: float) -> Row:
    """Return the share of the card's peak, and the least time a step could take; empty for unknown cards."""
    cost, card = COSTS.get((case.family, case.variant)), _card()
    if cost is None or card is None:
        return {}
    space, peak = cost.encoder, card.bfloat16 if case.precision == "bfloat16" else card.float32
    beside = 1 if case.family == "palette" else 0
    operations = 2 * case.batch * (FORWARD_AND_BACKWARD + beside) * space.flops
    least = operations / peak + FLAT_PASSES * 4 * space.trained / card.bandwidth
    return {"share_of_peak": operations / seconds / peak, "least_seconds": least}


def _card() -> Card | None:
    name = torch.cuda.get_device_name().lower() if torch.cuda.is_available() else ""
    return next((card for key, card in CARDS.items() if key in name), None)


def _median_seconds(do: Callable[[int], object], place: Place) -> float:
    warm, repeats = (1, 2) if place.tiny or place.device == "cpu" else (5, 20)
    taken = []
    for index in range(warm + repeats):
        started = _now(place.device)
        do(index)
        taken.append(_now(place.device) - started)
    return statistics.median(taken[warm:])


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


# The published engine, and pictures


def published_mage(place: Place) -> Row:
    """Return what a step of the published engine costs, rebuilt from its description."""
    case = place.case("mage")
    config = build_config(case)
    config = config.model_copy(update={"task": config.task.model_copy(update={"removal": "published"})})
    student = build_model(config, torch.device("cpu")).to(case.device)
    teacher = copy.deepcopy(student)
    images = torch.cat([random_images(config, case.batch, seed).images for seed in (0, 1)]).to(case.device)
    optimiser = torch.optim.AdamW(student.trainable("encoder", shared=True), lr=5e-5, betas=(0.9, 0.95))
    count = case.batch

    def step(index: int) -> None:
        def draws() -> list[torch.Generator]:
            return [seeded_generator(4, index, row) for row in range(2 * count)]

        seen = student.prepare(images, draws())
        again = teacher.prepare(images, draws())
        noise = teacher.noise_like(again, draws())
        outputs = student.encode(seen)
        with torch.no_grad():
            kept, forgotten = teacher.encode(again[count:]), teacher.encode(noise[:count])
        loss = nn.functional.mse_loss(outputs[count:], kept) + 0.25 * nn.functional.mse_loss(
            outputs[:count], forgotten
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    _reset_peak(case.device)
    seconds = _median_seconds(step, place)
    return {"seconds": seconds, "images_per_second": 2 * count / seconds, "batch": count}


def decode_mage(place: Place) -> Row:
    """Return the seconds of a picture in batches and one by one."""
    return {
        f"batch {size}": _picture_seconds("mage", place, size)
        for size in ((1, 2) if place.tiny else (1, 16, 64))
    }


def sampling_palette(place: Place) -> Row:
    """Return the seconds of a DDIM step of a picture, and of 50 of them, in the batch of the trials."""
    size = 2 if place.tiny else 8
    each = _picture_seconds("palette", place, size) / SAMPLED_ROUNDS
    return {"batch": size, "seconds_of_a_round": each, f"seconds_of_{DDIM_STEPS}": DDIM_STEPS * each}


@exact_float32()
def _picture_seconds(family: str, place: Place, size: int) -> float:
    case = replace(place.case(family, batch=size), work="generation", method="ddim", rounds=SAMPLED_ROUNDS)
    config = build_config(case)
    model = build_model(config, torch.device("cpu")).to(case.device)
    images = random_images(config, size, 0).images.to(case.device)

    def generate(index: int) -> None:
        model.generate(images, [seeded_generator(3, index, row) for row in range(size)])

    return _median_seconds(generate, place) / size


# A whole front


def front_mae(place: Place) -> Row:
    """Run or continue the sheet's front; ``minutes_so_far`` of all calls are in ``seconds_of_piece``."""
    folder = place.work / "front"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    classes, each = (2, 5) if place.tiny else (FRONT_CLASSES, FRONT_EACH)
    variant = "tiny" if place.tiny else VARIANTS["mae"]
    overrides = [*sheet_overrides("mae", variant, folder, classes=classes, each=each)]
    overrides += [
        *FRONT,
        f"run.gpus_per_trial={int(place.device == 'cuda')}",
        *(HANDFUL if place.tiny else ()),
    ]
    left = place.limit - (time.monotonic() - started)
    code = run_sheet("mae", overrides, limit=left - 20.0 if place.device == "cuda" else None)
    return {
        "done": code is not None,
        "exit_code": code,
        "steps_of_the_path": load_sheet("mae", overrides).solver.path.steps,
    }


def _of(function: Callable[[str, Place], Row], family: str) -> Callable[[Place], Row]:
    return lambda place: function(family, place)


PIECES: dict[str, Callable[[Place], Row]] = {
    **{f"correct_{family}": _of(correctness, family) for family in VARIANTS},
    **{f"step_{family}": _of(steps, family) for family in VARIANTS},
    "published_mage": published_mage,
    "decode_mage": decode_mage,
    "sampling_palette": sampling_palette,
    "front_mae": front_mae,
}
LEAST_SECONDS = {"front_mae": 240.0, "step_palette": 150.0, "correct_palette": 150.0}
"""What is left of a call must be at least so long; 60 for others."""

if __name__ == "__main__":
    main()
