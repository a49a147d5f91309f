"""Prepares a run: its files, what is known of it at the start, and the planner that continues it."""

import os
import platform
import uuid
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pareto_unlearn import __version__
from pareto_unlearn.catalogue.family_lookup import absolute_name
from pareto_unlearn.catalogue.methods import ORIGINAL
from pareto_unlearn.config import SweepConfig, config_hash, dump_config
from pareto_unlearn.config.model_section import BUILTIN, RANDOM
from pareto_unlearn.foreign_text import near_paths, without_secrets
from pareto_unlearn.records import (
    SCHEMA_VERSION,
    WEIGHTS_VARIABLE,
    Phase,
    RunInfo,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.store import RunStore, add_salt, record_extractors
from pareto_unlearn.sweep.additions import Additions
from pareto_unlearn.sweep.checking import CheckedSweep, check_same_images, check_same_sweep
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.worker import Assignment


def prepare_run(
    config: SweepConfig,
    store: RunStore,
    checked: CheckedSweep,
    *,
    retry_failed: bool,
    check_convergence: bool,
) -> tuple[Planner, RunInfo]:
    """Write the files that a run starts with, and return its planner and what is known of the run by now.

    Args:
        config: the sweep.
        store: the run, new or to be continued; its lock is held.
        checked: what the checks read.
        retry_failed: FAILED trials run again.
        check_convergence: the checks of convergence belong to the sweep.

    Raises:
        ConfigError: the run belongs to another sweep or has other images.
    """
    before = store.read_info()
    # A run keeps the hash that it was started with: caches, exports and trackers know it by that.
    digest = before.config_hash if before else config_hash(config, checked.weights_sha256)
    check_same_sweep(config, store, before.config_hash if before else None, checked.weights_sha256)
    check_same_images(store, checked.manifest, is_new=before is None and not store.records())
    record_extractors(store, checked.extractors)
    store.write_text("sweep.yaml", without_secrets(near_paths(dump_config(config))))
    store.write_text("manifest.csv", checked.manifest)
    add_salt(store)
    retry = _failed_attempts(store, every=retry_failed)
    run_id = uuid.uuid4().hex
    store.writers.announce_driver(run_id)
    template = _assignment_template(config, store, digest, run_id)
    planner = Planner(config, store, checked.weights_sha256, template, retry, check_convergence)
    planner.additions = Additions.of_run(config, store, planner.rows.values())
    info = planner.describe_run(_describe_start(config, checked, digest, before))
    store.write_info(info)
    return planner, info


def _describe_start(
    config: SweepConfig, checked: CheckedSweep, digest: str, before: RunInfo | None
) -> RunInfo:
    # A run of an older release stays without: nobody knows any more what its first driver was.
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return RunInfo(
        name=config.name,
        schema_version=SCHEMA_VERSION,
        code_version=__version__,
        config_hash=digest,
        objective=_describe_objective(config, checked.features),
        classes_forget=checked.classes_forget,
        classes_retain=checked.classes_retain,
        reference_point=before.reference_point if before else None,
        smoke=config.smoke,
        bounded=config.solver.completeness,
        started=before.started if before else now,
        versions=before.versions if before else _versions(),
        weights_sha256=before.weights_sha256 if before else checked.weights_sha256,
    )


def _versions() -> str:
    packages = ("pareto-unlearn", "torch", "numpy", "ray")
    return ", ".join([f"Python {platform.python_version()}", *(f"{one} {version(one)}" for one in packages)])


def _assignment_template(config: SweepConfig, store: RunStore, digest: str, run_id: str) -> Assignment:
    """Return the assignment of which every trial gets a copy with its own spec."""
    return Assignment(
        run_path=os.path.abspath(store.path) if store.is_local else store.path,  # noqa: PTH100 - keeps links
        config_text=dump_config(_with_absolute_paths(config)),
        targets_key=digest[:16],
        code_version=__version__,
        spec=TrialSpec(trial_id="", phase=Phase.ORIGINAL, method=ORIGINAL, seed=config.seed),
        family_sha256=config.model.row.source_sha256,
        run_id=run_id,
    )


def _failed_attempts(store: RunStore, *, every: bool) -> frozenset[tuple[str, int]]:
    """Return trial id and attempt of the FAILED rows, all of them or those that are the machine's fault."""
    return frozenset(
        (record.trial_id, record.attempt)
        for record in store.records().values()
        if record.is_fault_of_machine or (every and record.state is TrialState.FAILED)
    )


def _describe_objective(config: SweepConfig, features: str) -> str:
    objective, task = config.objective, config.task
    distance = {"mse": "mean squared error per value", "l2": "L2 norm per image"}[objective.distance]
    drawn = " under the masks of the published training" if task.removal == "published" else ""
    proxy = "" if config.data.proxy_retain is None else "; trained on other classes than the retain set's"
    target = {
        "noise": f"noise target: {objective.noise_target}",
        "reference": "forget target: the outputs of a model that never saw the forget images",
        "background": "forget target: the image's own surroundings, drawn smoothly over the hole",
        "nearest_retain": "forget target: the original's output for the most similar retain training image",
        "mean": "forget target: the mean of the original's outputs on the retain training images",
    }[objective.forget_target]
    return f"{distance} of the {features}{drawn}; {target}{proxy}"


def _with_absolute_paths(config: SweepConfig) -> SweepConfig:
    """Return the sweep for a worker, whose working directory and environment may differ from the driver's."""
    model, data = config.model, config.data
    weights = config.evaluate.weights or os.environ.get(WEIGHTS_VARIABLE)
    paths = {
        "family": absolute_name(model.family),
        "tokenizer": _absolute(model.tokenizer),
        "checkpoint": _absolute_checkpoint(model.checkpoint),
    }
    reference = _absolute_checkpoint(config.objective.reference)
    return config.model_copy(
        update={
            "model": model.model_copy(update=paths),
            "objective": config.objective.model_copy(update={"reference": reference}),
            "data": data.model_copy(
                update={"root": _absolute(data.root), "class_list": _absolute(data.class_list)}
            ),
            "evaluate": config.evaluate.model_copy(update={"weights": _absolute(weights)}),
        }
    )


def _absolute_checkpoint(name: str | None) -> str | None:
    return name if name in (RANDOM, BUILTIN) else _absolute(name)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())
