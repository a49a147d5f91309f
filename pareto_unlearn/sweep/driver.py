"""A whole sweep: check everything, run the trials, derive the range, write the report.

The store is the only truth: an interrupted sweep is continued by the same call, and no committed trial runs again.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from pareto_unlearn import __version__
from pareto_unlearn.analysis.robustness import find_gains, find_gap
from pareto_unlearn.config import (
    SweepConfig,
    config_hash,
    describe_difference,
    dump_config,
    parse_config,
    result_fields,
)
from pareto_unlearn.config.model_section import RANDOM
from pareto_unlearn.config.smoke import SMOKE_NOTICE
from pareto_unlearn.errors import ConfigError, StoreError
from pareto_unlearn.records import (
    BROKEN,
    SCHEMA_VERSION,
    WEIGHTS_VARIABLE,
    Phase,
    RunInfo,
    TrialRecord,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.schedule import count_trials
from pareto_unlearn.store import RunStore, open_run, record_extractors
from pareto_unlearn.sweep.executors import Executor, LocalExecutor
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.progress import (
    ProgressDisplay,
    closing_table,
    describe_budget,
    describe_gains,
    describe_gap,
    describe_hypervolume,
    describe_likeness,
    describe_range,
    describe_spread,
    say,
)
from pareto_unlearn.sweep.worker import Assignment

COMPLETE, PARTIAL, INTERRUPTED = 0, 4, 130


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """What the command line adds to a sweep file; none of it changes a result."""

    dashboard: bool = False
    retry_failed: bool = False
    check_convergence: bool = False
    report: Callable[[str], str] | None = None


def run_sweep(config: SweepConfig, options: SweepOptions, console: Console) -> int:
    """Run or continue a sweep and return the exit code.

    Args:
        config: the sweep.
        options: dashboard, retries, checks, and the function that writes the report of a run path.
        console: where a person reads progress.

    Returns:
        0 complete, 4 some trials failed or diverged, 130 or 143 interrupted and resumable.

    Raises:
        ParetoUnlearnError: with its own exit code: bad data or config, locked run, no valid range, missing weights.
    """
    if config.smoke:
        say(console, f"[bold yellow]{SMOKE_NOTICE}[/]")
    prepared = _check(config)
    store = RunStore.create(config.run.storage, config.name)
    with store.lock():
        planner, info = _prepare_run(config, store, prepared, options)
        committed = planner.committed()
        if committed:
            say(console, f"continuing {store.path}: {len(committed)} trials are committed already")
        stopped_by = _execute(planner, info, options, console)
        info = planner.describe_run(info)
        store.write_info(info)
        if planner.error is not None:
            raise planner.error
        if not planner.is_finished():
            return _say_interrupted(planner, stopped_by, console)
        return _conclude(planner, info, options, console)


@dataclass(frozen=True, slots=True)
class _Prepared:
    weights_sha256: str
    extractors: Mapping[str, str]
    manifest: str
    classes_forget: tuple[str, ...]
    classes_retain: tuple[str, ...]
    features: str


def check_sweep(config: SweepConfig) -> tuple[int, str]:
    """Check data and weights of a sweep without writing anything; return how many trials it has, and their steps in words.

    Raises:
        ParetoUnlearnError: something is missing or does not fit.
    """
    _check(config)
    return count_trials(config), describe_budget(config)


def _check(config: SweepConfig) -> _Prepared:
    """Find everything that is wrong with weights and data before anything is written or started."""
    from pareto_unlearn.data import check_duplicates, load_split, write_manifest  # imports torch
    from pareto_unlearn.metrics import digests_of
    from pareto_unlearn.models import pixel_format
    from pareto_unlearn.trial import (
        check_bank,
        check_forward,
        check_heldout,
        check_reference,
        check_weights,
        load_original,
        weights_digest,
    )

    digest = weights_digest(config)
    extractors = digests_of(check_weights(config))
    model = load_original(config)
    check_reference(config, model)
    check_bank(config, model)
    check_forward(config)
    split = load_split(config.data, config.seed, pixel_format(config.model))
    check_heldout(config, split)
    manifest = write_manifest(split)
    check_duplicates(split, config.data.duplicates)
    return _Prepared(
        digest,
        extractors,
        manifest,
        split.forget_train.class_names,
        split.retain_heldout.class_names,  # those of the training set may be a proxy's
        model.describe_features(config.objective.space),
    )


def _prepare_run(
    config: SweepConfig, store: RunStore, prepared: _Prepared, options: SweepOptions
) -> tuple[Planner, RunInfo]:
    digest = config_hash(config, prepared.weights_sha256)
    before = store.read_info()
    if before is not None and before.config_hash != digest:
        raise ConfigError(_changed_message(config, store))
    _check_same_images(store, prepared.manifest, is_new=before is None)
    record_extractors(store, prepared.extractors)
    info = RunInfo(
        name=config.name,
        schema_version=SCHEMA_VERSION,
        code_version=__version__,
        config_hash=digest,
        objective=_describe_objective(config, prepared.features),
        classes_forget=prepared.classes_forget,
        classes_retain=prepared.classes_retain,
        reference_point=before.reference_point if before else None,
        smoke=config.smoke,
    )
    store.write_text("sweep.yaml", dump_config(config))
    store.write_text("manifest.csv", prepared.manifest)
    template = Assignment(
        run_path=os.path.abspath(store.path) if store.is_local else store.path,  # noqa: PTH100 - keeps links
        config_text=dump_config(_with_absolute_paths(config)),
        targets_key=digest[:16],
        code_version=__version__,
        spec=TrialSpec(trial_id="", phase=Phase.ORIGINAL, method="original", seed=config.seed),
    )
    retry = frozenset(
        (record.trial_id, record.attempt)
        for record in store.records().values()
        if options.retry_failed and record.state is TrialState.FAILED
    )
    planner = Planner(config, store, prepared.weights_sha256, template, retry, options.check_convergence)
    info = planner.describe_run(info)
    store.write_info(info)
    return planner, info


def _check_same_images(store: RunStore, manifest: str, *, is_new: bool) -> None:
    """Refuse to continue a run on other images: its rows would not be comparable."""
    known = None if is_new else store.read_text("manifest.csv")
    if known is None or known == manifest:
        return
    old, new = (set(text.splitlines()) for text in (known, manifest))
    changed = sorted((old - new) | (new - old))[0]
    raise ConfigError(
        f"{store.path} was started with other images: expected the {len(old) - 1} of its manifest.csv, found {len(new - old)} "
        f"that are not in it and missed {len(old - new)}, the first {changed}; give this sweep another `name`, or put them back"
    )


def _execute(planner: Planner, info: RunInfo, options: SweepOptions, console: Console) -> int | None:
    config = planner.config
    progress = ProgressDisplay(console, total=planner.total, committed=planner.num_committed, config=config)
    executor = _make_executor(config, options, progress.say)
    if planner.is_finished():
        return None
    budget = describe_budget(config, check_convergence=options.check_convergence)
    say(console, f"sweep {config.name}: {planner.total} trials; {budget}")
    with progress:
        return executor.run(planner, _RangeAnnouncer(progress, planner, info))


def _make_executor(config: SweepConfig, options: SweepOptions, say: Callable[[str], None]) -> Executor:
    if config.run.executor == "local":
        return LocalExecutor()
    from pareto_unlearn.sweep.tune_executor import TuneExecutor  # the only road to Ray

    return TuneExecutor(config.run, say, dashboard=options.dashboard)


class _RangeAnnouncer:
    """Passes everything on to the progress display; announces and stores each seed's range once it is known."""

    def __init__(self, progress: ProgressDisplay, planner: Planner, info: RunInfo) -> None:
        self._progress, self._planner, self._info = progress, planner, info
        self._announced: set[int] = {valid.seed for valid in planner.describe_run(info).ranges}

    def on_start(self, spec: TrialSpec) -> None:
        self._progress.on_start(spec)

    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None:
        self._progress.on_progress(spec, step, f1, f2)

    def on_end(self, spec: TrialSpec, record: TrialRecord) -> None:
        self._progress.on_end(spec, record)
        if spec.phase is not Phase.BOUNDARY:
            return
        info = self._planner.describe_run(self._info)
        for valid in info.ranges:
            if valid.seed not in self._announced:
                self._announced.add(valid.seed)
                self._progress.say(describe_range(valid, info))
                self._planner.store.write_info(info)


