"""The part of a sweep that runs on a worker: executes one planned trial and commits its result."""

import json
import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pareto_unlearn.config import RunSection, SweepConfig, for_measuring, parse_config
from pareto_unlearn.errors import (
    ConfigError,
    MachineError,
    ParetoUnlearnError,
    RankLostError,
    StoreError,
    is_fault_of_machine,
)
from pareto_unlearn.foreign_text import near_paths, without_secrets
from pareto_unlearn.records import (
    MACHINE_FAULT,
    MODEL_FILE,
    Phase,
    Role,
    Scales,
    ScanProgress,
    ScanRow,
    TrialRecord,
    TrialResult,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.store import RunStore
from pareto_unlearn.stored_fields import read_fields, sealed, unsealed
from pareto_unlearn.sweep.rank_processes import started_ranks

if TYPE_CHECKING:
    from pareto_unlearn.trial import Hooks

SCALES_FILE = "scales.json"
SHARE_IT = (
    "Set run.storage to a place that all nodes share, such as a network file system or s3://bucket/runs"
)
logger = logging.getLogger(__name__)

OnProgress = Callable[[int, float, float], None]
OnScan = Callable[[ScanProgress], None]
OnStage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Reports:
    """Where a worker tells how far a trial is."""

    on_progress: OnProgress
    on_scan: OnScan
    on_stage: OnStage


class SupersededError(MachineError):
    """Another worker has started the same trial since: what this one still writes, nobody reads."""


class RefusalError(ConfigError):
    """No trial of the sweep can run where this worker is; that ends the sweep."""


class ForeignRunError(RefusalError):
    """A worker sees no run of its driver: another copy, or one that another driver has taken over."""


class NoGpuError(RefusalError):
    """Ray gave a trial GPUs that torch does not find where the worker is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """All that a worker needs to run a trial, in plain values that can be sent to another process.

    ``config_text`` is the resolved sweep file with absolute paths; ``run_path`` is an absolute path or a URL.
    ``family_sha256`` is the hash of the file of the model's family, which the worker may run; None if the
    family is not a file. ``run_id`` is that of the driver's start, None without a driver. ``parent`` is the
    committed row of the trial in ``spec.parents``: a worker that had to find it might not see it yet.
    ``start`` names this start of the trial: the names of all that it writes carry it, up to its row.
    ``missing`` names measurements that the model of a committed trial lacks, whose row is then ``parent``;
    the trial is not run.
    """

    run_path: str
    config_text: str
    targets_key: str
    code_version: str
    spec: TrialSpec
    family_sha256: str | None = None
    run_id: str | None = None
    parent: TrialRecord | None = None
    start: str = ""
    missing: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """Return the assignment as JSON-like values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "Assignment":
        """Return the assignment whose ``to_plain`` gave these values."""
        spec, parent = spec_from_plain(values["spec"]), values.get("parent")
        own = {"spec": spec, "parent": parent and record_from_plain(parent)}
        return cls(**{**values, **own, "missing": tuple(values.get("missing", ()))})


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker tells the driver of a trial: its committed row and the run's scales, where known.

    Of a model that could not be measured ``reason`` says why. Without a row, it says why none could be
    committed, or ``refusal`` why no trial of this sweep can run on that machine. ``superseded`` says that
    another worker has started the trial since, which answers.
    """

    record: TrialRecord | None = None
    scales: Scales | None = None
    reason: str = ""
    refusal: str = ""
    superseded: bool = False

    def to_text(self) -> str:
        """Return the answer as JSON, in which NaN stays NaN."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> "Answer":
        """Return the answer whose ``to_text`` gave this text."""
        values = json.loads(text)
        record, scales = values["record"], values["scales"]
        return cls(
            record=record and record_from_plain(record),
            scales=scales and Scales(**scales),
            reason=values["reason"],
            refusal=values["refusal"],
            superseded=values["superseded"],
        )


def record_from_plain(values: Mapping[str, Any]) -> TrialRecord:
    """Return the row whose ``dataclasses.asdict`` gave these values."""
    role = values["role"]
    enums = {
        "phase": Phase(values["phase"]),
        "state": TrialState(values["state"]),
        "role": None if role is None else Role(role),
    }
    return TrialRecord(**{**values, **enums})


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
) -> Answer:
    """Run a trial, commit its result, and answer with the committed row; see ``Answer``.

    An exception of the trial becomes a FAILED row and is not raised. The reason of that row tells faults of
    the machine, which the next sweep command runs again, from those of the trial. A trial that is committed
    already is not run.

    Args:
        assignment: the trial.
        on_progress: takes step, f1 and f2 of a mini-batch.
        on_scan: takes how far a path is with finding its step size.
        on_stage: takes what the trial does besides its steps, in words.

    Raises:
        RankLostError: a process of several that solve the trial died; it has no row, and is to run again.
    """
    spec = assignment.spec
    try:
        store = _open_shared(assignment)
        if assignment.missing:
            return _measure_missing(assignment, store, on_stage)
        if (committed := store.find(spec.trial_id, spec.attempt)) is not None:
            return Answer(record=committed, scales=read_scales(store))
        if assignment.start:
            store.writers.claim(spec.trial_id, assignment.start)
        result, scales = _solve(assignment, store, _Reports(on_progress, on_scan, on_stage))
        _check_driver(assignment, store)
        _check_start(assignment, store)
        return Answer(record=store.commit(result, assignment.start), scales=scales or read_scales(store))
    except RankLostError:
        raise
    except RefusalError as error:
        return Answer(refusal=str(error))
    except SupersededError as error:
        _log("was given up", spec, error)
        return Answer(superseded=True, reason=str(error))
    except (ParetoUnlearnError, OSError) as error:
        # The store itself gave out here; the driver may reach it still.
        _log("could not be committed", spec, error)
        return Answer(reason=_reason_of(error, assignment.run_path))


