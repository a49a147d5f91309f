"""What a sweep will write and what its trials will take, before any of them runs.

Bytes follow from the sweep file, the sizes of the model and one pass of it. Seconds are measured with a few
steps on a few images; a trial's other work is counted in images and scaled by what they took.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from pareto_unlearn.config import SweepConfig, is_redrawn
from pareto_unlearn.data import ImageSet, SplitData, load_split
from pareto_unlearn.models import ImageToImage, pixel_format
from pareto_unlearn.objectives import feature_function
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.records import Phase, Role, TrialSpec
from pareto_unlearn.solver import EpsilonSolver, StopRule, solve
from pareto_unlearn.trial.auditing import MOST_DRAWN, MOST_IMAGES
from pareto_unlearn.trial.bank import WAY_HOME, count_checkpoints, predict_bank_state_bytes, spread_rows
from pareto_unlearn.trial.building import build_problem
from pareto_unlearn.trial.context import Material, Trial
from pareto_unlearn.trial.gpu_memory import peak_memory
from pareto_unlearn.trial.image_metrics import measures_of
from pareto_unlearn.trial.inputs import SETS, generators_of
from pareto_unlearn.trial.loading import OWN_TARGETS, assemble_material, load_original
from pareto_unlearn.trial.measuring import LOSSLESS_SIDE, measure_costs, reconstruct
from pareto_unlearn.trial.problem import trained_parameters
from pareto_unlearn.trial.scan import CHECKPOINTS as SCAN_CHECKPOINTS

Counts = Mapping[tuple[str, str], int]
"""Numbers of images by (set, split)."""

FLOAT_BYTES = 4
KEPT_STATES = 2
VECTORS_OF_A_STATE = {"averaged": 6, "paper": 2}
"""What a resume state holds as often as the trained weights, by update rule: weights, their average, two
averaged gradients, two moments of Adam."""
FEATURE_VALUES = 2048
"""Of the widest network of a metric."""
BYTES_OF_A_STEP = 70
"""In ``curves``."""
BYTES_OF_A_TRIAL = 40_000
"""Rows and metrics of a trial in the four tables, without its pictures: most of it is Parquet's footers."""
REPORT_BYTES = 5_000_000
"""The plotting library in the report."""
WARM_STEPS, TIMED_STEPS = 2, 5
FORWARD_OF_A_GRADIENT = 3
"""Passes forward that a pass forward and backward takes as long as."""
AUDIT_PASSES = 1200
"""Images of the attacks of a quick audit: two of 20 steps on 10 images, forward and backward."""
AUDIT_MARKS = 12
"""How often a quick audit measures held-out forget images."""
MIXTURES_MEASURED = 4
"""Models that are measured on the training sets until a mixture meets its epsilon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of one thing of each kind, or of all where there is one a run.

    ``model`` and ``state`` are files of weights: all, and the trained ones. ``resume_step`` is the history
    that a resume state keeps of a step. ``features`` belong to one model, ``pictures`` to one trial;
    ``pixels`` are decoded images, which are read from their files instead where there is no room. ``copies``
    are the models that a trial holds: its own, and the original where that runs beside it.
    """

    model: int
    state: int
    checkpoints: int
    resume_vectors: int
    inputs: int
    targets: int
    pixels: int
    features: int
    pictures: int
    copies: int = 1

    @property
    def taken(self) -> int:
        """The checkpoints that a path takes on its way."""
        return self.checkpoints - len(WAY_HOME)


def predict_sizes(config: SweepConfig, model: ImageToImage, split: SplitData) -> Sizes:
    """Return the sizes of what a sweep writes; the model answers one image for it.

    Args:
        config: the sweep.
        model: the original.
        split: its images.
    """
    trained = model.trainable(config.objective.space, shared=config.objective.shared_parameters == "trained")
    counts = count_images(split)
    one = _one_input(model, split, config.seed)
    with torch.no_grad():
        values = feature_function(model, config.objective.space)(one).numel()
    heldout = counts["forget", "heldout"] + counts["retain", "heldout"]
    extractors = {measure.extractor for measure in measures_of(config)}
    return Sizes(
        model=sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values()),
        state=predict_bank_state_bytes(trained),
        checkpoints=count_checkpoints(config.solver.bank, trained) + len(WAY_HOME)
        if leaves_banks(config)
        else 0,
        resume_vectors=VECTORS_OF_A_STATE[config.solver.update],
        inputs=sum(counts.values()) * one.numel() * one.element_size() if model.stores_inputs else 0,
        targets=FLOAT_BYTES * values * stored_outputs(config, counts),
        pixels=_pixel_bytes(config, split),
        features=len(extractors) * FLOAT_BYTES * FEATURE_VALUES * heldout,
        pictures=_picture_bytes(config, split),
        copies=count_copies(config),
    )


