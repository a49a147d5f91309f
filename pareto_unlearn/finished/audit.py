"""Audits the models of a finished run from their checkpoints, without training any of them for keeps.

What is stored already is not measured again. Rows go into files of their own beside the committed ones, so
two audits of one model, also by two releases, never mix.
"""

import copy
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache

from safetensors.torch import load as load_safetensors

from pareto_unlearn.analysis.audit import ModelAudit, audit_models, find_company
from pareto_unlearn.analysis.naming import find_trial
from pareto_unlearn.audit import audit_closeness, audit_full, audit_quick
from pareto_unlearn.catalogue.audits import (
    AUDIT,
    CLOSENESS_GROUP,
    FULL_GROUP,
    GAP_ATTACKS,
    QUICK_GROUP,
    RHO,
    lowest_error,
)
from pareto_unlearn.catalogue.methods import EPSILON_CONSTRAINT, RETRAINED
from pareto_unlearn.config import AuditPolicy, SweepConfig, parse_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.finished.images import check_images
from pareto_unlearn.models import ImageToImage
from pareto_unlearn.records import HAS_MODEL, MODEL_FILE, Phase, TrialRecord
from pareto_unlearn.store import RunStore, StoredRun, open_run
from pareto_unlearn.trial import Material, audit_subject, exact_float32, load_material

