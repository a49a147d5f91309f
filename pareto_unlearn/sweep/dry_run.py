"""What a sweep will cost, before anything of it runs: trials, steps, hours and bytes; and whether it fits."""

import dataclasses
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pareto_unlearn.catalogue.costs import FLAT_VECTORS
from pareto_unlearn.config import SweepConfig, known_slots
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.records import Phase
from pareto_unlearn.store import RunStore
from pareto_unlearn.sweep.checking import check_inputs
from pareto_unlearn.sweep.forecast import Pace, Task, seconds_left, steps_of, tasks_of, weight_of
from pareto_unlearn.sweep.progress import describe_duration
from pareto_unlearn.sweep.so_far import SoFar, look_at_run, tasks_left

if TYPE_CHECKING:
    from pareto_unlearn.data import SplitData
    from pareto_unlearn.trial import Counts, Sizes, Speeds, Work

SPILLED = "targets, once more while computed"
CACHES = ("inputs", "targets", SPILLED, "pixels", "features")
SPILLED_FROM = 2**28
"""Bytes of targets from which on they lie in a second file while they are computed."""
KEPT = "what a step keeps"
OPTIONAL = ("pixels",)
"""What is done without where there is no room."""
IGNORE_SPACE = "--ignore-space"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a sweep takes in all.

    ``steps`` are those of the solves, of scans and of trainings from scratch; ``gradients`` two for each step
    of a solve. ``num_bytes`` is by kind of file; ``free_bytes`` is None for an object store.
    ``step_seconds`` and all that follows are None where nothing was measured; ``wall_seconds`` also where
    only the cluster knows how many trials run at a time. ``unit_hours`` are GPU-hours where ``unit`` is GPU,
    else hours of CPU cores; ``stage_hours`` are the same by stage. ``memory`` is what a trial holds, by
    kind, and ``peak_memory`` what the measured steps took. ``bank`` are the checkpoints that a path takes,
    and those that the sweep asks for.

    All of this is of the whole sweep. ``so_far`` is what its run holds already, ``left_seconds`` the time of
    the trials that are left.
    """

    trials: dict[str, int]
    steps: dict[str, int]
    gradients: int
    num_bytes: dict[str, int]
    free_bytes: int | None
    slots: int | None
    unit: str
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    bank: tuple[int, int] | None = None
    step_seconds: float | None = None
    unit_hours: float | None = None
    stage_hours: dict[str, float] = dataclasses.field(default_factory=dict)
    wall_seconds: float | None = None
    peak_memory: int | None = None
    so_far: SoFar | None = None
    left_seconds: float | None = None
    source: str = "as measured here"

    @property
    def needed(self) -> int:
        """The bytes that must be there."""
        return sum(size for kind, size in self.num_bytes.items() if kind not in OPTIONAL)

    def to_plain(self) -> dict[str, Any]:
        """Return the prediction as JSON values."""
        plain = dataclasses.asdict(dataclasses.replace(self, so_far=None))
        so_far = None if self.so_far is None else self.so_far.to_plain()
        return plain | {"needed_bytes": self.needed, "so_far": so_far}


def predict_sweep(
    config: SweepConfig, *, check_convergence: bool = False, measure: bool = True
) -> Prediction:
    """Return what a sweep will take; with ``measure`` after a few steps of its model on this machine.

    Nothing is written to the run.

    Raises:
        ParetoUnlearnError: weights or data are missing or do not fit.
    """
    from pareto_unlearn.trial import count_images, measure_speeds  # imports torch

    checked = check_inputs(config)
    tasks = tasks_of(config, check_convergence=check_convergence)
    so_far = look_at_run(config, checked, tasks)
    prediction = dataclasses.replace(predict_files(config, checked.sizes, tasks), so_far=so_far)
    if not measure:
        return prediction
    counts, speeds = count_images(checked.split), measure_speeds(config)
    left_seconds = with_times(prediction, config, counts, so_far.left, speeds).wall_seconds
    return dataclasses.replace(
        with_times(prediction, config, counts, tasks, speeds), left_seconds=left_seconds
    )


def predict_files(config: SweepConfig, sizes: "Sizes", tasks: Sequence[Task]) -> Prediction:
    """Return what trials of a sweep take but for their times."""
    trials, steps = Counter[str](), Counter[str]()
    for task in tasks:
        trials[_name(task)] += 1
        steps[_name(task)] += steps_of(config, task)
    slots = count_local_slots(config)
    trained = sum(steps_of(config, task) for task in tasks if task.phase is Phase.CONTROL)
    return Prediction(
        trials=dict(trials),
        steps=dict(steps),
        gradients=2 * (steps.total() - trained),
        num_bytes=predict_bytes(config, sizes, tasks),
        free_bytes=free_bytes(config.run.storage),
        slots=slots,
        unit="GPU" if config.run.gpus_per_trial > 0 else "CPU",
        memory=predict_memory(sizes),
        bank=(sizes.taken, config.solver.bank.checkpoints) if sizes.checkpoints else None,
    )


def _name(task: Task) -> str:
    return str(task.role) if task.role is not None and task.phase is Phase.BOUNDARY else str(task.phase)


def with_times(
    prediction: Prediction, config: SweepConfig, counts: "Counts", tasks: Sequence[Task], speeds: "Speeds"
) -> Prediction:
    """Return a prediction with the times of its trials at some speeds."""
    pace = Pace(config)
    expected = {task: _trial_seconds(config, counts, task, speeds) for task in dict.fromkeys(tasks)}
    for task, seconds in expected.items():
        pace.trials[task.kind] = [seconds]
    total = sum(expected[task] for task in tasks)
    each = config.run.gpus_per_trial if prediction.unit == "GPU" else config.run.cpus_per_trial
    slots = prediction.slots
    stages: defaultdict[str, float] = defaultdict(float)
    for task in tasks:
        stages[_name(task)] += expected[task] * each / 3600
    return dataclasses.replace(
        prediction,
        step_seconds=speeds.step,
        unit_hours=total * each / 3600,
        stage_hours=dict(stages),
        peak_memory=speeds.peak,
        wall_seconds=None if slots is None else seconds_left(pace, tasks, [], slots),
    )


def _trial_seconds(config: SweepConfig, counts: "Counts", task: Task, speeds: "Speeds") -> float:
    """Return what a trial takes: its steps, and all besides them."""
    work = work_besides_steps(config, counts, task)
    return weight_of(config, task) * steps_of(config, task) * speeds.step + work.seconds(speeds)


def work_of(config: SweepConfig, split: "SplitData") -> Callable[[Task], float]:
    """Return the function from a trial to what it does besides its steps, in images that pass a model."""
    from pareto_unlearn.trial import count_images  # imports torch

    counts = count_images(split)
    return lambda task: work_besides_steps(config, counts, task).images


def work_besides_steps(config: SweepConfig, counts: "Counts", task: Task) -> "Work":
    """Return what a trial does besides its steps.

    Args:
        config: the sweep.
        counts: of its images.
        task: the purpose of the trial.
    """
    from pareto_unlearn.trial import count_work  # imports torch

    solver = config.solver
    on_path = solver.start == "path" and task.role is None
    is_mixed = task.mixed or (on_path and task.phase in (Phase.EPSILON, Phase.CHECK))
    leaves_bank = not task.mixed and solver.leaves_bank(task.role, task.method)
    return count_work(config, counts, leaves_bank=leaves_bank, is_mixed=is_mixed)


def count_local_slots(config: SweepConfig) -> int | None:
    """Return how many trials run at a time; None where only a cluster knows that."""
    known = known_slots(config.run)
    if known == 1 or config.run.executor == "local":
        return 1
    if config.run.address or os.environ.get("RAY_ADDRESS"):
        return known
    cores = (os.cpu_count() or 1) // config.run.cpus_per_trial
    if config.run.gpus_per_trial > 0:
        from pareto_unlearn.trial import count_gpus  # imports torch

        cores = min(cores, int(count_gpus() // config.run.gpus_per_trial))
    return max(1, min(cores, known or cores))


def predict_bytes(config: SweepConfig, sizes: "Sizes", tasks: Sequence[Task]) -> dict[str, int]:
    """Return the bytes that trials of a sweep write, by kind of file.

    Resume states are those of the trials that run at a time; they go when a trial ends.
    """
    from pareto_unlearn.trial.prediction import (  # imports torch
        BYTES_OF_A_STEP,
        BYTES_OF_A_TRIAL,
        KEPT_STATES,
        REPORT_BYTES,
    )

    models = sum(task.phase is not Phase.ORIGINAL for task in tasks)
    banks = sum(not task.mixed and config.solver.leaves_bank(task.role, task.method) for task in tasks)
    kept = sum(config.steps_of(task.spec) for task in tasks if task.phase is not Phase.CONTROL)
    longest = max((config.steps_of(one.spec) for one in tasks if one.phase is not Phase.CONTROL), default=0)
    resumed = longest > (config.solver.checkpoint_every or 0)
    history = BYTES_OF_A_STEP * 4 * longest
    resume = KEPT_STATES * (sizes.resume_vectors * sizes.state + history) if resumed else 0
    return {
        "models": models * sizes.model,
        "banks": banks * sizes.checkpoints * sizes.state,
        "resume states": resume * (count_local_slots(config) or 1),
        "inputs": sizes.inputs,
        "targets": sizes.targets,
        SPILLED: sizes.targets if sizes.targets > SPILLED_FROM else 0,
        "pixels": sizes.pixels,
        "features": sizes.features * (models + 1),
        "tables": len(tasks) * (BYTES_OF_A_TRIAL + sizes.pictures) + kept * BYTES_OF_A_STEP,
        "report": REPORT_BYTES + len(tasks) * sizes.pictures * 4 // 3,
    }


def predict_memory(sizes: "Sizes") -> dict[str, int]:
    """Return the bytes that a trial holds where its model is, by kind; what a batch takes comes on top."""
    return {"weights": sizes.copies * sizes.model, "vectors of trained weights": FLAT_VECTORS * sizes.state}


def check_space(
    config: SweepConfig, store: RunStore, sizes: "Sizes", *, check_convergence: bool = False
) -> None:
    """Refuse a sweep that cannot fit on the disk of its run, before hours of work end there.

    What the run holds already is not written again. Of a run in an object store only the caches, which lie
    on this machine, are looked at.

    Args:
        config: the sweep.
        store: the run, new or to be continued.
        sizes: of what the sweep writes.
        check_convergence: the checks of convergence belong to the sweep.

    Raises:
        ConfigError: less is free.
        StoreError: a committed file is damaged.
    """
    left = tasks_left(store, tasks_of(config, check_convergence=check_convergence))
    if not left:
        return
    place = Path(store.path) if store.is_local else Path(tempfile.gettempdir())
    kinds = {kind: size for kind, size in predict_bytes(config, sizes, left).items() if kind not in OPTIONAL}
    if not store.is_local:
        kinds = {kind: size for kind, size in kinds.items() if kind in CACHES}
    if any((place / "cache").glob("targets-*")):
        kinds.pop(SPILLED, None)
    caches = sum(kinds[kind] for kind in CACHES if kind in kinds)
    needed = sum(kinds.values()) - min(caches, _held_bytes(place / "cache"))
    free = shutil.disk_usage(place).free
    if needed > free:
        largest = max(kinds, key=lambda kind: kinds[kind])
        raise ConfigError(
            f"run.storage: the sweep needs {describe_bytes(needed)}, {describe_bytes(free)} free at {place}; "
            f"most of it is for {largest} ({describe_bytes(kinds[largest])}). Make room, name a larger disk, "
            "ask for fewer trials or checkpoints (solver.bank.max_bytes), or start it all the same with "
            f"{IGNORE_SPACE}"
        )


def _held_bytes(path: Path) -> int:
    """Return what a cache holds already; decoded pixels do not count, as they are not needed."""
    files = (file for file in path.rglob("*") if not file.name.startswith("pixels-"))
    return sum(status.st_size for file in files if (status := _status(file)) is not None)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:  # a worker of a driver that died may still tidy up
        return None


def free_bytes(storage: str) -> int | None:
    """Return the bytes that are free where runs go; None for an object store."""
    if "://" in storage:
        return None
    path = Path(storage).expanduser().absolute()
    existing = next(place for place in (path, *path.parents) if place.exists())
    return shutil.disk_usage(existing).free


def describe_bytes(size: int) -> str:
    """Return a number of bytes in words: 45 GB, 12.3 MB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{max(size, 0)} bytes"


