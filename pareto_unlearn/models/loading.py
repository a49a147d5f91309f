"""Loading, saving and exporting a model of any family; only the family in use is imported."""

import hashlib
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pareto_unlearn.catalogue.families import EMBEDDED, FamilyRow
from pareto_unlearn.catalogue.family_lookup import find_family, load_adapter
from pareto_unlearn.config import ModelSection, SamplingSection, TaskSection
from pareto_unlearn.config.model_section import BUILTIN
from pareto_unlearn.errors import ConfigError, WeightsError
from pareto_unlearn.models.protocol import (
    Family,
    ImageToImage,
    Published,
    Setting,
    describe_model,
)
from pareto_unlearn.random_streams import RANDOM_ORIGINAL_SEED, RANDOM_REFERENCE_SEED
from pareto_unlearn.records import PixelFormat
from pareto_unlearn.whole_files import write_whole

CHECKPOINT, REFERENCE = "model.checkpoint", "objective.reference"
"""The keys of the sweep file that name weights."""

_RANDOM_SEEDS = {CHECKPOINT: RANDOM_ORIGINAL_SEED, REFERENCE: RANDOM_REFERENCE_SEED}
"""Seeds of the random weights of a smoke run."""


def family_of(name: str) -> Family:
    """Return the family that ``model.family`` names, importing its adapter.

    Raises:
        ConfigError: there is no such family, or its file may not be run.
    """
    row = find_family(name)
    family = load_adapter(row)
    if not isinstance(family, Family):
        raise ConfigError(f"model.family: expected `{row.adapter}` to be a Family, found {family!r:.200}")
    return family


def pixel_format(config: ModelSection) -> PixelFormat:
    """Return which images the model reads."""
    pixels = family_of(config.family).pixels(config.variant)
    return pixels if config.side is None else replace(pixels, side=config.side)


def checkpoint_path(config: ModelSection, key: str = CHECKPOINT) -> Path:
    """Return the file that holds the original model's weights, or those of another model of its family.

    Args:
        config: names the file.
        key: the key of the sweep file that names it.

    Raises:
        WeightsError: it does not exist.
    """
    if config.checkpoint == BUILTIN:
        return _shipped_file(config.row)
    never_seen = (
        f"a checkpoint of {config.row.name} that was trained without the forget images, as `pareto-unlearn "
        "train SWEEP --leave-out-forget` makes one"
    )
    return _existing(config.checkpoint, key, never_seen if key == REFERENCE else config.row.file)


def weight_files(config: ModelSection) -> dict[str, tuple[Path, str]]:
    """Return the files that hold the original's weights, each with what its names lack in the model.

    Raises:
        WeightsError: a file is missing.
    """
    files = {"checkpoint": (checkpoint_path(config), "")}
    if config.tokenizer is not None:
        tokenizer = _existing(config.tokenizer, "model.tokenizer", config.row.tokenizer)
        files["tokenizer"] = (tokenizer, config.row.tokenizer_prefix)
    return files


def weights_sha256(config: ModelSection, key: str = CHECKPOINT) -> str:
    """Return the SHA-256 of a model's weights: of its file, or of both its files if it has a tokeniser.

    Args:
        config: names the files.
        key: the key of the sweep file that names the checkpoint.

    Raises:
        WeightsError: a file is missing.
    """
    if config.is_random:
        seed = _RANDOM_SEEDS[key]
        return hashlib.sha256(f"random {config.row.name} {config.variant} {seed}".encode()).hexdigest()
    digest = _file_sha256(checkpoint_path(config, key))
    if config.tokenizer is None:
        return digest
    tokenizer = _existing(config.tokenizer, "model.tokenizer", config.row.tokenizer)
    return hashlib.sha256(f"{digest} {_file_sha256(tokenizer)}".encode()).hexdigest()


def load_model(
    config: ModelSection,
    task: TaskSection,
    device: torch.device | None = None,
    *,
    sampling: SamplingSection | None = None,
    seed: int = 0,
    key: str = CHECKPOINT,
) -> ImageToImage:
    """Return the original model, or another model of its family, ready for inference and training.

    Args:
        config: which family, variant and file.
        task: what is removed from images.
        device: where to put it; None is the CPU.
        sampling: how pictures are generated, for a family that has several ways.
        seed: decides a random hole.
        key: the key of the sweep file that names the checkpoint.

    Raises:
        ConfigError: the task does not fit the model.
        WeightsError: the file is missing, damaged, or does not fit the family.
    """
    setting = Setting(model=config, task=task, sampling=sampling or SamplingSection(), seed=seed)
    model, _ = _load(setting, key)
    return model.to(device or torch.device("cpu")).eval()


def with_other_hole(
    model: ImageToImage,
    config: ModelSection,
    task: TaskSection,
    *,
    sampling: SamplingSection | None = None,
    seed: int = 0,
) -> ImageToImage:
    """Return a model with the same weights, on the same device, whose task removes another part of images.

    Args:
        model: whose weights are copied.
        config: which family and variant it is of.
        task: what is removed from images instead.
        sampling: how pictures are generated.
        seed: decides a random hole.

    Raises:
        ConfigError: the task does not fit the model.
    """
    setting = Setting(model=config, task=task, sampling=sampling or SamplingSection(), seed=seed)
    other: ImageToImage = family_of(config.family).build(setting)
    other.load_state_dict(model.state_dict())
    return other.to(next(model.parameters()).device).eval()


