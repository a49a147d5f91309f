"""A whole sweep: check everything, run the trials, derive the range, write the report.

Whether a trial is done is decided by the store alone: an interrupted sweep is continued by the same call, and
no committed trial runs again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from pareto_unlearn.config import SweepConfig
from pareto_unlearn.config.smoke import SMOKE_NOTICE
from pareto_unlearn.errors import ConfigError, MachineError
from pareto_unlearn.records import (
    BROKEN,
    Phase,
    RunInfo,
    ScanProgress,
    TrialRecord,
    TrialSpec,
    TrialState,
)
from pareto_unlearn.schedule import count_trials
from pareto_unlearn.store import RunStore, open_run
from pareto_unlearn.sweep.checking import TRAIN, CheckedSweep, check_inputs
from pareto_unlearn.sweep.cluster import check_address
from pareto_unlearn.sweep.dry_run import Prediction, check_space, describe_bank, predict_files, work_of
from pareto_unlearn.sweep.executors import Executor, LocalExecutor
from pareto_unlearn.sweep.forecast import Task, tasks_of
from pareto_unlearn.sweep.inspection import Inspection
from pareto_unlearn.sweep.planner import Planner
from pareto_unlearn.sweep.preparing import prepare_run
from pareto_unlearn.sweep.progress import ProgressDisplay, describe_budget, describe_range, say, styled_state
from pareto_unlearn.sweep.progress_file import ProgressFile
from pareto_unlearn.sweep.summary import closing_table, print_summary, print_table
from pareto_unlearn.sweep.worker import SHARE_IT

COMPLETE, PARTIAL, INTERRUPTED = 0, 4, 130
COMPACT_FROM = 1000
"""Trials with small files of their own that take longer to read than to wait for: seconds."""
LISTING_LAG_SECONDS = 120.0
"""How long a listing may lag: twice what clients of network file systems keep one for at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """What the command line adds to a sweep file; nothing here changes a result.

    ``report`` writes the report of a run path and returns where it lies; None writes no report.
    ``train_command`` is what a user is told to run where the original is not trained yet. Without
    ``check_space`` a sweep starts that will probably not fit on its disk.
    """

    dashboard: bool = False
    retry_failed: bool = False
    check_convergence: bool = False
    report: Callable[[str], str] | None = None
    train_command: str = TRAIN
    check_space: bool = True


class ValidSweep(NamedTuple):
    """A sweep whose weights and data are right: its trials, its budget in words, and what was found.

    ``files`` has the bytes that it writes and holds.
    """

    trials: int
    budget: str
    found: Inspection
    files: Prediction


def check_sweep(config: SweepConfig, train_command: str = TRAIN) -> ValidSweep:
    """Check data and weights without writing.

    Args:
        config: the sweep.
        train_command: what a user is told to run where the original is not trained yet.

    Raises:
        ParetoUnlearnError: something is missing or does not fit.
    """
    checked = check_inputs(config, train_command)
    files = predict_files(config, checked.sizes, tasks_of(config))
    return ValidSweep(count_trials(config), describe_budget(config), checked.found, files)


def run_sweep(config: SweepConfig, options: SweepOptions, console: Console) -> int:
    """Run or continue a sweep and return the exit code.

    Args:
        config: the sweep.
        options: what the command line adds.
        console: where to print progress and summary.

    Returns:
        0 complete, 4 some trials failed or diverged, 130 or 143 interrupted and resumable.

    Raises:
        ParetoUnlearnError: with its own exit code: bad data or config, locked run, no valid range, missing
        weights.
    """
    checked = _check_aloud(config, options, console)
    store = RunStore.create(config.run.storage, config.name)
    with store.lock() as hold:
        if options.check_space:
            check_space(config, store, checked.sizes, check_convergence=options.check_convergence)
        _compact(store, console)
        planner, info = prepare_run(
            config,
            store,
            checked,
            retry_failed=options.retry_failed,
            check_convergence=options.check_convergence,
        )
        if committed := planner.committed():
            say(console, f"continuing {store.path}: {len(committed)} trials are committed already")
        if freed := store.remove_leftovers():
            say(console, f"removed {freed / 1e6:.1f} MB that killed writers had left")
        planner.hold = hold
        stopped_by = _execute(planner, info, options, console, work_of(config, checked.split))
        info = planner.describe_run(info)
        store.write_info(info)
        if planner.error is not None:
            raise planner.error
        if not planner.is_finished():
            return _say_interrupted(planner, stopped_by, console)
        _await_listings(store, console)
        _compact(store, console)
        return _conclude(planner, info, options, console)


def _check_aloud(config: SweepConfig, options: SweepOptions, console: Console) -> CheckedSweep:
    if config.smoke:
        say(console, Text(SMOKE_NOTICE, style="bold yellow"))
    if config.run.executor != "local":
        check_address(config.run)  # before the checks below, which take a while
    say(console, "reading weights and images to check them ...")
    checked = check_inputs(config, options.train_command)
    for line in checked.found.describe():
        say(console, line)
    if checked.sizes.checkpoints and checked.sizes.taken < config.solver.bank.checkpoints:
        say(console, describe_bank(checked.sizes.taken, config.solver.bank.checkpoints))
    return checked