def describe_files(prediction: Prediction) -> list[str]:
    """Return disk and memory in lines, and one more where the bank takes fewer checkpoints than asked for."""
    sizes = ", ".join(f"{kind} {describe_bytes(size)}" for kind, size in prediction.num_bytes.items() if size)
    free = "" if prediction.free_bytes is None else f", {describe_bytes(prediction.free_bytes)} free"
    is_short = prediction.free_bytes is not None and prediction.needed > prediction.free_bytes
    short = f"; `sweep` refuses that ({IGNORE_SPACE})" if is_short else ""
    kinds = ", ".join(f"{kind} {describe_bytes(size)}" for kind, size in prediction.memory.items())
    peak = prediction.peak_memory
    on_top = "; a batch comes on top" if peak is None else f"; {describe_bytes(peak)} at the peak of a step"
    if KEPT in prediction.memory:
        on_top = ""
    lines = [
        f"disk       {describe_bytes(prediction.needed)}{free}: {sizes}{short}",
        f"memory     {describe_bytes(sum(prediction.memory.values()))} a trial: {kinds}{on_top}",
    ]
    if prediction.bank is not None and prediction.bank[0] < prediction.bank[1]:
        lines.append(describe_bank(*prediction.bank))
    return lines


def describe_bank(taken: int, asked: int) -> str:
    """Return in words that a path takes fewer checkpoints than a sweep asks for."""
    return (
        f"bank       {taken} checkpoints of a path instead of {asked}, which is all that "
        "solver.bank.max_bytes has room for: raise it, or expect epsilons to be mixed from models further "
        "apart"
    )


