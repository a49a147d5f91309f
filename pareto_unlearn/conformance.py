"""Checks that a family keeps the promises of ``ImageToImage`` and of its row, on a model and in small sweeps.

For whoever writes an adapter. Every check says what was found, so that a failed one can be acted upon.
"""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load as load_safetensors
from torch import Tensor

from pareto_unlearn.catalogue.families import FamilyRow
from pareto_unlearn.catalogue.family_lookup import family_names, find_family, is_family_file
from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.config.model_section import BUILTIN, RANDOM
from pareto_unlearn.config.wording import one_of
from pareto_unlearn.data import load_split
from pareto_unlearn.errors import ConfigError, RangeError
from pareto_unlearn.finished.export import export_trial
from pareto_unlearn.models import ImageToImage, family_of, load_model, pixel_format
from pareto_unlearn.records import BROKEN, MODEL_FILE, Role, TrialRecord
from pareto_unlearn.store import StoredRun, open_run
from pareto_unlearn.sweep import SweepOptions, run_sweep

__all__ = ["Check", "check_family"]

IMAGES = 3
BATCH_TOLERANCE = 1e-3
"""How far a picture may differ in another batch, where float32 sums take another order: 1/4 gray level."""

logger = logging.getLogger(__name__)

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise: what is expected, whether it was kept, and what was found."""

    expected: str
    passed: bool
    found: str


def check_family(
    name: str, *, variant: str | None = None, checkpoint: str | None = None, allow_import: bool = False
) -> Iterator[Check]:
    """Yield the checks of a family as they are done.

    Args:
        name: as ``model.family`` says it.
        variant: None: the one to try out where there is one, else the first.
        checkpoint: None: the one that ships with a package where there is one, else random weights.
        allow_import: run the code of the file that ``name`` means.

    Raises:
        ConfigError: there is no such family or variant.
        WeightsError: the checkpoint is missing or does not fit.
    """
    if name not in family_names() and not is_family_file(name):
        raise ConfigError(one_of(family_names(), name))
    row = find_family(name, allow_import=allow_import)
    model = {
        "family": name,
        "variant": variant or row.smoke_variant or row.variants[0],
        "checkpoint": checkpoint or (BUILTIN if row.builtin else RANDOM),
    }
    yield _check_row(name, row)
    with tempfile.TemporaryDirectory(prefix="check-family-") as folder:
        yield from _check_model(_sweep(model, "output", (), folder))
        for space in row.spaces:
            baselines = _baselines_of(row) if space == "output" else ()
            # An audit attacks every model of a sweep; that of the last space, which has few, is enough.
            audited = space == row.spaces[-1]
            yield from _check_sweep(_sweep(model, space, baselines, folder, audited=audited), Path(folder))


def _sweep(
    model: Mapping[str, str], space: str, baselines: tuple[str, ...], folder: str, *, audited: bool = False
) -> SweepConfig:
    """Return the smallest sweep of a model; JSON is YAML."""
    content = {
        "name": f"check-{space}",
        "smoke": True,
        "model": model,
        "data": {
            "dataset": "generated",
            "forget_classes": 2,
            "retain_classes": 2,
            "train_per_class": 4,
            "heldout_per_class": 2,
        },
        "objective": {"space": space, "noise_images": 16},
        "solver": {"steps": 2, "batch": 2, "start": "original"},
        "epsilon": {"schedule": "grid", "points": 1},
        "baselines": [_baseline(name) for name in baselines],
        "controls": [],
        "evaluate": {"metrics": ["mse"], "sampling": {"steps": 3}, "audit": "quick" if audited else "off"},
        "run": {"executor": "local", "storage": folder},
    }
    return parse_config(json.dumps(content), "check-family")


def _baselines_of(row: FamilyRow) -> tuple[str, ...]:
    return "max_loss", "retain_only", "composite", *row.baselines


def _baseline(name: str) -> dict[str, object]:
    method, mark, variant = name.partition("_fork")
    return {"method": method, "variant": f"fork{variant}" if mark else "paper", "weights": [1.0]}


def _check_row(name: str, row: FamilyRow) -> Check:
    missing = set(row.baselines) - set(family_of(name).baselines)
    found = ", ".join(sorted(missing)) or "none"
    return Check("the adapter has every baseline that its row names", not missing, f"missing: {found}")


def _check_model(config: SweepConfig) -> Iterator[Check]:
    model = load_model(config.model, config.task, sampling=config.evaluate.sampling, seed=config.seed)
    split = load_split(config.data, config.seed, pixel_format(config.model))
    images = split.forget_train.images[torch.arange(IMAGES)]
    for check in (_answers_images, _repeats, _fits_any_batch, _ignores_the_hole, _repeats_outputs, _trains):
        yield _guarded(partial(check, model, images), check.__name__)
    if config.model.row.paints_pixels and not model.is_redrawn:
        yield _guarded(partial(_knows_perfection, model, images), _knows_perfection.__name__)
    for space in config.model.row.spaces:
        text = model.describe_features(space)
        yield Check(f"describe_features says what space {space} compares", bool(text), text)


def _guarded(check: Callable[[], Check], name: str) -> Check:
    try:
        return check()
    except Exception as error:  # whatever the code of a user raises is what was found
        logger.exception("%s raised", name)
        return Check(f"{name.strip('_')} raises nothing", False, f"{type(error).__name__}: {error}")


def _generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(IMAGES)]


def _answers_images(model: ImageToImage, images: Tensor) -> Check:
    made = model.generate(images, _generators())
    low, high = float(made.min()), float(made.max())
    passed = made.shape == images.shape and made.dtype == images.dtype and 0.0 <= low <= high <= 1.0
    found = f"{tuple(made.shape)} {made.dtype} in [{low:.4g}, {high:.4g}]"
    return Check(f"generate returns {tuple(images.shape)} {images.dtype} in [0, 1]", passed, found)


def _repeats(model: ImageToImage, images: Tensor) -> Check:
    gap = _gap(model.generate(images, _generators()), model.generate(images, _generators()))
    return Check("the same generators give the same pictures", gap == 0.0, f"largest difference {gap:.3g}")


def _fits_any_batch(model: ImageToImage, images: Tensor) -> Check:
    whole, pairs = model.generate(images, _generators()), zip(images, _generators(), strict=True)
    alone = torch.cat([model.generate(image[None], [one]) for image, one in pairs])
    gap = _gap(whole, alone)
    expected = f"a picture is the same in any batch, within {BATCH_TOLERANCE:g}"
    return Check(expected, gap <= BATCH_TOLERANCE, f"largest difference {gap:.3g}")


def _ignores_the_hole(model: ImageToImage, images: Tensor) -> Check:
    hole = model.removed_pixels()
    others = torch.where(hole, 1.0 - images, images)
    made, again = model.generate(images, _generators()), model.generate(others, _generators())
    gap = _gap(made, again)
    expected = "pixels in the hole have no influence on the picture"
    return Check(expected, bool(hole.any()) and gap == 0.0, f"largest difference {gap:.3g}")


def _repeats_outputs(model: ImageToImage, images: Tensor) -> Check:
    with torch.no_grad():
        inputs = model.prepare(images, _generators())
        gap = _gap(model(inputs), model(inputs))
    expected = "the same inputs give the same outputs in evaluation mode"
    return Check(expected, gap == 0.0 and len(inputs) == IMAGES, f"largest difference {gap:.3g}")


def _trains(model: ImageToImage, images: Tensor) -> Check:
    loss = model.training_loss(model.prepare(images, _generators()))
    passed = loss.ndim == 0 and bool(loss.isfinite()) and loss.requires_grad
    return Check("training_loss is one finite number with gradients", passed, f"{loss.detach().tolist()}")


def _knows_perfection(model: ImageToImage, images: Tensor) -> Check:
    with torch.no_grad():
        inputs = model.prepare(images, _generators())
        outputs = model(inputs)
        wanted, found = tuple(outputs.shape), tuple(model.perfect_output(inputs, outputs).shape)
    return Check("perfect_output has the shape of the outputs", wanted == found, f"{found} of {wanted}")


def _gap(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _check_sweep(config: SweepConfig, folder: Path) -> Iterator[Check]:
    """Run two steps of every method, and look at what the trials left."""
    with suppress(RangeError):  # two steps need not span a range
        run_sweep(config, SweepOptions(), Console(file=StringIO()))
    run = open_run(str(folder / config.name))
    for record in run.records:
        expected = f"space {config.objective.space}: {record.label} neither fails nor diverges"
        yield Check(expected, record.state not in BROKEN, f"{record.state}, {record.reason}")
    highest = next((one for one in run.records if one.role is Role.HIGHEST and one.checkpoint), None)
    if highest is None:
        yield Check("highest leaves a model", False, "none")
        return
    yield _check_frozen(config, run, highest)
    yield _guarded(partial(_check_export, config, run, highest, folder), "export")


def _check_frozen(config: SweepConfig, run: StoredRun, record: TrialRecord) -> Check:
    """All but the parameters of the space is as it was; some of these are not."""
    original, space = load_model(config.model, config.task, seed=config.seed), config.objective.space
    trained = {id(parameter) for parameter in original.trainable(space)}
    names = {name for name, parameter in original.named_parameters() if id(parameter) in trained}
    before, after = original.state_dict(), _weights_of(run, record)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    expected = f"space {space}: a trial changes its {len(names)} tensors and no other"
    others = sorted(changed - names)
    found = f"{len(changed)} changed, others among them: {', '.join(others[:3]) or 'none'}"
    return Check(expected, bool(changed) and not others, found)


def _check_export(config: SweepConfig, run: StoredRun, record: TrialRecord, folder: Path) -> Check:
    out = folder / f"SMOKE-{config.name}{family_of(config.model.family).suffix}"
    export_trial(run.store, record, out)
    section = config.model.model_copy(update={"checkpoint": str(out)})
    again, wanted = load_model(section, config.task).state_dict(), _weights_of(run, record)
    others = [name for name, tensor in wanted.items() if not torch.equal(tensor, again[name])]
    expected = f"space {config.objective.space}: an exported model loads again with equal weights"
    return Check(expected, not others, f"{out.name}, different: {', '.join(others[:3]) or 'none'}")


def _weights_of(run: StoredRun, record: TrialRecord) -> Weights:
    return load_safetensors(run.store.read_checkpoint(record)[MODEL_FILE])