def _solve(assignment: Assignment, store: RunStore, reports: _Reports) -> tuple[TrialResult, Scales | None]:
    """Return the result of a trial and, once its targets were loaded, the run's scales."""
    # imports torch
    from pareto_unlearn.trial import Trial, failed_result, load_material, run_trial, share_gpu

    spec, scales = assignment.spec, None
    try:
        config, cache = read_config(assignment), store.cache_dir()
        _check_gpus(config.run)
        share_gpu(config.run.gpus_per_trial)
        with started_ranks(assignment.to_plain(), config.run, spec, cache) as ranks:
            material = load_material(config, cache, assignment.targets_key, reports.on_stage, ranks)
            scales = material.scales
            publish_scales(store, scales)
            ranks.wait()  # the others load what now lies in the cache
            hooks = _hooks_of(assignment, store, reports)
            return run_trial(Trial(config, spec, material), hooks, assignment.code_version), scales
    except (RankLostError, RefusalError):
        raise
    except Exception as error:  # noqa: BLE001 - any error of a trial is its result; the sweep goes on
        _log("failed", spec, error)
        return failed_result(spec, _reason_of(error, store.path), assignment.code_version), scales


def _measure_missing(assignment: Assignment, store: RunStore, on_stage: OnStage) -> Answer:
    """Commit what the model of a committed trial lacks; an exception is the answer's reason, never a row."""
    # imports torch
    from pareto_unlearn.trial import load_material, measure_missing, share_gpu

    spec, record = assignment.spec, store.row_of(assignment.spec.trial_id)
    try:
        config = read_config(assignment)
        _check_gpus(config.run)
        share_gpu(config.run.gpus_per_trial)
        narrow = for_measuring(config, assignment.missing)
        material = load_material(narrow, store.cache_dir(), assignment.targets_key, on_stage)
        on_stage(f"measuring {', '.join(assignment.missing)}")
        weights = None if record.checkpoint is None else store.read_checkpoint(record)[MODEL_FILE]
        found = measure_missing(config, material, assignment.missing, weights)
        _check_driver(assignment, store)
        for measurement, rows in found.items():
            group = measurement.group or rows[0].metric
            store.add_metrics(record, measurement.protocol, group, rows)
    except RefusalError:
        raise
    except Exception as error:  # noqa: BLE001 - any error is the reason why this model is not measured
        _log("was not measured", spec, error)
        return Answer(record=record, reason=_reason_of(error, store.path))
    return Answer(record=record, scales=material.scales)


def _check_gpus(section: RunSection) -> None:
    """Refuse a machine that has fewer GPUs than a trial was given: all trials would fail there, one by one.

    Raises:
        NoGpuError: names the machine and what torch finds there.
    """
    if section.gpus_per_trial == 0:
        return
    from pareto_unlearn.trial import count_gpus  # imports torch

    found = count_gpus()
    if found < section.gpus_per_trial:
        raise NoGpuError(
            f"run.gpus_per_trial: Ray gave a trial {section.gpus_per_trial:g} GPU on {socket.gethostname()}, "
            f"where torch finds {found or 'none'}: start that node of Ray with the GPUs that it has "
            "(--num-gpus), install CUDA's driver and a torch for it there, or set run.gpus_per_trial: 0. "
            "Then start the same command again"
        )