def count_copies(config: SweepConfig) -> int:
    """Return how many models a trial holds: its own, and the original where that runs beside it."""
    return 1 if config.objective.retain_target == "cached" else 2


def leaves_banks(config: SweepConfig) -> bool:
    """Return whether any trial of a sweep leaves checkpoints to mix epsilons from."""
    solver = config.solver
    return solver.leaves_bank(Role.HIGHEST, "") or any(
        solver.leaves_bank(None, one.name) for one in config.baselines
    )


def _one_input(model: ImageToImage, split: SplitData, seed: int) -> Tensor:
    device = next(model.parameters()).device
    draws = generators_of(seed, Stream.INPUTS, [0], SETS["retain", "train"])
    return model.prepare(split.retain_train.images[[0]].to(device), draws)


def stored_outputs(config: SweepConfig, counts: Counts) -> int:
    """Return how many outputs are stored as targets."""
    objective = config.objective
    is_cached = objective.retain_target == "cached"
    stored = counts["retain", "train"] + counts["retain", "heldout"] if is_cached else 0
    if objective.forget_target in OWN_TARGETS:
        kept = is_cached or objective.forget_target != "reference"
        return stored + (counts["forget", "train"] + counts["forget", "heldout"] if kept else 0)
    return stored + (objective.noise_images + 1 if objective.noise_target != "paired" else 0)


def _pixel_bytes(config: SweepConfig, split: SplitData) -> int:
    return cached_bytes(config, [images.images.shape.numel() for _, _, images in split.items()])


def cached_bytes(config: SweepConfig, sizes: Sequence[int]) -> int:
    """Return the bytes of decoded pixels that are kept, of sets of so many bytes each."""
    if config.data.root is None:
        return 0
    left = config.data.cache_bytes
    for size in sizes:
        left -= size if size <= left else 0
    return config.data.cache_bytes - left


def _picture_bytes(config: SweepConfig, split: SplitData) -> int:
    """Return the size of a trial's pictures: about a byte a pixel and channel, lossy a sixteenth of that."""
    return sum(
        picture_bytes(config, len(images.class_names), images.images.shape[1:])
        for images in (split.forget_heldout, split.retain_heldout)
    )