def describe_prediction(prediction: Prediction) -> list[str]:
    """Return a prediction in lines for a person."""
    trials = ", ".join(f"{count} {name}" for name, count in prediction.trials.items())
    steps = ", ".join(f"{count:,} {name}" for name, count in prediction.steps.items() if count)
    lines = [
        f"trials     {sum(prediction.trials.values())}: {trials}",
        f"steps      {sum(prediction.steps.values()):,}: {steps}",
        f"gradients  {prediction.gradients:,}, one of f1 and one of f2 for each step of a solve",
        *describe_files(prediction),
    ]
    if prediction.step_seconds is None or prediction.unit_hours is None:
        return [*lines, "time       not measured", *_describe_so_far(prediction)]
    lines.append(
        f"time       {prediction.unit_hours:.3g} {prediction.unit}-hours, at {prediction.step_seconds:.3g} s "
        f"a step {prediction.source}"
    )
    stages = ", ".join(f"{name} {hours:.2g}" for name, hours in prediction.stage_hours.items())
    lines.append(f"           {stages}")
    if prediction.wall_seconds is not None:
        wall = describe_duration(prediction.wall_seconds)
        lines.append(f"           about {wall} with {prediction.slots} trials at a time")
    return [*lines, *_describe_so_far(prediction)]


def _describe_so_far(prediction: Prediction) -> list[str]:
    """Return in lines what the run holds already; none where there is no run."""
    so_far = prediction.so_far
    if so_far is None or not so_far.exists:
        return []
    committed = sum(prediction.trials.values()) - len(so_far.left)
    seconds = prediction.left_seconds
    rest = "" if seconds is None or not so_far.left else f", about {describe_duration(seconds)}"
    lines = [f"so far     {committed} trials are committed, {len(so_far.left)} are left{rest}"]
    if so_far.lacking:
        lines.append(f"           {so_far.lacking}")
    return lines
