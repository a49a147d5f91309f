"""The part of a sweep that runs on a worker: executes one planned trial and commits its result."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pareto_unlearn.config import SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError, StoreError, is_fault_of_machine
from pareto_unlearn.records import (
    MACHINE_FAULT,
    MODEL_FILE,
    Phase,
    Role,
    Scales,
    ScanProgress,
    ScanRow,
    TrialRecord,
    TrialSpec,
)
from pareto_unlearn.store import RunStore
from pareto_unlearn.stored_fields import read_fields

SCALES_FILE = "scales.json"
logger = logging.getLogger(__name__)

OnProgress = Callable[[int, float, float], None]
OnScan = Callable[[ScanProgress], None]
OnStage = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that a worker needs to run a trial, in plain values that can be sent to another process.

    ``config_text`` is the resolved sweep file with absolute paths; ``run_path`` is an absolute path or a URL.
    ``family_sha256`` is the hash of the file of the model's family, which the worker may run; None if the
    family is not a file.
    """

    run_path: str
    config_text: str
    targets_key: str
    code_version: str
    spec: TrialSpec
    family_sha256: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """Return the assignment as JSON-like values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Assignment":
        """Return the assignment whose ``to_plain`` gave these values."""
        return cls(**{**values, "spec": spec_from_plain(values["spec"])})


def spec_from_plain(values: Mapping[str, Any]) -> TrialSpec:
    """Return the spec whose ``dataclasses.asdict`` gave these values; enums may have become text since."""
    role = values["role"]
    return TrialSpec(
        **{**values, "phase": Phase(values["phase"]), "role": None if role is None else Role(role)}
    )


def scan_from_plain(values: Mapping[str, Any]) -> ScanProgress:
    """Return the progress of a scan whose ``dataclasses.asdict`` gave these values."""
    return ScanProgress(**{**values, "rows": tuple(ScanRow(**row) for row in values["rows"])})


def execute(
    assignment: Assignment,
    on_progress: OnProgress,
    on_scan: OnScan = lambda _: None,
    on_stage: OnStage = lambda _: None,
) -> TrialRecord:
    """Run a trial and commit its result; an exception of the trial becomes a FAILED row, not raised.

    The reason of that row tells faults of the machine, which the next sweep command runs again, from those of
    the trial.

    Args:
        assignment: the trial.
        on_progress: takes step, f1 and f2 of a mini-batch.
        on_scan: takes how far a path is with finding its step size.
        on_stage: takes what the trial does besides its steps, in words.

    Returns:
        The committed record; another worker's record if that worker committed the same trial first.
    """
    from pareto_unlearn.trial import Hooks, Trial, failed_result, load_material, run_trial  # imports torch

    spec = assignment.spec
    store = RunStore.open(assignment.run_path)
    hooks = Hooks(
        on_progress=on_progress,
        on_scan=on_scan,
        on_stage=on_stage,
        save_resume=lambda step, files: store.save_resume(spec.trial_id, step, files),
        load_resume=lambda: store.load_resume(spec.trial_id),
        save_bank_state=lambda step, state: store.save_bank_state(spec.trial_id, spec.attempt, step, state),
        read_bank=store.read_bank,
        read_bank_state=lambda path, entry: store.read_bank_state(
            path, entry, spec.attempt if path == spec.trial_id else None
        ),
        read_model=lambda trial_id: store.read_checkpoint(store.records()[trial_id])[MODEL_FILE],
    )
    try:
        config = _read_config(assignment)
        material = load_material(config, store.cache_dir(), assignment.targets_key, on_stage)
        publish_scales(store, material.scales)
        result = run_trial(Trial(config, spec, material), hooks, assignment.code_version)
    except Exception as error:  # any error of a trial is its result; the sweep goes on
        logger.exception("trial %s (%s) failed", spec.trial_id, spec.label)
        kind = MACHINE_FAULT if is_fault_of_machine(error) else ""
        result = failed_result(spec, f"{kind}{type(error).__name__}: {error}", assignment.code_version)
    return store.commit(result)


def _read_config(assignment: Assignment) -> SweepConfig:
    """Return the sweep of an assignment; its family's file must be the one that the driver has read."""
    allowed = assignment.family_sha256
    config = parse_config(assignment.config_text, "sweep.yaml", allow_import=allowed is not None)
    found = config.model.row.source_sha256
    if found != allowed:
        raise ConfigError(
            f"{config.model.family}: expected the file with SHA-256 {allowed} that the sweep was started "
            f"with, found {found}; start the sweep again"
        )
    return config


def publish_scales(store: RunStore, scales: Scales) -> None:
    """Write the run's scales if no worker has; all workers compute the same values."""
    if read_scales(store) is None:
        store.write_text(SCALES_FILE, json.dumps(asdict(scales), indent=1))


def read_scales(store: RunStore) -> Scales | None:
    """Return the run's scales; None until the first trial has loaded its targets, and where they are damaged.

    Every trial has the same scales from its own targets, and publishes them where there are none.
    """
    try:
        return read_fields(Scales, json.loads(store.read_text(SCALES_FILE)))
    except StoreError:
        return None
    except (ValueError, TypeError, AttributeError):
        logger.warning("%s of %s is damaged: the next trial writes it again", SCALES_FILE, store)
        return None


def commit_lost(store: RunStore, spec: TrialSpec, reason: str, code_version: str) -> TrialRecord:
    """Commit a FAILED row for a trial whose process died without committing any; return it."""
    from pareto_unlearn.trial import failed_result  # imports torch

    return store.commit(failed_result(spec, reason, code_version))