def picture_bytes(config: SweepConfig, classes: int, shape: Sequence[int]) -> int:
    """Return the size of the pictures of one held-out set, of so many classes and that shape."""
    number = min(config.evaluate.samples_per_class * classes, config.evaluate.max_samples)
    channels, height, width = shape
    values = channels * height * width
    return number * (values if max(height, width) <= LOSSLESS_SIDE else values // 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """Seconds that were measured: of a step, of loading a trial, and by image of what is no step.

    ``look`` is a pass of an image through the model, ``picture`` a picture of a held-out image. ``peak`` are
    the bytes of memory at the peak of the steps, None where none were taken.
    """

    step: float
    load: float
    look: float
    picture: float
    peak: int | None = None


def measure_speeds(config: SweepConfig) -> Speeds:
    """Return what steps and images take on this machine: a few steps of the highest boundary are solved.

    Where several ranks share a batch, a step is that of one rank on its part, without what they exchange.

    Raises:
        ConfigError: the data does not fit the sweep file.
        WeightsError: the weights of the model or of a metric are missing or do not fit.
    """
    torch.set_num_threads(config.run.threads)
    device = torch.device("cuda" if config.run.gpus_per_trial > 0 else "cpu")
    whole = load_split(config.data, config.seed, pixel_format(config.model))
    few = _few_of_each(whole, config.solver.batch)
    small = config.model_copy(
        update={
            "solver": config.solver.model_copy(update={"batch": -(-config.solver.batch // config.run.ranks)}),
            "objective": config.objective.model_copy(
                update={"noise_images": min(config.objective.noise_images, config.solver.batch)}
            ),
            "evaluate": config.evaluate.model_copy(update={"audit": "off"}),
        }
    )
    with tempfile.TemporaryDirectory(prefix="pareto-unlearn-measure-") as folder:

        def load() -> Material:
            model = load_original(small, device)
            return assemble_material(small, few, model, device, Path(folder), "measure")

        load()
        started = Moment.now()
        material = load()
        loading = started.seconds_until(Moment.now(), device)
        step = _time_steps(small, material)
        peak = peak_memory(device)
        look = _time(lambda: measure_costs(material, config.solver.batch), device)
        rows = torch.arange(min(len(few.forget_heldout), material.model.evaluation_batch))
        picture = _time(lambda: reconstruct(material, "forget", rows), device)
        images = len(few.forget_train) + len(few.retain_train)
    return Speeds(step=step, load=loading, look=look / images, picture=picture / len(rows), peak=peak)


@dataclass(frozen=True, slots=True)
class Moment:
    """A reading of two clocks: the wall's and that of the process on all its cores."""

    wall: float
    process: float

    @classmethod
    def now(cls) -> Self:
        """Read both clocks."""
        return cls(time.monotonic(), time.process_time())

    def seconds_until(self, later: "Moment", device: torch.device) -> float:
        """Return what work took; on a CPU without the time in which other processes had the cores."""
        wall = later.wall - self.wall
        return wall if device.type == "cuda" else min(wall, later.process - self.process)


def count_gpus() -> int:
    """Return how many GPUs this machine has."""
    return torch.cuda.device_count()


def _few_of_each(split: SplitData, count: int) -> SplitData:
    return SplitData(
        forget_train=_few(split.forget_train, count),
        forget_heldout=_few(split.forget_heldout, count),
        retain_train=_few(split.retain_train, count),
        retain_heldout=_few(split.retain_heldout, count),
        has_proxy=split.has_proxy,
    )


def _few(images: ImageSet, count: int) -> ImageSet:
    """Return some images, evenly spread, as a set of their own; only their classes are left."""
    rows = spread_rows(len(images), count)
    classes, class_ids = torch.unique(images.class_ids[rows], return_inverse=True)
    return ImageSet(
        images=images.images[rows],
        class_ids=class_ids,
        class_names=tuple(images.class_names[place] for place in classes.tolist()),
        image_ids=tuple(images.image_ids[row] for row in rows.tolist()),
        sha256=tuple(str(row) for row in rows.tolist()),
    )


def _time_steps(config: SweepConfig, material: Material) -> float:
    """Return the seconds of a step: of some, the median, so that a pause of the machine does not count."""
    spec = TrialSpec(
        trial_id="",
        phase=Phase.BOUNDARY,
        method="epsilon_constraint",
        role=Role.HIGHEST,
        seed=config.trial_seeds[0],
    )
    trial = Trial(config, spec, material)
    problem = build_problem(trial)
    parameters = trained_parameters(trial, problem)
    solver = EpsilonSolver(parameters, problem.rule, problem.settings, epsilon=problem.epsilon)
    ended: list[Moment] = []
    solve(
        solver,
        problem.constraint,
        problem.objective,
        steps=min(WARM_STEPS + TIMED_STEPS + 1, problem.settings.steps),
        stop=StopRule(tolerance=0.0),
        on_rows=lambda _: ended.append(Moment.now()),
        flush_every=1,
    )
    device = material.device
    taken = sorted(earlier.seconds_until(later, device) for earlier, later in pairwise(ended))[:-1]
    return taken[len(taken) // 2] if taken else 0.0


def _time(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of some work, the shorter of two runs."""
    taken = []
    for _ in range(2):
        started = Moment.now()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(started.seconds_until(Moment.now(), device))
    return min(taken)


@dataclass(frozen=True, slots=True)
class Work:
    """What a trial does besides its steps, in images that pass the model and pictures that are made."""

    looks: float
    pictures: float

    @property
    def images(self) -> float:
        """How much it is, in images that pass a model."""
        return self.looks + self.pictures

    def seconds(self, speeds: Speeds) -> float:
        """Return what it takes, loading included."""
        return speeds.load + self.looks * speeds.look + self.pictures * speeds.picture


def count_images(split: SplitData) -> Counts:
    """Return the number of images by (set, split)."""
    return {(name, part): len(images) for name, part, images in split.items()}


def count_work(config: SweepConfig, counts: Counts, *, leaves_bank: bool, is_mixed: bool) -> Work:
    """Return what a trial does besides its steps.

    Args:
        config: the sweep.
        counts: its images, by (set, split).
        leaves_bank: it takes checkpoints and measures each.
        is_mixed: it is mixed from checkpoints until it meets its epsilon.
    """
    limit, most_pictures = config.evaluate.images, config.evaluate.pictures
    capped = {key: count if limit is None else min(count, limit) for key, count in counts.items()}
    train, heldout = (capped["forget", part] + capped["retain", part] for part in ("train", "heldout"))
    held = [counts[name, "heldout"] for name in ("forget", "retain")]
    pictured = sum(count if most_pictures is None else min(count, most_pictures) for count in held)
    bank = config.solver.bank
    checked = sum(min(counts[name, "train"], bank.images) for name in ("forget", "retain"))
    measured = 0
    if leaves_bank:
        path = config.solver.path
        measured = bank.checkpoints + len(path.scan) * min(SCAN_CHECKPOINTS, path.scan_steps)
    elif is_mixed:
        measured = MIXTURES_MEASURED
    looks = train + heldout + FORWARD_OF_A_GRADIENT * train
    looks += measured * (train if is_mixed else checked)
    if config.evaluate.audit == "off":
        return Work(looks, pictured)
    drawn = is_redrawn(config.model, config.task)
    most = {key: min(count, MOST_DRAWN if drawn else MOST_IMAGES[key[1]]) for key, count in counts.items()}
    seen = sum(most.values()) + AUDIT_MARKS * most["forget", "heldout"]
    return Work(looks + AUDIT_PASSES, pictured + seen)