def initialise_model(
    task: TaskSection, generator: torch.Generator, config: ModelSection | None = None, *, seed: int = 0
) -> ImageToImage:
    """Return an untrained model with weights drawn from ``generator``; no checkpoint is looked at.

    Args:
        task: what is removed from images.
        generator: decides the weights.
        config: which family and variant; None is the embedded model.
        seed: decides a random hole.
    """
    config = config or ModelSection(family=EMBEDDED.name, checkpoint=BUILTIN)
    family = family_of(config.family)
    model: ImageToImage = family.build(Setting(model=config, task=task, seed=seed))
    with torch.no_grad():
        family.initialise(model, generator)
    return model


def write_model(path: Path, config: ModelSection, model: ImageToImage) -> None:
    """Write a file like the family's published ones, in one rename; same weights and name give same bytes."""
    family = family_of(config.family)
    write_whole(path, lambda staging: family.write(staging, model, family.own_form(model)))


def save_model(model: ImageToImage) -> bytes:
    """Return the weights as a safetensors file that ``load_model`` accepts; same weights, same bytes."""
    # The file has one layout, whatever that of the weights in memory.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    return save_safetensors(state, describe_model(model))


def export_model(path: Path, config: ModelSection, task: TaskSection, weights: Mapping[str, Tensor]) -> None:
    """Write unlearned weights as the original's file holds them: its keys, order, types and wrapper.

    Args:
        path: where to; the name ends as the published one does, or in .safetensors.
        config: the model section of the sweep; its checkpoint tells the form.
        task: the task of the sweep.
        weights: all weights by name.

    Raises:
        WeightsError: the original's file is missing, the weights are not those of the family, or the file
            does not load again with the same values.
    """
    setting = Setting(model=config, task=task)
    model, form = _filled(setting, weights, path)

    def write(staging: Path) -> None:
        family_of(config.family).write(staging, model, form)
        again, _ = family_of(config.family).load(setting, staging)
        _require_equal(model, again, path)

    write_whole(path, write)


def export_to_hub(
    folder: Path, config: ModelSection, task: TaskSection, weights: Mapping[str, Tensor]
) -> bool:
    """Write unlearned weights and their settings as a library of others loads them, by the name of a folder.

    Args:
        folder: where to; it exists.
        config: the model section of the sweep.
        task: the task of the sweep.
        weights: all weights by name.

    Returns:
        Whether there is such a library for the family; if not, nothing is written.

    Raises:
        WeightsError: the original's file is missing, or the weights are not those of the family.
    """
    hub = family_of(config.family).hub
    if hub is None:
        return False
    hub(folder, _filled(Setting(model=config, task=task), weights, folder)[0])
    return True


def _filled(setting: Setting, weights: Mapping[str, Tensor], path: Path) -> tuple[ImageToImage, Published]:
    """Return the original with other weights, and the form of its file."""
    model, form = _load(setting)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(
            f"{path}: expected all weights of {setting.model.row.name} {setting.model.variant}: {error}"
        ) from error
    return model, form


def _load(setting: Setting, key: str = CHECKPOINT) -> tuple[ImageToImage, Published]:
    family = family_of(setting.model.family)
    if not setting.model.is_random:
        return family.load(setting, checkpoint_path(setting.model, key))
    model = family.build(setting)
    with torch.no_grad():
        family.initialise(model, torch.Generator().manual_seed(_RANDOM_SEEDS[key]))
    with tempfile.TemporaryDirectory() as folder:
        # Through a file of the published form, so that trying a sweep out tries the reader out.
        path = Path(folder) / f"random{family.suffix}"
        family.write(path, model, family.own_form(model))
        return family.load(setting, path)


def _require_equal(model: ImageToImage, again: ImageToImage, path: Path) -> None:
    other = again.state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, other[name]):
            raise WeightsError(
                f"{path}: expected to read back what was written, found other values of {name}: the "
                "original's file holds it in a narrower type; name a checkpoint in float32"
            )


def _shipped_file(row: FamilyRow) -> Path:
    """Return the file that an installed package has for a family; the package is not imported."""
    package, _, name = row.builtin.partition(":")
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    found = next((path for folder in folders if (path := Path(folder) / name).is_file()), None)
    if found is None:
        raise WeightsError(
            f"{CHECKPOINT}: expected {name} in the installed package {package}, found no such file; install "
            "the package, or give the path of a checkpoint"
        )
    return found


def _existing(name: str, key: str, expected: str) -> Path:
    if "://" in name:
        raise WeightsError(
            f"{key}: expected the path of a file, found {name}; download it, and name the file"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        raise WeightsError(f"{key}: expected {expected}, found the folder {path}; name the file in it")
    if not path.is_file():
        raise WeightsError(
            f"{key}: expected {expected}, found nothing at {path}; give its path (relative to the current "
            "folder), or try the sweep out without it by --smoke"
        )
    return path


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
