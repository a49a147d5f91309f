"""Compares the weights that a sweep needs, of its model and its metrics, with those on this machine."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pareto_unlearn.config import ModelSection, SweepConfig
from pareto_unlearn.errors import WeightsError
from pareto_unlearn.metrics import WEIGHTS_FILES, FoundWeights, inspect_weights, needed_files, weights_folder
from pareto_unlearn.models import CHECKPOINT, REFERENCE, weights_sha256
from pareto_unlearn.store import check_run, open_damaged
from pareto_unlearn.trial import measures_of, reference_section

__all__ = ["Finding", "examine", "examine_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One weights file: does it exist, is it the right file, does the sweep need it, and details in words.

    Or, of kind ``machine``, something that a sweep needs of this machine; of kind ``run``, what it stored.
    """

    name: str
    is_right: bool
    is_needed: bool
    is_there: bool
    detail: str
    kind: str = "weights"

    @property
    def is_trouble(self) -> bool:
        """Whether the file is needed but missing, or exists but is not the right file."""
        return not self.is_right and (self.is_needed or self.is_there)


def examine(config: SweepConfig | None, folder: str | None = None) -> list[Finding]:
    """Return a finding for every weights file; no file is loaded, run or downloaded.

    Args:
        config: the sweep that needs the weights; None to look at the folder alone, where no file counts as
            needed.
        folder: where the networks of metrics lie; None for the folder of the sweep file or of
            ``PARETO_UNLEARN_WEIGHTS``.
    """
    configured = folder or (config.evaluate.weights if config is not None else None)
    pins = {} if config is None else config.evaluate.weights_sha256
    needed = () if config is None else needed_files(measures_of(config))
    place = weights_folder(configured)
    findings = [_finding(inspect_weights(name, place, pins), name in needed) for name in WEIGHTS_FILES]
    return findings if config is None else [*_model_weights(config), *findings]


def examine_run(config: SweepConfig) -> list[Finding]:
    """Return a finding for the run that a sweep has begun on this machine; every file of it is read."""
    path = Path(config.run.storage).expanduser() / config.name
    if "://" in config.run.storage or not any((path / name).exists() for name in ("run.json", "trials")):
        return []
    trouble = _trouble_of_run(path)
    told = trouble or "all files are whole, or a sweep is writing to them"
    return [
        Finding(name=str(path), is_right=not trouble, is_needed=True, is_there=True, detail=told, kind="run")
    ]


def _trouble_of_run(path: Path) -> str:
    """Return what is wrong with a run in a few words; empty if nothing is, or while a sweep changes it."""
    if not (path / "run.json").exists():
        return "run.json is lost; the sweep's own command writes it again"
    store = open_damaged(str(path))
    faults = [] if store.holder() is not None else check_run(store)
    kinds = Counter(str(fault.kind) for fault in faults)
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"{listed}; `pareto-unlearn store check {path}` names the files" if faults else ""


def _finding(found: FoundWeights, needed: bool) -> Finding:
    return Finding(
        name=found.file.name,
        is_right=found.problem is None,
        is_needed=needed,
        is_there=found.path is not None,
        detail=found.problem or f"{found.path}, SHA-256 {found.sha256}",
    )


def _model_weights(config: SweepConfig) -> list[Finding]:
    original, reference = config.model, reference_section(config)
    others = [] if reference is None else [_checkpoint(reference, REFERENCE)]
    return [_checkpoint(original, CHECKPOINT), *others]


def _checkpoint(section: ModelSection, key: str) -> Finding:
    try:
        detail, right = f"SHA-256 {weights_sha256(section, key)}", True
    except WeightsError as error:
        detail, right = str(error), False
    return Finding(
        name=f"{key} {section.checkpoint}",
        is_right=right,
        is_needed=True,
        is_there=right,
        detail=detail,
    )
