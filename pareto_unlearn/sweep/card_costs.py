"""What a sweep will take on a GPU that is not here, from its sweep file alone: no weights, no images.

Operations and sizes of the published models are known (``catalogue.costs``). Steps are those operations at a
share of the GPU's peak, and the passes over the trained weights at its memory's speed.
"""

import dataclasses
from typing import TYPE_CHECKING

from pareto_unlearn.catalogue.costs import (
    FLAT_PASSES,
    MEASURING_SHARE,
    Card,
    Space,
    VariantCost,
    card_of,
    cost_of,
)
from pareto_unlearn.config import SweepConfig
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.sweep.dry_run import KEPT, Prediction, describe_bytes, predict_files, with_times
from pareto_unlearn.sweep.forecast import tasks_of

if TYPE_CHECKING:
    from pareto_unlearn.trial import Counts, Sizes, Speeds

FLOAT_BYTES = 4
LOADING_SECONDS = 15.0
"""Until a trial takes its first step: a process starts, and weights and images are opened."""
FORWARD_OF_A_GRADIENT = 3
CACHING = "caches"
PER_CLASS = {"imagenet_r": (100, 100), "places_flist": (50, 50)}
"""Classes to forget and to keep that a list of each rule names."""


def predict_on_card(config: SweepConfig, name: str, *, check_convergence: bool = False) -> Prediction:
    """Return what a sweep will take on one GPU of a kind.

    Raises:
        ConfigError: the GPU or the model is none whose costs are known, or the sweep file does not say how
            many images it has.
    """
    card, cost = card_of(name), cost_of(config.model.family, config.model.variant or "")
    counts = count_planned(config)
    sizes, speeds = _sizes(config, cost, counts), _speeds(config, cost, card)
    tasks = tasks_of(config, check_convergence=check_convergence)
    files = dataclasses.replace(predict_files(config, sizes, tasks), unit="GPU", slots=1, free_bytes=None)
    single = config.model_copy(update={"run": config.run.model_copy(update={"gpus_per_trial": 1.0})})
    found = with_times(files, single, counts, tasks, speeds)
    caching = _caching_seconds(config, cost, card, counts) / 3600
    activations = _activations(config, cost)
    if sum(files.memory.values()) + activations > card.memory:
        raise ConfigError(
            f"solver.batch: a trial takes {describe_bytes(sum(files.memory.values()) + activations)} on the "
            f"GPU, {card.title} has {describe_bytes(int(card.memory))}; take a smaller batch, or "
            "model.recompute: true where the family knows it"
        )
    return dataclasses.replace(
        found,
        memory={**files.memory, KEPT: activations},
        unit_hours=(found.unit_hours or 0.0) + caching,
        wall_seconds=(found.wall_seconds or 0.0) + 3600 * caching,
        stage_hours={CACHING: caching, **found.stage_hours},
        source=f"computed for one {card.title}, not measured",
    )


def count_planned(config: SweepConfig) -> "Counts":
    """Return the numbers of images by (set, split) that a sweep file asks for.

    Raises:
        ConfigError: they depend on what lies in the data set.
    """
    data = config.data
    listed = PER_CLASS.get(data.class_rule or "", (None, None))
    forget, retain = (
        _count_classes(given, count)
        for given, count in zip((data.forget_classes, data.retain_classes), listed, strict=True)
    )
    train, heldout = data.train_per_class, data.heldout_per_class
    if forget is None or retain is None or train is None or heldout is None or data.proxy_retain is not None:
        raise ConfigError(
            "--card: expected numbers of classes and of images per class in the sweep file "
            "(data.forget_classes, retain_classes, train_per_class, heldout_per_class; no proxy_retain), "
            "which is all that it looks at; leave --card out where the data set is at hand"
        )
    kept = data.retain_per_class or train
    return {
        ("forget", "train"): forget * train,
        ("forget", "heldout"): forget * heldout,
        ("retain", "train"): retain * kept,
        ("retain", "heldout"): retain * heldout,
    }


def _count_classes(given: tuple[str, ...] | int | None, listed: int | None) -> int | None:
    if given is None:
        return listed
    return given if isinstance(given, int) else len(given)


