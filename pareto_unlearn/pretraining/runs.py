"""Trains models from scratch: the embedded ones, and that of a sweep, with or without its forget set.

The same seed on the same kind of CPU with the same torch gives the same file, so anyone can check that the
shipped weights are what this recipe makes. One thread is used unless a sweep file says otherwise: more would
change the order of sums.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional

from pareto_unlearn.catalogue.families import (
    EMBEDDED,
    EMBEDDED_RECIPE,
    ORIGINAL_STEPS,
    Recipe,
    require_recipe,
    require_steps,
)
from pareto_unlearn.config import SweepConfig, TaskSection
from pareto_unlearn.config.model_section import BUILTIN, RANDOM
from pareto_unlearn.data import (
    BatchOrder,
    ImageSet,
    Order,
    load_digits,
    load_split,
    mark_heldout,
    reading_ahead,
    seeded_generator,
)
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.metrics import DigitClassifier
from pareto_unlearn.models import (
    ImageToImage,
    family_of,
    initialise_model,
    pixel_format,
    save_model,
    write_model,
)
from pareto_unlearn.pretraining.loop import (
    LossAt,
    Report,
    Watch,
    limited_threads,
    train,
)
from pareto_unlearn.random_streams import Stream
from pareto_unlearn.whole_files import write_bytes_whole

CLASSIFIER_STEPS, CLASSIFIER_RATE = 1500, 0.003


def train_digits_mae(*, seed: int = 0, steps: int = ORIGINAL_STEPS, report: Report | None = None) -> bytes:
    """Train the embedded masked autoencoder on the training split of all ten digits.

    Returns:
        A safetensors file for ``model.checkpoint``.
    """
    with limited_threads():
        images, _ = _training_digits()
        model = initialise_model(TaskSection(), seeded_generator(seed, Stream.INITIAL_WEIGHTS))
        inputs = model.prepare(images, ())
        order = BatchOrder(len(inputs), EMBEDDED_RECIPE.batch, seed, Stream.TRAINING_BATCHES)
        train(
            list(model.parameters()),
            lambda step: model.training_loss(inputs[order(step)]),
            steps,
            EMBEDDED_RECIPE.peak_learning_rate,
            Watch(report=report or _silent),
        )
    return save_model(model)


def train_classifier(*, seed: int = 0, steps: int = CLASSIFIER_STEPS, report: Report | None = None) -> bytes:
    """Train the digit classifier on the training split of all ten digits.

    Returns:
        A safetensors file with its state.
    """
    with limited_threads():
        images, labels = _training_digits()
        model = _initialised_classifier(seeded_generator(seed, Stream.CLASSIFIER_WEIGHTS))
        order = BatchOrder(len(images), EMBEDDED_RECIPE.batch, seed, Stream.TRAINING_BATCHES)

        def loss_at(step: int) -> Tensor:
            batch = order(step)
            return functional.cross_entropy(model(images[batch]), labels[batch])

        train(list(model.parameters()), loss_at, steps, CLASSIFIER_RATE, Watch(report=report or _silent))
    return save_safetensors({name: tensor.contiguous() for name, tensor in model.state_dict().items()})


TRAINERS: dict[str, Callable[..., bytes]] = {
    EMBEDDED.name: train_digits_mae,
    "digits_classifier": train_classifier,
}


def train_sweep_model(
    config: SweepConfig,
    out: Path,
    *,
    leave_out_forget: bool = False,
    steps: int | None = None,
    seed: int | None = None,
    report: Report | None = None,
) -> str:
    """Train a model of a sweep's family from scratch on the sweep's training images, and write its file.

    A hidden file beside ``out`` keeps the state of a training that was interrupted; the same call continues
    it, to the same bits. On the digits with nothing left out, this is the embedded model's own training. Of
    mae, the loss is the published one, under the masks of the published training, whatever the sweep
    measures.

    Args:
        config: family, variant, task and data count; the checkpoint is not looked at.
        out: the file to write, named as the family's files are; its folder is made.
        leave_out_forget: train on the retain images alone, as if the forget images had never been seen.
        steps: None: the usual number of the family's variant, where it has one.
        seed: decides initial weights, batches and masks; None: the sweep's.
        report: hears of the loss.

    Returns:
        The SHA-256 of the file.

    Raises:
        ConfigError: the family cannot be trained here, steps are missing, or the data does not fit.
    """
    plan = _plan_training(config, leave_out_forget, steps, config.seed if seed is None else seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    state = out.with_name(f".{out.name}.{plan.key}.state")
    device = torch.device("cuda" if config.run.gpus_per_trial > 0 else "cpu")
    with limited_threads(config.run.cpus_per_trial):
        generator = seeded_generator(plan.seed, Stream.INITIAL_WEIGHTS)
        model = initialise_model(plan.task, generator, config.model, seed=config.seed).to(device)
        watch = Watch(
            report=report or _silent,
            save=lambda _, content: write_bytes_whole(state, content),
            state=state.read_bytes() if state.is_file() else None,
        )
        train(
            list(model.parameters()),
            plan.loss_of(model, device),
            plan.steps,
            plan.recipe.peak_learning_rate,
            watch,
        )
    write_model(out, config.model, model)
    state.unlink(missing_ok=True)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def default_file(config: SweepConfig, *, leave_out_forget: bool) -> Path:
    """Return where the model of a sweep goes unless told: where the sweep looks for it.

    That is ``model.checkpoint``, or ``objective.reference`` for a model without the forget images. Where the
    sweep names no such file, it is one in the working directory that is named after the sweep.

    Raises:
        ConfigError: the file is there already.
    """
    key = "objective.reference" if leave_out_forget else "model.checkpoint"
    named = config.objective.reference if leave_out_forget else config.model.checkpoint
    if named not in (None, BUILTIN, RANDOM):
        path = Path(str(named)).expanduser()
        if path.exists():
            raise ConfigError(
                f"{key}: expected no file at {path} yet, found one, which a training would replace; sweep "
                "with it as it is, remove it, or name another file as OUT"
            )
        return path
    part = "-without-forget" if leave_out_forget else ""
    return Path(f"{config.name}{part}{family_of(config.model.family).suffix}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """One training of a sweep's model. ``key`` changes whenever anything that decides the result does."""

    recipe: Recipe
    task: TaskSection
    sets: Sequence[ImageSet]
    steps: int
    seed: int
    key: str

    def loss_of(self, model: ImageToImage, device: torch.device) -> LossAt:
        """Return the loss of a model at a step; image files of the next one are read while it computes."""
        places = _places_by_id(self.sets)
        order = BatchOrder(len(places), self.recipe.batch, self.seed, Stream.TRAINING_BATCHES)
        orders = [
            reading_ahead(_order_within(number, places, order), one.images)
            for number, one in enumerate(self.sets)
        ]

        def loss_at(step: int) -> Tensor:
            numbers = places[order(step), 0]
            images = torch.empty(len(numbers), *self.sets[0].images.shape[1:])
            for number, one in enumerate(self.sets):
                images[numbers == number] = one.images[orders[number](step)]
            images = images.to(device)
            draws = [
                seeded_generator(self.seed, Stream.TRAINING_DRAWS, step, row) for row in range(len(images))
            ]
            return model.training_loss(model.prepare(images, draws))

        return loss_at


