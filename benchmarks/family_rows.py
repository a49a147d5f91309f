"""What families.py measures: one case in a process of its own, so that the peak of memory is that case's.

The model has the published sizes and random weights, the images are random: neither changes the cost of a
step.
"""

import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from step_ways import our_solver

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.data import ImageSet, SplitData, seeded_generator
from pareto_unlearn.models import ImageToImage, Setting, family_of, pixel_format
from pareto_unlearn.trial import Material
from pareto_unlearn.trial.loading import assemble_material

SWEEP = Path(__file__).parent.parent / "sweeps" / "quickstart.yaml"
HOLE_PATCHES = 8
"""Side of the central hole in patches of the model, a size that the papers use."""
NOISE_IMAGES = 2
"""Far fewer than in a sweep: the noise bank is read once per run, and its size does not change a step."""
HELD_OUT, LEAST_TRAIN = 1, 2
"""Two training images at least: f2 is counted in units of the spread of outputs, which is 0 for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case to measure, with ``batch`` images of each set in a step or in all in a generation.

    ``method`` and ``rounds`` are those of palette's sampling, ``whole_rounds`` how many a picture takes as
    published.
    """

    family: str
    variant: str
    work: str
    device: str
    batch: int
    space: str = "output"
    precision: str = "float32"
    channels_last: bool = False
    recompute: bool = False
    compile: bool = False
    method: str | None = None
    rounds: int | None = None
    whole_rounds: int | None = None
    warm_up: int = 0
    repeats: int = 1


class Measured(TypedDict):
    """Median seconds of a step or of a batch's generation; bytes of the process on a CPU, else of the GPU."""

    seconds: float
    images_per_second: float
    peak_bytes: int
    setup_peak_bytes: int
    trained_parameters: int
    finite: bool


def main() -> None:
    """Measure the case in the argument and print what was measured, both as JSON."""
    torch.set_num_threads(1)
    print(json.dumps(measure(Case(**json.loads(sys.argv[1])))))


def measure(case: Case) -> Measured:
    """Return what a case costs."""
    config = build_config(case)
    model = build_model(config, torch.device(case.device))
    with tempfile.TemporaryDirectory() as cache:
        run = {"step": _step, "generation": _generation}[case.work]
        return run(case, config, model, Path(cache))


def build_config(case: Case) -> SweepConfig:
    """Return the sweep a case belongs to; its checkpoint is never opened."""
    settings = {
        "model.family": case.family,
        "model.variant": case.variant,
        "model.checkpoint": "unread.pth",
        "model.channels_last": case.channels_last,
        "model.recompute": case.recompute,
        "task.patches": HOLE_PATCHES,
        "task.size": None,
        "objective.space": case.space,
        "objective.original_precision": case.precision,
        "solver.precision": case.precision,
        "solver.compile": case.compile,
        "solver.batch": case.batch,
        "evaluate.sampling.method": case.method or "ancestral",
        "evaluate.sampling.steps": case.rounds,
        "run.gpus_per_trial": int(case.device == "cuda"),
    }
    config = load_config(SWEEP, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
    objective = config.objective.model_copy(update={"noise_images": NOISE_IMAGES})
    return config.model_copy(update={"objective": objective})


def build_model(config: SweepConfig, device: torch.device) -> ImageToImage:
    """Return a model of random weights."""
    setting = Setting(model=config.model, task=config.task, sampling=config.evaluate.sampling)
    family = family_of(config.model.family)
    model: ImageToImage = family.build(setting)
    with torch.no_grad():
        family.initialise(model, seeded_generator(1))
    return model.to(device).eval()


def random_split(config: SweepConfig) -> SplitData:
    """Return random images: as many training images as a step takes, and as few others as possible."""
    train = max(config.solver.batch, LEAST_TRAIN)
    return SplitData(
        random_images(config, train, 0),
        random_images(config, HELD_OUT, 1),
        random_images(config, train, 2),
        random_images(config, HELD_OUT, 3),
    )


def random_images(config: SweepConfig, count: int, seed: int) -> ImageSet:
    """Return random images of one class, of the size the model reads."""
    side = pixel_format(config.model).side
    return ImageSet(
        images=torch.rand(count, 3, side, side, generator=seeded_generator(2, seed)),
        class_ids=torch.zeros(count, dtype=torch.long),
        class_names=("noise",),
        image_ids=tuple(f"{seed}-{index}" for index in range(count)),
        sha256=("",) * count,
    )


def _step(case: Case, config: SweepConfig, model: ImageToImage, cache: Path) -> Measured:
    device = torch.device(case.device)
    material: Material = assemble_material(config, random_split(config), model, device, cache, "families")
    solver, problem = our_solver(config, material)

    def step(index: int) -> None:
        solver.step(lambda: problem.constraint(index), lambda: problem.objective(index))

    seconds, setup, peak = _time(case, step)
    rows = solver.flush()
    finite = all(row.finite and math.isfinite(row.f1) and math.isfinite(row.f2) for row in rows)
    trained = sum(parameter.numel() for parameter in material.trainable(config.objective.space))
    return Measured(
        seconds=seconds,
        images_per_second=2 * case.batch / seconds,
        peak_bytes=peak,
        setup_peak_bytes=setup,
        trained_parameters=trained,
        finite=finite,
    )


def _generation(case: Case, config: SweepConfig, model: ImageToImage, _cache: Path) -> Measured:
    images = random_images(config, case.batch, 0).images.to(case.device)
    finite = []

    def generate(index: int) -> None:
        pictures = model.generate(images, [seeded_generator(3, index, one) for one in range(len(images))])
        finite.append(bool(torch.isfinite(pictures).all()))

    seconds, setup, peak = _time(case, generate)
    return Measured(
        seconds=seconds,
        images_per_second=case.batch / seconds,
        peak_bytes=peak,
        setup_peak_bytes=setup,
        trained_parameters=0,
        finite=all(finite),
    )


def _time(case: Case, do: Callable[[int], None]) -> tuple[float, int, int]:
    """Return median seconds, the peak of memory before the timed work, and the peak with it."""
    setup = _peak_bytes(case)
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = []
    for index in range(case.warm_up + case.repeats):
        started = _now(case)
        do(index)
        taken.append(_now(case) - started)
    return statistics.median(taken[case.warm_up :]), setup, _peak_bytes(case)


def _now(case: Case) -> float:
    """Return seconds: of the process on a CPU, of the wall clock on a GPU after all its work is done."""
    if case.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _peak_bytes(case: Case) -> int:
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