def _compact(store: RunStore, console: Console) -> None:
    """Put the small files of a large run together, since each reader of the run opens them all."""
    if store.packs.count_loose() >= COMPACT_FROM:
        say(console, "putting the small files of the run together ...")
        store.packs.compact()


def _await_listings(store: RunStore, console: Console) -> None:
    """Wait until a listing shows every row that workers committed, as the report will list them.

    Raises:
        ConfigError: they do not appear, so they lie elsewhere.
    """
    if store.rows.count_unlisted():
        say(console, "waiting until the storage lists what other nodes have written")
    deadline = time.monotonic() + LISTING_LAG_SECONDS
    while missing := store.rows.count_unlisted():
        if time.monotonic() > deadline:
            raise ConfigError(
                f"{store.path}: {missing} trials are committed, but this machine has not seen their files "
                f"for {LISTING_LAG_SECONDS:.0f} s. {SHARE_IT}"
            )
        time.sleep(1.0)


def _execute(
    planner: Planner, info: RunInfo, options: SweepOptions, console: Console, work: Callable[[Task], float]
) -> int | None:
    """Run all trials that are left; return the signal that stopped them, None for none or Ctrl-C.

    Raises:
        RunLockedError: another driver took the run over, so this one may write nothing more.
    """
    try:
        return _run_trials(planner, info, options, console, work)
    finally:
        if planner.hold.lost is not None:
            raise planner.hold.lost
        planner.store.writers.withdraw_driver()


def _run_trials(
    planner: Planner, info: RunInfo, options: SweepOptions, console: Console, work: Callable[[Task], float]
) -> int | None:
    config = planner.config
    progress = ProgressDisplay(
        console,
        total=planner.total,
        committed=planner.num_committed,
        config=config,
        waiting=planner.waiting(),
        file=ProgressFile(planner.store),
        work=work,
        additions=planner.additions,
    )
    executor = _make_executor(config, options, progress.say)
    if planner.is_finished():
        return None
    budget = describe_budget(config, check_convergence=options.check_convergence)
    say(console, f"sweep {config.name}: {planner.total} trials; {budget}")
    if lacking := planner.additions.describe():
        say(console, lacking)
    with progress:
        return executor.run(planner, _RangeAnnouncer(progress, planner, info))


def _make_executor(config: SweepConfig, options: SweepOptions, say: Callable[[str], None]) -> Executor:
    if config.run.executor == "local":
        return LocalExecutor()
    # The local executor must work on a machine without Ray, so Ray is imported here only.
    from pareto_unlearn.sweep.ray_executor import RayExecutor

    return RayExecutor(config.run, say, dashboard=options.dashboard)


class _RangeAnnouncer:
    """Passes everything on to the display; prints and stores each seed's valid range once it is known."""

    def __init__(self, progress: ProgressDisplay, planner: Planner, info: RunInfo) -> None:
        self._progress, self._planner, self._info = progress, planner, info
        self._announced: set[int] = {valid.seed for valid in planner.describe_run(info).ranges}

    def on_start(self, spec: TrialSpec) -> None:
        self._progress.on_start(spec)

    def on_progress(self, spec: TrialSpec, step: int, f1: float, f2: float) -> None:
        self._progress.on_progress(spec, step, f1, f2)

    def on_scan(self, spec: TrialSpec, progress: ScanProgress) -> None:
        self._progress.on_scan(spec, progress)

    def on_stage(self, spec: TrialSpec, doing: str) -> None:
        self._progress.on_stage(spec, doing)

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
    counted = (
        f": {planner.num_committed} of {planner.total} trials are committed; "
        "start the same command again to continue"
    )
    say(console, Text.assemble(("interrupted", "yellow"), counted))
    return INTERRUPTED if stopped_by is None else 128 + stopped_by


def _conclude(planner: Planner, info: RunInfo, options: SweepOptions, console: Console) -> int:
    """Write the report, print the closing table and the summary, and return the exit code."""
    records = planner.committed()
    report = options.report(planner.store.path) if options.report else None
    print_table(closing_table(open_run(planner.store.path)), console)
    print_summary(planner.store.path, info, report, console)
    broken = [record for record in records if record.state in BROKEN]
    for record in broken:
        say(console, Text.assemble(styled_state(record.state), f" {record.label}: {record.reason}"))
    if faults := [record for record in broken if record.is_fault_of_machine]:
        raise MachineError(
            f"{planner.store.path}: {len(faults)} of {len(records)} trials met a fault of the machine, as "
            "said above; put it right and start the same command again, which runs them and keeps the others"
        )
    problem = planner.range_problem()
    if problem is not None:
        raise problem
    unmeasured = planner.additions.failed
    for trial_id, reason in unmeasured.items():
        say(console, f"{planner.rows[trial_id].label} ({trial_id}) was not measured: {reason}")
    if unmeasured:
        say(console, "the same command measures them again, once what is said above is put right")
    if any(record.state is TrialState.FAILED for record in broken):
        say(console, "the same command with --retry-failed runs FAILED trials again")
    return PARTIAL if broken or unmeasured else COMPLETE