def _plan_training(config: SweepConfig, leave_out_forget: bool, steps: int | None, seed: int) -> _Training:
    row = config.model.row
    recipe = require_recipe(row, config.model.variant)
    steps = require_steps(row, config.model.variant, steps)
    task = config.task.model_copy(update={"removal": recipe.removal or row.removals[-1]})
    split = load_split(config.data, config.seed, pixel_format(config.model))
    sets = (split.retain_train,) if leave_out_forget else (split.forget_train, split.retain_train)
    decisive = {
        "model": config.model.model_dump(
            mode="json", include={"family", "variant", "predicts", "side", "patch"}
        ),
        "task": task.model_dump(mode="json"),
        "data": [
            config.data.model_dump(mode="json", exclude={"cache_bytes", "cache_folder"}),
            [one.image_ids for one in sets],
        ],
        "training": [config.seed, seed, steps, config.run.cpus_per_trial, torch.__version__],
    }
    if row.source_sha256 is not None:
        decisive["family_sha256"] = row.source_sha256
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]
    return _Training(recipe=recipe, task=task, sets=sets, steps=steps, seed=seed, key=key)


def _places_by_id(sets: Sequence[ImageSet]) -> Int[Tensor, "n 2"]:
    """Return (set, row) of every image, ordered by image id, which is the order of ``load_digits``."""
    named = [
        (image_id, place, row) for place, one in enumerate(sets) for row, image_id in enumerate(one.image_ids)
    ]
    return torch.tensor([(place, row) for _, place, row in sorted(named)])


def _order_within(number: int, places: Int[Tensor, "n 2"], order: Order) -> Order:
    """Return the order of one set's own rows among the batches of all sets."""

    def rows_at(step: int) -> Int[Tensor, " b"]:
        chosen = places[order(step)]
        return chosen[chosen[:, 0] == number, 1]

    return rows_at


def _silent(step: int, loss: float) -> None:
    del step, loss


def _training_digits() -> tuple[Float[Tensor, "n 1 16 16"], Int[Tensor, " n"]]:
    whole: ImageSet = load_digits()
    chosen = ~mark_heldout(whole)
    return whole.images[chosen], whole.class_ids[chosen]


def _initialised_classifier(generator: torch.Generator) -> DigitClassifier:
    model = DigitClassifier()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_uniform_(parameter, nonlinearity="relu", generator=generator)
        else:
            nn.init.zeros_(parameter)
    return model