def _hooks_of(assignment: Assignment, store: RunStore, reports: _Reports) -> "Hooks":
    from pareto_unlearn.trial import Hooks  # imports torch

    spec = assignment.spec

    def save_resume(step: int, files: Mapping[str, bytes]) -> None:
        _check_driver(assignment, store)
        _check_start(assignment, store)
        store.save_resume(spec.trial_id, step, files, assignment.start)

    def save_bank_state(step: int, state: bytes) -> None:
        by_content = bool(assignment.start)
        store.save_bank_state(spec.trial_id, spec.attempt, step, state, by_content=by_content)

    return Hooks(
        on_progress=reports.on_progress,
        on_scan=reports.on_scan,
        on_stage=reports.on_stage,
        save_resume=save_resume,
        load_resume=lambda: store.load_resume(spec.trial_id),
        save_bank_state=save_bank_state,
        read_bank=store.read_bank,
        read_bank_state=lambda path, entry: store.read_bank_state(
            path, entry, spec.attempt if path == spec.trial_id else None
        ),
        read_model=lambda trial_id: store.read_checkpoint(store.row_of(trial_id))[MODEL_FILE],
    )


def _open_shared(assignment: Assignment) -> RunStore:
    """Return the store of the run, in which the driver of this start can be seen.

    Raises:
        ForeignRunError: this machine sees no such run, or one without this driver.
    """
    place = f"{assignment.run_path} on {socket.gethostname()}"
    try:
        store = RunStore.open(assignment.run_path)
    except ConfigError as error:
        raise ForeignRunError(
            f"{place}: expected the run of this sweep, found none ({error}). {SHARE_IT}"
        ) from error
    if assignment.run_id is not None and not store.writers.has_driver(assignment.run_id):
        raise ForeignRunError(
            f"{place}: expected driver-{assignment.run_id}.json, which this sweep wrote when it started, "
            f"found a run without it: another copy of the run, or an older one. {SHARE_IT}"
        )
    if assignment.parent is not None:
        store.rows.learn(assignment.parent)
    return store


def _check_driver(assignment: Assignment, store: RunStore) -> None:
    """Refuse to write into a run that another driver has taken over: its workers write the same files.

    Raises:
        ForeignRunError: the driver of this start no longer holds the run.
    """
    if assignment.run_id is not None and not store.writers.has_driver(assignment.run_id):
        raise ForeignRunError(
            f"{assignment.run_path} on {socket.gethostname()}: driver-{assignment.run_id}.json was there "
            "when the trial started and is gone: another driver has taken the run over, or this one has "
            "ended. Nothing more is written here; see that one sweep runs, and start it again"
        )


def _check_start(assignment: Assignment, store: RunStore) -> None:
    """Refuse to write what a later start of the trial writes too.

    Raises:
        SupersededError: another worker has started the trial since.
    """
    if assignment.start and not store.writers.holds(assignment.spec.trial_id, assignment.start):
        raise SupersededError(
            f"trial {assignment.spec.trial_id} was started again by another worker while this one, on "
            f"{socket.gethostname()}, was thought to be lost: it ends, and the other goes on"
        )


def _log(what: str, spec: TrialSpec, error: BaseException) -> None:
    """Log an error with its traceback, but for faults of the machine: where a disk was full says nothing."""
    known = None if is_fault_of_machine(error) else error
    logger.error("trial %s (%s) %s: %s", spec.trial_id, spec.label, what, error, exc_info=known)


def _reason_of(error: BaseException, run_path: str) -> str:
    """Return an error in words, marked where the machine is at fault, without secrets and absolute paths."""
    kind = MACHINE_FAULT if is_fault_of_machine(error) else ""
    return f"{kind}{type(error).__name__}: {without_secrets(near_paths(str(error), run_path))}"


def read_config(assignment: Assignment) -> SweepConfig:
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
        store.write_text(SCALES_FILE, json.dumps(sealed(asdict(scales)), indent=1))


def read_scales(store: RunStore) -> Scales | None:
    """Return the run's scales; None until the first trial has loaded its targets, and where they are damaged.

    Every trial has the same scales from its own targets, and publishes them where there are none.
    """
    try:
        return read_fields(Scales, unsealed(json.loads(store.read_text(SCALES_FILE))))
    except StoreError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError):
        logger.warning("%s of %s is damaged: the next trial writes it again", SCALES_FILE, store)
        return None


def commit_lost(store: RunStore, spec: TrialSpec, reason: str, code_version: str) -> TrialRecord:
    """Commit a FAILED row for a trial whose process died without committing any; return it."""
    from pareto_unlearn.trial import failed_result  # imports torch

    return store.commit(failed_result(spec, reason, code_version))
