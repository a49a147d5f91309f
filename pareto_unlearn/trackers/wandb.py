"""A run as Weights & Biases reads it: an offline run for each trial, grouped; `wandb sync` sends them."""

import json
import os
import shutil
from pathlib import Path

from pareto_unlearn.records import HAS_MODEL
from pareto_unlearn.trackers.facts import Tally, TrackedRun, TrackedTrial
from pareto_unlearn.whole_files import write_bytes_whole

_MARKER = "pareto-unlearn.json"
"""In the folder of a trial, written last: what it holds."""
_ENVIRONMENT = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
"""Nothing is sent: not the trials, and no report of an error."""
_NO_HOST = "not recorded"
"""In place of the machine's name, which W&B would send with each run."""


def export(run: TrackedRun, where: str) -> Tally:
    """Write a run's trials under ``where``/wandb, one offline run each; a changed one replaces the older.

    Raises:
        OSError: a file cannot be written.
    """
    os.environ.update(_ENVIRONMENT)
    Path(where).mkdir(parents=True, exist_ok=True)
    tally = Tally()
    for trial in run.trials:
        own_id = f"{trial.trial_id}-{trial.record.attempt}"
        older = sorted(Path(where, "wandb").glob(f"offline-run-*-{trial.trial_id}-*"))
        if any(_content_of(folder) == trial.content for folder in older):
            tally.same += 1
            continue
        for folder in older:
            shutil.rmtree(folder)
        folder = _write(run, trial, own_id, where)
        write_bytes_whole(folder / _MARKER, json.dumps({"content": trial.content}).encode())
        tally.updated += bool(older)
        tally.added += not older
    return tally


def _content_of(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / _MARKER).read_text())["content"])
    except (OSError, ValueError, LookupError, TypeError):
        return None  # it was cut short


def _write(run: TrackedRun, trial: TrackedTrial, own_id: str, where: str) -> Path:
    import wandb

    record = trial.record
    writing = wandb.init(
        project="pareto-unlearn",
        group=run.info.name,
        job_type=str(record.phase),
        name=trial.title,
        id=own_id,
        dir=where,
        config=dict(trial.parameters) | run.parameters | {"trial_id": record.trial_id},
        tags=[str(record.state), record.method],
        notes=record.reason,
        reinit="create_new",
        settings=wandb.Settings(
            mode="offline",
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            host=_NO_HOST,
        ),
    )
    for step, values in trial.curves:
        writing.log({f"curve/{name}": value for name, value in values.items()}, step=step)
    writing.summary.update(dict(trial.numbers) | {"state": str(record.state)})
    folder = Path(writing.dir).parent
    writing.finish(exit_code=0 if record.state in HAS_MODEL else 1)
    return folder