__all__ = ["audit_run", "read_audits"]


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process needs to know to audit models of a run."""

    run_path: str
    quick: bool
    allow_import: bool


@dataclass(frozen=True, slots=True)
class _Bench:
    """A run, and the model and images that its checkpoints are measured with."""

    run: StoredRun
    config: SweepConfig
    material: Material
    original: ImageToImage
    controls: tuple[ImageToImage, ...]


def audit_run(
    run_path: str,
    policy: AuditPolicy,
    *,
    trial: str | None = None,
    seed: int | None = None,
    every: bool = False,
    quick: bool = False,
    jobs: int | None = 1,
    allow_import: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[ModelAudit, ...]:
    """Measure and commit the missing audit rows of a run's models and return what all rows show.

    The original and the controls are always among them: nothing is shown without them.

    Args:
        run_path: the run directory.
        policy: thresholds of the verdicts.
        trial: the name of one unlearned model, see ``find_trial``; None for the solutions of the run's own
            method.
        seed: of that trial, where several have the name.
        every: audit every trial with a model, baselines too.
        quick: only what a sweep itself measures of every model.
        jobs: processes that audit a model each; None for one on each core that is free for it. More than one
            need a ``__main__`` module that can be imported.
        allow_import: run the code of the file that the run's family may be.
        say: called with a line of text for every model that is measured.

    Raises:
        ConfigError: no such trial, or the images are not those of the run.
        RunLockedError: a sweep is writing to the run.
        StoreError: a checkpoint is damaged.
    """
    run = open_run(run_path)
    named = None if trial is None else find_trial(run.records, trial, seed)
    chosen = _choose(run, named, every)
    with run.store.lock():
        lacking = _lacking(run, chosen, quick)
        if lacking:
            jobs = jobs or _free_jobs(_config_of(run, allow_import))
            _measure(_Work(run_path, quick, allow_import), lacking, jobs, say)
    return read_audits(open_run(run_path), policy)


def read_audits(run: StoredRun, policy: AuditPolicy) -> tuple[ModelAudit, ...]:
    """Return what the stored audit rows of a run show."""
    rows = run.audit_rows()
    return audit_models(run.records, rows, policy, find_company(run.records, rows))


def _choose(run: StoredRun, trial: TrialRecord | None, every: bool) -> list[TrialRecord]:
    """Return the models to audit, those that the others are compared with first."""
    with_model = [record for record in run.records if record.state in HAS_MODEL]
    company = [record for record in with_model if record.phase in (Phase.ORIGINAL, Phase.CONTROL)]
    others = [record for record in with_model if record not in company]
    # The original is one model, whatever the seed of its row.
    originals = [record for record in company if record.phase is Phase.ORIGINAL]
    company = [record for record in company if record not in originals[1:]]
    if trial is not None:
        if trial not in others:
            raise ConfigError(f"--trial: expected an unlearned model, found {trial.label}; leave --trial out")
        others = [trial]
    elif not every:
        others = [record for record in others if record.method == EPSILON_CONSTRAINT]
    return [*company, *others]


def _lacking(run: StoredRun, chosen: Sequence[TrialRecord], quick: bool) -> list[TrialRecord]:
    """Return the models with no rows of some part that is asked for."""
    rows, has_control = run.audit_rows(), bool(_controls_of(run))
    wanted = set() if quick else {lowest_error(GAP_ATTACKS[0]), *([RHO] if has_control else [])}
    return [
        record
        for record in chosen
        if record.trial_id not in rows or not all(("forget", one) in rows[record.trial_id] for one in wanted)
    ]


def _controls_of(run: StoredRun) -> list[TrialRecord]:
    return [record for record in run.records if record.method == RETRAINED and record.state in HAS_MODEL]


def _measure(work: _Work, lacking: Sequence[TrialRecord], jobs: int, say: Callable[[str], None]) -> None:
    """Audit models one after the other, or in processes of their own that take the next one when free."""
    if min(jobs, len(lacking)) == 1:
        bench = _set_up(work)
        for place, record in enumerate(lacking, start=1):
            say(f"{place} of {len(lacking)}: {record.trial_id} {record.label}")
            _audit_model(bench, record.trial_id, work.quick)
        return
    # Not forked: torch's threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(lacking)), context) as pool:
        futures = {pool.submit(_audit_in_worker, work, record.trial_id): record for record in lacking}
        try:
            for place, future in enumerate(as_completed(futures), start=1):
                future.result()
                say(f"{place} of {len(lacking)} done: {futures[future].trial_id} {futures[future].label}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _audit_in_worker(work: _Work, trial_id: str) -> None:
    _audit_model(_set_up_once(work), trial_id, work.quick)


@exact_float32()
def _audit_model(bench: _Bench, trial_id: str, quick: bool) -> None:
    """Measure one model and commit its rows."""
    store, record = bench.run.store, next(one for one in bench.run.records if one.trial_id == trial_id)
    _load(bench.material.model, record, store, bench.original)
    subject, present = audit_subject(bench.config, bench.material), bench.run.audit_rows().get(trial_id, {})
    if not present:
        store.add_metrics(record, AUDIT, QUICK_GROUP, audit_quick(subject))
    if quick:
        return
    if ("forget", lowest_error(GAP_ATTACKS[0])) not in present:
        store.add_metrics(record, AUDIT, FULL_GROUP, audit_full(subject, bench.original))
    if bench.controls and ("forget", RHO) not in present:
        rows = audit_closeness(subject, bench.original, bench.controls)
        store.add_metrics(record, AUDIT, CLOSENESS_GROUP, rows)


def _load(model: ImageToImage, record: TrialRecord, store: RunStore, original: ImageToImage) -> None:
    """Give a model the weights of a trial; a trial without a checkpoint has the original's."""
    if record.checkpoint is None:
        model.load_state_dict(original.state_dict())
    else:
        model.load_state_dict(load_safetensors(store.read_checkpoint(record)[MODEL_FILE]))


def _set_up(work: _Work) -> _Bench:
    """Open a run with what its models are measured with."""
    run = open_run(work.run_path)
    config = _config_of(run, work.allow_import)
    material = load_material(config, run.store.cache_dir(), run.info.config_hash[:16])
    check_images(run.store, material.split)
    original = copy.deepcopy(material.model)
    controls = tuple(copy.deepcopy(original) for _ in _controls_of(run))
    for model, record in zip(controls, _controls_of(run), strict=True):
        _load(model, record, run.store, original)
    return _Bench(run, config, material, original, controls)


_set_up_once = cache(_set_up)
"""For a process that lives as long as one audit."""


def _config_of(run: StoredRun, allow_import: bool) -> SweepConfig:
    return parse_config(
        run.store.read_text("sweep.yaml"), f"{run.path}/sweep.yaml", allow_import=allow_import, stored=True
    )


def _free_jobs(config: SweepConfig) -> int:
    """Return how many models fit beside each other: one on a GPU, else as the cores allow."""
    if config.run.gpus_per_trial > 0:
        return 1
    return max(len(os.sched_getaffinity(0)) // config.run.cpus_per_trial, 1)