def _sizes(config: SweepConfig, cost: VariantCost, counts: "Counts") -> "Sizes":
    from pareto_unlearn.trial.bank import WAY_HOME, count_fitting  # imports torch
    from pareto_unlearn.trial.image_metrics import measures_of
    from pareto_unlearn.trial.prediction import (
        FEATURE_VALUES,
        VECTORS_OF_A_STATE,
        Sizes,
        cached_bytes,
        count_copies,
        leaves_banks,
        picture_bytes,
        stored_outputs,
    )

    space, heldout = _space(config, cost), counts["forget", "heldout"] + counts["retain", "heldout"]
    state, shape = FLOAT_BYTES * space.trained, (3, cost.side, cost.side)
    pixels = 3 * cost.side**2
    classes = [
        counts[name, "heldout"] // (config.data.heldout_per_class or 1) for name in ("forget", "retain")
    ]
    extractors = {measure.extractor for measure in measures_of(config)}
    taken = count_fitting(config.solver.bank, state) + len(WAY_HOME)
    return Sizes(
        model=FLOAT_BYTES * cost.parameters,
        state=state,
        checkpoints=taken if leaves_banks(config) else 0,
        resume_vectors=VECTORS_OF_A_STATE[config.solver.update],
        inputs=cost.input_bytes * sum(counts.values()),
        targets=FLOAT_BYTES * space.values * stored_outputs(config, counts),
        pixels=cached_bytes(config, [pixels * count for count in counts.values()]),
        features=len(extractors) * FLOAT_BYTES * FEATURE_VALUES * heldout,
        pictures=sum(picture_bytes(config, count, shape) for count in classes),
        copies=count_copies(config),
    )


def _speeds(config: SweepConfig, cost: VariantCost, card: Card) -> "Speeds":
    from pareto_unlearn.trial import Speeds  # imports torch

    exact, is_narrow = MEASURING_SHARE * card.float32, config.solver.precision == "bfloat16"
    fast = cost.step_share * card.bfloat16
    space, beside = _space(config, cost), _passes_beside(config)
    images = 2 * config.solver.batch
    trained = FORWARD_OF_A_GRADIENT * space.flops / (fast if is_narrow else exact)
    is_fast = config.objective.original_precision == "bfloat16"
    original = beside * space.flops / (fast if is_fast else exact)
    flat = FLAT_PASSES * FLOAT_BYTES * space.trained / card.bandwidth
    return Speeds(
        step=images * (trained + original) + flat,
        load=LOADING_SECONDS,
        look=(1.0 + beside) * space.flops / exact,
        picture=(cost.picture + _rounds(config, cost) * cost.output.flops) / exact,
    )


def _space(config: SweepConfig, cost: VariantCost) -> Space:
    return cost.space(config.objective.space)


def _passes_beside(config: SweepConfig) -> float:
    """Return how often the original runs for an image that the model sees: once where nothing is stored."""
    return 0.0 if config.objective.retain_target == "cached" else 1.0


def _rounds(config: SweepConfig, cost: VariantCost) -> int:
    steps = config.evaluate.sampling.steps
    return cost.rounds if config.model.family != "palette" or steps is None else steps


def _caching_seconds(config: SweepConfig, cost: VariantCost, card: Card, counts: "Counts") -> float:
    """Return what is computed once a run: inputs of all images, and the original's outputs on them."""
    images, space = sum(counts.values()), _space(config, cost)
    passes = (1.0 + _passes_beside(config)) * space.flops
    return images * (cost.prepare + passes) / (MEASURING_SHARE * card.float32)


def _activations(config: SweepConfig, cost: VariantCost) -> int:
    """Return the bytes that a batch keeps for its gradient; bfloat16 takes half of float32."""
    width = 0.5 if config.solver.precision == "bfloat16" else 1.0
    return int(width * config.solver.batch * _space(config, cost).saved)


def cost_table(prediction: Prediction) -> list[str]:
    """Return what a sweep costs as the lines of a table: stages, then disk and memory."""
    lines = [f"{'stage':<10}{'trials':>7}{'steps':>9}{'hours':>8}"]
    for name, hours in prediction.stage_hours.items():
        trials, steps = prediction.trials.get(name, 0), prediction.steps.get(name, 0)
        lines.append(f"{name:<10}{trials or '':>7}{f'{steps:,}' if steps else '':>9}{hours:>8.2f}")
    trials, steps = sum(prediction.trials.values()), sum(prediction.steps.values())
    lines.append(f"{'in all':<10}{trials:>7}{f'{steps:,}':>9}{prediction.unit_hours or 0.0:>8.2f}")
    kinds = sorted(((size, kind) for kind, size in prediction.num_bytes.items() if size > 1e8), reverse=True)
    disk = ", ".join(f"{kind} {describe_bytes(size)}" for size, kind in kinds)
    lines.append(f"disk {describe_bytes(sum(prediction.num_bytes.values()))}: {disk}")
    memory = sum(prediction.memory.values())
    lines.append(
        f"GPU memory {describe_bytes(memory)}; a step {1000 * (prediction.step_seconds or 0.0):.0f} ms"
    )
    return lines