def _say_interrupted(planner: Planner, stopped_by: int | None, console: Console) -> int:
    say(
        console,
        f"[yellow]interrupted[/]: {planner.num_committed} of {planner.total} trials are committed; "
        "start the same command again to continue",
    )
    return INTERRUPTED if stopped_by is None else 128 + stopped_by


def _conclude(planner: Planner, info: RunInfo, options: SweepOptions, console: Console) -> int:
    """Write the report, print the closing table, and choose the exit code."""
    records = planner.committed()
    report = options.report(planner.store.path) if options.report else None
    console.print(closing_table(records, smoke=info.smoke))
    _print_summary(planner.store.path, info, report, console)
    problem = planner.range_problem()
    if problem is not None:
        raise problem
    broken = [record for record in records if record.state in BROKEN]
    for record in broken:
        say(console, f"[red]{record.state}[/] {record.label}: {escape(record.reason)}")
    return PARTIAL if broken else COMPLETE


def _print_summary(path: str, info: RunInfo, report: str | None, console: Console) -> None:
    run = open_run(path)
    for valid in info.ranges:
        say(console, describe_range(valid, info))
    if spread := describe_spread(info):
        say(console, spread)
    if info.reference_point is not None and info.scales is not None:
        reference = f"f1 {info.reference_point[0]:.5g}, f2 {info.reference_point[1]:.5g}"
        box = f"as a share of the box from f1 {info.scales.f1_floor:.5g}, f2 0 to {reference}"
        for valid in info.ranges:
            say(console, f"{describe_hypervolume(run, valid.seed)}; {box}")
    gains = describe_gains(find_gains(run.records, info.scales))
    gap = describe_gap(None if info.smoke else find_gap(run.records))
    for line in (*describe_likeness(run.compare_with_retrained()), *gains, *gap):
        say(console, line)
    if info.smoke:
        say(console, f"[bold yellow]{SMOKE_NOTICE}[/]")
    say(console, f"store  {path}")
    if report is not None:
        say(console, f"report {report}")


