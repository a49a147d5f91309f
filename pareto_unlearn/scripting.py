"""A whole sweep from Python: what the verb ``sweep`` does, for notebooks and scripts."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pareto_unlearn.config import SweepConfig, load_config
from pareto_unlearn.finished.notebook import Run, load_run
from pareto_unlearn.report import write_report
from pareto_unlearn.sweep import SweepOptions
from pareto_unlearn.sweep import run_sweep as run_resolved

__all__ = ["run_sweep"]

_INTERRUPTED = 128
"""Exit codes above it name the signal that stopped a sweep."""


def run_sweep(
    sweep: str | os.PathLike[str] | SweepConfig,
    overrides: Sequence[str] = (),
    *,
    retry_failed: bool = False,
    check_convergence: bool = False,
    quiet: bool = False,
    allow_import: bool = False,
) -> Run:
    """Run or continue a sweep, write its report, and return the finished run.

    It is the verb ``sweep``: a second call with the same sweep repeats no finished trial.

    Args:
        sweep: the sweep file, or what ``load_config`` returned for it.
        overrides: texts ``key.path=value``, as after ``-o``; only with a file.
        retry_failed: run FAILED trials again.
        check_convergence: also measure what twice the steps would gain.
        quiet: print neither progress nor summary.
        allow_import: run the code of the file that ``model.family`` may name.

    Returns:
        The run. Trials that failed or diverged are rows of ``run.trials`` with that state.

    Raises:
        ConfigError: the sweep, its data or an override is not valid.
        KeyboardInterrupt: Ctrl-C or a signal stopped the sweep; the same call continues it.
        MachineError: disk, memory or a device gave out; the same call goes on.
        RangeError: Phase I left no valid range of epsilon.
        RunLockedError: another driver holds the run.
        ValueError: there are overrides beside a ``SweepConfig``.
        WeightsError: weights are missing or do not match.
    """
    if not isinstance(sweep, SweepConfig):
        config = load_config(Path(sweep), overrides, allow_import=allow_import)
    elif overrides:
        raise ValueError(
            f"expected overrides with a sweep file only, found {list(overrides)} beside a SweepConfig; give "
            "them to load_config"
        )
    else:
        config = sweep
    options = SweepOptions(
        retry_failed=retry_failed, check_convergence=check_convergence, report=write_report
    )
    code = run_resolved(config, options, Console(stderr=True, quiet=quiet))
    if code > _INTERRUPTED:
        raise KeyboardInterrupt("the sweep was stopped; the same call continues it")
    return load_run(f"{config.run.storage.rstrip('/')}/{config.name}")