def _describe_objective(config: SweepConfig, features: str) -> str:
    objective, task = config.objective, config.task
    distance = {"mse": "mean squared error per value", "l2": "L2 norm per image"}[objective.distance]
    drawn = " under the masks of the published training" if task.removal == "published" else ""
    proxy = "" if config.data.proxy_retain is None else "; trained on other classes than the retain set's"
    target = {
        "noise": f"noise target: {objective.noise_target}",
        "reference": "forget target: what a model that never saw the forget images says of them",
    }[objective.forget_target]
    return f"{distance} of the {features}{drawn}; {target}{proxy}"


def _changed_message(config: SweepConfig, store: RunStore) -> str:
    try:
        old = result_fields(parse_config(store.read_text("sweep.yaml"), "sweep.yaml"))
    except (ConfigError, StoreError):
        lines = []
    else:
        lines = describe_difference(old, result_fields(config))
    changes = "; ".join(lines) if lines else "the weights of the original model or of its reference"
    return (
        f"{store.path} holds a run of another sweep: {changes}. Give this sweep another `name`, or undo the change; "
        "epsilons, seeds and baselines may be added to a run"
    )


def _with_absolute_paths(config: SweepConfig) -> SweepConfig:
    """Workers may have another working directory than the driver."""
    model, data = config.model, config.data
    # The driver's environment need not be the workers'.
    weights = config.evaluate.weights or os.environ.get(WEIGHTS_VARIABLE)
    paths = {"tokenizer": _absolute(model.tokenizer), "checkpoint": _absolute_checkpoint(model.checkpoint)}
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
    return name if name in (RANDOM, "builtin") else _absolute(name)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())
